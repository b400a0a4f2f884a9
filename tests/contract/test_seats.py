"""One contract for every backend: what a run's seats do, in containers and as child processes of this machine."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from interpreter.declarations import AuthDecl, EnvironmentSpec, McpConfig
from interpreter.ports import Command
from runner.backends.local import LocalBackend
from runner.errors import ServerFailed, ServerSilent, ToolUnknown
from runner.handover import Handover
from runner.planner import plan
from runner.planner_options import Images, PlanOptions
from runner.sandbox import Sandbox
from runner.survey import survey
from tests.support.runs import TOKEN, Recorder, Runs, environment, make_runs, server

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]
SECRET = "a-secret-of-the-contract"


@pytest.fixture(scope="session")
def runs() -> Iterator[Runs]:
    with make_runs() as made:
        yield made


class Backends:
    """Makes the same run on either backend."""

    def __init__(self, runs: Runs, name: str) -> None:
        self.runs, self.name = runs, name

    def sandbox(self, spec: EnvironmentSpec, **secrets: str) -> Sandbox:
        if self.name == "docker":
            return self.runs.sandbox(spec, secrets=secrets)
        spec = replace(spec, provider="local")
        facts = survey(spec, workspace=self.runs.workspace(), home=Path.home())
        options = PlanOptions(run="local", images=Images(agent="", sidecar="", bridge=""), host=facts)
        handover = Handover(token=TOKEN, secrets=secrets, module=spec.module, policy=spec.policy)
        backend = LocalBackend(env={"PATH": os.environ["PATH"], "HOME": "/nowhere"})
        return Sandbox(
            plan=plan(spec, options), handover=handover, backend=backend, sink=Recorder(), lease=self.runs.lease
        )


@pytest.fixture(scope="module", params=["docker", "local"])
def backends(request: pytest.FixtureRequest, runs: Runs) -> Backends:
    return Backends(runs, request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(backends: Backends) -> AsyncIterator[Sandbox]:
    auth = {"key": AuthDecl(name="key", variable="API_KEY", source="env:API_KEY")}
    spec = environment(server("a", auth=("key",), tools=("echo", "look")), server("b"), grants=("sh",), auth=auth)
    async with backends.sandbox(spec, key=SECRET) as sandbox:
        yield sandbox


@pytest.mark.parametrize("code", [0, 1, 7, 126, 127, 255])
async def test_exit_codes_pass_through(sandbox: Sandbox, code: int) -> None:
    assert (await sandbox.run(Command(kind="sh", text=f"exit {code}"))).exit_code == code


async def test_streams_are_apart_and_come_as_they_are_written(sandbox: Sandbox) -> None:
    async def apart() -> float:
        """Seconds between the first and the last of it."""
        seen: list[tuple[str, bytes, float]] = []
        text = "echo out; echo err >&2; sleep 0.7; echo late"
        result = await sandbox.run(
            Command(kind="sh", text=text, on_output=lambda name, data: seen.append((name, data, time.monotonic())))
        )
        assert (result.stdout, result.stderr) == (b"out\nlate\n", b"err\n")
        assert b"".join(data for name, data, _ in seen if name == "stderr") == b"err\n"
        return seen[-1][2] - seen[0][2]

    assert any([await apart() > 0.5 for _ in range(3)]), "once: who stalls sees both at the same time"


async def test_standard_input_reaches_the_program_with_its_end(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 5000
    result = await sandbox.run(Command(kind="cmd", text="wc -c", stdin=data))
    assert result.stdout.split() == [b"1280000"]
    assert (await sandbox.run(Command(kind="cmd", text="cat"))).stdout == b""  # none given: none there


async def test_input_that_nobody_reads_is_no_error(sandbox: Sandbox) -> None:
    assert (await sandbox.run(Command(kind="cmd", text="true", stdin=b"x" * (4 << 20)))).exit_code == 0


async def test_much_output_is_whole(sandbox: Sandbox) -> None:
    result = await sandbox.run(
        Command(kind="py", text="import sys; sys.stdout.buffer.write(bytes(range(256)) * 40000)")
    )
    assert result.stdout == bytes(range(256)) * 40000


@pytest.mark.parametrize(
    "word", ['a "b" c', "it's", "$(id) `id` $HOME", "a\nb", "@spawn {{x}}", "ü→🦦", "\\", "*", "a;b|c&d"]
)
async def test_arguments_arrive_as_they_are(sandbox: Sandbox, word: str) -> None:
    result = await sandbox.run(Command(kind="cmd", text=f"printf %s {shlex.quote(word)}"))
    assert result.stdout.decode() == word


async def test_an_argument_too_long_for_any_program_is_told(sandbox: Sandbox) -> None:
    with pytest.raises(OSError, match=r"stdin|too long"):
        await sandbox.run(Command(kind="cmd", text=f"printf %s {'x' * 1_000_000}"))


async def test_a_program_that_is_not_there_is_told_by_name(sandbox: Sandbox) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        await sandbox.run(Command(kind="cmd", text="no-such-program --x"))


@pytest.mark.parametrize(
    ("kind", "text"), [("py", "print(6*7)"), ("node", "console.log(6*7)"), ("sh", "echo $((6*7))")]
)
async def test_bodies_of_each_language(sandbox: Sandbox, kind: str, text: str) -> None:
    assert (await sandbox.run(Command(kind=kind, text=text))).stdout == b"42\n"


async def test_environment_and_directory(sandbox: Sandbox) -> None:
    command = Command(kind="sh", text="pwd; echo $A $B", cwd="/tmp", env={"A": "1"}, secrets={"B": "2"})
    assert (await sandbox.run(command)).stdout == b"/tmp\n1 2\n"


async def test_the_environment_of_this_machine_stays_outside(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLD_TEST_HOST_SECRET", "visible")
    assert b"MLLD_TEST_HOST_SECRET" not in (await sandbox.run(Command(kind="cmd", text="printenv"))).stdout


async def test_a_time_limit_ends_the_command(sandbox: Sandbox) -> None:
    for seconds in (0.8, 5, 20):  # a machine that stalls may not have begun it by then
        result = await sandbox.run(Command(kind="sh", text="echo begun; sleep 600", timeout_seconds=seconds))
        assert result.timed_out
        if result.stdout:
            break
    assert result.stdout == b"begun\n"


async def test_a_signal_is_told(sandbox: Sandbox) -> None:
    result = await sandbox.run(Command(kind="sh", text="kill -TERM $$"))
    assert (result.exit_code, result.signal, result.oom) == (143, 15, False)


async def test_tools_are_listed_filtered_and_called(sandbox: Sandbox) -> None:
    assert sandbox.tools is not None
    names = sorted(tool.name for tool in sandbox.tools.tools)
    assert names == ["a__echo", "a__look", "b__echo", "b__look", "shout"]  # `a` hides its shout
    result = await sandbox.tools.call("a__echo", {"x": 1})
    assert (result.text, result.is_error) == ('{"x": 1}', False)
    assert {"src:mcp", "mcp:a:echo"} <= set(result.labels)


async def test_calls_at_once_keep_their_answers(sandbox: Sandbox) -> None:
    assert sandbox.tools is not None
    results = await asyncio.gather(*(sandbox.tools.call("b__echo", {"n": n}) for n in range(20)))
    assert [r.text for r in results] == [f'{{"n": {n}}}' for n in range(20)]


async def test_a_secret_reaches_its_server_alone(sandbox: Sandbox) -> None:
    assert sandbox.tools is not None
    ask = {"code": "os.environ.get('API_KEY')"}
    assert (await sandbox.tools.call("a__look", ask)).text == f'"{SECRET}"'
    assert (await sandbox.tools.call("b__look", ask)).text == "null"
    assert b"API_KEY" not in (await sandbox.run(Command(kind="cmd", text="printenv"))).stdout


_ASK = """
import json, os, urllib.request as u
def ask(method, params, session=None):
    head = {'Content-Type': 'application/json', 'Accept': 'application/json, text/event-stream',
            'Authorization': 'Bearer ' + os.environ['MLLD_MCP_TOKEN'], **({'Mcp-Session-Id': session} if session else {})}
    body = json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': method, 'params': params}).encode()
    r = u.urlopen(u.Request(os.environ['MCP_SERVER_URL'], body, head), timeout=20)
    return r.headers.get('Mcp-Session-Id'), r.read().decode()
s, _ = ask('initialize', {'protocolVersion': '2025-06-18', 'capabilities': {}, 'clientInfo': {'name': 'x', 'version': '1'}})
print(ask('tools/call', {'name': 'a__echo', 'arguments': {'said': 'by the agent'}}, s)[1])
"""


async def test_what_the_agent_saw_is_known_at_once(sandbox: Sandbox) -> None:
    """Its own calls count, those of the runner do not, and nothing is still on its way when one asks."""
    assert sandbox.tools is not None
    mark = sandbox.mark()
    await sandbox.tools.call("b__echo", {"x": "by the runner"})
    assert "by the agent" in (await sandbox.run(Command(kind="py", text=_ASK))).stdout.decode()
    seen = await sandbox.witnessed(mark)
    assert [(server, tool) for server, tool, _ in seen.calls] == [("a", "echo")]
    assert (await sandbox.witnessed(sandbox.mark())).calls == ()


async def test_every_call_is_recorded(sandbox: Sandbox) -> None:
    assert sandbox.tools is not None
    await sandbox.tools.call("a__echo", {"x": "for the record"})
    await sandbox.witnessed(sandbox.mark())
    assert isinstance(sandbox.sink, Recorder)
    call = sandbox.sink.of("call")[-1]
    assert (call["server"], call["name"], call["decision"]) == ("a", "echo", "allow")


async def test_a_server_that_ends_is_told_with_its_last_words(backends: Backends) -> None:
    sandbox = backends.sandbox(environment(server("broken", "import sys; sys.exit('missing config.json')")))
    with pytest.raises(ServerFailed, match="broken") as caught:
        await sandbox.__aenter__()
    assert "missing config.json" in caught.value.detail


async def test_a_server_that_never_answers_is_told(backends: Backends) -> None:
    spec = environment(server("mute", "import time; time.sleep(60)"))
    lifecycle = replace(spec.mcp.lifecycle, startup_timeout_ms=1500)
    sandbox = backends.sandbox(replace(spec, mcp=McpConfig(servers=spec.mcp.servers, lifecycle=lifecycle)))
    with pytest.raises(ServerSilent, match=r"'mute' did not answer within 1\.5 s"):
        await sandbox.__aenter__()


async def test_a_filter_with_an_unknown_name_is_told(backends: Backends) -> None:
    sandbox = backends.sandbox(environment(server("a", tools=("ecco",))))
    with pytest.raises(ToolUnknown, match="no tool 'ecco'") as caught:
        await sandbox.__aenter__()
    assert "did you mean 'echo'?" in caught.value.detail


async def test_no_servers_no_tools(backends: Backends) -> None:
    async with backends.sandbox(environment(grants=("sh",))) as sandbox:
        assert sandbox.tools is None
        env = (await sandbox.run(Command(kind="cmd", text="printenv"))).stdout
        assert b"MCP_SERVER_URL" not in env
        assert b"MLLD_PROFILE=tested" in env
        assert (await sandbox.witnessed(0)).calls == ()


async def test_the_end_ends_everything(backends: Backends) -> None:
    async with backends.sandbox(environment(server("a"), grants=("sh",))) as sandbox:
        await sandbox.run(Command(kind="sh", text="sleep 987 >/dev/null 2>&1 &"))
    running = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    assert not [line for line in running if b"sleep\0987" in line]
    assert isinstance(sandbox.sink, Recorder)
    assert sandbox.sink.of("left") == [{"event": "left", "containers": [], "networks": [], "volumes": []}]
