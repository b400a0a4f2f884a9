"""The door of a running sandbox: how other commands of its user reach its tools (`mlld sandbox connect RUN`).

An abstract Unix socket: it has no file, so that nothing of it is left however its runner ends, and no container can see
it, since each has a network namespace of its own. It has no permission bits either; who calls is asked of the kernel, on
both ends: nobody else gets in, and nobody else can pretend to be the door.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

from interpreter.errors import EvaluationError
from interpreter.mcp import LARGEST, Answer, Server, Tool
from interpreter.ports import ToolConnection, ToolInfo
from runner import __version__
from runner.errors import SandboxFailure, Unsupported

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: `struct ucred`


def address(run: str) -> str:
    return f"\0mlld-{os.getuid()}-{run}"


def is_ours(end: socket.socket) -> bool:
    """Whether the process at the other end is one of this user."""
    told = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(told)[1] == os.getuid())


class Door:
    """Serves the tools of one sandbox to whoever of this user connects; each connection is a session of its own."""

    def __init__(self, run: str, tools: ToolConnection | None) -> None:
        self._run = run
        self._tools = [] if tools is None else [passed_on(tools, info) for info in tools.tools]
        self._server: asyncio.Server | None = None
        self._guests: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Start to listen. Where the system has no such sockets there is no door, and `connect` says so."""
        if hasattr(socket, "SO_PEERCRED"):
            self._server = await asyncio.start_unix_server(self._welcome, address(self._run), limit=LARGEST)

    async def close(self) -> None:
        """Let nobody in any more, and see everybody out."""
        if self._server is None:
            return
        self._server.close()
        for guest in self._guests:
            guest.cancel()
        await asyncio.gather(*self._guests, return_exceptions=True)
        self._server = None

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._guests.add(task)
        server = Server(name=f"mlld {self._run}", version=__version__, tools=self._tools)

        async def send(line: bytes) -> None:
            writer.write(line)
            await writer.drain()

        try:
            if not is_ours(writer.get_extra_info("socket")):
                return
            while line := await reader.readline():
                await server.receive(line, send)
            await server.drain()
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass  # it left, it sent a line without end, or the sandbox ends
        finally:
            await server.close()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._guests.discard(task)


def passed_on(connection: ToolConnection, info: ToolInfo) -> Tool:
    """A tool of the sandbox as one that is served on this side."""

    async def call(arguments: Mapping[str, Any]) -> Answer:
        result = await connection.call(info.name, arguments)
        if result.is_error:
            raise EvaluationError(result.text or f"{info.name} failed without a word")
        structured = result.structured if isinstance(result.structured, Mapping) else None
        return Answer(text=result.text, structured=structured)

    return Tool(name=info.name, description=info.description, schema=info.input_schema, call=call)


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
