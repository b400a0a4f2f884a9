"""Waiting to the end, also for a task that is being cancelled: what must be undone has to be done first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finished(work: asyncio.Future[T] | Coroutine[Any, Any, T]) -> T:
    """The value of `work`, which runs to its end; a cancellation that came meanwhile goes on after it."""
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:
            break  # it is of `work`, and told below
    if cancelled is not None and not future.cancelled() and future.exception() is None:
        raise cancelled
    return future.result()
