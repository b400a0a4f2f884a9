"""Who is dead and who is not, and what the watchdog does about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.lease import Lease, is_dead, owner


def test_the_living_are_not_dead() -> None:
    assert not is_dead(owner())


def part(index: int, value: str) -> str:
    parts = owner().split(":")
    parts[index] = value
    return ":".join(parts)


def test_the_dead_are_known_by_boot_number_and_start() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert is_dead(part(3, str(process.pid)))
    assert is_dead(part(4, "12345"))  # the number was given to another process
    assert is_dead(part(1, "another-boot"))


@pytest.mark.parametrize(
    "mark",
    [part(0, "other-machine"), part(2, "4026000000"), "", "nonsense", "a:b:c"],
    # Not their values: these hold a process' number, and parallel workers must agree on the names of tests.
    ids=["another machine", "another namespace", "empty", "nonsense", "too short"],
)
def test_of_whom_nothing_is_known_nothing_is_said(mark: str) -> None:
    """Another machine on the same engine, another container: their runs are not ours to take away."""
    assert not is_dead(mark)


def test_a_zombie_is_dead() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        mark = part(3, str(process.pid)).rsplit(":", 1)[0] + f":{stat[19]}"
        assert not is_dead(mark)
        assert process.stdin
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_dead(mark)


def test_the_watchdog_starts_with_the_first_run_and_ends_with_the_runner(tmp_path: Path) -> None:
    lease = Lease(cache=tmp_path)
    assert lease._watchdog is None
    lease.hold()
    watchdog = lease._watchdog
    assert watchdog is not None
    lease.hold()
    assert lease._watchdog is watchdog
    assert os.getsid(watchdog.pid) != os.getsid(0)  # the terminal's Ctrl-C does not reach it
    lease.release()
    lease.release()
    lease.close()
    assert watchdog.returncode == 0


def test_the_watchdog_sweeps_only_what_is_held(tmp_path: Path) -> None:
    """Both ends of its decision, with a sweeper that only says that it was called."""
    fake = tmp_path / "runner"
    fake.mkdir()
    (fake / "__init__.py").write_text("")
    (fake / "lease.py").write_text((Path(__file__).parents[3] / "runner" / "lease.py").read_text())
    (fake / "lease_sweep.py").write_text("import sys; print('swept', *sys.argv[1:])")
    for told, said in ((b"++-", b"swept mark cache\n"), (b"+-", b""), (b"", b""), (b"+", b"swept mark cache\n")):
        done = subprocess.run(
            [sys.executable, "-m", "runner.lease", "mark", "cache"], input=told, capture_output=True, cwd=tmp_path,
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, said)


def test_the_watchdog_imports_next_to_nothing() -> None:
    """It waits for as long as the run lasts, one for each runner."""
    code = (
        "import sys, runner.lease; print(len(set(sys.modules) & {'docker', 'msgspec', 'asyncio', 'pydantic', 'click'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parents[3], check=True)
    assert done.stdout == b"0\n"
