"""Files whose name is written a little differently: `./my-utils` finds `My Utils.mld`.

Only where nothing has the exact name, and never through `..`. Capitals do not count, nor which of space, hyphen and underscore
separates words; a name without ending may have one, modules first.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from interpreter import operations
from interpreter.errors import EvaluationError

from .core import Env

ENDINGS = (".mld", ".mld.md", ".md")
_SEPARATOR = re.compile(r"[-_ ]")


def nearby(text: str, env: Env) -> Path | None:
    """The file that a relative path comes closest to, None if none does. Errors: several are equally close."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if env.ports.files is None or not parts or ".." in parts or text.startswith(("/", "~", "@")):
        return None
    ended = "." in parts[-1].lstrip(".")
    pattern = "/".join(map(_loose, parts)) + ("" if ended else ".*")
    root = env.module.directory
    try:
        found = [*operations.find_files(env.ports.files, root, pattern)]
    except (OSError, NotImplementedError, ValueError):
        return None
    if not ended:
        found = [
            path for path in found if _ending(path, parts[-1]).count(".") == 1 or _ending(path, parts[-1]) in ENDINGS
        ]
    ranked = sorted((_distance(path.relative_to(root).parts, parts, ended), path) for path in found)
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        names = ", ".join(str(path.relative_to(root)) for rank, path in ranked if rank == ranked[0][0])
        raise EvaluationError(
            f"Ambiguous file match for {text}: {names}", code="file-not-found", hint="write the exact name"
        )
    return ranked[0][1] if ranked else None


def did_you_mean(text: str, env: Env) -> str | None:
    """The name of a file beside the one that is missing."""
    if env.ports.files is None:
        return None
    where, _, name = text.rstrip("/").rpartition("/")
    if where.startswith(("/", "~", "@")) or ".." in where.split("/"):
        return None
    try:
        found = operations.find_files(env.ports.files, env.module.directory / where, "*")
    except OSError:
        return None
    names = {path.name.lower(): path.name for path in found} | {path.stem.lower(): path.name for path in found}
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.7)
    return f"{where}/{names[close[0]]}".lstrip("/") if close else None


def _loose(part: str) -> str:
    """One part of a path as a pattern in which neither capitals nor kinds of separators count."""
    marks = []
    for mark in part:
        if mark in "-_ ":
            marks.append("[-_ ]")
        elif mark in "*?[]":
            marks.append(f"[{mark}]")
        else:
            both = {mark, *(m for m in (mark.lower(), mark.upper()) if len(m) == 1)}
            marks.append(f"[{''.join(sorted(both))}]" if len(both) > 1 else mark)
    return "".join(marks)


def _ending(path: Path, stem: str) -> str:
    return path.name[len(stem) :].lower()


def _distance(found: tuple[str, ...], wanted: list[str], ended: bool) -> tuple[int, int]:
    """How far a path is from what was written: differences, then the place of its ending among those that are tried."""
    far = 0
    for name, part in zip(found, wanted, strict=True):
        if name[: len(part)] != part:
            far += 1 if name[: len(part)].lower() == part.lower() else 2
            far += _SEPARATOR.sub("-", name[: len(part)]) != _SEPARATOR.sub("-", part)
    ending = found[-1][len(wanted[-1]) :].lower()
    return far, 0 if ended else ENDINGS.index(ending) if ending in ENDINGS else len(ENDINGS)
