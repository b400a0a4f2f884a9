"""The framing of the stdio transport over a connection that was switched to it: one message per line, both ways.

`mlld sandbox connect` joins a client's standard input and output to such a connection. The client is let in like every
other, since the connection begins as a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from images.sidecar import jsonrpc
from images.sidecar.budget import NO_ROOM
from images.sidecar.channel import Channel
from images.sidecar.connection import Connection
from images.sidecar.jsonrpc import Malformed, one_line
from images.sidecar.seams import Audit
from images.sidecar.stream import SLOW_READER

PROTOCOL = b"mcp-stdio"
"""The name in the Upgrade header."""


class LineStream:
    """The lines to the client. Implements `stream.MessageStream`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._finished = False
        self.on_gone: Callable[[], None] | None = None
        connection.on_gone = self._gone

    @property
    def attached(self) -> bool:
        return not (self._finished or self._connection.closed)

    def send(self, message: bytes, *, droppable: bool = False) -> bool:
        if not self.attached or (droppable and self._connection.backlog > SLOW_READER):
            return False
        self._connection.write((one_line(message), b"\n"))
        return True

    def beat(self) -> None:
        """There is nothing between us and the client that would close a silent pipe."""

    def finish(self) -> None:
        if self.attached:
            self._finished = True
            self._connection.hang_up()

    def _gone(self) -> None:
        if self.on_gone is not None:
            self.on_gone()


class LineReader:
    """The lines from the client. Implements `connection.Speaker`."""

    def __init__(self, connection: Connection, channel: Channel, audit: Audit, limit: int) -> None:
        self._connection, self._channel, self._audit, self._limit = connection, channel, audit, limit
        self._scanned = 0
        self._skipping = False
        """Whether the rest of a line that was too long is still on its way."""
        self._waiting: asyncio.Task[None] | None = None

    def heard(self, data: bytearray) -> None:
        while self._channel.open:
            if self._audit.behind:
                self._wait()
                return
            end = data.find(b"\n", self._scanned)
            if end < 0:
                break
            line = bytes(data[:end])
            del data[: end + 1]
            self._scanned = 0
            if self._skipping:
                self._skipping = False
            elif len(line) > self._limit:
                self._too_long()
            elif line.strip():
                self._message(line)
        self._scanned = len(data)
        if len(data) > self._limit and not self._skipping:
            self._skipping = True
            self._too_long()
        if self._skipping:
            data.clear()
            self._scanned = 0

    def ended(self, rest: bytearray) -> None:
        if rest.strip() and not self._skipping:
            self._message(bytes(rest))  # the last line of a file may have no end
        self._channel.drain()

    def crowded(self, data: bytearray) -> None:
        self._scanned = 0
        data.clear()
        if not self._skipping:
            self._skipping = True
            self._channel.complain(Malformed(jsonrpc.CROWDED, NO_ROOM))

    def _wait(self) -> None:
        """Nothing is done that cannot be recorded: what the client says waits."""
        self._connection.pause()
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_task(self._recorded())

    async def _recorded(self) -> None:
        try:
            await self._audit.drain()
        except Exception:  # whatever keeps the record from being kept ends the sidecar, and says so there
            self._connection.close()
        self._waiting = None
        self._connection.resume()

    def _message(self, line: bytes) -> None:
        try:
            messages = self._channel.read(line)
        except Malformed as e:
            self._channel.complain(e)
            return
        try:
            for message in messages:
                self._channel.take(message)
        except Exception as e:  # one client must not end what all others need
            self._audit.emit({"event": "error", "where": "lines", "reason": repr(e)})
            self._connection.close()

    def _too_long(self) -> None:
        reason = f"A message is over the limit of {self._limit} bytes"
        self._channel.complain(Malformed(jsonrpc.INVALID_REQUEST, reason))
