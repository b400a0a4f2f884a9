"""Coroutines that are begun at once: without waiting there is no task, with waiting it is as if there had been one."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from images.sidecar.eager import Done, begin, start
from tests.support.waiting import PATIENCE


async def soon(value: int, waits: int = 0) -> int:
    for _ in range(waits):
        await asyncio.sleep(0)
    return value


async def test_what_never_waits_is_done_at_once() -> None:
    assert begin(soon(3)) == Done(3)


async def test_what_waits_goes_on_where_it_was() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def outer() -> int:
        return await future + await soon(1, waits=3)

    begun = begin(outer())
    assert asyncio.iscoroutine(begun)
    assert inspect.iscoroutine(begun), "what a task takes in every version of Python"
    future.set_result(4)
    async with asyncio.timeout(PATIENCE):
        assert await begun == 5


async def test_the_rest_is_a_coroutine_as_every_python_takes_it() -> None:
    begun = begin(soon(7, waits=1))
    assert inspect.iscoroutine(begun)
    assert await asyncio.create_task(begun) == 7


async def test_it_fails_as_it_would_have() -> None:
    async def fails(waits: int) -> None:
        await soon(0, waits)
        raise KeyError("x")

    with pytest.raises(KeyError):
        begin(fails(0))
    begun = begin(fails(2))
    assert not isinstance(begun, Done)
    with pytest.raises(KeyError):
        await begun


async def test_a_cancellation_and_a_clock_reach_what_waits() -> None:
    told: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    task = start(waits())
    assert task is not None
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    begun = begin(waits())
    assert not isinstance(begun, Done)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await begun
    assert told == ["cancelled", "cancelled"]


async def test_a_start_that_never_waits_leaves_no_task() -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(await soon(1))

    assert start(work()) is None
    assert done == [1]
