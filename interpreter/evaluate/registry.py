"""Modules by name: `@local/x`, prefixes of mlld-config.json, and registry names from what is installed.

Nothing is fetched here: a name that is not installed is an error which says where it was looked for.
"""

from __future__ import annotations

import re
from pathlib import Path

from interpreter import nodes as n
from interpreter import operations
from interpreter.environment_modules import Found, ModuleNotFound, NotAnEnvironment, find_module
from interpreter.errors import ImportFault, MlldError

from .core import Env

SUFFIXES = (".mld", ".mld.md", ".md", "/index.mld")
PART = re.compile(r"[A-Za-z0-9_.-]+\Z")


def find(origin: n.ImportOrigin, node: n.Import, env: Env) -> tuple[Path, str]:
    name = origin.name or ""
    return find_text(name if name.startswith("@") else f"@{name}", node, env)


def find_text(text: str, node: n.Node, env: Env) -> tuple[Path, str]:
    """The file of `@author/name`, and its name. Errors: `ImportFault` naming the places that were tried."""
    name = text.lstrip("@")
    prefix, _, rest = name.partition("/")
    version = re.search(r"@[\w.^~*-]+$", rest)
    rest = rest[: version.start()] if version else rest
    if prefix in ("root", "base"):
        return env.run.root / rest, text
    if not rest or not all(PART.match(part) and part not in (".", "..") for part in [prefix, *rest.split("/")]):
        raise ImportFault(
            f"'{text}' is no name of a module", span=node.span, hint="@author/name, @local/name, or a path in quotes"
        )
    if prefix == "local":
        found = environment(text, node, env)
        if found is not None:
            return found.entry, text
    places = candidates(prefix, rest, env)
    files = env.ports.files
    assert files is not None
    for place in places:
        for suffix in ("", *SUFFIXES):
            path = Path(f"{place}{suffix}")
            try:
                if operations.file_exists(files, path) and not operations.is_directory(files, path):
                    return path, text
            except PermissionError:
                continue
    raise ImportFault(
        f"Module '{text}' is not installed", span=node.span, code="IMPORT_NOT_FOUND",
        hint=f"looked in {', '.join(str(p) for p in places)}; put the module there, or import it by its path",
    )  # fmt: skip


def environment(text: str, node: n.Node, env: Env) -> Found | None:
    home = env.ports.env.get("HOME")
    assert env.ports.files is not None
    try:
        return find_module(text, project=env.run.root, files=env.ports.files, home=Path(home) if home else None)
    except NotAnEnvironment:
        return None
    except ModuleNotFound as error:
        raise ImportFault(error.message, span=node.span, hint=error.hint, code="IMPORT_NOT_FOUND") from None
    except MlldError as error:
        error.span = error.span or node.span
        raise


def candidates(prefix: str, rest: str, env: Env) -> list[Path]:
    root = env.run.root
    places: list[Path] = []
    for entry in (
        env.run.settings.get("resolvers", {}).get("prefixes", ()) if isinstance(env.run.settings, dict) else ()
    ):
        wanted = str(entry.get("prefix", "")).strip("@/")
        base = entry.get("basePath") or entry.get("config", {}).get("basePath")
        if wanted == prefix and isinstance(base, str):
            places.append((root / base / rest).absolute())
    if prefix == "local":
        places += [root / "llm" / "modules" / rest, root / ".mlld" / "env" / rest, root / ".mlld" / "box" / rest]
    places += [root / "llm" / "modules" / prefix / rest, root / ".mlld" / "modules" / prefix / rest]
    home = env.ports.env.get("HOME")
    if home:
        places.append(Path(home) / ".mlld" / "modules" / prefix / rest)
    return places
