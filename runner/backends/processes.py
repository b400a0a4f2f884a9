"""Child processes on this machine: begun whole, and ended with everything that they have started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any
from weakref import WeakSet

from runner.backends.waiting import finished

GRACE_SECONDS = 2.0
"""Between asking a process group to end and ending it."""
_STARTED: WeakSet[asyncio.subprocess.Process] = WeakSet()


async def started(*argv: str, **options: Any) -> asyncio.subprocess.Process:
    """A process that leads a group of its own. Options: those of `asyncio.create_subprocess_exec`. Errors: `OSError`.

    Who is cancelled before he has it leaves nothing behind. Asyncio alone would kill the process, but not what that has started
    by then, and would wait for as long as this holds the pipes open.
    """
    starting = asyncio.ensure_future(asyncio.create_subprocess_exec(*argv, start_new_session=True, **options))
    starting.add_done_callback(_remember)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await finished(_undone(starting))
        raise


async def ended(process: asyncio.subprocess.Process) -> None:
    """Ends a process and everything in its group, whether or not its leader is still there: politely, then for certain."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(process, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE_SECONDS)


def end_all() -> None:
    """Kills every process that is running, and its group: for a program that leaves without waiting."""
    for process in list(_STARTED):
        if process.returncode is None:
            _signal(process, signal.SIGKILL)


def exit_code(process: asyncio.subprocess.Process) -> int:
    """How an ended process is shown: 128 and the signal's number for one that a signal has ended, as shells do."""
    code = process.returncode if process.returncode is not None else -signal.SIGKILL
    return code if code >= 0 else 128 - code


async def _undone(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    with contextlib.suppress(OSError):  # it never was
        await ended(await starting)


def _remember(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        _STARTED.add(starting.result())


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
