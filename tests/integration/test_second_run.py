"""What servers offered in one run, in the next: nothing of a server runs before its first use, and a new program is new."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.projects import SERVER, Project

pytestmark = pytest.mark.engine

SERVERS = [f'{{ name: "{name}", command: "python3 {name}.py", fs: {{ read: ["."] }} }}' for name in ("used", "idle")]


def started(project: Project) -> list[str]:
    """The servers that a process was started of, in the latest run."""
    latest = max((project.home / ".local" / "share" / "mlld" / "runs").glob("*.jsonl"), key=lambda path: path.name)
    events = [json.loads(line) for line in latest.read_text().splitlines()]
    return [e["server"] for e in events if e["event"] == "server" and e["state"] == "starting"]


def test_the_second_run_wakes_what_it_uses(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.write("used.py", SERVER)
    project.write("idle.py", SERVER.replace("echo_text", "other").replace("show_env", "more"))
    environment = project.servers("m", *SERVERS)
    prompt = 'Show me the echo text "hello"'
    for expected in (["idle", "used"], ["used"]):
        done = project.spawn(prompt, environment)
        assert done.code == 0, done.err
        assert "From echo_text:\n  hello" in done.out
        assert sorted(set(started(project))) == expected
    project.write("used.py", SERVER.replace("Give the text back", "Give back the text"))
    done = project.spawn(prompt, environment)
    assert "From echo_text:\n  hello" in done.out, done.err
    assert "used" in started(project)
