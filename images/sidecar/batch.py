"""Batches over streamable HTTP, for the revisions that have them: the answers come on one stream, each when it is there.

2025-03-26 lets a server answer a batch by a stream or by an array. An array would have to be kept until its last answer
is there, 64 results of any size; the stream's client takes each as it comes, under the bounds of every stream.
"""

from __future__ import annotations

from images.sidecar import jsonrpc
from images.sidecar.channel import Lane
from images.sidecar.connection import Connection
from images.sidecar.exchange import Exchange
from images.sidecar.jsonrpc import Incoming, Malformed
from images.sidecar.router import Router
from images.sidecar.sessions import Session
from images.sidecar.trace import Trace


class _Lanes:
    """The lanes of one batch: when the last is done, so is their stream."""

    def __init__(self, session: Session, count: int) -> None:
        self.stream, self._open = session.open_stream(), count

    def next(self) -> Lane:
        return Lane(self.stream.send, self._done)

    def _done(self) -> None:
        self._open -= 1
        if not self._open:
            self.stream.finish()


def serve(
    connection: Connection,
    router: Router,
    session: Session,
    messages: list[Incoming | Malformed],
    carrier: Trace | None = None,
) -> None:
    """Acts on every message, and answers those that are requests, or no messages at all.

    `carrier` is the trace of the HTTP request.
    """
    asked = sum(isinstance(m, Malformed) or (m.method is not None and bool(bytes(m.id))) for m in messages)
    lanes = _Lanes(session, asked)
    if asked:
        lanes.stream.attach(connection)  # no revision that has batches knows streams that begin with an empty event
    else:
        lanes.stream.finish()
        connection.answer(202, (), b"")
    ids = set()
    for message in messages:
        if isinstance(message, Malformed):
            lanes.next().answer(200, (jsonrpc.failure(b"", message.code, str(message)),))
        elif message.method is None:
            session.answered(message)
        elif not bytes(message.id):
            router.notified(session, message)
        elif bytes(message.id) in ids:
            reason = "Another request of this batch has this id"
            exchange = Exchange(lanes.next(), bytes(message.id), None)
            router.receive(exchange, session.id, message.method, message.params)
            exchange.error(jsonrpc.INVALID_REQUEST, reason)
        else:
            ids.add(bytes(message.id))
            lane = lanes.next()
            exchange = Exchange(lane, bytes(message.id), lane.stream)
            exchange.carrier = carrier
            router.dispatch(session, exchange, message.method, message.params)
