"""`mlld sandbox connect RUN` with real containers: the official client on this side, a server behind the fence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mcp.client.stdio import StdioServerParameters

from tests.integration.test_cli_runs import running
from tests.support.asking_client import EVERYTHING, use_everything
from tests.support.projects import ROOT, Project
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.engine

ASKING = '{ name: "asking", command: "python3 asking.py", fs: { read: ["."] } }'


async def test_everything_goes_through_the_fence_in_both_directions(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.write("asking.py", (ROOT / "tests" / "support" / "asking_server.py").read_text())
    ref = project.servers("m", ASKING)
    with project.start("sandbox", "spawn", "sleep 300", "--env", ref) as process:
        name = running(project)
        arguments = ["-P", "-m", "runner", "sandbox", "connect"]
        for mode in ("legacy", "2026-07-28"):
            program = StdioServerParameters(
                command=sys.executable, args=[*arguments, name], env=project.environment(), cwd=str(project.path)
            )
            assert await use_everything(program, mode) == EVERYTHING
        unknown = project.mlld("sandbox", "connect", "nowhere")
        assert (unknown.code, name in unknown.err) == (2, True), unknown.err
        with subprocess.Popen(
            [sys.executable, *arguments, "last"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=project.environment(), cwd=project.path,
        ) as client:  # fmt: skip
            assert client.stdin is not None
            assert client.stdout is not None
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
            client.stdin.write(json.dumps(opening).encode() + b"\n")
            client.stdin.flush()
            assert "result" in json.loads(client.stdout.readline())
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)
            assert client.wait(timeout=PATIENCE) == 0
            assert client.stderr is not None
            assert "has ended" in client.stderr.read().decode()
    calls = [line for line in project.mlld("sandbox", "show", name, "--events").out.splitlines() if "echo_text" in line]
    assert len(calls) == 2
