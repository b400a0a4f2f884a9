"""Runs a command's coroutine so that signals clean up: once means stop and remove, twice means leave at once.

A signal is heard by a thread of its own, because the main one may be inside of an engine that nothing can interrupt, such as
that of `js` bodies: if it does not answer, the process leaves as after a second signal. What it made is held by leases, which
end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NoReturn, TypeVar

from runner.errors import Interrupted

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ANSWER_SECONDS = 1.0
"""So long the main thread may take to hear of a signal."""
_STOP = b"\0"


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
            _leave(leaving)
        print("\nstopping and removing what was made; once more leaves at once", file=sys.stderr, flush=True)
        task.cancel()

    def hear(number: signal.Signals) -> None:
        answered = threading.Event()

        def answer() -> None:
            answered.set()
            on_signal(number)

        loop.call_soon_threadsafe(answer)
        if not answered.wait(ANSWER_SECONDS):
            _leave(leaving)

    with _heard(hear):
        try:
            return await task
        except asyncio.CancelledError:
            if caught:
                raise Interrupted(caught[0].name) from None
            raise


def _leave(leaving: str) -> NoReturn:
    """Ends the process and the commands that it started, now."""
    from runner.backends.processes import end_all

    end_all()
    print(f"\nleft at once; what is still there is removed by: {leaving}", file=sys.stderr, flush=True)
    os._exit(Interrupted.exit_code)


@contextlib.contextmanager
def _heard(hear: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Gives every signal to `hear`, in a thread: the interpreter's own handlers wait until the main thread is back in Python."""
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)

    def listen() -> None:
        while (byte := os.read(receiving, 1)) not in (_STOP, b""):
            if byte[0] in SIGNALS:
                hear(signal.Signals(byte[0]))

    before = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, lambda number, frame: None) for number in SIGNALS}
    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.write(sending, _STOP)
        thread.join(ANSWER_SECONDS)
        if not thread.is_alive():
            os.close(receiving)
            os.close(sending)
