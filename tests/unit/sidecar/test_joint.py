"""What several wait for goes on when one of them gives up, and what becomes of it then is no fault of the loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from images.sidecar.joint import outcome


async def test_cannot_have_work_stopped_or_blamed_on_the_loop_by_giving_up() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    go = asyncio.Event()

    async def work() -> None:
        await go.wait()
        raise ValueError("it failed")

    task = asyncio.create_task(work())
    gone, there = asyncio.create_task(outcome(task)), asyncio.create_task(outcome(task))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert not task.done()
    go.set()
    with pytest.raises(ValueError, match="it failed"):
        await there
    await asyncio.sleep(0)
    assert told == []


async def test_what_is_done_already_is_given_at_once() -> None:
    task = asyncio.create_task(asyncio.sleep(0, "done"))
    assert await outcome(task) == "done"
    assert await outcome(task) == "done"
