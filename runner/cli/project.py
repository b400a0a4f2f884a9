"""Where the project is, from anywhere below it."""

from __future__ import annotations

from pathlib import Path

MARKS = ("mlld-config.json", "mlld-lock.json", ".mlld", ".git")
MANIFESTS = ("package.json", "pyproject.toml", "Cargo.toml")
"""Where nothing has a mark. Parts of a project have such files, too, and must still find its environments."""


def find_project(start: Path, *, home: Path) -> Path:
    """The nearest directory at or above `start` that has a mark of a project, else the nearest with a manifest, else `start`.

    The home directory is not taken for a project because of its own `.mlld`: it would become the workspace. Nor is the
    root of the file system, which has one in every container of ours.
    """
    start = start.resolve()
    no_projects = {home.resolve(), Path(start.anchor)}
    for marks in (MARKS, MANIFESTS):
        for directory in (start, *start.parents):
            if directory not in no_projects and any((directory / mark).exists() for mark in marks):
                return directory
    return start
