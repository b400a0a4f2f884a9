"""The sidecar's loop is asyncio's, in fewer turns: the same callbacks, in the same order, with the same faults."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from images.sidecar import turns
from tests.support.waiting import PATIENCE


class Counted(turns.Turns):
    """Knows how often the loop waited."""

    waits = 0

    def select(self, timeout: float | None = None) -> turns.Ready:
        self.waits += 1
        return super().select(timeout)


@contextmanager
def ready(count: int) -> Iterator[list[socket.socket]]:
    """Sockets of which each has something to read."""
    pairs = [socket.socketpair() for _ in range(count)]
    for _, far in pairs:
        far.send(b"x")
    yield [near for near, _ in pairs]
    for near, far in pairs:
        near.close()
        far.close()


def run(work: Callable[[asyncio.AbstractEventLoop, Counted], Any]) -> Any:
    selector = Counted()

    async def main() -> Any:
        return await work(asyncio.get_running_loop(), selector)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(main())


def test_what_a_callback_puts_off_takes_no_turn_of_its_own() -> None:
    async def work(loop: asyncio.AbstractEventLoop, selector: Counted) -> None:
        with ready(3) as socks:
            told: list[tuple[str, int]] = []
            done = loop.create_future()

            def put_off() -> None:
                told.append(("put off", selector.waits))
                if not done.done():
                    done.set_result(None)

            def heard(sock: socket.socket) -> None:
                sock.recv(1)
                told.append(("heard", selector.waits))
                loop.call_soon(put_off)

            for sock in socks:
                loop.add_reader(sock, heard, sock)
            await done
            for sock in socks:
                loop.remove_reader(sock)
            assert [what for what, _ in told] == ["heard"] * 3 + ["put off"] * 3
            assert len({wait for _, wait in told}) == 1

    run(work)


def test_cannot_call_what_another_callback_of_the_turn_has_ended() -> None:
    async def work(loop: asyncio.AbstractEventLoop, selector: Counted) -> None:
        with ready(2) as socks:
            told: list[int] = []

            def heard(which: int) -> None:
                told.append(which)
                for sock in socks:
                    loop.remove_reader(sock)
                socks[1 - which].close()

            for which, sock in enumerate(socks):
                loop.add_reader(sock, heard, which)
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(told) == 1

    run(work)


def test_a_callback_that_fails_is_told_and_ends_nothing_else() -> None:
    async def work(loop: asyncio.AbstractEventLoop, selector: Counted) -> None:
        faults: list[object] = []
        loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
        with ready(2) as socks:
            told: list[str] = []

            def fails() -> None:
                loop.remove_reader(socks[0])
                raise KeyError("mine")

            def works() -> None:
                loop.remove_reader(socks[1])
                told.append("works")

            loop.add_reader(socks[0], fails)
            loop.add_reader(socks[1], works)
            for _ in range(3):
                await asyncio.sleep(0)
            assert told == ["works"]
            assert [repr(fault) for fault in faults] == ["KeyError('mine')"]

    run(work)


@pytest.mark.parametrize("size", [10, 1 << 22])
def test_streams_and_timers_work_as_ever(size: int) -> None:
    async def work(loop: asyncio.AbstractEventLoop, selector: Counted) -> None:
        near, far = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=near)
        reader, other = await asyncio.open_connection(sock=far)
        writer.write(b"x" * size)
        async with asyncio.timeout(PATIENCE):
            got = await reader.readexactly(size)
            await writer.drain()
        assert len(got) == size
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await reader.read(1)
        for each in (writer, other):
            each.close()
            await each.wait_closed()

    run(work)


def test_the_loop_of_the_process_is_this_one() -> None:
    loop = turns.new_loop()
    try:
        assert isinstance(loop._selector, turns.Turns)
    finally:
        loop.close()
