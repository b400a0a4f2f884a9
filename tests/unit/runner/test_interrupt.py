"""Ctrl-C once cleans up, twice leaves; both are exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import cpu_seconds, is_alive
from tests.support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[3]
PROGRAM = """
import asyncio, sys
from runner.cli import interrupt
from runner.cli.shown import fail
async def main():
    print("started", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaning", flush=True)
        await asyncio.sleep(float(sys.argv[1]))
        print("cleaned", flush=True)
try:
    interrupt.run(main())
except BaseException as error:
    sys.exit(fail(error))
"""


def start(cleaning: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(cleaning)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_once_cleans_up(number: signal.Signals) -> None:
    with start(0.1) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert out == "cleaning\ncleaned\n"
    assert process.returncode == 130
    assert f"stopped by {number.name}" in err


def test_twice_leaves_and_says_what_cleans() -> None:
    with start(600) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert out == ""
    assert process.returncode == 130
    assert "removed by: mlld sandbox gc" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_children_of_a_script_are_stopped_with_it(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "script.mld"
    script.write_text("run sh { echo $$ > shell; sleep 300 & echo $! > child; wait }\n")
    argv = [sys.executable, "-m", "runner", "run", str(script)]
    with subprocess.Popen(
        argv, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    ) as process:
        wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip() != "")
        started = [int((tmp_path / name).read_text()) for name in ("shell", "child")]
        assert all(is_alive(pid) for pid in started)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    wait_until(lambda: not any(is_alive(pid) for pid in started))


def test_code_that_nothing_can_interrupt_is_left_at_once(tmp_path: Path) -> None:
    script = tmp_path / "script.mld"
    script.write_text('run sh { echo $$ > shell }\nexe @f() = js { while (true) {} }\nshow "begun"\nshow @f()\n')
    argv = [sys.executable, "-m", "runner", "run", str(script)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        begun = cpu_seconds(process.pid)
        wait_until(lambda: cpu_seconds(process.pid) > begun + 1)  # the engine is made at the first call
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"left at once" in err


def timed(script: Path, limit: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "runner", "run", str(script), "--timeout", limit]
    return subprocess.run(
        argv,
        cwd=script.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_a_script_ends_with_its_time_and_all_that_it_started(tmp_path: Path) -> None:
    script = tmp_path / "script.mld"
    script.write_text('show "begun"\nrun sh { echo $$ > shell; sleep 300 & echo $! > child; wait }\nshow "never"\n')
    for seconds in (3, 10, 30):  # a machine that stalls may not have begun by then
        done = timed(script, f"{seconds}s")
        assert done.returncode == 6
        assert f"the script took longer than {seconds} s" in done.stderr
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text():
            break
    assert done.stdout == "begun\n"
    wait_until(lambda: not any(is_alive(int((tmp_path / name).read_text())) for name in ("shell", "child")))


def test_a_loop_without_end_is_ended_by_its_time(tmp_path: Path) -> None:
    script = tmp_path / "script.mld"
    script.write_text("loop(endless) [ let @x = 1 ]\n")
    assert timed(script, "1.5s").returncode == 6


def test_time_enough_changes_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.mld"
    script.write_text('show "done"\n')
    done = timed(script, "1h")
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize("text", ["600", "0s", "-1s", "soon", "5 minutes"])
def test_cannot_give_a_time_of_unknown_length(tmp_path: Path, text: str) -> None:
    script = tmp_path / "script.mld"
    script.write_text('show "never"\n')
    done = timed(script, text)
    assert (done.stdout, done.returncode) == ("", 2)
    assert "is no duration" in done.stderr
    assert "30s" in done.stderr
