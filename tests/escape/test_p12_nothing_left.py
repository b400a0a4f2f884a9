"""P12: nothing is left. Whatever ends a run, within 15 seconds there is no container, network, volume or file of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interpreter.declarations import HostRule, Network
from runner.backends.base import Execution
from runner.errors import RecordFailed, SandboxFailure, ServerFailed
from runner.lease_sweep import dead, sweep_dead
from runner.plan import AGENT, SIDECAR
from runner.sandbox import Sandbox
from tests.support.runs import Recorder, Runs, environment, left, python, server
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.engine]
SECONDS = 15.0


@contextlib.asynccontextmanager
async def another_runner(
    servers: int = 1, count: int = 1
) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """A runner in a process of its own, ready, and the names of its runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.one_run", str(servers), str(count),
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2], start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        word, *names = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().split()
        assert word == "ready"
        yield process, names
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def all_left(runs: Runs, names: list[str]) -> list[str]:
    return [thing for name in names for thing in runs.left(name)]


async def gone(runs: Runs, names: list[str]) -> None:
    """Returns when nothing is left of these runs."""
    await until(lambda: not all_left(runs, names), "something is left")


async def test_cannot_leave_anything_after_success(runs: Runs) -> None:
    workspace = runs.workspace()
    before = set(os.listdir(workspace))
    net = Network(allow=(HostRule(host="a.example"),))
    spec = environment(server("a"), grants=("filesystem", "network"), network=net)
    async with runs.sandbox(spec, workspace=workspace) as sandbox:
        assert len(runs.left(sandbox.run_id)) == 6  # the control: 3 containers, 2 volumes, 1 network
        assert set(os.listdir(workspace)) > before  # masks of what must not be created
    assert runs.left(sandbox.run_id) == []
    assert set(os.listdir(workspace)) == before
    assert isinstance(sandbox.sink, Recorder)
    assert sandbox.sink.of("left") == [{"event": "left", "containers": [], "networks": [], "volumes": []}]


async def test_cannot_leave_anything_after_an_exception(runs: Runs) -> None:
    sandbox = runs.sandbox(environment(server("a")))

    async def life() -> None:
        async with sandbox:
            assert runs.left(sandbox.run_id)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await life()
    assert runs.left(sandbox.run_id) == []


async def test_cannot_leave_anything_after_a_server_that_fails(runs: Runs) -> None:
    sandbox = runs.sandbox(environment(server("a"), server("bad", "import sys; sys.exit('no such luck')")))
    with pytest.raises(ServerFailed, match="bad") as caught:
        async with sandbox:
            pass
    assert "no such luck" in caught.value.detail
    assert runs.left(sandbox.run_id) == []


async def test_cannot_leave_anything_after_a_record_that_cannot_be_written(runs: Runs) -> None:
    class Full(Recorder):
        def append(self, event: str, /, **fields: object) -> None:
            if event == "canary":
                raise RecordFailed("/nowhere", "no space left")

    sandbox = runs.sandbox(environment(server("a")), sink=Full())
    with pytest.raises(RecordFailed):
        async with sandbox:
            pass
    assert runs.left(sandbox.run_id) == []


@pytest.mark.parametrize("after", [0.0, 0.05, 0.15, 0.3, 0.6])
async def test_cannot_leave_anything_after_a_cancellation(runs: Runs, after: float) -> None:
    """Whenever it comes: before, between and after the calls to the engine."""
    sandbox = runs.sandbox(environment(server("a"), server("b")))

    async def life() -> None:
        async with sandbox:
            await asyncio.sleep(60)

    task = asyncio.create_task(life())
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runs.left(sandbox.run_id) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda s: s.name)
async def test_cannot_leave_anything_after_a_signal(runs: Runs, number: signal.Signals) -> None:
    async with another_runner() as (process, names):
        assert all_left(runs, names)
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 130
        # Cleaned by the runner itself, before it ended.
        assert all_left(runs, names) == []


async def test_cannot_leave_anything_after_two_interrupts(runs: Runs) -> None:
    async with another_runner(servers=2) as (process, names):
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 130
        await gone(runs, names)


async def test_cannot_leave_anything_after_the_runner_is_killed(runs: Runs) -> None:
    async with another_runner(servers=2) as (process, names):
        process.kill()
        began = time.monotonic()
        await gone(runs, names)
        assert time.monotonic() - began < SECONDS


async def test_cannot_leave_anything_after_runner_and_watchdog_are_killed(runs: Runs) -> None:
    """Then the containers end by themselves, and the next start finds the rest by its dead owner."""
    async with another_runner() as (process, names):
        for pid in watchdogs(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        await process.wait()
        filters = {"label": f"dev.mlld.run={names[0]}"}
        await until(lambda: not runs.client.api.containers(all=True, filters=filters))
        found = {thing.run for thing in dead(runs.client.api)}
        assert found >= {
            run for run in names if runs.left(run)
        }  # the start of a run beside this test may have been the next
        sweep_dead(runs.client.api, cache=runs.cache)
        assert all_left(runs, names) == []


async def test_a_living_run_is_not_taken_for_dead(runs: Runs) -> None:
    """The control of the sweep: whoever lives keeps what is his."""
    async with runs.sandbox(environment()) as sandbox:
        sweep_dead(runs.client.api, cache=runs.cache)
        assert await python(sandbox, "print('alive')") == "alive"


@pytest.mark.parametrize("member", [AGENT, SIDECAR])
async def test_cannot_leave_anything_after_a_seat_is_killed(runs: Runs, member: str) -> None:
    """The sidecar, or the bridge that holds the agent's seat: the run cannot go on and says which of them ended."""
    sandbox = runs.sandbox(environment(server("a")))

    async def life() -> None:
        async with sandbox:
            waiting = asyncio.create_task(sandbox.execute(Execution(argv=("sleep", "600"))))
            await asyncio.sleep(0.2)
            runs.client.api.kill(sandbox.plan.container_name(member), "SIGKILL")
            await asyncio.wait_for(waiting, PATIENCE)

    with pytest.raises(SandboxFailure, match=f"{member} ended by itself"):
        await life()
    assert runs.left(sandbox.run_id) == []


async def test_cannot_leave_anything_after_a_server_is_killed(runs: Runs) -> None:
    """Only its own tools suffer: the agent goes on, and the end takes all away."""
    async with runs.sandbox(environment(server("a"), server("b"))) as sandbox:
        runs.client.api.kill(sandbox.plan.container_name("a"), "SIGKILL")
        assert await python(sandbox, "print('alive')") == "alive"
    assert runs.left(sandbox.run_id) == []


async def test_cannot_leave_anything_after_ten_runs_at_once(runs: Runs) -> None:
    sandboxes = [runs.sandbox(environment(server("a"))) for _ in range(10)]

    async def life(sandbox: Sandbox) -> str:
        async with sandbox:
            return await python(sandbox, "print('alive')")

    assert await asyncio.gather(*map(life, sandboxes)) == ["alive"] * 10
    assert all_left(runs, [sandbox.run_id for sandbox in sandboxes]) == []


async def test_cannot_leave_anything_after_ten_runs_of_a_killed_runner(runs: Runs) -> None:
    async with another_runner(servers=0, count=10) as (process, names):
        assert len(names) == 10
        process.kill()
        await gone(runs, names)


async def test_cannot_leave_a_watchdog(runs: Runs) -> None:
    async with another_runner(servers=0) as (process, _):
        found = watchdogs(process.pid)
        assert len(found) == 1
        process.send_signal(signal.SIGTERM)
        await process.wait()
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in found))


def watchdogs(pid: int) -> list[int]:
    """Processes that watch over the runs of this runner."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"runner.lease" in words and any(b":%d:" % pid in word for word in words):
                found.append(int(path.parent.name))
    return found


def test_nothing_of_these_tests_is_left(runs: Runs) -> None:
    assert left(runs.client, f"dev.mlld.owner={runs.lease.owner}") == []
