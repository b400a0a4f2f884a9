"""The stdio transport of `mlld mcp`: a line in is a message, a line out is a message, and nothing else is on stdout.

Reading and writing happen in threads of their own: in a sandbox stdin and stdout are one socket, so that making one of
them non-blocking, as an event loop would, changes the other.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Protocol

_WAITING = 64  # lines that may lie between the reader and the loop: then the client has to wait


class LineServer(Protocol):
    """What serves: `interpreter.mcp.Server`."""

    async def receive(self, line: bytes, send: Send) -> None: ...

    async def drain(self) -> None: ...

    async def close(self) -> None: ...


class Send(Protocol):
    async def __call__(self, line: bytes, /) -> None: ...


async def serve_lines(server: LineServer, source: BinaryIO, sink: BinaryIO) -> None:
    """Serve one client until it closes its end; then answer what is still running, and return."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)

    def read() -> None:
        try:
            for line in source:
                asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()
        finally:
            if not loop.is_closed():
                asyncio.run_coroutine_threadsafe(lines.put(b""), loop)

    def write(line: bytes) -> None:
        sink.write(line)
        sink.flush()

    # A daemon: it may wait in a read for ever, and nobody should wait for it.
    threading.Thread(target=read, name="mcp-stdin", daemon=True).start()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="mcp-stdout") as writer:

        async def send(line: bytes) -> None:
            await loop.run_in_executor(writer, write, line)

        try:
            while line := await lines.get():
                await server.receive(line, send)
            await server.drain()
        except BrokenPipeError:
            pass  # the client is gone: there is nobody to tell
        finally:
            await server.close()
