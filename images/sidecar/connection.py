"""One connection of an agent: whole requests in, answers out, in order and bounded.

A connection carries one request at a time: the next one is parsed when the answer is complete. It can be switched to
another protocol (RFC 9110 §7.8), and has no requests then. An agent that is slow to send, slow to read, or sends more
than it may, loses this connection and nothing else.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from images.sidecar import jsonrpc
from images.sidecar.budget import AGENTS, NO_ROOM, NOTABLE, Budget
from images.sidecar.http import (
    MAX_HEAD,
    BadRequest,
    ChunkedBody,
    Head,
    json_head,
    parse_head,
    response_head,
    stream_head,
    switch_head,
)

JSON = b"application/json"
_READ = 64 << 10
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEADS_REMEMBERED = 256
_UNREAD = 1 << 20
_JOINED = 16 << 10
_LARGE, _ROOM, MAX_ROOMY = 128 << 10, 1 << 20, 8
HEAD_SECONDS, BODY_SECONDS, WRITE_SECONDS, IDLE_SECONDS = 10.0, 30.0, 30.0, 600.0
LINGER_SECONDS = 2.0

Buffers = tuple[bytes | memoryview, ...]
OnRequest = Callable[["Connection", Head, bytes], None]


class Speaker(Protocol):
    """Who goes on with a connection that was switched to another protocol."""

    def heard(self, data: bytearray) -> None:
        """More came in; takes what it can use from the front of `data`."""
        ...

    def ended(self, rest: bytearray) -> None:
        """Nothing more comes in after `rest`; the connection still takes answers."""
        ...

    def crowded(self, data: bytearray) -> None:
        """There is no room for the rest of a message: gives up what there is of it in `data`."""
        ...


_heads: dict[bytes, Head] = {}


def _head(block: bytes) -> Head:
    """A client sends nearly the same head each time: parsing is a pure function, so it is remembered."""
    head = _heads.get(block)
    if head is None:
        head = parse_head(block)
        if len(_heads) >= _HEADS_REMEMBERED:
            _heads.clear()
        if len(block) <= 2048:
            _heads[block] = head
    return head


class Owner(Protocol):
    """The listener, as its connections see it."""

    body_limit: int
    queued: int
    """Bytes that wait in all connections together."""
    budget: Budget
    roomy: int
    """Connections whose socket has room for a large answer as a whole."""
    on_request: OnRequest

    def account(self, head: Head) -> str:
        """Whose account large parts of a connection go to: what this request says, if it is true."""
        ...

    def forget(self, connection: Connection) -> None: ...


class Connection:
    """A client's socket. `answer` or `begin_stream`…`end_stream` must follow each request."""

    def __init__(self, sock: socket.socket, owner: Owner) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, self._owner = sock, owner
        self._in = bytearray()
        self._body: ChunkedBody | None = None
        self._request: Head | None = None
        self._latest: Head | None = None
        self._repeated: tuple[bytes, Head] | None = None
        """A head that came with a whole request, in bytes with the empty line: most likely the next one is the same."""
        self._held = owner.budget.open(AGENTS, self._shed)
        self._out: deque[memoryview] = deque()
        self._out_bytes = 0
        self._busy = self._roomy = self._parsing = self._keep = self._streaming = self._paused = False
        self.since = monotonic()
        """When the present state began: waiting for a request, reading one, writing out."""
        self._speaker: Speaker | None = None
        self.on_gone: Callable[[], None] | None = None
        """Told when the client goes away while its request is worked on."""
        self.closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    # --- in

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if self._speaker is None:
                self.close()
            else:
                self._loop.remove_reader(self._sock)
                self._speaker.ended(self._in)
            return
        if not self._in:
            self.since = monotonic()
            if not self._busy and self._request is None and self._whole(data):
                return
        self._in += data
        if not self._busy:
            self._parse()
            if (len(self._in) > NOTABLE or self._body is not None) and not self._busy and not self._holds():
                self._refuse()
        elif self._speaker is not None:
            self._speak()
            if not self._holds():
                self._crowded()
            if self._out_bytes > _UNREAD:
                self.pause()  # who does not read the answers may not ask for more
        elif len(self._in) > _READ:
            # Pipelined requests wait in the kernel, not here.
            self.pause()

    def pause(self) -> None:
        """Reads no more until `resume`; what the client sends waits in the kernel."""
        self._paused = True
        self._loop.remove_reader(self._sock)

    def resume(self) -> None:
        """Reads again, what is here already first."""
        if self._paused and not self.closed:
            self._paused = False
            self._loop.add_reader(self._sock, self._readable)
            self._speak()

    def _whole(self, data: bytes) -> bool:
        """Takes what was read as one request, if it is just that and its head is known: then it is copied nowhere first."""
        if self._repeated is not None and data.startswith(self._repeated[0]):
            block, head = self._repeated
        else:
            end = data.find(b"\r\n\r\n")
            known = _heads.get(data[:end]) if end > 0 else None
            if known is None or not known.plain:
                return False
            block, head = self._repeated = data[: end + 4], known
        if not head.length == len(data) - len(block) <= self._owner.body_limit:
            return False
        self._busy, self._keep, self._latest = True, head.keep_alive, head
        self._owner.on_request(self, head, data[len(block) :])
        return True

    def _parse(self) -> None:
        self._parsing = True
        try:
            while not self._busy and not self.closed and (request := self._next()):
                self._busy = True
                self._keep = request[0].keep_alive
                self._owner.on_request(self, *request)
        except BadRequest as e:
            self._busy, self._keep = True, False
            self.answer(e.status, (str(e).encode() + b"\n",), b"text/plain")
        finally:
            self._parsing = False

    def _next(self) -> tuple[Head, bytes] | None:
        data = self._in
        if self._request is None:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEAD:
                if len(data) > MAX_HEAD:
                    raise BadRequest(431, f"The head is over {MAX_HEAD} bytes")
                return None
            with memoryview(data) as view:
                head = self._request = self._latest = _head(bytes(view[:end]))
            del data[: end + 4]
            if head.length > self._owner.body_limit:
                raise BadRequest(413, f"The body is over the limit of {self._owner.body_limit} bytes")
            self._body = ChunkedBody(self._owner.body_limit) if head.chunked else None
            if b"expect" in head.headers:
                self._write((_CONTINUE,), len(_CONTINUE))
        head = self._request
        if self._body is not None:
            body = self._body.feed(data)
            if body is None:
                return None
        else:
            if len(data) < head.length:
                return None
            if len(data) == head.length:
                body = bytes(data)
                data.clear()
            else:
                with memoryview(data) as view:
                    body = bytes(view[: head.length])
                del data[: head.length]
        self._request = self._body = None
        if self._held.size:
            self._holds()
        return head, body

    # --- what is held

    def _holds(self) -> bool:
        """Says how much of the client's is here; False if that is too much."""
        if self._speaker is not None:
            self._held.account = f"{AGENTS} {id(self):x}"  # one client, whatever its session is
        elif self._latest is not None:
            self._held.account = self._owner.account(self._latest)
        came = len(self._in) + (len(self._body) if self._body is not None else 0)
        return self._held.hold((came if came > NOTABLE else 0) + self._out_bytes)

    def _shed(self) -> None:
        if self._parsing:
            return
        if self._out_bytes > len(self._in) or (self._busy and self._speaker is None):
            self.close()
        elif self._speaker is not None:
            self._crowded()
        else:
            self._refuse()

    def _crowded(self) -> None:
        """Has whoever speaks here give up what it has not read to its end."""
        if self._speaker is not None:
            self._speaker.crowded(self._in)
            self._holds()

    def _refuse(self) -> None:
        """Answers that there is no room for the request which comes in, and ends the connection."""
        self._request = self._body = None
        self._in.clear()
        self._busy, self._keep = True, False
        self._held.hold(0)
        reason = jsonrpc.failure(b"", jsonrpc.CROWDED, NO_ROOM)
        head = response_head(503, len(reason), JSON, b"Retry-After: 1\r\nConnection: close\r\n")
        self._write((head, reason), len(head) + len(reason))
        # Closed at once, it would look broken to a client that is still sending, which never reads the answer then.
        self._loop.call_later(LINGER_SECONDS, self.close)
        if not self.closed:
            self._loop.add_reader(self._sock, self._discard)

    def _discard(self) -> None:
        try:
            rest = self._sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            rest = b""
        if not rest:
            self.close()

    # --- out

    def answer(self, status: int, parts: Buffers, content_type: bytes = JSON, extra: bytes = b"") -> None:
        """Writes one whole answer."""
        length = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        if status == 200 and self._keep and content_type is JSON and not extra:
            head = json_head(length)
        else:
            if not self._keep:
                extra += b"Connection: close\r\n"
            head = response_head(status, length, content_type, extra)
        self._write((head, *parts), len(head) + length)
        self._done()

    def begin_stream(self, extra: bytes = b"") -> None:
        """Commits to an SSE answer."""
        self._streaming = True
        head = stream_head(extra if self._keep else extra + b"Connection: close\r\n")
        self._write((head,), len(head))

    def write_stream(self, parts: Buffers) -> None:
        """One chunk of the SSE answer."""
        length = sum(map(len, parts))
        size = b"%x\r\n" % length
        self._write((size, *parts, b"\r\n"), len(size) + length + 2)

    def end_stream(self) -> None:
        """Ends the SSE answer."""
        self._streaming = False
        self._write((b"0\r\n\r\n",), 5)
        self._done()

    def switch(self, protocol: bytes, speaker: Speaker) -> None:
        """Answers that another protocol is spoken from here on, and hands the connection to `speaker`."""
        self._speaker, self._keep = speaker, False
        self.write((switch_head(protocol),))
        self._loop.call_soon(self._speak)

    def write(self, parts: Buffers) -> None:
        """Writes what is no part of an HTTP answer, after `switch`."""
        self._write(parts, sum(map(len, parts)))

    def hang_up(self) -> None:
        """Ends the connection as soon as the client has taken everything."""
        self._speaker = None
        self._loop.remove_reader(self._sock)
        self._done()

    def _speak(self) -> None:
        if self._speaker is not None and self._in and not self.closed:
            self._speaker.heard(self._in)

    def _done(self) -> None:
        self.on_gone = None
        self._busy = False
        self.since = monotonic()
        if self.closed:
            return
        if not self._keep:
            if not self._out:
                self.close()
            return
        if self._paused:
            self.resume()
        if self._in and not self._parsing:
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if not self._busy and not self.closed:
            self._parse()

    def _write(self, parts: Buffers, total: int) -> None:
        if self.closed:
            return
        sent = 0
        if total > _LARGE and not self._roomy:
            self._make_room()
        if not self._out:
            try:
                # A dozen small buffers cost the kernel more than it costs to join them.
                sent = self._sock.sendmsg(parts) if total > _JOINED else self._sock.send(b"".join(parts))
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
            if sent == total:
                return
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
                continue
            # What the client does not take now must outlive the buffer it lies in.
            self._queue(bytes(part[sent:]))
            sent = 0

    def _make_room(self) -> None:
        """Lets the kernel take a large answer at once: in pieces, it is copied once more and costs five turns of the loop.
        For a few connections only, since what nobody reads there is our memory too."""
        if self._owner.roomy < MAX_ROOMY:
            self._owner.roomy += 1
            self._roomy = True
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)

    def _queue(self, rest: bytes) -> None:
        if self.closed:
            return
        if not self._out:
            self.since = monotonic()
            self._loop.add_writer(self._sock, self._writable)
        self._out.append(memoryview(rest))
        self._out_bytes += len(rest)
        self._owner.queued += len(rest)
        if not self._holds():
            self.close()

    def _writable(self) -> None:
        while self._out:
            part = self._out[0]
            try:
                sent = self._sock.send(part)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            self.since = monotonic()
            self._out_bytes -= sent
            self._owner.queued -= sent
            if sent < len(part):
                self._out[0] = part[sent:]
                return
            self._out.popleft()
        self._loop.remove_writer(self._sock)
        self._holds()
        if not self._busy and not self._keep:
            self.close()
        elif self._speaker is not None:
            self.resume()

    # --- life

    @property
    def backlog(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._out_bytes

    def overdue(self, now: float) -> bool:
        """Whether the client took too long for what it is doing."""
        if self._out:
            return now - self.since > WRITE_SECONDS
        if self._busy:
            return False
        if self._request is not None:
            return now - self.since > BODY_SECONDS
        return now - self.since > (HEAD_SECONDS if self._in else IDLE_SECONDS)

    def close(self) -> None:
        """Ends the connection at once."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._owner.queued -= self._out_bytes
        self._owner.roomy -= self._roomy
        self._out_bytes = 0
        self._out.clear()
        # Counted no more, so it must be gone as well: whoever refers to us may do so for a while. Not cleared, since a view
        # may be on it further up.
        self._in = bytearray()
        self._request = self._body = None
        self._held.release()
        self._sock.close()
        self._owner.forget(self)
        if self.on_gone is not None:
            gone, self.on_gone = self.on_gone, None
            gone()
