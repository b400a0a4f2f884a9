"""The commands of the README as a person types them: scripts with env blocks, spawn, call, connect, mcp, records, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import docker
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.support.projects import SMALL, Project
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.engine

TWO = """
profiles { full: { requires: { network } }, readonly: { requires: { } } }
exe @mcpConfig() = when [
  @mx.profile == "full" => { servers: [ { name: "small", command: "python3 server.py", fs: { read: ["."] } } ] }
  * => { servers: [] }
]
exe @spawn(prompt) = cmd { scripted } with { stdin: @prompt }
exe @profile() = cmd { sh -c 'echo "$MLLD_PROFILE"' }
export { @spawn, @mcpConfig, @profile }
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.make(tmp_path)


# ------------------------------------------------------------------------------------------------------------- scripts


def test_a_script_uses_both_profiles_and_sees_what_each_answer_saw(project: Project) -> None:
    project.module("two", TWO)
    project.write(
        "both.mld",
        """
import { @spawn } from "@local/two"
import tools { @echoText } from mcp "python3 server.py"
var @cfg = { }
var @full = env @cfg with { profile: "full" } [ => @spawn("Show me the echo text \\"hello\\"") ]
var @readonly = env @cfg with { profile: "readonly" } [ => @spawn("Show me the echo text \\"hello\\"") ]
show `full: @full`
show `readonly: @readonly`
show @full.mx.taint
show @readonly.mx.taint
show @echoText("direct")
""",
    )
    done = project.mlld("run", "both.mld")
    assert done.code == 0, done.err
    assert "full: From echo_text:\n  hello" in done.out
    assert "readonly: I have no tools here" in done.out
    full, readonly = (json.loads(part) for part in json_lists(done.out))
    assert "mcp:small:echo_text" in full
    assert "src:mcp" in full
    assert not any(label.startswith(("mcp:", "src:mcp")) for label in readonly)
    assert done.out.rstrip().endswith("direct")


def json_lists(text: str) -> list[str]:
    """The JSON lists in an output, in order."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (start := text.find("[", at)) >= 0:
        _, at = decoder.raw_decode(text, start)
        found.append(text[start:at])
    return found


def test_hello_starts_no_container_and_imports_no_settings(project: Project) -> None:
    project.write("hello.mld", "show `hello @payload.name`\n")
    done = project.mlld("run", "hello.mld", "name=you", DOCKER_HOST="unix:///nowhere")
    assert (done.code, done.out) == (0, "hello you\n"), done.err
    assert project.mlld("hello.mld", "name=you").out == "hello you\n"
    assert project.mlld("-", stdin="show `from stdin`\n").out == "from stdin\n"


def test_provider_local_says_that_nothing_is_isolated(project: Project) -> None:
    project.write("local.mld", 'var @x = env { provider: "local" } [ => cmd { echo here } ]\nshow @x\n')
    done = project.mlld("run", "local.mld", DOCKER_HOST="unix:///nowhere")
    assert done.code == 0, done.err
    assert "here" in done.out
    assert done.err.count("nothing is isolated") == 1, done.err


# --------------------------------------------------------------------------------------------------------------- spawn


def test_spawn_gives_one_object_and_a_page_for_ci(project: Project) -> None:
    ref = project.servers("m", SMALL)
    done = project.spawn(
        'Show me the echo text "hi"', ref, "--json", "--summary", "summary.md", "--out", "kept", "--agent", "scripted"
    )
    assert done.code == 0, done.err
    result = done.json()
    assert result["ok"] is True
    assert result["answer"].startswith("From echo_text:\n  hi")
    assert [call["name"] for call in result["calls"]] == ["echo_text"]
    assert result["taint"] == ["mcp:small:echo_text", "src:cmd", "src:mcp", "src:user"]
    assert result["left"] == {"containers": [], "networks": [], "volumes": []}
    assert result["plan"].startswith("sha256:")
    assert "| tool calls | 1 |" in (project.path / "summary.md").read_text()
    assert {path.name for path in (project.path / "kept").iterdir()} == {"answer.txt", "plan.json", "record.jsonl"}
    shown = project.mlld("sandbox", "plan", "--env", ref, "--agent", "scripted", "--diff", "last")
    assert shown.code == 0, shown.out + shown.err


def test_the_agents_exit_code_is_ours(project: Project) -> None:
    ref = project.servers("m", SMALL)
    done = project.spawn("say bye\nexit 7", ref)
    assert done.code == 7, done.err
    assert project.spawn("say bye\nexit 7", ref, "--agent", "scripted").code == 7
    assert "exit 7" in project.mlld("sandbox", "ps", "--all").out


def test_an_agent_that_takes_too_long_is_stopped(project: Project) -> None:
    done = project.spawn("sleep 600", project.servers("m", SMALL), "--agent", "scripted", "--timeout", "1")
    assert done.code == 6, done.err
    assert "--timeout" in done.err


def test_call_goes_through_the_fence(project: Project) -> None:
    server = '{ name: "small", command: "python3 server.py", fs: { read: ["."] }, tools: ["echo_text"] }'
    ref = project.servers("m", server)
    done = project.mlld("sandbox", "call", "--env", ref, "echo_text", "text=hello there")
    assert (done.code, done.out) == (0, "hello there\n"), done.err
    hidden = project.mlld("sandbox", "call", "--env", ref, "show_env")
    assert hidden.code == 2
    assert "there is no tool 'show_env'" in hidden.err


def test_only_what_was_granted_is_in_a_servers_environment(project: Project) -> None:
    auth = 'auth @gh = { from: "env:MY_TOKEN", as: "GITHUB_TOKEN" }\n'
    server = SMALL.removesuffix(" }") + ', auth: ["gh"] }'
    ref = project.servers("m", server, more=auth)
    done = project.mlld("sandbox", "call", "--env", ref, "show_env", MY_TOKEN="s3cret-value", HOST_ONLY="x")
    assert done.code == 0, done.err
    assert "GITHUB_TOKEN" in done.out
    assert "MY_TOKEN" not in done.out
    assert "HOST_ONLY" not in done.out
    records = project.home / ".local" / "share" / "mlld" / "runs"
    assert all("s3cret-value" not in path.read_text() for path in records.iterdir())


# ------------------------------------------------------------------------------------------------ MCP towards this side


async def tools_over_stdio(project: Project, *arguments: str) -> tuple[list[str], str]:
    """What the official client gets from one of our commands."""
    program = StdioServerParameters(
        command=sys.executable,
        args=["-P", "-m", "runner", *arguments],
        env=project.environment(),
        cwd=str(project.path),
    )
    async with Client(stdio_client(program)) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        result = await client.call_tool("echo_text", {"text": "over stdio"})
        return names, "".join(getattr(item, "text", "") for item in result.content)


async def test_connect_serves_the_fenced_tools_to_a_client_here(project: Project) -> None:
    names, text = await tools_over_stdio(project, "sandbox", "connect", "--env", project.servers("m", SMALL))
    assert names == ["echo_text", "show_env"]
    assert text == "over stdio"
    assert "command" in project.mlld("sandbox", "show", "last", "--events").out


async def test_connect_reaches_a_run_that_goes_on(project: Project) -> None:
    ref = project.servers("m", SMALL)
    with project.start("sandbox", "spawn", "sleep 600", "--env", ref) as process:
        name = running(project)
        names, text = await tools_over_stdio(project, "sandbox", "connect", name)
        assert (names, text) == (["echo_text", "show_env"], "over stdio")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    gone = project.mlld("sandbox", "connect", name)
    assert gone.code == 5
    assert "it has ended" in gone.err
    assert project.mlld("sandbox", "connect").code == 2


async def test_mcp_serves_a_module(project: Project) -> None:
    project.write("tools.mld", "exe @echoText(text: string) = `@text`\nexport { @echoText }\n")
    names, text = await tools_over_stdio(project, "mcp", "./tools.mld")
    assert (names, text) == (["echo_text"], "over stdio")


# ---------------------------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cleans_up_and_is_130(project: Project, engine: docker.DockerClient, number: signal.Signals) -> None:
    ref = project.servers("m", SMALL)
    with project.start("sandbox", "spawn", "sleep 600", "--env", ref, "--progress", "plain") as process:
        assert process.stderr
        name = running(project)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "stopped by" in err
    assert engine.containers.list(all=True, filters={"label": f"dev.mlld.run={name}"}) == []
    assert project.mlld("sandbox", "ps").out == ""
    assert "exit 130" in project.mlld("sandbox", "ps", "--all").out
    assert project.mlld("sandbox", "verify", name).code == 0


def test_stop_ends_a_run_from_elsewhere(project: Project, engine: docker.DockerClient) -> None:
    ref = project.servers("m", SMALL)
    with project.start("sandbox", "spawn", "sleep 600", "--env", ref) as process:
        name = running(project)
        assert "running" in project.mlld("sandbox", "ps").out
        (row,) = project.mlld("sandbox", "ps", "--usage", "--json").json()
        used = {seat["member"]: seat for seat in row["usage"]}
        assert used.keys() == {"agent", "sidecar", "small"}
        assert all(0 < seat["memoryBytes"] < seat["memoryLimit"] for seat in used.values())
        assert all(0 < seat["processes"] < seat["processesLimit"] for seat in used.values())
        done = project.mlld("sandbox", "stop", name)
        process.communicate(timeout=PATIENCE)
    assert done.code == 0, done.err
    assert engine.containers.list(all=True, filters={"label": f"dev.mlld.run={name}"}) == []


def running(project: Project) -> str:
    """The name of the run, once its agent is at work."""
    records = project.home / ".local" / "share" / "mlld" / "runs"
    path = wait_until(
        lambda: next((path for path in records.glob("*.jsonl") if '"event":"ready"' in path.read_text()), None),
        "the run did not become ready",
    )
    return str(path.name.removesuffix(".jsonl").rpartition("-")[2])


def test_a_newcomers_next_three_commands_work(project: Project) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", str(project.path)]
    subprocess.run(["git", "init", "-q", str(project.path)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "The very first commit"], check=True)
    assert project.mlld("sandbox", "init", "review").code == 0
    plan = project.mlld("sandbox", "plan", "--env", "@local/review")
    assert plan.code == 0, plan.err
    assert "tools: git_log, git_status, git_show" in plan.out
    done = project.spawn("List the latest commits", "@local/review")
    assert done.code == 0, done.err
    assert "The very first commit" in done.out


def test_a_shell_in_the_agents_seat_has_a_terminal(project: Project) -> None:
    more = "profiles { full: { requires: { sh } } }\nexe @shell() = cmd { bash -i }\nexport { @shell }\n"
    ref = project.servers("m", SMALL, more=more)
    assert project.mlld("sandbox", "shell", "--env", ref).code == 2  # without a terminal
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(project.path)
        arguments = [sys.executable, "-P", "-m", "runner", "sandbox", "shell", "--env", ref, "--progress", "none"]
        os.execve(sys.executable, arguments, project.environment())
    shown, sent, until = b"", False, time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not sent and b"$ " in shown:
            os.write(terminal, b"echo $((6*7)) $(tty); exit 5\n")
            sent = True
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 5, shown.decode(errors="replace")
    assert b"42 /dev/pts/" in shown
