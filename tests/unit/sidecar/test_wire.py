"""A wire: how many system calls messages take, in which order they go, and what waits when a peer does not read.

The peer is a packet socket, which keeps each write apart.
"""

from __future__ import annotations

import asyncio
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


async def test_a_message_goes_at_once_and_the_others_of_the_turn_together(ends: Ends) -> None:
    for name in (b"a", b"b", b"c", b"d"):
        ends.wire.send(name)
    assert ends.writes() == [b"a\n"], "nobody waits for what others send"
    await asyncio.sleep(0)
    assert ends.writes() == [b"b\nc\nd\n"]
    ends.wire.send(b"e")
    assert ends.writes() == [b"e\n"], "in the next turn the first goes at once again"


async def test_cannot_make_two_messages_of_one(ends: Ends) -> None:
    ends.wire.send(b'{"a":\n1}')
    ends.wire.send(b'{"b":\r\n2}')
    await asyncio.sleep(0)
    assert ends.writes() == [b'{"a": 1}\n', b'{"b":  2}\n']


async def test_what_was_sent_before_the_end_is_written_still(ends: Ends) -> None:
    ends.wire.send(b"first")
    ends.wire.send(b"cancelled")
    ends.wire.close()
    assert ends.writes() == [b"first\n", b"cancelled\n"]
    assert ends.closed == 1


async def test_cannot_fill_memory_in_one_turn(ends: Ends) -> None:
    for _ in range(3):
        ends.wire.send(b"x" * (LIMIT // 3))
    assert not ends.wire.closed, "as much as may wait"
    for _ in range(3):
        ends.wire.send(b"x" * (LIMIT // 3))
    assert ends.wire.closed
    assert ends.closed == 1
    await asyncio.sleep(0)


async def test_a_peer_that_is_gone_is_told_once(ends: Ends) -> None:
    ends.peer.close()
    ends.wire.send(b"a")
    ends.wire.send(b"b")
    await asyncio.sleep(0)
    assert ends.closed == 1
