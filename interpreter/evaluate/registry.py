"""Modules by name: `@local/x`, prefixes of mlld-config.json, and registry names from the lock file and its cache.

Nothing is fetched here: a name that is not installed is an error which says where it was looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from interpreter import nodes as n
from interpreter import operations
from interpreter.environment_modules import Found, ModuleNotFound, NotAnEnvironment, find_module
from interpreter.errors import ImportFault, MlldError
from interpreter.registry_lock import LOCK, BadLock, Locked, read_lock, satisfies

from .core import Env
from .paths import prefixes

SUFFIXES = (".mld", ".mld.md", ".md", "/index.mld")
PART = re.compile(r"[A-Za-z0-9_.-]+\Z")
CACHE = Path(".mlld", "cache")  # below the project, and below the home
MOST_LOCAL = 500  # modules of `llm/modules` that are looked at for `import local`


def find(origin: n.ImportOrigin, node: n.Import, env: Env) -> tuple[Path, str]:
    name = origin.name or ""
    text = name if name.startswith("@") else f"@{name}"
    return find_text(f"{text}@{origin.version}" if origin.version else text, node, env)


def find_text(text: str, node: n.Node, env: Env) -> tuple[Path, str]:
    """The file of `@author/name[@version]`, and its name. Errors: `ImportFault` naming the places that were tried."""
    name = text.lstrip("@")
    prefix, _, rest = name.partition("/")
    rest, _, version = rest.partition("@")
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
    places = list(configured(prefix, rest, node, env))
    if found_at := first_file(places, env):
        return found_at, text
    if isinstance(node, n.Import) and node.kind == "local" and (own := in_development(prefix, rest, env)):
        return own, text
    # Before the directories: what is locked is that text and no other.
    locked = lock_of(node, env).get(f"@{prefix}/{rest}")
    if locked is not None:
        return cached(locked, version, node, env), text
    directories = list(installed(prefix, rest, env))
    if found_at := first_file(directories, env):
        return found_at, text
    places += directories
    told = f"Module '{text}' is not installed"
    if isinstance(node, n.Import) and node.kind == "local":
        told = f"Local module not found for {text}"
    raise ImportFault(
        told, span=node.span, code="IMPORT_NOT_FOUND",
        hint=f"{LOCK} does not name it, nor is it in {', '.join(str(p) for p in places)}; put it there, or import it by its path",
    )  # fmt: skip


def environment(text: str, node: n.Node, env: Env) -> Found | None:
    assert env.ports.files is not None
    try:
        return find_module(text, project=env.run.root, files=env.ports.files, home=env.run.home)
    except NotAnEnvironment:
        return None
    except ModuleNotFound as error:
        raise ImportFault(error.message, span=node.span, hint=error.hint, code="IMPORT_NOT_FOUND") from None
    except MlldError as error:
        error.span = error.span or node.span
        raise


def first_file(places: list[Path], env: Env) -> Path | None:
    for place in places:
        for suffix in ("", *SUFFIXES):
            path = Path(f"{place}{suffix}")
            if is_file(path, env):
                return path
    return None


def is_file(path: Path, env: Env) -> bool:
    files = env.ports.files
    assert files is not None
    try:
        return operations.file_exists(files, path) and not operations.is_directory(files, path)
    except PermissionError:
        return False


def is_directory(path: Path, env: Env) -> bool:
    files = env.ports.files
    assert files is not None
    try:
        return operations.is_directory(files, path)
    except PermissionError:
        return False


def configured(prefix: str, rest: str, node: n.Node, env: Env) -> Iterator[Path]:
    """Where the project says that modules of a prefix lie."""
    for kind, directory in prefixes(prefix, env):
        if kind != "LOCAL":
            raise ImportFault(
                f"@{prefix}/ is resolved by {kind}, and modules are read from this machine only", span=node.span,
                code="IMPORT_NOT_FOUND", hint='clone it, and give the prefix "resolver": "LOCAL" and a "basePath"',
            )  # fmt: skip
        if directory is not None:
            yield (directory / rest).absolute()
    root = env.run.root
    if prefix == "local":
        yield from (root / "llm" / "modules" / rest, root / ".mlld" / "env" / rest, root / ".mlld" / "box" / rest)


def installed(prefix: str, rest: str, env: Env) -> Iterator[Path]:
    """Directories of modules that were put there by hand."""
    root, home = env.run.root, env.run.home
    yield from (root / "llm" / "modules" / prefix / rest, root / ".mlld" / "modules" / prefix / rest)
    if home:
        yield home / ".mlld" / "modules" / prefix / rest


def in_development(author: str, name: str, env: Env) -> Path | None:
    """The file of `llm/modules` whose front matter says `author` and `name`: what `import local` means."""
    from .frontmatter import read

    files = env.ports.files
    assert files is not None
    try:
        found = [*operations.find_files(files, env.run.root / "llm" / "modules", "*.mld*")]
        for path in found[:MOST_LOCAL]:
            said = read(operations.read_file(files, path).decode("utf-8", "replace"))[0]
            if isinstance(said, Mapping) and (said.get("author"), said.get("name")) == (author, name):
                return path
    except OSError:
        return None
    return None


# ── The lock ────────────────────────────────────────────────────────────────────────────────────────


def lock_of(node: n.Node, env: Env) -> dict[str, Locked]:
    """The project's lock, read once per run. Errors: it is there and says nothing that can be checked."""
    path = env.run.root / LOCK
    known = env.run.modules.get(str(path))
    if known is None:
        files = env.ports.files
        assert files is not None
        text = operations.read_file(files, path).decode("utf-8", "replace") if is_file(path, env) else ""
        try:
            # Empty is what a seat shows of a lock that the project does not have.
            known = read_lock(text) if text else {}
        except BadLock as error:
            raise ImportFault(
                f"{LOCK} cannot be used: {error}", span=node.span, code="lock", hint="install the modules again"
            ) from None
        env.run.modules[str(path)] = known
    return known


def cached(locked: Locked, version: str, node: n.Node, env: Env) -> Path:
    """The text of a locked module, its hash checked. Errors: it is another version, not there, or not what was locked."""
    if version and not satisfies(locked.version, version):
        raise ImportFault(
            f"Locked version mismatch for {locked.name}: {version} is asked for, and {LOCK} has {locked.version or 'none'}",
            span=node.span, code="lock", hint=f"import {locked.name}@{locked.version or 'latest'}, or install {version}",
        )  # fmt: skip
    roots = [root for root in (env.run.root, env.run.home) if root is not None]
    places = [root / CACHE / locked.place for root in roots]
    path = next((place for place in places if is_file(place, env)), None)
    if path is None:
        raise ImportFault(
            f"Module '{locked.name}' is locked and not in the cache", span=node.span, code="IMPORT_NOT_FOUND",
            hint=f"looked at {', '.join(map(str, places))}; nothing is fetched: install it where there is a network",
        )  # fmt: skip
    env.run.pins[path] = locked
    return path


def check_pin(path: Path, text: str, node: n.Node, env: Env) -> None:
    """Nothing is read as a program that is not what the lock says. Errors: `ImportFault`."""
    locked = env.run.pins.get(path)
    if locked is not None and not locked.fits(text.encode()):
        raise ImportFault(
            f"Lock integrity check failed for {locked.name}: its SHA-256 is not what {LOCK} says", span=node.span, code="lock",
            hint=f"somebody changed {path}: remove it, and install the module again",
        )  # fmt: skip
