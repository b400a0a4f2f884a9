"""A wire: what messages are to a peer, and what waits when it does not read.

The peer is a packet socket, which keeps each write apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import AsyncIterator

import pytest

from images.sidecar.budget import Budget
from images.sidecar.wire import Wire

LIMIT = 10_000


class Ends:
    """A wire, what its peer was sent, and how often its reader was told of the end."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peer.setblocking(False)
        self.closed = 0
        self.ours = ours
        self.wire = Wire(
            self, ours.fileno(), ours.fileno(), line_limit=LIMIT, queue_limit=LIMIT, close=ours.close,
            budget=Budget(lambda event: None), account="s",
        )  # fmt: skip

    def writes(self) -> list[bytes]:
        found = []
        while True:
            try:
                packet = self.peer.recv(1 << 20)
            except BlockingIOError:
                return found
            if not packet:
                return found
            found.append(packet)

    def on_line(self, line: memoryview) -> None: ...

    def on_cut(self, head: bytes, tail: bytes, size: int) -> None: ...

    def on_crowded(self, head: bytes) -> None: ...
    def on_paused(self, number: int) -> None: ...

    def on_closed(self) -> None:
        self.closed += 1


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    made.wire.close()
    made.peer.close()


async def test_cannot_make_two_messages_of_one(ends: Ends) -> None:
    ends.wire.send(b'{"a":\n1}')
    ends.wire.send(b'{"b":\r\n2}')
    await asyncio.sleep(0)
    assert ends.writes() == [b'{"a": 1}\n', b'{"b":  2}\n']


async def test_cannot_fill_memory_by_not_reading(ends: Ends) -> None:
    while not ends.wire.closed and len(ends.wire._queue) < 3:
        ends.wire.send(b"x" * (LIMIT // 4))
    assert not ends.wire.closed, "as much as may wait"
    for _ in range(3):
        ends.wire.send(b"x" * (LIMIT // 4))
    assert ends.wire.closed
    assert ends.closed == 1


async def test_large_messages_are_read_into_the_same_memory_again() -> None:
    heard: list[tuple[int, int]] = []

    class Large(Ends):
        def on_line(self, line: memoryview) -> None:
            heard.append((len(line), id(line.obj)))

    down, up = os.pipe()
    fcntl.fcntl(up, fcntl.F_SETPIPE_SZ, 1 << 20)
    ends = Large()
    reading = Wire(ends, down, up, line_limit=8 << 20, close=lambda: None, budget=Budget(print), account="s")
    size = 1_500_000
    for count in range(3):
        left = memoryview(b"x" * size + b"\n")
        while left or len(heard) == count:
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(up, left) :]
            await asyncio.sleep(0)
    assert [length for length, _ in heard] == [size] * 3
    assert len({memory for _, memory in heard}) == 1
    reading.close()
    ends.wire.close()
    ends.peer.close()
    os.close(down)
    os.close(up)


async def test_a_peer_that_is_gone_is_told_once(ends: Ends) -> None:
    ends.peer.close()
    ends.wire.send(b"a")
    ends.wire.send(b"b")
    await asyncio.sleep(0)
    assert ends.closed == 1
