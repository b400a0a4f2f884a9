"""P7: a secret is where it was granted, and nowhere else: not in the engine, the plan, the record, errors, or on a disk."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from interpreter.declarations import AuthDecl
from interpreter.ports import Command
from runner.errors import ServerFailed
from runner.plan import AGENT, SIDECAR, to_json
from runner.sandbox import Sandbox
from tests.support.runs import TOKEN, Recorder, Runs, environment, python, server

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]
SECRET = "correct-horse-battery-staple"
OTHERS = (AGENT, SIDECAR, "b")
AUTH = {"key": AuthDecl(name="key", variable="API_KEY", source="env:API_KEY")}
# Everything that a seat can see of itself and of others.
LOOK = """
import os, sys
needle, seen = bytes.fromhex(%r), []
for top in ('/proc', '/tmp', '/dev/shm', '/.mlld', '/workspace', '/home', '/etc', '/run', '/var', '/opt'):
    for folder, folders, files in os.walk(top):
        if folder.startswith(('/proc/%%d' %% os.getpid(), '/proc/self', '/proc/thread-self', '/proc/sys', '/proc/tty')):
            folders.clear()
        for name in files:
            path = os.path.join(folder, name)
            if top == '/proc' and name not in ('environ', 'cmdline', 'maps', 'mountinfo', 'status'):
                continue
            try:
                if not os.path.islink(path) and needle in open(path, 'rb').read(1 << 20):
                    seen.append(path)
            except OSError:
                pass
print(seen)
"""


def look(text: str) -> str:
    return LOOK % text.encode().hex()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(runs: Runs) -> AsyncIterator[Sandbox]:
    """Server `a` holds the secret; the agent may use it per command."""
    spec = environment(
        server("a", auth=("key",)), server("b"), grants=("sh", "filesystem"), auth=AUTH, agent_auth=("key",)
    )
    async with runs.sandbox(spec, secrets={"key": SECRET}) as sandbox:
        yield sandbox


async def test_its_holder_has_it(sandbox: Sandbox) -> None:
    """The control: the server's process has it in its environment, and so has the command that was given it."""
    assert sandbox.tools is not None
    said = await sandbox.tools.call("a__look", {"code": "os.environ.get('API_KEY')"})
    assert json.loads(said.text) == SECRET
    command = Command(kind="cmd", text="printenv API_KEY", secrets={"API_KEY": SECRET})
    assert (await sandbox.run(command)).stdout.decode().strip() == SECRET


@pytest.mark.parametrize("member", OTHERS)
async def test_cannot_find_it_in_another_seat(sandbox: Sandbox, member: str) -> None:
    assert await python(sandbox, look(SECRET), member=member) == "[]"
    assert SECRET not in await python(sandbox, "import os; print(os.environ)", member=member)


async def test_cannot_keep_it_after_the_command(sandbox: Sandbox) -> None:
    await sandbox.run(Command(kind="cmd", text="true", secrets={"API_KEY": SECRET}))
    assert "API_KEY" not in (await sandbox.run(Command(kind="cmd", text="printenv"))).stdout.decode()


async def test_cannot_find_it_on_the_holders_disk(sandbox: Sandbox) -> None:
    """In the holder's seat it is in the process that needs it, and in nothing else: not in PID 1, not in a file."""
    seen = await python(sandbox, look(SECRET), member="a")
    paths = [path for path in seen.strip("[]").replace("'", "").split(", ") if path]
    assert all(path.startswith("/proc/") and path.endswith("/environ") and path != "/proc/1/environ" for path in paths)
    assert paths  # the control: the search can find


async def test_cannot_find_it_in_the_engine(runs: Runs, sandbox: Sandbox) -> None:
    api = runs.client.api
    shown = [api.inspect_container(sandbox.plan.container_name(member)) for member in (AGENT, SIDECAR, "a", "b")]
    shown += [api.inspect_volume(sandbox.plan.volume_name(link.member)) for link in sandbox.plan.links]
    shown += [api.top(sandbox.plan.container_name(member)) for member in (AGENT, SIDECAR, "a", "b")]
    shown += [api.history(container.image) for container in sandbox.plan.containers]
    shown += [api.diff(sandbox.plan.container_name(member)) for member in (AGENT, SIDECAR, "a", "b")]
    text = json.dumps(shown)
    assert SECRET not in text
    assert TOKEN not in text
    assert "mlld" in text  # the control: it is the right text


async def test_cannot_find_it_in_an_exec(runs: Runs, sandbox: Sandbox) -> None:
    """A command's environment is not among what the engine shows of it."""
    api = runs.client.api
    name = sandbox.plan.container_name(AGENT)
    made = api.exec_create(name, ["sleep", "1"], environment={"API_KEY": SECRET})
    assert SECRET not in json.dumps(api.exec_inspect(made["Id"]))


async def test_cannot_find_it_in_plan_or_record(sandbox: Sandbox) -> None:
    assert SECRET.encode() not in to_json(sandbox.plan)
    assert b"API_KEY" in to_json(sandbox.plan)  # the control: it is known by name
    assert isinstance(sandbox.sink, Recorder)
    assert SECRET not in str(sandbox.sink.events[:40])
    assert SECRET not in repr(sandbox.handover)
    assert TOKEN not in repr(sandbox.handover)
    assert SECRET not in repr(Command(kind="cmd", text="x", secrets={"A": SECRET}))


async def test_cannot_find_it_in_the_sidecars_configuration(sandbox: Sandbox) -> None:
    """The sidecar carries calls to the server, and has no need of what the server holds."""
    assert await python(sandbox, look(SECRET), member=SIDECAR) == "[]"


async def test_cannot_find_the_token_in_a_server(sandbox: Sandbox) -> None:
    for member in ("a", "b"):
        assert await python(sandbox, look(TOKEN), member=member) == "[]"


async def test_cannot_find_it_in_an_error(runs: Runs) -> None:
    """A server that fails with the secret held says what it said, and nothing of ours adds the secret to it."""
    spec = environment(server("a", "import sys; sys.exit('bad key')", auth=("key",)), auth=AUTH)
    sandbox = runs.sandbox(spec, secrets={"key": SECRET})
    with pytest.raises(ServerFailed) as caught:
        await sandbox.__aenter__()
    assert SECRET not in str(caught.value.to_json())
    assert "bad key" in caught.value.detail


async def test_cannot_leave_it_in_a_volume(runs: Runs) -> None:
    spec = environment(server("a", auth=("key",)), auth=AUTH)
    async with runs.sandbox(spec, secrets={"key": SECRET}) as sandbox:
        volumes = [sandbox.plan.volume_name(link.member) for link in sandbox.plan.links]
    assert not {v["Name"] for v in runs.client.api.volumes()["Volumes"] or []} & set(volumes)
    assert SECRET.encode() not in msgspec.json.encode(sandbox.plan)
