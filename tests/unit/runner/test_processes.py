"""Processes are begun whole and ended with everything that they started, whenever it is that their caller gives up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from runner.backends.processes import end_all, ended, exit_code, started

# It holds its parent's pipes open, as a server that a shell has started does.
SCRIPT = "sleep 100 & echo $! > child.new; mv child.new child; wait"
Start = Callable[..., Awaitable[asyncio.subprocess.Process]]


def appears(path: Path, seconds: float) -> bool:
    """Waits without giving the loop a turn: what it would do next has to come after the cancellation."""
    until = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return path.exists()


def inside(folder: Path) -> list[int]:
    """The processes that run in a directory, zombies apart, which run nowhere."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry / "cwd") == str(folder):
                found.append(int(entry.name))
    return found


async def given_up(start: Start, steps: int, folder: Path, patience: float) -> bool | None:
    """Whether something of the script stays after its caller was cancelled at some step. None: there was nothing to leave."""
    pipe = asyncio.subprocess.PIPE
    task = asyncio.ensure_future(start("/bin/sh", "-c", SCRIPT, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe))
    for _ in range(steps):
        await asyncio.sleep(0)
    begun = appears(folder / "child", 20 if steps > 1 else 0)
    if task.done():
        await ended(task.result())
        return None
    task.cancel()
    await asyncio.wait([task], timeout=patience)
    until = time.monotonic() + patience
    while (left := inside(folder)) and time.monotonic() < until:  # what was killed takes a moment to go
        await asyncio.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(asyncio.CancelledError):
        await task
    return bool(left) if begun or left else None


async def test_cannot_leave_what_a_process_started_when_given_up_while_it_begins(tmp_path: Path) -> None:
    found = []
    for steps in range(12):
        (own := tmp_path / str(steps)).mkdir()
        found.append(await given_up(started, steps, own, 60))
    assert False in found
    assert True not in found


async def test_the_check_sees_what_is_left(tmp_path: Path) -> None:
    def plain(*argv: str, **options: object) -> Awaitable[asyncio.subprocess.Process]:
        return asyncio.create_subprocess_exec(*argv, **options)  # type: ignore[arg-type]

    for steps in range(12):
        (own := tmp_path / str(steps)).mkdir()
        if await given_up(plain, steps, own, 1):
            return
    pytest.fail("asyncio alone left nothing: `started` has no reason")


async def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await started(str(tmp_path / "nothing"))


async def test_ending_all_leaves_none_that_runs() -> None:
    process = await started("/bin/sh", "-c", "sleep 100 & wait")
    assert members(process.pid)
    end_all()
    await process.wait()
    assert exit_code(process) == 137
    until = time.monotonic() + 20
    while found := members(process.pid):
        assert time.monotonic() < until, found
        await asyncio.sleep(0.02)


def members(group: int) -> list[int]:
    """The processes of a group that run (proc(5): the third and fifth field of stat)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, pgrp, *_ = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if pgrp == str(group) and state != "Z":
                found.append(int(entry.name))
    return found
