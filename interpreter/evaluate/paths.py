"""Which file a path of a script means."""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from interpreter.errors import EvaluationError

from .core import Env


def resolve(text: str, env: Env) -> Path:
    """An absolute path: relative ones start at the directory of the file that says them, `@root` at the project, other `@name/`
    where mlld-config.json says. `..` is taken out here: a label or rule for a directory must not miss what is reached through
    another one.
    """
    text = text.strip()
    if "\0" in text:
        raise EvaluationError("a path cannot contain a zero byte", code="path")
    for prefix in ("@root", "@base"):
        if text == prefix or text.startswith(prefix + "/"):
            return Path(os.path.abspath(env.run.root / text[len(prefix) :].lstrip("/")))
    if text.startswith("@") and "/" in text:
        prefix, _, rest = text[1:].partition("/")
        for kind, directory in prefixes(prefix, env):
            if kind == "LOCAL" and directory is not None:
                return Path(os.path.abspath(directory / rest))
    if text.startswith("~/") and env.run.home is not None:
        return Path(os.path.abspath(env.run.home / text[2:]))
    path = Path(text)
    inside = env.box.root if env.box is not None else None
    if inside is not None and path.is_relative_to(inside):
        path = env.run.root / path.relative_to(inside)  # `@root` inside a block is where its commands find the project
    return Path(os.path.abspath(env.module.directory / path))


def prefixes(name: str, env: Env) -> Iterator[tuple[str, Path | None]]:
    """Who resolves `@name/`, and the directory where: `resolvers.prefixes` of mlld-config.json, and `resolverPrefixes` as older
    files write it.
    """
    settings: Any = env.run.settings
    resolvers = settings.get("resolvers")
    for held in (resolvers.get("prefixes") if isinstance(resolvers, Mapping) else (), settings.get("resolverPrefixes")):
        for entry in held if isinstance(held, list) else ():
            if not isinstance(entry, Mapping) or str(entry.get("prefix", "")).strip("@/") != name:
                continue
            said = entry.get("config")
            base = entry.get("basePath") or (said.get("basePath") if isinstance(said, Mapping) else None)
            home = env.run.home if isinstance(base, str) and base.startswith("~/") else None
            directory = (home / base[2:] if home else env.run.root / base) if isinstance(base, str) else None
            yield str(entry.get("resolver", "LOCAL")).upper(), directory


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def shown(path: Path, env: Env) -> str:
    """The path for a message: relative to the project where it lies inside."""
    try:
        return str(path.relative_to(env.run.root))
    except ValueError:
        return str(path)
