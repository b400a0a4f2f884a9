"""The runner's two ways into a seat by exec, whatever the seat's image is: a conversation, and a file."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.bridges import listening, read_all
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.engine


def test_a_talk_goes_both_ways_and_each_end_by_itself(bridge: Path, tmp_path: Path) -> None:
    asked, said = os.urandom(2_000_000), os.urandom(3_000_000)
    with listening(tmp_path / "mcp.sock") as server:
        process = subprocess.Popen(
            [bridge, "--talk", tmp_path / "mcp.sock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        connection = server.accept()
        heard: list[bytes] = []

        def answer() -> None:
            heard.append(read_all(connection))
            connection.sendall(said)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        output, _ = process.communicate(asked, timeout=20)
        thread.join()
    assert heard == [asked]
    assert output == said
    assert process.returncode == 0


def test_a_talk_with_nobody_says_so(bridge: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [bridge, "--talk", tmp_path / "none.sock"], capture_output=True, text=True, timeout=PATIENCE, input="x"
    )
    assert done.returncode == 71
    assert "cannot connect to" in done.stderr
    assert "ENOENT" in done.stderr


def test_a_file_is_put_for_its_owner_alone(bridge: Path, tmp_path: Path) -> None:
    target = tmp_path / "a/b/settings.json"
    content = os.urandom(100_000)
    for _ in range(2):  # the second replaces the first
        subprocess.run([bridge, "--put", target], input=content, check=True, timeout=PATIENCE)
        content = content[:10] if len(content) > 10 else content
    assert target.read_bytes() == content
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700


def test_a_file_is_never_put_through_a_link(bridge: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    done = subprocess.run(
        [bridge, "--put", tmp_path / "link"], input="x", capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 71
    assert "cannot write" in done.stderr
    assert (tmp_path / "elsewhere").read_text() == "kept"
