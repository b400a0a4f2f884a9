"""Workspaces as directories of the agent's seat (`ports.Directory`).

The bridge writes and reads them there (images/bridge/tree.c). What it says comes out of a seat that the agent shares, so
it is checked like everything else that an agent says.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence

from interpreter.ports import CommandResult
from runner.backends.base import Execution
from runner.backends.local_directory import DEEPEST, MOST_BYTES, check_size
from runner.plan import BRIDGE, WORKSPACE

_NUMBERS = itertools.count(1)


class SeatDirectory:
    """A directory in the agent's container, by commands of that seat."""

    def __init__(self, execute: Callable[[Execution], Awaitable[CommandResult]], *, project: bool) -> None:
        self._execute = execute
        self._project = project
        self.path = f"/tmp/workspace-{next(_NUMBERS)}"

    async def write(self, files: Mapping[str, bytes], gone: Sequence[str] = ()) -> None:
        await self._bridge("--unpack", self.path, WORKSPACE if self._project else "", stdin=packed(files, gone))

    async def read(self) -> Mapping[str, bytes]:
        return unpacked(await self._bridge("--pack", self.path, str(MOST_BYTES)))

    async def close(self) -> None:
        """It goes with its container."""

    async def _bridge(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        result = await self._execute(Execution(argv=(BRIDGE, *arguments), stdin=stdin))
        if result.exit_code:
            detail = result.stderr.decode(errors="replace").strip() or f"status {result.exit_code}"
            raise OSError(errno.EIO, f"the workspace in the sandbox: {detail}")
        return result.stdout


def packed(files: Mapping[str, bytes], gone: Sequence[str] = ()) -> bytes:
    """Records of the bridge: `F` path NUL size NUL content; `D` path NUL for one to remove; `E` at the end."""
    parts = [b"D%s\0" % path.encode() for path in gone]
    for path, data in files.items():
        parts += (b"F%s\0%d\0" % (path.encode(), len(data)), data)
    return b"".join((*parts, b"E"))


def unpacked(stream: bytes) -> dict[str, bytes]:
    """The files of such records. Errors: `OSError` for what no honest bridge says."""
    found: dict[str, bytes] = {}
    at = size = 0
    while (kind := stream[at : at + 1]) == b"F":
        name, content = stream.find(b"\0", at), -1
        if name > 0:
            content = stream.find(b"\0", name + 1, name + 12)
        digits = stream[name + 1 : content] if content > 0 else b""
        if not digits.isdigit():
            raise _malformed()
        path, length = stream[at + 1 : name].decode("utf-8", errors="replace"), int(digits)
        at = content + 1 + length
        parts = path.split("/")
        if at > len(stream) or len(parts) > DEEPEST or any(part in ("", ".", "..") for part in parts):
            raise _malformed()
        size += length + len(path)
        found[path] = stream[content + 1 : at]
        check_size(len(found), size)
    if kind != b"E" or at + 1 != len(stream):
        raise _malformed()
    return found


def _malformed() -> OSError:
    return OSError(errno.EPROTO, "the sandbox gave back a workspace that cannot be read")
