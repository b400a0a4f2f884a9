"""One request of the agent and its answer: plain JSON as long as nothing comes before it, then a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec import Raw, Struct

from images.sidecar import jsonrpc
from images.sidecar.budget import NO_ROOM, Held
from images.sidecar.connection import Buffers
from images.sidecar.jsonrpc import RawMap
from images.sidecar.receipt import Receipt
from images.sidecar.trace import Trace


class Way(Protocol):
    """The way of an answer that comes whole: a connection, or one lane of a channel."""

    closed: bool
    on_gone: Callable[[], None] | None

    def answer(self, status: int, parts: Buffers, *, extra: bytes = b"") -> None: ...


class AnswerStream(Protocol):
    """The way of an answer before which other messages come. It is attached to the `Way` which it takes the place of."""

    on_gone: Callable[[], None] | None

    def attach(self, connection: Any, *, prime: bool = False, extra: bytes = b"") -> None: ...

    def send(self, message: bytes, *, droppable: bool = False) -> bool: ...

    def finish(self) -> None: ...

    def pause(self) -> None: ...


OpenStream = Callable[[], AnswerStream]

_NO_STATUSES: Mapping[int, int] = {}


class Exchange(Struct, eq=False):
    """What an answer needs to find its way back. Answered once; whatever comes after that is ignored."""

    _connection: Way
    id: bytes
    """As it was spelt."""
    _open_stream: OpenStream | None
    carrier: Trace | None = None
    """The trace of the HTTP request, for a message that names none itself."""
    prime: bool = False
    """Whether a stream begins with an empty event, to come back after."""
    statuses: Mapping[int, int] = _NO_STATUSES
    """HTTP statuses of errors, by their code."""
    _headers: bytes = b""
    stream: AnswerStream | None = None
    task: asyncio.Task[None] | None = None
    """The slow path that works on the request, kept from the garbage collector."""
    answered: bool = False
    receipt: Receipt | None = None
    """Tells the record of the request with its answer, unless a relay has taken it and tells of the call."""
    unknown_resource: int = jsonrpc.RESOURCE_NOT_FOUND
    held: Held | None = None
    """The account of a large request, which is kept until it is answered."""

    def verify(self, schema: bytes, fields: RawMap) -> None:
        """Holds what else the request carried against the tool's schema; raises Malformed."""

    def shed(self) -> None:
        """There is no room for the request any more, which nobody has begun to work on."""
        if self.task is not None:
            self.task.cancel()
        self.error(jsonrpc.CROWDED, NO_ROOM)

    def _answered(self) -> None:
        self.answered = True
        if self.held is not None:
            self.held.release()

    @property
    def can_stream(self) -> bool:
        return not self.answered and (self.stream is not None or self._open_stream is not None)

    def result(self, parts: Buffers) -> None:
        """The answer: the JSON of the result, in parts."""
        if self.answered:
            return
        self._answered()
        if self.receipt is not None:
            self.receipt.answered(sum(map(len, parts)))
        if len(parts) == 1:
            whole: Buffers = (b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (self.id, parts[0]),)
        else:
            whole = (b'{"jsonrpc":"2.0","id":%s,"result":' % self.id, *parts, b"}")
        if self.stream is not None:
            self.stream.send(jsonrpc.as_text(b"".join(whole)))
            self.stream.finish()
        else:
            self._connection.answer(200, whole, extra=self._headers)

    def error(self, code: int, message: str, data: Any = None) -> None:
        """The answer: an error."""
        self.reply(jsonrpc.failure(self.id, code, message, data), self.statuses.get(code, 200))

    def failed(self, error: Raw) -> None:
        """The answer: a server's error as it is."""
        status = self.statuses.get(jsonrpc.error_of(error).code, 200) if self.statuses else 200
        self.reply(b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (self.id, bytes(error) or b"{}"), status)

    def reply(self, message: bytes, status: int = 200) -> None:
        """The answer as a complete message."""
        if self.answered:
            return
        self._answered()
        if self.receipt is not None:
            self.receipt.answered(len(message), error=message)
        if self.stream is not None:
            self.stream.send(message)
            self.stream.finish()
        else:
            self._connection.answer(status, (message,), extra=self._headers)

    def send(self, message: bytes, *, droppable: bool = False) -> bool:
        """A message that comes before the answer; False if this client cannot take one here."""
        stream = self.commit()
        return stream is not None and stream.send(message, droppable=droppable)

    def commit(self) -> AnswerStream | None:
        """Turns the answer into a stream, if the client can read one."""
        if self.stream is None and not self.answered and self._open_stream is not None and not self._connection.closed:
            self.stream = self._open_stream()
            self.stream.attach(self._connection, prime=self.prime, extra=self._headers)
        return self.stream

    def pause(self) -> None:
        """Lets the client go, to come back for the rest, if it knows how to."""
        if self.prime and self.commit() is not None and self.stream is not None:
            self.stream.pause()

    def with_headers(self, lines: bytes) -> None:
        """Header lines of the answer (a new session's id)."""
        self._headers += lines
