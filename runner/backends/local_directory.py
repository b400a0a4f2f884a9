"""Workspaces as directories of this machine (`ports.Directory`).

Between two calls, programs that nobody trusts may have put anything there. A symbolic link of theirs is never followed:
every step of a path is opened by itself, relative to the one before, and a link in the way is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

MOST_BYTES = 16 << 20  # of a workspace, and of its names
MOST_FILES = 4000
DEEPEST = 32
NOT_SHOWN = frozenset({".git"})  # git would take the links for a checkout in which every file was replaced
_TURN = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class HostDirectory:
    """A directory below the temporary directory of this machine. `shows`: a directory whose entries it has as links."""

    def __init__(self, *, shows: str | None = None) -> None:
        self.path = tempfile.mkdtemp(prefix="mlld-workspace-")
        self._shows = shows
        if shows is not None:
            with _opened(self.path) as root:
                _link(root, shows)

    async def write(self, files: Mapping[str, bytes], gone: Sequence[str] = ()) -> None:
        await asyncio.to_thread(self._write, files, gone)

    def _write(self, files: Mapping[str, bytes], gone: Sequence[str]) -> None:
        for path, data in files.items():
            with self._parent(path, make=True) as (parent, name):
                _remove(parent, name)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(name, flags, 0o666, dir_fd=parent), "wb") as file:
                    file.write(data)
        for path in gone:
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                self._parent(path, make=False) as (at, name),
            ):
                os.unlink(name, dir_fd=at)

    @contextlib.contextmanager
    def _parent(self, path: str, *, make: bool) -> Iterator[tuple[int, str]]:
        """The directory that a file lies in, opened, and its name there."""
        *above, name = PurePosixPath(path).parts
        shown = self._shows
        with contextlib.ExitStack() as stack:
            at = stack.enter_context(_opened(self.path))
            for part in above:
                shown = None if shown is None else f"{shown}/{part}"
                if make:
                    _directory(at, part, shown)
                at = stack.enter_context(_opened(part, at))
            yield at, name

    async def read(self) -> Mapping[str, bytes]:
        return await asyncio.to_thread(self._read)

    def _read(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        size = 0
        for folder, folders, names, at in os.fwalk(self.path, follow_symlinks=False):
            below = PurePosixPath(folder).relative_to(self.path)
            if len(below.parts) >= DEEPEST:
                folders.clear()
            for name in names:
                path = str(below / name)
                data = _regular(name, at, MOST_BYTES - size)
                if data is None:
                    continue
                size += len(data) + len(path)
                found[path] = data
                check_size(len(found), size)
        return found

    async def close(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self.path, ignore_errors=True)


def check_size(files: int, size: int) -> None:
    if files > MOST_FILES or size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"the workspace holds more than {MOST_FILES} files or {MOST_BYTES >> 20} MiB")


@contextlib.contextmanager
def _opened(path: str, at: int | None = None) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | _TURN, dir_fd=at)
    try:
        yield handle
    finally:
        os.close(handle)


def _directory(at: int, name: str, shown: str | None) -> None:
    """Makes `name` a directory of its own, whatever it was. A link to the project's becomes links to what that holds."""
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            return
        os.unlink(name, dir_fd=at)
    os.mkdir(name, dir_fd=at)
    if shown is not None and os.path.isdir(shown):
        with _opened(name, at) as made:
            _link(made, shown)


def _link(at: int, shown: str) -> None:
    for name in os.listdir(shown):
        if name not in NOT_SHOWN:
            os.symlink(f"{shown}/{name}", name, dir_fd=at)


def _remove(at: int, name: str) -> None:
    """Clears the place of a file: a link is removed and not followed."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=at)


def _regular(name: str, at: int, most: int) -> bytes | None:
    """The content of a regular file; None for all else, above all a pipe, which would never end."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except OSError:
        return None  # a link, a socket, or gone meanwhile
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        return file.read(max(most, 0) + 1)
