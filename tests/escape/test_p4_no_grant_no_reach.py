"""P4: a profile without a grant has none of it: no network, no writing, no shell. The same module with the grants is the
control, beside it and at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from interpreter.declarations import Files, HostRule, Network, PathRule
from interpreter.ports import Command
from runner.plan import AGENT, SIDECAR
from runner.planner_seats import SHELLS
from runner.sandbox import Sandbox
from tests.support import probes
from tests.support.runs import Runs, environment, python, server

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]
SEATS = (AGENT, "a")
NET = Network(allow=(HostRule(host="api.example.com"),))
MODULE = {"network": NET, "files": Files(write=(PathRule(path="data"),))}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def readonly(runs: Runs) -> AsyncIterator[Sandbox]:
    """The module under the profile that grants nothing."""
    spec = environment(server("a", files=MODULE["files"], network=NET), **MODULE)
    async with runs.sandbox(spec, workspace=runs.workspace({"data/x": "1"})) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full(runs: Runs, readonly: Sandbox) -> AsyncIterator[Sandbox]:
    """The same under the profile that grants all, while the other one runs."""
    spec = environment(
        server("a", files=MODULE["files"], network=NET), grants=("network", "filesystem", "sh"), **MODULE
    )
    async with runs.sandbox(spec, workspace=runs.workspace({"data/x": "1"})) as sandbox:
        yield sandbox


async def test_cannot_have_a_network(runs: Runs, readonly: Sandbox, full: Sandbox) -> None:
    interfaces = "import socket; print([n for _, n in socket.if_nameindex()])"
    assert await python(full, interfaces, member=SIDECAR) == "['lo', 'eth0']"
    assert await python(readonly, interfaces, member=SIDECAR) == "['lo']"
    assert runs.client.api.networks(names=[readonly.plan.network_name]) == []


@pytest.mark.parametrize("member", SEATS)
async def test_cannot_find_a_gate(readonly: Sandbox, full: Sandbox, member: str) -> None:
    ask = probes.program("return socket.create_connection(('127.0.0.1', 7001), 3).getpeername()[1]")
    assert await python(full, ask, member=member) == "reached 7001"
    assert await python(readonly, ask, member=member) == "blocked ECONNREFUSED"
    assert "PROXY" not in await python(readonly, "import os; print(os.environ)", member=member)


@pytest.mark.parametrize("member", SEATS)
async def test_cannot_write_anywhere_but_in_memory(readonly: Sandbox, full: Sandbox, member: str) -> None:
    """Every file system of the seat, as the kernel lists them: what is not in memory is read-only."""
    code = (
        "print([l.split()[1] for l in open('/proc/mounts') if l.split()[3].startswith('rw') and (l.split()[2] not in "
        # A directory of the host may be in memory, too: /tmp often is.
        "('tmpfs', 'proc', 'devpts', 'mqueue') or l.split()[1].startswith('/workspace/'))])"
    )
    assert await python(readonly, code, member=member) == "[]"
    assert "/workspace/data" in await python(full, code, member=member)


@pytest.mark.parametrize("member", SEATS)
@pytest.mark.parametrize("path", ["/workspace/data/x", "/usr/x", "/etc/passwd", "/x", "/.mlld/x", "/proc/sys/kernel/x"])
async def test_cannot_write_a_file(readonly: Sandbox, member: str, path: str) -> None:
    said = await python(readonly, probes.program(f"return open({path!r}, 'w').write('x')"), member=member)
    assert said in ("blocked EROFS", "blocked EACCES", "blocked ENOENT"), said


async def test_what_is_granted_can_be_written(full: Sandbox) -> None:
    for member in SEATS:
        code = probes.program("return open('/workspace/data/x', 'w').write('new')")
        assert await python(full, code, member=member) == "reached 3"


@pytest.mark.parametrize("shell", SHELLS)
async def test_cannot_run_a_shell(readonly: Sandbox, shell: str) -> None:
    for path in (f"/bin/{shell}", f"/usr/bin/{shell}", shell):
        said = await python(
            readonly, probes.program(f"import subprocess\nreturn subprocess.run([{path!r}, '-c', ':'])")
        )
        assert said in ("blocked EACCES", "blocked ENOENT", "blocked PermissionError", "blocked FileNotFoundError"), (
            said
        )


@pytest.mark.parametrize("text", ["echo a | cat", "echo $HOME", "a=1; echo $a", "cat <(echo x)"])
async def test_cannot_run_a_command_that_needs_a_shell(readonly: Sandbox, full: Sandbox, text: str) -> None:
    with pytest.raises(PermissionError, match="needs a shell, and profile tested grants no"):
        await readonly.run(Command(kind="cmd", text=text))
    with pytest.raises(PermissionError, match="needs a shell, and profile tested grants no"):
        await readonly.run(Command(kind="sh", text=text))
    if "<(" not in text:  # for which even the granted shell, dash, is too small
        assert (await full.run(Command(kind="sh", text=text))).exit_code == 0


@pytest.mark.parametrize("folder", ["/tmp", "/home/agent", "/dev/shm"])
async def test_cannot_bring_its_own_shell(readonly: Sandbox, full: Sandbox, folder: str) -> None:
    """Nothing that can be written can be executed."""
    code = probes.program(
        f"import shutil, subprocess\nshutil.copy('/usr/bin/env', {folder!r} + '/mine')\n"
        f"os.chmod({folder!r} + '/mine', 0o755)\nreturn subprocess.run([{folder!r} + '/mine', 'true']).returncode"
    )
    assert await python(readonly, code) == "blocked EACCES"
    if folder != "/dev/shm":
        assert await python(full, code) == "reached 0"


async def test_a_plain_command_needs_no_shell(readonly: Sandbox) -> None:
    result = await readonly.run(Command(kind="cmd", text="python3 -c 'print(6 * 7)'"))
    assert (result.exit_code, result.stdout) == (0, b"42\n")
