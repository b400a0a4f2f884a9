"""The door of a running sandbox: how other commands of its user reach its endpoint (`mlld sandbox connect RUN`).

An abstract Unix socket: it has no file, so that nothing of it is left however its runner ends, and no container can see
it, since each has a network namespace of its own. It has no permission bits either; who calls is asked of the kernel, on
both ends: nobody else gets in, and nobody else can pretend to be the door.

What goes through is not looked at here. Each guest has a way of its own to the endpoint, from the agent's seat, and so
the same filters, guards, labels and record as the agent, in a session of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable

import msgspec

from runner.backends.base import Pipe
from runner.errors import RunnerError, SandboxFailure, Unsupported

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: `struct ucred`
_CHUNK = 1 << 16
_NO_WAY_IN = -32000


def address(run: str) -> str:
    return f"\0mlld-{os.getuid()}-{run}"


def is_ours(end: socket.socket) -> bool:
    """Whether the process at the other end is one of this user."""
    told = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(told)[1] == os.getuid())


class Door:
    """Joins whoever of this user connects to the endpoint of one sandbox. `way` gives a new way to it, in lines."""

    def __init__(self, run: str, way: Callable[[], Awaitable[Pipe]]) -> None:
        self._run, self._way = run, way
        self._server: asyncio.Server | None = None
        self._guests: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Start to listen. Where the system has no such sockets there is no door, and `connect` says so."""
        if hasattr(socket, "SO_PEERCRED"):
            self._server = await asyncio.start_unix_server(self._knocked, address(self._run))

    async def close(self) -> None:
        """Let nobody in any more, and see everybody out."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for guest in self._guests:
            guest.cancel()
        await asyncio.gather(*self._guests, return_exceptions=True)

    async def lead_in(self, end: socket.socket) -> None:
        """Serves a guest who is here already, until one side ends."""
        await self._serve(*await asyncio.open_unix_connection(sock=end))

    async def _knocked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_ours(writer.get_extra_info("socket")):
            await self._serve(reader, writer)
        else:
            await _leave(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._guests.add(task)
        pipe: Pipe | None = None
        try:
            pipe = await self._way()
            inwards = asyncio.create_task(_inwards(reader, pipe))
            try:
                while data := await pipe.receive():
                    writer.write(data)
                    await writer.drain()
            finally:
                inwards.cancel()
                await asyncio.wait([inwards])
        except RunnerError as refusal:
            error = {"code": _NO_WAY_IN, "message": refusal.message}
            writer.write(msgspec.json.encode({"jsonrpc": "2.0", "id": None, "error": error}) + b"\n")
        except (OSError, asyncio.CancelledError):
            pass  # it left, or the sandbox ends
        finally:
            self._guests.discard(task)
            if pipe is not None:
                await pipe.close()
            await _leave(writer)


async def _inwards(reader: asyncio.StreamReader, pipe: Pipe) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            await pipe.send(data)
        await pipe.finish()  # the endpoint answers what is still running, then ends


async def _leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def knock(run: str) -> socket.socket:
    """A connection to the door of a running sandbox. Errors: `SandboxFailure`, `Unsupported`."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise Unsupported(
            "this system has no sockets over which a run of its own could be reached",
            remedy="mlld sandbox connect --env REF starts a sandbox and serves its tools",
        )
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as stack:
        stack.callback(end.close)
        try:
            end.connect(address(run))
        except OSError:
            raise SandboxFailure(
                f"the run {run} cannot be reached: it has ended, or its tools are not ready yet",
                remedy="mlld sandbox ps",
            ) from None
        if not is_ours(end):
            raise SandboxFailure(f"somebody else pretends to be the run {run}", remedy="mlld sandbox ps")
        stack.pop_all()
    return end
