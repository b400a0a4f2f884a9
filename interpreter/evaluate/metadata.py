"""`.mx` of a value: its labels, the file it came from, its place in a loop, its raw text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interpreter import values_text as vt
from interpreter.labels import Labels
from interpreter.values import NULL, Value, array, type_name

from .functions import Function

if TYPE_CHECKING:
    from .core import Env


def tokens(text: str) -> int:
    """How many tokens a model makes of a text, estimated by its length."""
    return -(-len(text) // 4)


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """The file or URL that a value was loaded from."""

    path: Path | None = None
    root: Path | None = None  # what `relative` is relative to
    url: str | None = None
    raw: str = ""
    part: str | None = None  # what was selected of it
    extra: Any = None  # title, description, status … of a web page

    @cached_property
    def frontmatter(self) -> Any:
        from .frontmatter import read

        return read(self.raw)[0]

    def field(self, name: str) -> Any:
        """The value of a metadata field; None = no such field here."""
        if name == "fm":
            return self.frontmatter
        if name in ("tokest", "tokens"):
            return tokens(self.raw if self.part is None else self.part)
        if name == "url":
            return self.url
        if name == "source":
            return "load-content"
        if self.extra and name in self.extra:
            return self.extra[name]
        if self.path is None:
            return None
        if name == "filename":
            return self.path.name
        if name == "ext":
            return self.path.suffix.lstrip(".")
        if name in ("absolute", "path"):
            return str(self.path)
        if name == "relative":
            return self._relative(self.path)
        if name == "dirname":
            return self.path.parent.name or "/"
        if name == "relativeDir":
            return self._relative(self.path.parent)
        if name == "absoluteDir":
            return str(self.path.parent)
        return None

    def _relative(self, path: Path) -> str:
        if self.root is None:
            return str(path)
        try:
            found = str(path.relative_to(self.root))
        except ValueError:
            import os.path

            found = os.path.relpath(path, self.root)
        return found if found == "." or found.startswith("..") else f"./{found}"


FILE_FIELDS = (
    "filename", "relative", "absolute", "path", "dirname", "relativeDir", "absoluteDir", "ext", "url", "fm", "tokens",
    "tokest", "title", "description", "domain", "status", "contentType", "html", "md",
)  # fmt: skip
NAMES = frozenset(FILE_FIELDS) | {
    "labels", "taint", "sources", "tools", "text", "data", "type", "length", "key", "index", "keys", "values", "entries",
}  # fmt: skip


class Metadata:
    """What `@x.mx` gives: reads fields on demand, so that asking for one costs only that one."""

    kind = "object"
    __slots__ = ("env", "value")

    def __init__(self, value: Value, env: Env) -> None:
        self.value, self.env = value, env

    def get_field(self, name: str, env: Env, own: Labels) -> Value | None:
        meta, data = self.value.meta, self.value.data
        if isinstance(data, Function) and name in ("labels", "taint"):
            return _list(data.labels)
        found = FIELDS.get(name)
        if found is not None and not (name == "type" and meta is not None and "definition" in meta):
            return found(self.value)
        if meta is not None:
            if name in meta:
                stored = meta[name]
                return stored if isinstance(stored, Value) else Value(stored)
            info = meta.get("file")
            if isinstance(info, FileInfo):
                held = info.field(name)
                if held is None:
                    # A template shows nothing for a field of front matter that is not there.
                    return NULL.with_meta(text="") if name == "fm" else NULL
                # `mx` in front matter is what its author wrote there.
                return Value(held, self.value.labels, meta={"plain": True} if name == "fm" else None)
        if name in ("tokest", "tokens") and isinstance(data, str):
            return Value(tokens(data))
        if name in ("name", "description") and getattr(data, "kind", None) == "executable":
            return Value(getattr(data, name, None))
        inner = getattr(data, "metadata", None)
        if inner is not None:
            return inner(name, env)  # type: ignore[no-any-return]
        return NULL

    def describe(self) -> Any:
        return about(self.value)

    def shown(self) -> str:
        return vt.layout(self.describe())


def about(value: Value) -> dict[str, Any]:
    """All metadata of a value as plain data."""
    plain: dict[str, Any] = value.labels.json()
    plain["type"] = type_name(value)
    for key, held in (value.meta or {}).items():
        if isinstance(held, FileInfo):
            plain.update((name, held.field(name)) for name in FILE_FIELDS if held.field(name) is not None)
        elif key not in ("text", "keep", "between", "each", "spelt", "answer"):
            plain[key] = vt.to_plain(held)
    return plain


def _list(items: Any) -> Value:
    return Value(list(items))


def _values(value: Value) -> Value:
    return array(value.item(item) for item in value.data.values()) if isinstance(value.data, dict) else NULL


def _is_file(value: Value) -> bool:
    return value.meta is not None and "file" in value.meta


def _parsed(value: Value) -> Value:
    """What a JSON file holds, for `.mx.json`."""
    return value.without_meta() if _is_file(value) and isinstance(value.data, dict | list) else NULL


def _entries(value: Value) -> Value:
    if not isinstance(value.data, dict):
        return NULL
    return array(array((Value(key), value.item(item))) for key, item in value.data.items())


FIELDS: dict[str, Callable[[Value], Value]] = {
    "labels": lambda v: _list(v.labels.labels),
    "taint": lambda v: _list(v.labels.taint),
    "sources": lambda v: _list(v.labels.sources),
    "tools": lambda v: _list(use.json() for use in v.labels.tools),
    "text": lambda v: Value(vt.text(v), v.labels),
    "data": lambda v: v.without_meta().with_meta(plain=True),
    "type": lambda v: Value("text" if isinstance(v.data, str) else type_name(v)),
    "length": lambda v: Value(len(v.data) if hasattr(v.data, "__len__") and not _is_file(v) else len(vt.text(v))),
    "keys": lambda v: _list(v.data) if isinstance(v.data, dict) else NULL,
    "values": _values,
    "entries": _entries,
    "json": _parsed,
}


class Quantified:
    """`@input.any`, `.all`, `.none`: asks each input of an operation and joins the answers."""

    kind = "object"
    __slots__ = ("env", "how", "steps", "values")

    def __init__(self, values: list[Value], how: str, env: Env, steps: tuple[str, ...] = ()) -> None:
        self.values, self.how, self.env, self.steps = values, how, env, steps

    def get_field(self, name: str, env: Env, own: Labels) -> Value | None:
        return Value(Quantified(self.values, self.how, env, (*self.steps, name)))

    def resolved(self) -> list[Value]:
        """What the path means for each input; inputs that lack it are left out."""
        from .lookup import Missing, get_field

        found: list[Value] = []
        for value in self.values:
            try:
                for step in self.steps:
                    value = Value(vt.text(value), value.labels) if step == "text" else get_field(value, step, self.env)
                found.append(value)
            except Missing:
                continue
        return found

    def judge(self, test: Callable[[Value], bool]) -> bool:
        answers = [test(value) for value in self.resolved()]
        return {"any": any(answers), "all": bool(answers) and all(answers), "none": not any(answers)}[self.how]

    def describe(self) -> Any:
        return [vt.to_plain(value) for value in self.resolved()]


def quantified(target: Value, name: str, env: Env) -> Value:
    return Value(Quantified(list(target.items()), name, env))


def kept(value: Value) -> Value:
    """A file, or each of several, that code is to get with its text and metadata."""
    if not isinstance(value.data, list) or "each" not in (value.meta or {}):
        return value.with_meta(keep=True)
    files = array((item.with_meta(keep=True) for item in value.items()), value.own)
    return files.with_meta(**{**(value.meta or {}), "keep": True})
