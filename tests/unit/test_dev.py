"""`./dev` itself: what it does without being asked to install anything, and that CI runs what the README says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


def dev(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "dev"), *args]
    return subprocess.run(command, cwd="/", env={**os.environ, **env}, capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A virtual environment that was made from this very checkout: its mlld tells what it was called with."""
    (tmp_path / "bin").mkdir()
    mlld = tmp_path / "bin/mlld"
    mlld.write_text('#!/bin/sh\necho "mlld $*"\n[ "$1" != doctor ] || exit "${DOCTOR:-0}"\n')
    mlld.chmod(0o755)
    stamp = subprocess.run(
        ["sh", "-c", "{ cat pyproject.toml dev; pwd; } | cksum"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (tmp_path / ".made-from").write_text(stamp.stdout)
    return tmp_path


def test_alone_it_lists_what_it_can_do() -> None:
    listed = dev()
    assert listed.returncode == 0
    for command in ("demo", "test", "doctor", "compose", "bench"):
        assert f"./dev {command}" in listed.stdout


def test_an_unknown_command_is_an_error() -> None:
    refused = dev("tset")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "./dev test" in refused.stderr


def test_a_second_time_there_is_nothing_to_set_up(venv: Path) -> None:
    done = dev("mlld", "sandbox", "ps", MLLD_VENV=str(venv))
    assert (done.returncode, done.stdout, done.stderr) == (0, "mlld sandbox ps\n", "")  # whatever it sets up, it says


def test_what_the_doctor_cannot_mend_stops_the_demo(venv: Path) -> None:
    done = dev("demo", MLLD_VENV=str(venv), DOCTOR="5")
    assert done.returncode == 5
    assert done.stdout == "", "no agent was started"
    assert "mlld doctor --fix" in done.stderr


def test_the_demo_is_one_command_of_mlld(venv: Path) -> None:
    done = dev("demo", MLLD_VENV=str(venv))
    assert done.stdout == "mlld sandbox spawn Summarize the open tickets --env @local/myenv\n"


def test_advice_can_be_typed_without_mlld_on_the_path(venv: Path) -> None:
    (venv / "bin/mlld").write_text('#!/bin/sh\necho "${MLLD_CALLED-}"\n')
    assert dev("mlld", MLLD_VENV=str(venv), PATH="/usr/bin:/bin").stdout == f"{ROOT / 'dev'} mlld\n"
    assert dev("mlld", MLLD_VENV=str(venv), PATH=f"{venv}/bin:/usr/bin:/bin").stdout == "\n"


def test_ci_runs_the_readmes_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "./dev test" in readme
    assert (ROOT / ".ci/run").read_text().splitlines()[-1].endswith("exec ./dev test")
