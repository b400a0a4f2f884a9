"""A newline-delimited stream of messages over file descriptors: read into one buffer, handed on as views.

A result of a megabyte costs its time in copies, not in JSON. So all wires read into one scratch buffer, a message is a
view into it, and only what does not end with a message moves to a buffer of its own. Nothing here knows JSON.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

from images.sidecar.budget import Budget

_SCRATCH_SIZE, _READ = 2 << 20, 1 << 20
_KEPT_IN_PLACE = 64 << 10
KEPT_OF_CUT = 64 << 10
"""Bytes kept from the head of a line over the limit; as many as can be told to an agent."""
_TAIL = 256
_SMALL = 64 << 10
_CR, _LF = b"\r\n"
_POOL: list[bytearray] = []
_POOLED = 2
_POOLED_SIZE = 4 << 20


def _take(size: int) -> bytearray:
    """A buffer of at least that size: a fresh megabyte costs half a millisecond of page faults, a used one nothing."""
    return _POOL.pop() if _POOL and len(_POOL[-1]) >= size else bytearray(size)


def _give(buffer: bytearray) -> None:
    """Keeps the largest buffers, the very largest at hand."""
    if len(buffer) <= _POOLED_SIZE:
        _POOL.append(buffer)
        _POOL.sort(key=len)
        del _POOL[:-_POOLED]


class _Scratch:
    """The one buffer that all wires read into. A wire with half a large message takes it away, and a new one comes."""

    buffer = bytearray(_SCRATCH_SIZE)
    view = memoryview(buffer)[:_READ]

    @classmethod
    def put_back(cls, buffer: bytearray) -> None:
        """Goes on with the buffer that was used last: it is in the processor's caches still."""
        cls.view.release()
        _give(cls.buffer)
        cls.buffer = buffer
        cls.view = memoryview(buffer)[:_READ]

    @classmethod
    def give_away(cls) -> bytearray:
        given = cls.buffer
        cls.view.release()
        cls.buffer = _take(_SCRATCH_SIZE)
        cls.view = memoryview(cls.buffer)[:_READ]
        return given


class Reader(Protocol):
    """Who gets what a wire carries."""

    def on_line(self, line: memoryview | bytes) -> None:
        """One message. If it is a view, that is gone when this returns."""

    def on_cut(self, head: bytes, tail: bytes, size: int) -> None:
        """A message over the limit: its first and last bytes, and how long it was."""

    def on_crowded(self, head: bytes) -> None:
        """There is no room for the rest of a message: its first bytes."""

    def on_closed(self) -> None:
        """The other side is gone (told once)."""

    def on_paused(self, number: int) -> None:
        """The server closed the stream of a request on purpose, and will answer later."""


class Wire:
    """One open stream. Never blocks; a peer that does not read is closed once `queue_limit` bytes wait for it."""

    def __init__(
        self,
        reader: Reader,
        rfd: int,
        wfd: int,
        *,
        line_limit: int,
        budget: Budget,
        account: str,
        queue_limit: int = 16 << 20,
        close: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader, self._rfd, self._wfd, self._close = reader, rfd, wfd, close
        self._line_limit, self._queue_limit = line_limit, queue_limit
        self._big: bytearray | None = None
        self._end = 0
        self._dropped = 0
        self._head = b""
        self._tail = b""
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._held = budget.open(account, self._shed)
        self._reading = False
        """Whether messages are taken from the buffer right now."""
        self.closed = False
        os.set_blocking(rfd, False)
        os.set_blocking(wfd, False)
        self._loop.add_reader(rfd, self._readable)

    def send(self, message: bytes) -> None:
        """Writes one message, with its line end."""
        if self.closed:
            return
        if _LF in message or _CR in message:
            # White space to JSON, a second message to the server: a way past every check that the first one passed.
            message = message.replace(b"\n", b" ").replace(b"\r", b" ")
        data = message + b"\n"
        sent = 0
        if not self._queue:
            try:
                sent = os.write(self._wfd, data)
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
        if sent < len(data):
            self._queued += len(data) - sent
            if self._queued > self._queue_limit:
                self.close()
                return
            if not self._queue:
                self._loop.add_writer(self._wfd, self._writable)
            self._queue.append(memoryview(data)[sent:])
            if not self._keeps():
                self.close()

    def close(self) -> None:
        """Ends both directions and tells the reader."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._rfd)
        self._loop.remove_writer(self._wfd)
        self._queue.clear()
        self._queued = 0
        self._drop_buffer()
        self._held.release()
        self._close()
        self._reader.on_closed()

    def _writable(self) -> None:
        while self._queue:
            part = self._queue[0]
            try:
                sent = os.write(self._wfd, part)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            self._queued -= sent
            if sent < len(part):
                self._queue[0] = part[sent:]
                return
            self._queue.popleft()
        self._loop.remove_writer(self._wfd)
        self._keeps()

    def _readable(self) -> None:
        try:
            if self._big is None:
                count = os.readv(self._rfd, [_Scratch.view])
            else:
                with memoryview(self._big) as view, view[self._end :] as room:
                    count = os.readv(self._rfd, [room])
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.close()
        elif self._dropped:
            self._skip(bytes(_Scratch.view[:count]))
        elif self._big is not None:
            scan, self._end = self._end, self._end + count
            self._lines(self._big, scan, self._end)
        elif count <= _SMALL and _Scratch.buffer[count - 1] == _LF:
            self._whole(bytes(_Scratch.view[: count - 1]))
        else:
            self._lines(_Scratch.buffer, 0, count)

    def _whole(self, data: bytes) -> None:
        """Nothing but whole messages, and small ones: it takes less time to copy and to divide them than to make views."""
        for line in data.split(b"\n"):
            if len(line) > self._line_limit:
                self._reader.on_cut(line[:KEPT_OF_CUT], line[-_TAIL:], len(line))
            elif line:
                self._reader.on_line(line)
            if self.closed:
                return

    def _lines(self, buffer: bytearray, scan: int, end: int) -> None:
        start = 0
        self._reading = True
        with memoryview(buffer) as view:
            while (stop := buffer.find(b"\n", scan, end)) >= 0:
                if stop - start > self._line_limit:
                    head, tail = view[start : start + KEPT_OF_CUT], view[stop - _TAIL : stop]
                    self._reader.on_cut(bytes(head), bytes(tail), stop - start)
                elif stop > start:
                    with view[start:stop] as line:
                        self._reader.on_line(line)
                    if self.closed:
                        return
                start = scan = stop + 1
        self._reading = False
        self._keep(buffer, start, end)

    def _keep(self, buffer: bytearray, start: int, end: int) -> None:
        """Moves the bytes of a message that is not complete to a buffer which has room for the rest."""
        rest = end - start
        if rest > self._line_limit:
            self._cut(buffer, start, end)
        elif not rest and buffer is self._big and _SCRATCH_SIZE <= len(buffer) <= _POOLED_SIZE:
            self._big, self._end = None, 0
            _Scratch.put_back(buffer)
            self._keeps()
        elif not rest:
            self._drop_buffer()
        elif buffer is self._big and not start and len(buffer) - end >= 1 << 16:
            self._end = end
        elif buffer is _Scratch.buffer and not start and rest >= _KEPT_IN_PLACE:
            if self._has_room(buffer, start, end, len(buffer)):
                self._big, self._end = _Scratch.give_away(), rest
        else:
            # Twice the room, but never more than the limit wants: growing stays linear, a hostile line stays bounded.
            room = max(1 << 18, min(rest * 2, self._line_limit + (1 << 20)))
            if not self._has_room(buffer, start, end, room):
                return
            grown = _take(room)
            with memoryview(buffer) as view:
                grown[:rest] = view[start:end]
            if self._big is not None:
                _give(self._big)
            self._big, self._end = grown, rest

    def _has_room(self, buffer: bytearray, start: int, end: int, room: int) -> bool:
        """Whether a message that is not complete may be kept in so much room; if not, the rest of it is skipped."""
        if self._held.hold(room + self._queued):
            return True
        self._cut(buffer, start, end)
        self._reader.on_crowded(self._head)
        return False

    def _cut(self, buffer: bytearray, start: int, end: int) -> None:
        """Keeps both ends of a message that is not complete, and goes on to skip what else comes of it."""
        self._head = bytes(buffer[start : start + KEPT_OF_CUT])
        self._tail = bytes(buffer[end - _TAIL : end])
        self._dropped = end - start
        self._drop_buffer()

    def _keeps(self) -> bool:
        """Says how much is held; False if that is too much."""
        return self._held.hold((len(self._big) if self._big is not None else 0) + self._queued)

    def _shed(self) -> None:
        """Gives up what is larger: what the server has not read, and with it the server, or half a message of it."""
        if self._big is None or self._queued > len(self._big):
            self.close()
        elif not self._reading:  # a message that is worked on is gone in a moment, and its buffer is in use until then
            self._cut(self._big, 0, self._end)
            self._reader.on_crowded(self._head)

    def _drop_buffer(self) -> None:
        if self._big is not None:
            _give(self._big)
            self._big = None
            self._keeps()
        self._end = 0

    def _skip(self, data: bytes) -> None:
        """Counts the rest of a message over the limit, then goes on after its end."""
        stop = data.find(b"\n")
        part = data if stop < 0 else data[:stop]
        self._dropped += len(part)
        self._tail = (self._tail + part[-_TAIL:])[-_TAIL:]
        if stop < 0:
            return
        head, tail, size = self._head, self._tail, self._dropped
        self._dropped, self._head, self._tail = 0, b"", b""
        self._reader.on_cut(head, tail, size)
        if not self.closed and len(data) > stop + 1:
            rest = bytearray(data[stop + 1 :])
            self._lines(rest, 0, len(rest))
