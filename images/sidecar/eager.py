"""Coroutines that are begun at once: most judgements have nothing to wait for, and need neither a task nor a turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Done(Struct, Generic[T], frozen=True):
    """The result of a coroutine that never waited."""

    value: T


@coroutine
def _rest(work: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """A coroutine from where it first waited on, for what it waited for."""
    while True:
        try:
            try:
                sent = yield awaited
            except BaseException as error:  # a cancellation: it belongs to whoever waits there
                awaited = work.throw(error)
            else:
                awaited = work.send(sent)
        except StopIteration as done:
            value: T = done.value
            return value


async def _going_on(work: Coroutine[Any, Any, T], awaited: Any) -> T:
    # A coroutine proper: since Python 3.12 a task takes no generator that stands for one.
    return await _rest(work, awaited)


def begin(work: Coroutine[Any, Any, T]) -> Done[T] | Coroutine[Any, Any, T]:
    """Runs a coroutine as far as it comes without waiting: its result, or the rest, to be awaited. Raises what it raises.

    Until it first waits it may be in no task: what needs one (`asyncio.timeout`) belongs behind that.
    """
    try:
        awaited = work.send(None)
    except StopIteration as done:
        return Done(done.value)
    return _going_on(work, awaited)


def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Begins a coroutine; the task that goes on with it, if it has to wait."""
    begun = begin(work)
    return None if isinstance(begun, Done) else asyncio.get_running_loop().create_task(begun)
