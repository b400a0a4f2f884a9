"""Files of the project on the host (`ports.FilePort`), kept inside their roots."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

MOST_BYTES = 64 << 20
MOST_MATCHES = 10_000


class HostFiles:
    """Reads below `roots`, writes below `writable`. A symbolic link counts as what it points to."""

    def __init__(self, roots: Iterable[Path], *, writable: Iterable[Path] = ()) -> None:
        self._writable = tuple(root.resolve() for root in writable)
        self._readable = (*(root.resolve() for root in roots), *self._writable)

    def read(self, path: Path) -> bytes:
        real = self._inside(path, self._readable, "read")
        # Opened without waiting and looked at afterwards: a pipe would wait for a writer, a device may never end.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(f"{path} is a directory")
            if not stat.S_ISREG(found.st_mode):
                raise PermissionError(f"{path} is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MOST_BYTES + 1)
        finally:
            os.close(descriptor)
        if len(data) > MOST_BYTES:
            raise OSError(f"{path} is larger than {MOST_BYTES >> 20} MiB")
        return data

    def write(self, path: Path, data: bytes, *, append: bool = False) -> None:
        real = self._inside(path, self._writable, "written")
        real.parent.mkdir(parents=True, exist_ok=True)
        with real.open("ab" if append else "wb") as file:
            file.write(data)

    def glob(self, root: Path, pattern: str) -> Sequence[Path]:
        """Files below `root` that fit, as paths below `root`, sorted; those whose real place is outside are left out."""
        base = self._inside(root, self._readable, "read")
        found: list[Path] = []
        for path in base.glob(pattern):
            if path.is_file() and any(path.resolve().is_relative_to(allowed) for allowed in self._readable):
                found.append(root / path.relative_to(base))
            if len(found) > MOST_MATCHES:
                raise OSError(f"{pattern} fits more than {MOST_MATCHES} files below {root}")
        return sorted(found)

    def exists(self, path: Path) -> bool:
        return self._inside(path, self._readable, "looked at").exists()

    def is_dir(self, path: Path) -> bool:
        return self._inside(path, self._readable, "looked at").is_dir()

    @staticmethod
    def _inside(path: Path, roots: Sequence[Path], verb: str) -> Path:
        real = path.resolve()
        if not any(real.is_relative_to(root) for root in roots):
            where = ", ".join(dict.fromkeys(map(str, roots))) or "nothing"
            raise PermissionError(f"{path} may not be {verb}: it lies outside {where}")
        return real
