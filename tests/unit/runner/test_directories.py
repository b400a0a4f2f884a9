"""Directories of workspaces: what programs put there leads nobody away, and nothing is without bound."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from interpreter.ports import CommandResult
from runner.backends import docker_directory, local_directory
from runner.backends.base import Execution
from runner.backends.docker_directory import SeatDirectory, packed, unpacked
from runner.backends.local_directory import HostDirectory


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("a.txt", "d/b.txt", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


async def test_files_lie_over_the_project(project: Path) -> None:
    made = HostDirectory(shows=str(project))
    await made.write({"d/c.txt": b"new", "a.txt": b"mine"})
    assert (Path(made.path) / "d/b.txt").read_text() == "d/b.txt"
    assert (project / "a.txt").read_text() == "a.txt"
    assert sorted(os.listdir(project / "d")) == ["b.txt"]
    assert not (Path(made.path) / ".git").exists()
    assert dict(await made.read()) == {"d/c.txt": b"new", "a.txt": b"mine"}
    await made.write({}, ["d/c.txt", "none/x.txt"])
    assert dict(await made.read()) == {"a.txt": b"mine"}
    await made.close()
    assert not Path(made.path).exists()
    assert (project / "d/b.txt").exists()


async def test_cannot_read_what_is_no_regular_file(project: Path) -> None:
    made = HostDirectory()
    here = Path(made.path)
    os.mkfifo(here / "pipe")  # opened for reading it would wait for ever
    (here / "link").symlink_to(project / "a.txt")
    (here / "folder").symlink_to(project)
    (here / "file").write_text("x")
    assert dict(await made.read()) == {"file": b"x"}
    await made.close()


async def test_cannot_read_more_than_a_workspace_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    made = HostDirectory()
    await made.write({"a": b"x" * 100, "b": b"x" * 100})
    assert len(await made.read()) == 2
    monkeypatch.setattr(local_directory, "MOST_BYTES", 150)
    with pytest.raises(OSError, match="more than"):
        await made.read()
    monkeypatch.setattr(local_directory, "MOST_BYTES", 1000)
    monkeypatch.setattr(local_directory, "MOST_FILES", 1)
    with pytest.raises(OSError, match="more than"):
        await made.read()
    await made.close()


def test_a_stream_is_read_as_it_was_written() -> None:
    files = {"a/b.txt": b"\0\n", "c": b""}
    assert unpacked(packed(files)) == files


@pytest.mark.parametrize(
    "stream",
    [
        b"", b"F", b"Fa\x001\x00x", b"Fa\x00-1\x00E", b"Fa\x009999999999\x00xE", b"F/etc/x\x001\x00xE", b"F../x\x001\x00xE",
        b"Fa//b\x001\x00xE", b"F\x001\x00xE", b"Fa\x001\x00xEE", b"G", b"F" + b"d/" * 40 + b"x\x001\x00xE",
    ],
)  # fmt: skip
def test_cannot_be_given_a_path_or_size_that_lies(stream: bytes) -> None:
    with pytest.raises(OSError, match="cannot be read"):
        unpacked(stream)


async def test_a_seat_is_asked_through_the_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Execution] = []
    said: Mapping[str, bytes] = {"a": b"x"}

    async def execute(wanted: Execution) -> CommandResult:
        asked.append(wanted)
        return CommandResult(exit_code=0, stdout=packed(said), stderr=b"")

    made = SeatDirectory(execute, project=True)
    await made.write({"a": b"x"})
    assert asked[0].argv[1:] == ("--unpack", made.path, "/workspace")
    assert asked[0].stdin == packed(said)
    assert dict(await made.read()) == said
    assert asked[1].argv[1:3] == ("--pack", made.path)
    assert SeatDirectory(execute, project=False).path != made.path
    monkeypatch.setattr(docker_directory, "check_size", _never)
    with pytest.raises(OSError, match="too much"):
        await made.read()


def _never(files: int, size: int) -> None:
    raise OSError("too much")
