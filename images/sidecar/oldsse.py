"""HTTP+SSE (2024-11-05) towards agents: one stream of events for everything, and a place to post messages to.

The first event names that place, with a name in it which nobody else can guess. Whoever opens a stream and does not
initialize is let go, and the session ends with the stream: this transport has no way back to one.
"""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from images.sidecar import jsonrpc
from images.sidecar.channel import Channel, Channels
from images.sidecar.connection import Connection
from images.sidecar.http import Head
from images.sidecar.jsonrpc import Malformed
from images.sidecar.stream import EventStream

STREAM, MESSAGES = b"/sse", b"/messages"
OPENING_SECONDS = 10.0


class OldSse:
    """Serves the two paths of that transport."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._loop = asyncio.get_running_loop()

    def serve(self, connection: Connection, head: Head, body: bytes) -> None:
        """Answers a request to one of the paths."""
        path, _, query = head.target.partition(b"?")
        if path == STREAM:
            if head.method == b"GET":
                self._open(connection, head)
            else:
                connection.answer(405, (), b"", b"Allow: GET\r\n")
        elif head.method == b"POST":
            self._post(connection, head, query, body)
        else:
            connection.answer(405, (), b"", b"Allow: POST\r\n")

    def _open(self, connection: Connection, head: Head) -> None:
        if not head.takes_stream:
            _refuse(connection, 406, "Accept must include text/event-stream")
        elif self._channels.full():
            _refuse(connection, 503, "Too many clients have a stream already")
        else:
            stream = EventStream("")
            stream.attach(connection)
            name, channel = self._channels.add(stream, "sse")
            connection.write_stream((b"event: endpoint\ndata: %s?sessionId=%s\n\n" % (MESSAGES, name),))
            self._loop.call_later(OPENING_SECONDS, _let_go, channel)

    def _post(self, connection: Connection, head: Head, query: bytes, body: bytes) -> None:
        if not head.json_body:
            _refuse(connection, 415, "Content-Type must be application/json")
            return
        names = parse_qs(query).get(b"sessionId")
        if names is None:
            _refuse(connection, 400, f"sessionId is missing: open {STREAM.decode()}, which says where to post")
            return
        channel = self._channels.get(names[0])
        if channel is None:
            _refuse(connection, 404, f"No such session: open {STREAM.decode()} again")
            return
        try:
            messages = channel.read(body)
        except Malformed as e:
            _refuse(connection, 400, str(e), e.code)
            return
        connection.answer(202, (b"Accepted",), b"text/plain")
        for message in messages:
            channel.take(message)


def _let_go(channel: Channel) -> None:
    if channel.session is None:
        channel.end()


def _refuse(connection: Connection, status: int, reason: str, code: int = jsonrpc.INVALID_REQUEST) -> None:
    connection.answer(status, (jsonrpc.failure(b"", code, reason),))
