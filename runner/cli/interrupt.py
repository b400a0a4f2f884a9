"""Runs a command's coroutine so that signals clean up: once means stop and remove, twice means leave at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from runner.errors import Interrupted

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(main: Coroutine[Any, Any, T], *, leaving: str = "mlld sandbox gc") -> T:
    """The coroutine's value. Errors: `Interrupted`, after everything of the coroutine has cleaned up.

    `leaving` is the command printed when the second signal leaves things behind.
    """
    return asyncio.run(_guarded(main, leaving))


async def _guarded(main: Coroutine[Any, Any, T], leaving: str) -> T:
    loop = asyncio.get_running_loop()
    task = loop.create_task(main)
    caught: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        caught.append(number)
        if len(caught) > 1:
            print(f"\nleft at once; what is still there is removed by: {leaving}", file=sys.stderr, flush=True)
            os._exit(Interrupted.exit_code)
        print("\nstopping and removing what was made; once more leaves at once", file=sys.stderr, flush=True)
        task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await task
    except asyncio.CancelledError:
        if caught:
            raise Interrupted(caught[0].name) from None
        raise
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
