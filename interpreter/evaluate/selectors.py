"""`<api.ts { createUser, handle*, *fn, (logger.info) }>` and `<api.ts { fn?? }>`: definitions of source files, or their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.code_definitions import KINDS, SUFFIXES, Definition, GrammarMissing, UnknownLanguage, definitions
from interpreter.errors import EvaluationError
from interpreter.source import Span
from interpreter.values import NULL, Value, array, record

from .core import Env
from .metadata import FileInfo

_VARIABLE = re.compile(r"@([A-Za-z_][\w-]*)")
_KINDS = ", ".join(KINDS)
NOT_INTERFACE = ("method", "constructor")


@dataclass(frozen=True, kw_only=True)
class Selector:
    """One selector. `names`: its names are wanted, not its code. `usage`: what uses the matches is wanted."""

    matches: Callable[[Definition], bool]
    names: bool = False
    usage: str | None = None  # a pattern of text for one symbol, "" for all that match
    one: bool = False  # an exact name: its first definition


def selectors(node: n.FileLoad, env: Env) -> list[Selector]:
    """The selectors of a load. Errors: an unknown kind, names and code in one list."""
    found = [_selector(text, node.span, env) for text in node.selectors]
    if any(s.names for s in found) and (len(found) > 1 or found[0].usage is not None):
        raise EvaluationError(
            "Cannot mix content selectors with name-list selectors", span=node.span, code="selector",
            hint="`{ fn?? }` alone lists names; `{ *fn }` selects their code",
        )  # fmt: skip
    return found


def _selector(text: str, span: Span, env: Env) -> Selector:
    usage = text.startswith("(") and text.endswith(")")
    inner = _VARIABLE.sub(lambda match: _variable(match[1], span, env), text[1:-1].strip() if usage else text)
    if inner.endswith("??"):
        kind = inner[:-2].strip()
        if usage or (kind and kind not in KINDS):
            raise EvaluationError(
                f"`{text}` lists no names", span=span, code="selector",
                hint=f"`??` alone lists all, and `fn??` those of a kind: {_KINDS}",
            )  # fmt: skip
        return Selector(matches=_of_kind(kind) if kind else lambda d: d.kind not in NOT_INTERFACE, names=True)
    if inner == "*":
        return Selector(matches=lambda d: True, usage="" if usage else None)
    if inner.startswith("*") and inner[1:] in KINDS:
        return Selector(matches=_of_kind(inner[1:]), usage="" if usage else None)
    if "*" in inner or "?" in inner:
        fits = re.compile("".join({"*": ".*", "?": "."}.get(c) or re.escape(c) for c in inner))
        return Selector(matches=lambda d: fits.fullmatch(d.name) is not None, usage="" if usage else None)
    if not inner:
        raise EvaluationError(
            "a selector names no symbol", span=span, code="selector", hint="`{ createUser, handle*, *fn, (helper) }`"
        )
    return Selector(matches=lambda d: d.name == inner, usage=inner if usage else None, one=not usage)


def _of_kind(kind: str) -> Callable[[Definition], bool]:
    return lambda definition: definition.kind in KINDS[kind]


def _variable(name: str, span: Span, env: Env) -> str:
    held = env.scope.find(name)
    if held is None or not vt.text(held).strip():
        what = "is not defined" if held is None else "is empty"
        raise EvaluationError(f"@{name} in a selector {what}", span=span, code="selector", hint=f"a kind: {_KINDS}")
    return vt.text(held).strip()


def select(found: list[Definition], wanted: Iterable[Selector]) -> list[Definition | None]:
    """What a list of selectors selects, in their order; None for one without a match. What lies in a selected definition is
    not selected again.
    """
    chosen: list[Definition | None] = []
    for selector in wanted:
        matches = [d for d in found if selector.matches(d)]
        if selector.usage is not None:
            names = [selector.usage] if selector.usage else [d.name for d in matches]
            matches = using(found, names) if names else []
        elif selector.one:
            matches = matches[:1]
        if not matches:
            chosen.append(None)
        for match in matches:
            if any(held is not None and (held == match or held.contains(match)) for held in chosen):
                continue
            chosen = [held for held in chosen if held is None or not match.contains(held)]
            chosen.append(match)
    return chosen


def using(found: list[Definition], names: Iterable[str]) -> list[Definition]:
    """The innermost definitions whose code uses one of these symbols."""
    uses = re.compile(rf"(?<![\w$])(?:{'|'.join(map(re.escape, names))})(?![\w$])")
    matches = [d for d in found if d.kind != "variable" and uses.search(d.used)]
    return [d for d in matches if not any(d.contains(other) for other in matches)]


def read(name: str, text: str, span: Span) -> list[Definition]:
    """The definitions of a file. Errors: with what can be read, or how to get it."""
    try:
        return definitions(text, name.rpartition(".")[2] if "." in name else "")
    except UnknownLanguage:
        raise EvaluationError(
            f"{name} is no source code that can be selected from", span=span, code="selector",
            hint=f"files ending in {', '.join(sorted(SUFFIXES))}; `<{name} # Heading>` selects a section",
        ) from None  # fmt: skip
    except GrammarMissing as missing:
        raise EvaluationError(
            f"selecting from {name} needs the package {missing}", span=span, code="selector",
            hint="pip install 'mlld-sandbox[code]'",
        ) from None  # fmt: skip
    except ValueError as error:
        raise EvaluationError(f"{name}: {error}", span=span, code="selector") from None


def selected(file: Value, node: n.FileLoad, env: Env, *, many: bool) -> Value:
    """What is selected of one file: a list of names, or of definitions. As one `many` that a glob fits, names come with the
    file's place; null if there are none.
    """
    info = (file.meta or {}).get("file")
    assert isinstance(info, FileInfo)
    wanted = selectors(node, env)
    found = read(str(info.field("filename") or info.url), vt.text(file), node.span)
    place = {"relative": info.field("relative"), "absolute": info.field("absolute")}
    if wanted[0].names:
        known = sorted({d.name for d in found if wanted[0].matches(d)})
        names = array(Value(name, file.labels) for name in known)
        if not many:
            return names.with_meta(between="\n\n")
        if not names.data:
            return NULL
        where = {"file": info.field("filename"), **place}
        return record({"names": names, **{key: Value(text, file.labels) for key, text in where.items()}})
    extra = {"file": place["absolute"], "relative": place["relative"]} if many else {}
    chosen = select(found, wanted)
    listed = array(NULL if d is None else _definition(d, file, info, extra) for d in chosen)
    return listed.with_meta(between="\n\n")


def _definition(found: Definition, file: Value, info: FileInfo, extra: dict[str, object]) -> Value:
    """A definition: a record whose text is its code."""
    said = {"name": found.name, "type": found.kind, "line": found.line}
    own = FileInfo(path=info.path, root=info.root, raw=found.code, extra={**(info.extra or {}), **said})
    data = {"name": found.name, "code": found.code, "type": found.kind, "line": found.line, **extra}
    return Value(data, file.labels, meta={"file": own, "text": found.code, "definition": found.kind})


def wanted_in_glob(path: Path) -> bool:
    return path.suffix.lower().lstrip(".") in SUFFIXES
