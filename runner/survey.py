"""Looks at the disk for the planner: what lies at the paths that a declaration names, who owns the workspace."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from interpreter.declarations import EnvironmentSpec
from runner.planner_files import NOT_SECRET, OBEYED, OBEYED_IF_PRESENT, SECRET_NAMES
from runner.planner_options import HostFacts, PathFact, PathKind

_DEPTH = 3
_ENTRIES = 20_000  # a workspace of any size costs milliseconds
_SKIP = {".git", "node_modules", ".venv", "venv", "__pycache__", "target", "dist"}


def survey(
    spec: EnvironmentSpec,
    *,
    workspace: Path | None,
    home: Path,
    modules: Mapping[str, Path] | None = None,
    module: Path | None = None,
) -> HostFacts:
    """The facts that `plan(spec, …)` needs. `modules`: directory of the module that each `module` server serves."""
    root = None if workspace is None else Path(os.path.realpath(workspace))
    rules = [*spec.files.read, *spec.files.write]
    for server in spec.mcp.servers:
        rules += [*server.files.read, *server.files.write]
    return HostFacts(
        workspace=None if root is None else str(root),
        owner=(1000, 1000) if root is None else _owner(root),
        workspace_owner=None if root is None else root.stat().st_uid,
        home=os.path.realpath(home),
        cpus=os.cpu_count() or 1,
        paths={rule.path: _fact(rule.path, root) for rule in rules},
        sensitive={} if root is None else dict(_sensitive(root)),
        secret_files=() if root is None else tuple(sorted(_secret_files(root))),
        modules={name: os.path.realpath(path) for name, path in (modules or {}).items()},
        module=None if module is None else os.path.realpath(module),
    )


def kind_of(path: Path | str) -> PathKind:
    """What lies at the path itself, not at what it may point to."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    if stat.S_ISLNK(mode):
        return "link"
    return "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def _fact(path: str, root: Path | None) -> PathFact:
    real = os.path.realpath(os.path.join(root or "/", path))
    return PathFact(real=real, kind=kind_of(real))


def _owner(root: Path) -> tuple[int, int]:
    """Owner and group of the workspace; root's workspaces are seen by 1000, because nothing inside runs as root."""
    found = root.stat()
    return (1000, 1000) if found.st_uid == 0 else (found.st_uid, found.st_gid or 1000)


def _sensitive(root: Path) -> Iterator[tuple[str, PathKind]]:
    for name in OBEYED:
        yield name, kind_of(root / name)
    for name in OBEYED_IF_PRESENT:
        if (kind := kind_of(root / name)) in ("file", "directory"):
            yield name, kind


def _secret_files(root: Path) -> Iterator[str]:
    seen = 0
    for directory, names, files in os.walk(root):
        below = Path(directory).relative_to(root)
        names[:] = [] if len(below.parts) >= _DEPTH else [name for name in names if name not in _SKIP]
        for name in files:
            if name in SECRET_NAMES or (name.startswith(".env.") and name not in NOT_SECRET):
                yield str(below / name)
        seen += len(names) + len(files)
        if seen > _ENTRIES:
            return
