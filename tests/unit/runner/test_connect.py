"""`mlld sandbox connect RUN` without an engine: a door to an endpoint of the test, and the command as a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp.client.stdio import StdioServerParameters

from images.sidecar.seams import ServerSpec
from runner.cli.app import execute
from runner.lease import owner
from runner.record import RunRecord
from tests.support.asking_client import EVERYTHING, use_everything
from tests.support.waiting import PATIENCE, until
from tests.unit.runner.test_door import opened
from tests.unit.sidecar.endpoint_world import FakeServer, World, world

ROOT = Path(__file__).parents[3]
ASKING = ServerSpec(name="asking", command=(sys.executable, str(ROOT / "tests" / "support" / "asking_server.py")))


def record(home: Path, *, over: bool = False) -> str:
    """A run of this process; its name."""
    kept = RunRecord.create(home / "data" / "mlld" / "runs", now=lambda: 1_700_000_000.0)
    kept.append("run", name=kept.name, env="x", owner=owner())
    if over:
        kept.close(exit=0)
    return kept.name


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "XDG_DATA_HOME": str(home / "data"), "HOME": str(home), "PYTHONPATH": str(ROOT)}


@contextlib.asynccontextmanager
async def connected(w: World, home: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, connected to a run of this world."""
    run = record(home)
    async with opened(w, run):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runner", "sandbox", "connect", run, env=environment(home), cwd=home,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def say(process: asyncio.subprocess.Process, **message: object) -> dict[str, object]:
    """One request; the next line that comes."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, **message}).encode() + b"\n")
    line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
    return dict(json.loads(line))


OPENING = {"method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}}}


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28", "auto"])
async def test_the_official_client_uses_everything_over_stdio(tmp_path: Path, mode: str) -> None:
    run = record(tmp_path)
    async with world(tmp_path, remote=(ASKING,)) as w, opened(w, run):
        program = StdioServerParameters(
            command=sys.executable, args=["-m", "runner", "sandbox", "connect", run], env=environment(tmp_path),
            cwd=str(tmp_path),
        )  # fmt: skip
        assert await use_everything(program, mode) == EVERYTHING
        labelled = [call["labels"] for call in w.gate.of("call") if call["name"] == "echo_text"]
        assert labelled == [["src:mcp", "mcp:asking:echo_text"]], "it goes through what the agent's calls go through"


async def test_the_end_of_input_ends_it_after_the_last_answer(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a")) as w, connected(w, tmp_path) as process:
        assert process.stdin is not None
        for number, message in enumerate((OPENING, {"method": "tools/list"})):
            process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, **message}).encode() + b"\n")
        process.stdin.write_eof()
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert {json.loads(line)["id"] for line in out.splitlines()} == {0, 1}
        assert (process.returncode, err) == (0, b"")


async def test_a_signal_ends_it(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a")) as w, connected(w, tmp_path) as process:
        assert "result" in await say(process, **OPENING)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 130
        assert b"Traceback" not in err
        await until(lambda: not w.endpoint.sessions)


async def test_the_end_of_the_run_ends_it_and_is_told(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a")) as w, connected(w, tmp_path) as process:
        assert "result" in await say(process, **OPENING)
        w.endpoint.end_sessions()
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0
        assert b"has ended" in err


def test_a_run_that_is_not_there_names_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    over = record(tmp_path, over=True)
    assert execute(("sandbox", "connect", "nowhere")) == 2
    assert "nothing is running" in capsys.readouterr().err
    running = [record(tmp_path), record(tmp_path)]
    assert execute(("sandbox", "connect", "nowhere")) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in running)
    assert over not in said
    for name in (over, "last"):
        assert execute(("sandbox", "connect", name)) == 5
        said = capsys.readouterr().err
        assert "it has ended, or its tools are not ready yet" in said
        assert all(name in said for name in running)
