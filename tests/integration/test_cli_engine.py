"""An engine that is missing, stopped or not ours to use: told apart, each with the step that the doctor would name."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.projects import SPAWN, Done, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project.make(tmp_path)
    made.module("m", SPAWN)
    return made


@pytest.fixture
def refusing(tmp_path: Path) -> Path:
    """A socket file where nobody listens: what an engine leaves that was killed."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    return path


@pytest.fixture
def without_dockerd(tmp_path: Path) -> str:
    """A search path that has Python's tools, and no engine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("git", "node"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return str(folder)


@pytest.fixture
def with_dockerd(without_dockerd: str) -> str:
    program = Path(without_dockerd) / "dockerd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return without_dockerd


def told(done: Done, code: str, *parts: str) -> None:
    assert (done.code, done.out) == (5, ""), done.err
    assert f"error[{code}]" in done.err
    for part in parts:
        assert part in done.err, done.err
    assert "Traceback" not in done.err


def test_no_engine_is_installed(project: Project, tmp_path: Path, without_dockerd: str) -> None:
    done = project.spawn("x", "@local/m", DOCKER_HOST=f"unix://{tmp_path}/none.sock", PATH=without_dockerd)
    told(done, "engine-missing", "there is no Docker engine on this machine", "none.sock", "next: mlld doctor --fix")


def test_an_installed_engine_that_was_never_started(project: Project, tmp_path: Path, with_dockerd: str) -> None:
    done = project.spawn("x", "@local/m", DOCKER_HOST=f"unix://{tmp_path}/none.sock", PATH=with_dockerd)
    told(done, "engine-stopped", "it is installed, and not running", "next: mlld doctor --fix")


def test_a_socket_where_nobody_listens(project: Project, refusing: Path) -> None:
    done = project.spawn("x", "@local/m", DOCKER_HOST=f"unix://{refusing}")
    told(done, "engine-stopped", f"the Docker engine does not answer at unix://{refusing}", "next: mlld doctor --fix")


def test_a_socket_that_is_not_ours(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0)
        # Root opens what nobody may, unless it gives that capability up.
        first = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
        done = subprocess.run(
            [*first, sys.executable, "-P", "-m", "runner", "sandbox", "spawn", "x", "--env", "@local/m"],
            cwd=project.path, env=project.environment(DOCKER_HOST=f"unix://{path}"), capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    told(
        Done(done.returncode, done.stdout, done.stderr),
        "engine-not-permitted",
        f"this user may not talk to the Docker engine at unix://{path}",
        "next: sudo usermod -aG docker",
    )


@pytest.mark.parametrize("kind", ["missing", "stopped"])
def test_the_doctor_says_the_same(
    project: Project, tmp_path: Path, refusing: Path, without_dockerd: str, kind: str
) -> None:
    address = f"unix://{refusing if kind == 'stopped' else tmp_path / 'none.sock'}"
    done = project.mlld("doctor", DOCKER_HOST=address, PATH=without_dockerd)
    assert done.code == 5, done.out
    said = done.out + done.err
    assert ("does not answer" if kind == "stopped" else "there is no Docker engine") in said
    assert "next: mlld doctor --fix" in said
