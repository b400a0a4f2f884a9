"""A client whose transport has one stream for everything: standard input and output, or HTTP+SSE (2024-11-05).

Over streamable HTTP each request has an answer of its own. Here answers, notifications and questions of servers share a
stream, and only its id tells to which request an answer belongs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

from msgspec import Raw

from images.sidecar import jsonrpc
from images.sidecar.connection import Buffers
from images.sidecar.exchange import Exchange
from images.sidecar.jsonrpc import Batched, Incoming, Malformed
from images.sidecar.reception import Reception, Transport
from images.sidecar.sessions import Session
from images.sidecar.stateless import Stateless, StatelessExchange
from images.sidecar.stream import MessageStream

BATCHED = frozenset(("2024-11-05", "2025-03-26"))
"""Revisions in which a client may send batches."""
MAX_CHANNELS = 64
_IN_FLIGHT = 256
DRAIN_SECONDS = 60.0


class Lane:
    """One request's share of a stream that carries more than this request: what connection and event stream together are
    to other exchanges."""

    __slots__ = ("_send", "_told", "closed", "endless", "on_gone")

    def __init__(
        self, send: Callable[..., bool], told: Callable[[], None] | None = None, *, endless: bool = False
    ) -> None:
        self._send, self._told = send, told
        self.endless = endless
        """Whether its request is never answered, only cancelled."""
        self.closed = False
        self.on_gone: Callable[[], None] | None = None

    def answer(self, status: int, parts: Buffers, *, extra: bytes = b"") -> None:
        """The whole answer. There is no status here, and no header."""
        self.send(jsonrpc.as_text(b"".join(parts)))
        self.finish()

    def stream(self) -> Lane:
        """What carries messages before the answer: the lane itself."""
        return self

    def attach(self, connection: object, *, prime: bool = False, extra: bytes = b"") -> None:
        """It is on its stream already."""

    def send(self, message: bytes, *, droppable: bool = False) -> bool:
        return not self.closed and self._send(message, droppable=droppable)

    def finish(self) -> None:
        if not self.closed:
            self.closed, self.on_gone = True, None
            if self._told is not None:
                self._told()

    def pause(self) -> None:
        """There is no connection that could be let go."""

    def cancel(self) -> None:
        """The client wants no answer any more."""
        told = self.on_gone
        self.finish()
        if told is not None:
            told()


class Receiver(Protocol):
    """The parts of the endpoint that messages go to."""

    reception: Reception
    stateless: Stateless


class Channel:
    """The messages of one such client."""

    def __init__(self, receiver: Receiver, stream: MessageStream, transport: Transport) -> None:
        self._reception, self._transport = receiver.reception, transport
        self._stateless = receiver.stateless if transport == "stdio" else None  # the other ended with the sessions
        self._stream = stream
        self._lanes: dict[bytes, Lane] = {}
        self._draining = False
        self.session: Session | None = None
        stream.on_gone = self.close

    # --- in

    def read(self, data: bytes) -> list[Incoming | Malformed]:
        """The messages in what the client sent. Raises Malformed if it is none at all."""
        try:
            return [jsonrpc.split_request(data)]
        except Batched:
            if self.session is None or self.session.version not in BATCHED:
                raise
            return jsonrpc.split_batch(data)

    def take(self, message: Incoming | Malformed) -> None:
        """Acts on one message; what there is to answer goes on the stream."""
        if isinstance(message, Malformed):
            self.complain(message)
        elif message.method is None:
            if self.session is not None:
                self.session.answered(message)
        elif not bytes(message.id):
            self._notified(message)
        elif bytes(message.id) in self._lanes:
            self._refuse(message, "A request with this id is in flight already")
        elif len(self._lanes) >= _IN_FLIGHT:
            self._refuse(message, f"{_IN_FLIGHT} requests are in flight already")
        else:
            self._requested(message, message.method)

    def complain(self, error: Malformed) -> None:
        """Answers what is no message."""
        self._stream.send(jsonrpc.failure(b"", error.code, str(error)))

    def _requested(self, message: Incoming, method: str) -> None:
        spelt, session = bytes(message.id), self.session
        if session is not None:
            if method == "initialize":
                self._refuse(message, "This session is initialized already")
            else:
                self._reception.router.dispatch(session, self._exchange(spelt), method, message.params)
        elif self._stateless is not None and self._stateless.meant({}, message):
            lane = self._lane(spelt, endless=method == "subscriptions/listen")
            self._stateless.dispatch(
                StatelessExchange.of(lane, spelt, method, lane.stream, None), method, message.params
            )
        elif method == "initialize":
            exchange = self._exchange(spelt)
            self.session = self._reception.open(exchange, message, self._transport, self._stream)
        else:
            self._refuse(message, "Send initialize first")

    def _notified(self, message: Incoming) -> None:
        if message.method == "notifications/cancelled":
            lane = self._lanes.get(_cancelled(message.params))
            if lane is not None and self.session is None:
                lane.cancel()
                return
            if lane is not None:
                lane.finish()  # over HTTP a cancelled request is answered, since something must be; here it is not
        if self.session is not None:
            self._reception.router.notified(self.session, message)

    def _exchange(self, spelt: bytes) -> Exchange:
        lane = self._lane(spelt)
        return Exchange(lane, spelt, lane.stream)

    def _lane(self, spelt: bytes, *, endless: bool = False) -> Lane:
        lane = self._lanes[spelt] = Lane(self._stream.send, lambda: self._answered(spelt), endless=endless)
        return lane

    def _answered(self, spelt: bytes) -> None:
        self._lanes.pop(spelt, None)
        if self._draining and not self._lanes:
            # Later: whoever gave this last answer has not put it on record yet.
            asyncio.get_running_loop().call_soon(self.end)

    def _refuse(self, message: Incoming, reason: str) -> None:
        exchange = Exchange(Lane(self._stream.send), bytes(message.id), None)
        self._reception.router.receive(exchange, self._name, message.method or "", message.params)
        exchange.error(jsonrpc.INVALID_REQUEST, reason)

    @property
    def _name(self) -> str:
        return self.session.id if self.session is not None else ""

    # --- end

    def drain(self) -> None:
        """The client says nothing more: ends as soon as what it asked for is answered, or after a minute."""
        self._draining = True
        if self.session is not None:
            self.session.refuse_all("the client says nothing more")
        for lane in list(self._lanes.values()):
            if lane.endless:
                lane.cancel()
        if self._lanes:
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, self.end)
        else:
            self.end()

    def end(self) -> None:
        """Ends it from this side."""
        self.close()
        self._stream.finish()

    def close(self) -> None:
        """The client is gone: what it asked for is cancelled."""
        session, self.session = self.session, None
        if session is not None:
            self._reception.end(session)
        for lane in list(self._lanes.values()):
            lane.cancel()

    @property
    def open(self) -> bool:
        """Whether somebody is at the other end."""
        return self._stream.attached


class Channels:
    """All channels, bounded."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._channels: dict[bytes, Channel] = {}

    def full(self) -> bool:
        """Whether no more are taken."""
        self._channels = {key: channel for key, channel in self._channels.items() if channel.open}
        return len(self._channels) >= MAX_CHANNELS

    def add(self, stream: MessageStream, transport: Transport) -> tuple[bytes, Channel]:
        """A new one for a stream that is attached, under a name that nobody can guess."""
        name, channel = os.urandom(16).hex().encode(), Channel(self._receiver, stream, transport)
        self._channels[name] = channel
        return name, channel

    def get(self, name: bytes) -> Channel | None:
        """The one of this name, if its client is still there."""
        channel = self._channels.get(name)
        return channel if channel is not None and channel.open else None


def _cancelled(params: Raw) -> bytes:
    try:
        return bytes(jsonrpc.members(params).get("requestId", b""))
    except Malformed:
        return b""
