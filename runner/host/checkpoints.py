"""Results that runs of a script keep (`ports.CheckpointPort`): `.mlld/checkpoints/NAME/results.jsonl` of the project.

In a sandbox `.mlld/` is read-only, so that an agent cannot put words into the mouth of a model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DIRECTORY = Path(".mlld", "checkpoints")
_MOST_BYTES = 33 << 20  # a little more than is read as results, so that too much is seen as that


@dataclass(frozen=True, kw_only=True)
class KeptResults:
    """The results of one script. `fork`: those of another one, which are read first and never written."""

    path: Path
    fork: Path | None = None

    @classmethod
    def of(cls, script: Path, project: Path, *, fork: Path | None = None) -> KeptResults:
        return cls(path=_place(script, project), fork=None if fork is None else _place(fork, project))

    def read(self) -> bytes:
        return b"".join(_read(path) for path in (self.fork, self.path) if path is not None)

    def append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # For its owner alone, and never through a link that somebody put there.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.path, flags, 0o600), "ab") as file:
            file.write(line + b"\n")

    def clear(self) -> bool:
        """Forgets everything; False if there was nothing."""
        if not self.path.exists():
            return False
        self.path.unlink()
        return True

    def listed(self) -> Iterator[dict[str, Any]]:
        """The results that a run would find, oldest first."""
        from interpreter.checkpoints import Store

        for kept in sorted(Store.read(self.read()).results.values(), key=lambda kept: kept.at):
            yield dict(kept.__dict__)


def _place(script: Path, project: Path) -> Path:
    """Named by the script's path in the project: two scripts of one name are two."""
    real = script.resolve()
    inside = real.relative_to(project) if real.is_relative_to(project) else Path(*real.parts[1:])
    name = re.sub(r"(\.mld)?(\.md)?\Z", "", inside.as_posix())
    return project / _DIRECTORY / re.sub(r"[^\w.-]+", "--", name) / "results.jsonl"


def _read(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    with os.fdopen(handle, "rb") as file:
        return file.read(_MOST_BYTES)
