"""`@exists(target)` and `@fileExists(path)`: questions whose argument may be missing."""

from __future__ import annotations

from pathlib import Path

from interpreter import nodes as n
from interpreter import operations
from interpreter import values_text as vt
from interpreter.errors import MlldError
from interpreter.values import Undefined, Value

from .core import Env, absent, evaluate
from .functions import Arguments, BuiltIn


async def exists(env: Env, node: n.Node | None) -> Value:
    """True for a name, field or element that is there, and for a path in quotes or brackets that exists."""
    if node is None:
        return Value(False)
    if isinstance(node, n.FileLoad):
        from .loading import resolve_paths

        return Value(bool(await resolve_paths(node, env)))
    if isinstance(node, n.Literal | n.Template):
        return Value(await named_exists(vt.text(await evaluate(node, env)), node, env))
    from .lookup import lenient

    try:
        value = await lenient(node, env)
    except MlldError:
        return Value(False)
    return Value(not isinstance(value.data, Undefined), value.labels)


async def named_exists(path: str, node: n.Node, env: Env) -> bool:
    """Is there a file of this name, or one that fits if the name is a pattern?"""
    from .loading import has_glob, resolve_paths

    if not has_glob(path) or path_exists(path, env):
        return path_exists(path, env)
    return bool(await resolve_paths(n.FileLoad(path=(n.Text(text=path, span=node.span),), span=node.span), env))


def path_exists(path: str, env: Env) -> bool:
    from .paths import resolve

    files = env.ports.files
    if files is None:
        raise absent("files", None, env)
    try:
        target: Path = resolve(path, env)
        return operations.file_exists(files, target)
    except (PermissionError, OSError):
        return False


async def file_exists(env: Env, arguments: Arguments) -> Value:
    if not arguments:
        return Value(False)
    value = arguments[0]
    info = value.meta.get("file") if value.meta else None
    if info is not None and info.path is not None:
        return Value(True, value.labels)
    return Value(path_exists(vt.text(value), env), value.labels)


async def asked_file(env: Env, node: n.Node | None) -> Value:
    """`@fileExists(<notes.md>)` asks about the file that a load names, without loading it."""
    if isinstance(node, n.FileLoad):
        return await exists(env, node)
    return await file_exists(env, [await evaluate(node, env)] if node is not None else [])


async def _never(env: Env, arguments: Arguments) -> Value:
    return Value(bool(arguments))


CHECKS: dict[str, BuiltIn] = {
    "exists": BuiltIn(name="exists", call=_never, parameters=("target",), ask=exists),
    "fileExists": BuiltIn(name="fileExists", call=file_exists, parameters=("path",), ask=asked_file),
}
