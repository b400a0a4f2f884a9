"""Directories as namespaces: `import "./agents" as @agents`, `import templates from "./prompts" as @prompts(a, b)`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from interpreter import nodes as n
from interpreter import operations
from interpreter import values_text as vt
from interpreter.errors import EvaluationError, ImportFault, SyntaxFault
from interpreter.parser import parse_template
from interpreter.source import Source
from interpreter.values import Value, record

from .builtins import BUILTINS
from .core import Env, absent, at, evaluate
from .functions import Function
from .paths import resolve, shown
from .reserved import RESERVED
from .templates import text_of_parts

SKIPPED = ("_*", ".*")
TEMPLATE_SUFFIXES = (".att", ".mtt")
GIVEN = ("payload", "state")
"""What the caller of a script gives: every template may use it."""


def key(name: str) -> str:
    """A file name as a name of the language, which may have hyphens."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


async def import_directory(path: Path, name: str, node: n.Import, env: Env) -> None:
    """Every `*/index.mld` below the directory, as a namespace of namespaces."""
    from .imports import choose_names, exported, load_module

    files = env.ports.files
    assert files is not None
    skipped: tuple[str, ...] = SKIPPED
    if node.options is not None and (said := node.options.get("skipDirs")) is not None:
        skipped = tuple(str(s) for s in vt.to_plain(await evaluate(said, env)))
    found: dict[str, Value] = {}
    for index in operations.find_files(files, path, "*/index.mld"):
        directory = index.parent.name
        if any(fnmatch(directory, pattern) for pattern in skipped):
            continue
        module = await load_module(index, shown(index, env), node, env)
        inside = key(directory)
        if inside in found:
            raise ImportFault(
                f"Duplicate directory import key '{inside}' under {path}", span=node.span, hint="rename a directory"
            )
        offered = record(exported(module, node))
        found[inside] = offered.with_meta(namespace=module.name, frontmatter=module.frontmatter)
        env.module.modules_used[module.name] = module
    if not found:
        raise ImportFault(
            f"No index.mld modules found under {path}",
            span=node.span,
            hint="one directory for each, with an index.mld",
        )
    choose_names(node, found, name, env, lambda item: ImportFault(
        f"Import '{item.name}' not found in module '{path}'", span=item.span, code="IMPORT_EXPORT_MISSING",
        hint=f"it has: {', '.join(found)}"))  # fmt: skip


async def import_templates(node: n.Import, env: Env) -> None:
    """Every `.att` and `.mtt` below a directory, as functions with one list of parameters."""
    from .imports import bind

    files = env.ports.files
    if files is None:
        raise absent("`import templates`", node.span, env)
    text = vt.text(await text_of_parts(node.origin.parts, env)).strip()
    root = resolve(text, env)
    if node.alias is None:
        raise ImportFault(
            "Templates import requires an alias with parameters.",
            span=node.span,
            hint='import templates from "./dir" as @t(a, b)',
        )
    if not node.parameters:
        raise ImportFault(
            'Templates import requires parameters. Use: /import templates from "dir" as @name(param1, param2)', span=node.span,
            hint=f'import templates from "{text}" as @{node.alias}(a, b): the names that their texts use',
        )  # fmt: skip
    if not operations.is_directory(files, root):
        missing = not operations.file_exists(files, root)
        told = f"File not found: {text}" if missing else f"Templates import must target a directory: {root}"
        raise ImportFault(told, span=node.span, code="IMPORT_NOT_FOUND" if missing else "import")
    tree: dict[str, Any] = {}
    for suffix in TEMPLATE_SUFFIXES:
        for path in operations.find_files(files, root, f"**/*{suffix}"):
            declared(path, node, env)
            place_template(tree, path, root, node, env)
    if not tree:
        raise ImportFault(f"No templates found under {root}: files that end in .att or .mtt", span=node.span)
    bind(node.alias, _record(tree), text, node, env)


def place_template(tree: dict[str, Any], path: Path, root: Path, node: n.Import, env: Env) -> None:
    """Puts a template where its path says. Errors: `ImportFault` if a file or directory beside it has that name already."""
    place = tree
    for part in path.relative_to(root).parts[:-1]:
        place = place.setdefault(key(part), {})
        if isinstance(place, Value):
            raise ImportFault(f"Duplicate template group '{key(part)}' in {path.parent.parent}", span=node.span)
    name = key(path.stem)
    if name in place:
        raise ImportFault(
            f"Duplicate template name '{name}' in {path.parent}", span=node.span,
            hint="one file or directory for each name",
        )  # fmt: skip
    place[name] = Value(template_function(path, node, env))


def of_known_form(path: Path, node: n.Node, env: Env) -> None:
    if path.suffix not in TEMPLATE_SUFFIXES:
        raise EvaluationError(
            f"Unsupported template file extension for {shown(path, env)}",
            span=node.span, code="template", hint="`@name` is filled in in .att files, `{{name}}` in .mtt files",
        )  # fmt: skip


def read_template(path: Path, node: n.Node, env: Env) -> n.Template:
    """The text of a template file, parsed once per run."""
    parsed: n.Template | None = env.run.templates.get(path)
    if parsed is not None:
        return parsed
    of_known_form(path, node, env)
    if env.ports.files is None:
        raise absent("files", node.span, env)
    try:
        text = operations.read_file(env.ports.files, path).decode("utf-8", errors="replace")
    except OSError:
        raise EvaluationError(f"File not found: {shown(path, env)}", span=node.span, code="file-not-found") from None
    try:
        parsed = parse_template(Source(name=shown(path, env), text=text))
    except SyntaxFault as fault:
        raise at(fault, node.span) from None
    env.run.templates[path] = parsed
    return parsed


def declared(path: Path, node: n.Import, env: Env) -> None:
    """Errors: a template of a directory names what is no parameter of all of them."""
    parsed = read_template(path, node, env)
    allowed = {*(node.parameters or ()), *RESERVED, *BUILTINS, *GIVEN}
    unknown = sorted(set(_names(parsed, parsed.span.source.text)) - allowed)
    if unknown:
        raise ImportFault(
            f"Template '{path.name}' references undeclared variables: {', '.join(unknown)}", span=node.span,
            hint=f"import templates from … as @{node.alias}({', '.join([*(node.parameters or ()), *unknown])})",
        )  # fmt: skip


def _names(node: n.Node, text: str, bound: frozenset[str] = frozenset()) -> Iterator[str]:
    """The variables that a template wants from outside; `me@example.com` is an address."""
    if isinstance(node, n.Variable):
        if node.name not in bound and not text[node.span.start - 1 : node.span.start].isalnum():
            yield node.name
        return
    if isinstance(node, n.TemplateFor):
        yield from _names(node.iterable, text, bound)
        inner = bound | {node.variable, f"{node.variable}_key", node.key or node.variable}
        for part in node.parts:
            yield from _names(part, text, inner)
        return
    for child in node.children():
        yield from _names(child, text, bound)


def template_function(path: Path, node: n.Import, env: Env) -> Function:
    return Function(
        name=path.stem, parameters=tuple(n.Parameter(name=p, span=node.span) for p in node.parameters or ()),
        body=n.TemplateFile(path=n.Literal(value=str(path), span=node.span), span=node.span),
        env=env.copy(mx={}, calls=None, box=None, depth=0), span=node.span,
    )  # fmt: skip


def _record(tree: dict[str, Any]) -> Value:
    """Groups and functions by name; a function whose name has hyphens has one with underscores, too."""
    named = {name: item if isinstance(item, Value) else _record(item) for name, item in tree.items()}
    spelt = {name.replace("-", "_"): item for name, item in named.items() if isinstance(tree[name], Value)}
    return record({**spelt, **named})
