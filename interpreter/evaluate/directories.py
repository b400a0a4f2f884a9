"""Directories as namespaces: `import "./agents" as @agents`, `import templates from "./prompts" as @prompts(a, b)`."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from interpreter import nodes as n
from interpreter import operations
from interpreter import values_text as vt
from interpreter.errors import ImportFault
from interpreter.values import Value, record

from .core import Env, absent, evaluate
from .functions import Function
from .paths import resolve, shown
from .templates import text_of_parts

SKIPPED = ("_*", ".*")


def key(name: str) -> str:
    """A file name as a name of the language: hyphens become underscores."""
    return name.replace("-", "_")


async def import_directory(path: Path, name: str, node: n.Import, env: Env) -> None:
    """Every `*/index.mld` below the directory, as an object of namespaces."""
    from .imports import bind, exported, load_module

    files = env.ports.files
    assert files is not None
    if node.alias is None:
        raise ImportFault(
            f"{name} is a directory: it is imported as a namespace", span=node.span, hint='import "./dir" as @names'
        )
    skipped: tuple[str, ...] = SKIPPED
    if node.options is not None and (said := node.options.get("skipDirs")) is not None:
        skipped = tuple(str(s) for s in vt.to_plain(await evaluate(said, env)))
    found: dict[str, Value] = {}
    for index in operations.find_files(files, path, "*/index.mld"):
        directory = index.parent.name
        if any(fnmatch(directory, pattern) for pattern in skipped):
            continue
        module = await load_module(index, shown(index, env), node, env)
        found[key(directory)] = record(exported(module, node))
        env.module.modules_used[module.name] = module
    if not found:
        raise ImportFault(
            f"No index.mld modules found under /{shown(path, env)}",
            span=node.span,
            hint="one directory for each, with an index.mld",
        )
    bind(node.alias, record(found), name, node, env)


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
            "templates are imported as a namespace", span=node.span, hint='import templates from "./dir" as @t(a, b)'
        )
    tree: dict[str, Any] = {}
    for suffix in ("att", "mtt"):
        for path in operations.find_files(files, root, f"**/*.{suffix}"):
            place = tree
            for part in path.relative_to(root).parts[:-1]:
                place = place.setdefault(key(part), {})
            place[key(path.stem)] = place[path.stem] = Value(template_function(path, node, env))
    if not tree:
        raise ImportFault(f"No templates (.att, .mtt) found under {text}", span=node.span)
    bind(node.alias, _record(tree), text, node, env)


def template_function(path: Path, node: n.Import, env: Env) -> Function:
    return Function(
        name=path.stem, parameters=tuple(n.Parameter(name=p, span=node.span) for p in node.parameters or ()),
        body=n.TemplateFile(path=n.Literal(value=str(path), span=node.span), span=node.span),
        env=env.copy(mx={}, calls=None, box=None, depth=0), span=node.span,
    )  # fmt: skip


def _record(tree: dict[str, Any]) -> Value:
    return record({name: item if isinstance(item, Value) else _record(item) for name, item in tree.items()})
