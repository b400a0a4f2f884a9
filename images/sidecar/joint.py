"""Work that several wait for: it goes on when one of them gives up."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def outcome(task: asyncio.Future[T]) -> T:
    """What a task gives or raises; a caller that is cancelled leaves it running. Not `asyncio.shield`: from Python 3.13 on that
    tells the loop of an error which comes after its caller has gone, as a fault that nobody knows of.
    """
    await asyncio.wait((task,))
    return task.result()
