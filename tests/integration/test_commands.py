"""Commands in the agent's seat that only a container can show: limits, terminals, files put there."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from interpreter.declarations import Limits as Asked
from interpreter.ports import Command
from runner.errors import SandboxFailure
from runner.sandbox import Sandbox
from tests.support.runs import Recorder, Runs, environment, python, server
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(runs: Runs) -> AsyncIterator[Sandbox]:
    spec = environment(server("a"), grants=("sh", "filesystem"), limits=Asked(memory_bytes=128 << 20))
    async with runs.sandbox(spec) as sandbox:
        yield sandbox


async def test_a_command_over_the_memory_limit_is_told_as_such(sandbox: Sandbox) -> None:
    result = await sandbox.run(Command(kind="py", text="x = bytearray(1 << 30)"))
    assert (result.oom, result.exit_code, result.signal) == (True, 137, 9)
    assert isinstance(sandbox.sink, Recorder)
    assert sandbox.sink.of("oom")[-1]["member"] == "agent"
    # The seat lives on, and the next command is not blamed.
    after = await sandbox.run(Command(kind="cmd", text="false"))
    assert (after.oom, after.exit_code) == (False, 1)


async def test_a_command_that_has_used_its_time_is_ended_with_its_children(sandbox: Sandbox) -> None:
    text = "sleep 7100 & (sleep 7200; true) & echo started; sleep 7300"
    for seconds in (1, 5, 20):  # a machine that stalls may not have started it by then
        result = await sandbox.run(Command(kind="sh", text=text, timeout_seconds=seconds))
        assert result.timed_out
        if result.stdout:
            break
    assert result.stdout == b"started\n"
    code = (
        "import os; print([open(f'/proc/{p}/cmdline').read() for p in os.listdir('/proc') if p.isdigit() and p != '1'])"
    )
    assert "sleep" not in await python(sandbox, code)


async def test_a_cancelled_command_is_ended(sandbox: Sandbox) -> None:
    task = asyncio.create_task(sandbox.run(Command(kind="cmd", text="sleep 74")))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    code = (
        "import os; print([open(f'/proc/{p}/cmdline').read() for p in os.listdir('/proc') if p.isdigit() and p != '1'])"
    )
    assert "sleep" not in await python(sandbox, code)


async def test_the_first_bytes_of_a_quick_program_are_not_lost(sandbox: Sandbox) -> None:
    """They may arrive with the headers of the engine's answer, in the SDK's buffer."""
    for _ in range(15):
        assert (await sandbox.run(Command(kind="cmd", text="echo quick"))).stdout == b"quick\n"


async def test_many_commands_at_once(sandbox: Sandbox) -> None:
    results = await asyncio.gather(*(sandbox.run(Command(kind="cmd", text=f"echo {i}")) for i in range(12)))
    assert [r.stdout for r in results] == [b"%d\n" % i for i in range(12)]


async def test_settings_are_put_into_the_seat(sandbox: Sandbox) -> None:
    await sandbox.write("/home/agent/.config/deep/settings.json", b'{"token": 1}')
    code = "import os; p = '/home/agent/.config/deep/settings.json'; print(open(p).read(), oct(os.stat(p).st_mode))"
    assert await python(sandbox, code) == '{"token": 1} 0o100600'
    with pytest.raises(SandboxFailure, match="cannot be written"):
        await sandbox.write("/usr/lib/settings", b"x")


async def test_home_and_tmp_can_be_written(sandbox: Sandbox) -> None:
    for member, folders in (("agent", ("/home/agent", "/tmp", "/workspace")), ("a", ("/tmp",))):
        for folder in folders:
            said = await python(sandbox, f"print(open('{folder}/probe', 'w').write('x'))", member=member)
            assert said == "1", (member, folder)


async def test_the_agent_is_told_where_its_tools_are(sandbox: Sandbox) -> None:
    code = (
        "import json, os, urllib.request as u; e = os.environ; b = json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': "
        "'initialize', 'params': {'protocolVersion': '2025-06-18', 'capabilities': {}, 'clientInfo': {'name': 'x', "
        "'version': '1'}}}).encode(); r = u.urlopen(u.Request(e['MCP_SERVER_URL'], b, {'Content-Type': 'application/json', "
        "'Accept': 'application/json, text/event-stream', 'Authorization': 'Bearer ' + e['MLLD_MCP_TOKEN']})); "
        "print(r.status, e['MLLD_PROFILE'], [s['name'] for s in json.loads(e['MLLD_MCP_SERVERS'])])"
    )
    assert (await sandbox.run(Command(kind="py", text=code))).stdout == b"200 tested ['a']\n"


async def test_a_shell_in_a_terminal() -> None:
    """Keys reach the program raw, the size of the window too, and the terminal is as it was afterwards."""
    await asyncio.to_thread(use_a_shell)


def use_a_shell() -> None:
    terminal, inner = pty.openpty()
    termios.tcsetwinsize(terminal, (33, 111))
    before = termios.tcgetattr(inner)
    argv = [sys.executable, "-m", "tests.support.one_shell"]
    process = subprocess.Popen(argv, stdin=inner, stdout=inner, stderr=inner, cwd=Path(__file__).parents[2])
    said = b""

    def until(mark: bytes) -> None:
        nonlocal said
        deadline = time.monotonic() + PATIENCE
        while mark not in said and time.monotonic() < deadline:
            if select.select([terminal], [], [], 1)[0]:
                said += os.read(terminal, 4096)
        assert mark in said, said

    try:
        until(b"$ ")
        time.sleep(0.5)
        os.write(terminal, b"stty size; echo $((40+2)); id -u\r")
        until(b"33 111")
        until(b"42")
        os.write(terminal, b"exit 7\r")
        assert process.wait(PATIENCE) == 7, said
        assert termios.tcgetattr(inner) == before
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(inner)


async def test_a_workspace_lies_over_the_project_in_the_seat(runs: Runs) -> None:
    project = runs.workspace({"README.md": "project", "docs/a.md": "A", ".git/HEAD": "ref"})
    async with runs.sandbox(environment(grants=("sh",)), workspace=project) as sandbox:
        made = await sandbox.directory(project=True)
        await made.write({"task.md": b"draft", "docs/b.md": b"B"})
        shown = await sandbox.run(Command(kind="sh", text="cat task.md README.md docs/*; ls -A", cwd=made.path))
        assert shown.stdout.split() == [b"draftprojectABREADME.md", b"docs", b"task.md"]
        # Over a file of the project its link is replaced; the project itself is not writable.
        text = (
            "sed -i s/pro/re/ README.md; echo x > docs/a.md; rm task.md; ln -s /etc/passwd link; mkdir d; echo n > d/n"
        )
        changed = await sandbox.run(Command(kind="sh", text=text, cwd=made.path))
        assert b"Read-only file system" in changed.stderr
        assert dict(await made.read()) == {"README.md": b"reject", "docs/b.md": b"B", "d/n": b"n\n"}
    assert (project / "README.md").read_text() == "project"


async def test_cannot_lead_the_bridge_out_of_a_workspace(sandbox: Sandbox) -> None:
    made = await sandbox.directory()
    await made.write({"a": b"1"})
    plant = "mkdir /tmp/out; echo safe > /tmp/out/x; ln -s /tmp/out d; ln -s /tmp/out/x a2; mkfifo p; ln -s . loop"
    await sandbox.run(Command(kind="sh", text=plant, cwd=made.path))
    await made.write({"d/x": b"2", "a2": b"3"})
    found = await sandbox.run(Command(kind="cmd", text="cat /tmp/out/x", cwd=made.path))
    assert found.stdout == b"safe\n"
    assert dict(await made.read()) == {"a": b"1", "d/x": b"2", "a2": b"3"}
    with pytest.raises(OSError, match="no path inside"):
        await made.write({"../escape": b"x"})
    await sandbox.run(Command(kind="sh", text="head -c 20000000 /dev/zero > big", cwd=made.path))
    with pytest.raises(OSError, match="larger than it may be"):
        await made.read()
