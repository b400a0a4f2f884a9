"""Server-sent events: a stream of messages to the agent that outlives the connection which carries it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from images.sidecar.budget import Held
from images.sidecar.connection import Connection
from images.sidecar.jsonrpc import one_line

RETRY_MS = 1000
_KEPT_EVENTS = 256
_KEPT_BYTES = 4 << 20
SLOW_READER = 1 << 20
"""Bytes that an agent may leave unread before notifications are dropped; answers never are."""


class MessageStream(Protocol):
    """Whatever carries messages to a client that come when they come: events of HTTP, or lines."""

    on_gone: Callable[[], None] | None
    """Told when the client leaves before the end."""

    @property
    def attached(self) -> bool:
        """Whether somebody is there to read."""
        ...

    def send(self, message: bytes, *, droppable: bool = False) -> bool:
        """Adds a message; False if it was dropped because the client does not read."""
        ...

    def beat(self) -> None:
        """Shows that the stream lives, if there is a way to show it."""
        ...

    def finish(self) -> None:
        """Nothing comes after this."""
        ...


Keep = Callable[[Callable[[], None]], Held]
"""Opens the account for what is kept; its argument is called when that has to be given up."""


class EventStream:
    """Events in order. Where `keep` is given they have ids, and are kept (bounded) for a client that comes back."""

    def __init__(self, key: str, keep: Keep | None = None) -> None:
        self.key = key
        self._held = keep(self.forget) if keep is not None else None
        self._connection: Connection | None = None
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self._count = 0
        self._carried = 0
        self.finished = False
        self.on_gone: Callable[[], None] | None = None
        """Told when the client leaves before the end."""

    @property
    def attached(self) -> bool:
        return self._connection is not None

    def attach(
        self, connection: Connection, *, after: int | None = None, prime: bool = False, extra: bytes = b""
    ) -> None:
        """Carries the stream on over a connection, from event `after` on, else from what none has carried yet."""
        if self._connection is not None:
            former, self._connection = self._connection, None
            former.end_stream()
        connection.begin_stream(extra)
        self._connection = connection
        connection.on_gone = self._gone
        if after is None and prime and self._held is not None:
            connection.write_stream((b"id: %s_%d\nretry: %d\ndata: \n\n" % (self.key.encode(), self._count, RETRY_MS),))
        for number, event in list(self._kept):
            if number > (self._carried if after is None else after):
                connection.write_stream((event,))
        self._carried = self._count
        if self.finished:
            self._end()

    def send(self, message: bytes, *, droppable: bool = False) -> bool:
        """Adds a message; False if it was dropped because the agent does not read."""
        connection = self._connection
        if droppable and connection is not None and connection.backlog > SLOW_READER:
            return False
        message = one_line(message)
        self._count += 1
        if self._held is not None:
            event = b"event: message\nid: %s_%d\ndata: %s\n\n" % (self.key.encode(), self._count, message)
            self._keep(event, self._held)
        else:
            event = b"event: message\ndata: %s\n\n" % message
        if connection is not None:
            connection.write_stream((event,))
            self._carried = self._count
        return True

    def finish(self) -> None:
        """Nothing comes after this; the events stay for a client that missed them."""
        self.finished = True
        self._end()

    def pause(self) -> None:
        """Ends the connection, not the stream: the client comes back with the id of its last event."""
        if self._held is not None:
            self._end()

    def beat(self) -> None:
        """A comment, so that nothing between us and the agent takes a silent stream for a dead one."""
        if self._connection is not None and not self._connection.backlog:
            self._connection.write_stream((b": \n\n",))

    def forget(self) -> None:
        """Gives up what was kept: whoever comes back gets what follows."""
        self._kept.clear()
        self._kept_bytes = 0
        if self._held is not None:
            self._held.hold(0)

    def _end(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.end_stream()

    def _gone(self) -> None:
        self._connection = None
        if self.on_gone is not None:
            self.on_gone()

    def _keep(self, event: bytes, held: Held) -> None:
        self._kept.append((self._count, event))
        self._kept_bytes += len(event)
        least = 0 if self.attached else 1
        while len(self._kept) > least and (len(self._kept) > _KEPT_EVENTS or self._kept_bytes > _KEPT_BYTES):
            self._kept_bytes -= len(self._kept.popleft()[1])
        if not held.hold(self._kept_bytes):
            self.forget()


def split_event_id(value: bytes) -> tuple[str, int] | None:
    """The stream and the number of a Last-Event-ID; None if it is none of ours."""
    key, _, number = value.decode("latin-1").rpartition("_")
    return (key, int(number)) if key and number.isdecimal() and len(number) < 12 else None
