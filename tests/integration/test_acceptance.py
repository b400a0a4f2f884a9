"""The acceptance list in real containers: A5, A8, A9, A11, A17, A18, A21, A22 and A23 (semantics §13).

What needs no engine of these cases, and the other cases, is tried in tests/language and tests/unit/interpreter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support.projects import Done, Project

pytestmark = pytest.mark.engine

# A server whose tools say who they are; `vault` gives something that its module labels secret.
SERVER = """
import json, sys
NAME = sys.argv[1]
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}
TOOLS = [{"name": n, "description": f"{n} of {NAME}", "inputSchema": TEXT} for n in ("echo", "vault", "send", "wipe")]
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    method, params, result = message["method"], message.get("params") or {}, {}
    if method == "initialize":
        result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": NAME, "version": "1"}}
    elif method == "tools/list":
        result = {"tools": TOOLS}
    elif method == "tools/call":
        text = f"{NAME}.{params['name']}({params['arguments'].get('text', '')})"
        result = {"content": [{"type": "text", "text": text}]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
# An agent without a mind: the prompt is a list of calls, all made at once if the first word says so.
AGENT = """
import concurrent.futures, json, os, sys, urllib.request
URL, TOKEN = os.environ.get("MCP_SERVER_URL"), os.environ.get("MLLD_MCP_TOKEN")
session = None

def post(body):
    global session
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    headers["Authorization"] = f"Bearer {TOKEN}"
    if session:
        headers["Mcp-Session-Id"] = session
    with urllib.request.urlopen(urllib.request.Request(URL, json.dumps(body).encode(), headers), timeout=60) as answer:
        session = session or answer.headers.get("Mcp-Session-Id")
        text = answer.read().decode()
    if not text:
        return None
    lines = [line[5:] for line in text.splitlines() if line.startswith("data:")]
    return json.loads(lines[-1] if lines else text)

def call(at, name, arguments):
    reply = post({"jsonrpc": "2.0", "id": at + 10, "method": "tools/call", "params": {"name": name, "arguments": arguments}})
    if "error" in reply:
        return [name, "error", reply["error"]["message"]]
    result = reply["result"]
    return [name, "denied" if result.get("isError") else "ok", result["content"][0]["text"]]

prompt = sys.stdin.read()
if not URL:
    print(json.dumps({"servers": None}))
    sys.exit()
start = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "agent", "version": "1"}}
post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": start})
post({"jsonrpc": "2.0", "method": "notifications/initialized"})
calls = json.loads(prompt)
if calls and calls[0] == "at once":
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda each: call(each[0], *each[1]), enumerate(calls[1:])))
else:
    answers = [call(at, *each) for at, each in enumerate(calls)]
tools = [tool["name"] for tool in post({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})["result"]["tools"]]
print(json.dumps({"tools": sorted(tools), "answers": answers, "token": len(os.environ.get("GITHUB_TOKEN", ""))}))
"""
SPAWN = "exe @spawn(prompt) = cmd { python3 agent.py } with { stdin: @prompt }\nexport { @spawn, @mcpConfig }\n"


def server(name: str, *more: str) -> str:
    return (
        "{ " + ", ".join([f'name: "{name}", command: "python3 server.py {name}", fs: {{ read: ["."] }}', *more]) + " }"
    )


PROFILES = """
profiles { full: { requires: { network } }, readonly: { requires: { } } }
exe @mcpConfig() = when [
  @mx.profile == "full" => { servers: [ SERVERS ] }
  * => { servers: [] }
]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    tmp_path.chmod(0o755)
    made = Project.make(tmp_path)
    made.write("server.py", SERVER)
    made.write("agent.py", AGENT)
    return made


def module(project: Project, *servers: str, more: str = "") -> str:
    return project.module("my", more + PROFILES.replace("SERVERS", ", ".join(servers)) + SPAWN)


def spawn(project: Project, ref: str, calls: list[Any], *more: str) -> dict[str, Any]:
    """What the agent reports, with what the runner says about the run."""
    done = project.spawn(json.dumps(calls), ref, "--json", *more)
    assert done.code == 0, done.err
    said = done.json()
    return {**json.loads(said["answer"]), "run": said}


def answers(report: dict[str, Any]) -> list[str]:
    return [f"{name} {kind}" for name, kind, _ in report["answers"]]


def nothing_left(engine: docker.DockerClient, project: Project) -> None:
    """No container, network or volume of the runs of this project's home."""
    owners = [record.stem.rsplit("-", 1)[-1] for record in (project.home / ".local/share/mlld/runs").glob("*.jsonl")]
    assert owners
    for run in owners:
        label = {"label": f"dev.mlld.run={run}"}
        assert engine.containers.list(all=True, filters=label) == []
        assert engine.networks.list(filters=label) == []
        assert engine.volumes.list(filters=label) == []


def test_A5_A8_full_has_servers_and_readonly_none_and_nothing_is_left(
    project: Project, engine: docker.DockerClient
) -> None:
    ref = module(project, server("one"), server("two"))
    full = spawn(project, ref, [["one__echo", {"text": "hi"}]])
    assert full["answers"] == [["one__echo", "ok", "one.echo(hi)"]]
    assert len(full["tools"]) == 8
    readonly = project.spawn("[]", ref, "--json", "--profile", "readonly")
    assert readonly.code == 0, readonly.err
    assert json.loads(readonly.json()["answer"]) == {"servers": None}  # not even an address was given to the agent
    failing = project.module("bad", PROFILES.replace("SERVERS", server("one")) + "exe @spawn(p) = cmd { false }\n")
    assert project.spawn("[]", failing).code == 1
    nothing_left(engine, project)


def test_A9_A11_filters_decide_on_lists_and_calls_and_names_never_collide(project: Project) -> None:
    ref = module(project, server("one", 'tools: ["echo", "vault"]'), server("two", 'tools: ["echo"]'))
    hidden = ["one__send", "send", "one__wipe", "wipe", "two__vault", "two__send", "one.send", "ECHO", "One__echo"]
    report = spawn(project, ref, [[name, {"text": "x"}] for name in ("one__echo", "two__echo", "vault", *hidden)])
    assert report["tools"] == ["one__echo", "two__echo", "vault"]
    assert [text for _, kind, text in report["answers"] if kind == "ok"] == [
        "one.echo(x)",
        "two.echo(x)",
        "one.vault(x)",
    ]
    for name, kind, text in report["answers"]:
        if name in hidden:  # an unknown tool, however it is spelt: nothing was called
            assert kind != "ok"
            assert "(x)" not in text


def test_A9_the_tools_of_an_environment_narrow_those_of_its_servers(project: Project) -> None:
    ref = module(
        project,
        server("one"),
        more='var @config = { tools: ["echo", "Bash"] }\npolicy @p = { env: { tools: { deny: ["wipe"] } } }\n',
    )
    report = spawn(project, ref, [["echo", {"text": "x"}], ["send", {}], ["wipe", {}]])
    assert report["tools"] == ["echo"]
    assert [text for _, kind, text in report["answers"] if kind == "ok"] == ["one.echo(x)"]


def run_script(project: Project, text: str, *more: str) -> Done:
    project.write("story.mld", text)
    return project.mlld("run", "story.mld", *more)


def test_A17_the_answer_is_tainted_by_what_the_agent_saw(project: Project, engine: docker.DockerClient) -> None:
    module(project, server("one", 'labels: { vault: ["secret"] }'))
    text = """
import { @spawn } from "@local/my"
var @none = @spawn("[]")
show @none.mx.taint.join(",")
var @some = @spawn('[["echo", {}]]')
show @some.mx.taint.join(",")
var @all = @spawn('[["vault", {}]]')
show @all.mx.taint.join(",")
env {} [
  let @direct = @vault()
  show @direct.mx.taint.join(",")
  let @outer = @echo("x")
  => @outer
]
"""
    done = run_script(project, text)
    assert done.code == 0, done.err
    none, some, everything, direct = [set(line.split(",")) for line in done.out.strip().splitlines()]
    assert "src:cmd" in none
    assert not none & {"src:mcp", "secret"}
    assert {"src:cmd", "src:mcp"} <= some
    assert "secret" not in some
    assert {"src:cmd", "src:mcp", "secret"} <= everything
    assert {"src:mcp", "secret"} <= direct
    nothing_left(engine, project)


def test_A18_a_secret_that_the_agent_saw_is_stopped_by_policy_and_by_guard(project: Project) -> None:
    more = """
policy @p = { labels: { secret: { deny: ["op:mcp:one:send"] } } }
guard @g before op:mcp:one:wipe = when [ @mx.taint.includes("secret") => deny "no wiping after secrets" * => allow ]
"""
    ref = module(project, server("one", 'labels: { vault: ["secret"] }'), more=more)
    before = spawn(project, ref, [["send", {}], ["wipe", {}], ["vault", {}], ["send", {}], ["wipe", {}], ["echo", {}]])
    assert answers(before) == ["send ok", "wipe ok", "vault ok", "send denied", "wipe denied", "echo ok"]
    texts = [text for _, kind, text in before["answers"] if kind == "denied"]
    assert "Label 'secret' cannot flow to 'op:mcp:one:send'" in texts[0]
    assert "no wiping after secrets" in texts[1]
    assert all("vault(" not in text for text in texts)


def test_A18_what_was_read_closes_tools_and_the_plan_says_so_before(project: Project) -> None:
    more = 'policy @p = { labels: { secret: { deny: ["op:mcp:one:send", "destructive"] } } }\n'
    labels = 'labels: { vault: ["secret"], wipe: ["destructive"] }, validate: true'
    ref = module(project, server("one", labels), more=more)
    planned = project.mlld("sandbox", "plan", "--env", ref)
    assert planned.code == 0, planned.err
    assert "after secret: no send, wipe (.mlld/env/my/index.mld:1:" in planned.out
    assert "arguments are held against the schema" in planned.out
    blind = spawn(project, ref, [["send", {"text": "hi"}], ["echo", {"text": 3}]])
    assert answers(blind) == ["send ok", "echo denied"]
    assert 'arguments.text: the value is not of type "string"' in blind["answers"][1][2]
    assert blind["tools"] == ["echo", "send", "vault", "wipe"]
    seen = spawn(project, ref, [["vault", {"text": ""}], ["send", {"text": "hi"}], ["echo", {"text": "hi"}]])
    assert answers(seen) == ["vault ok", "send denied", "echo ok"]
    assert seen["tools"] == ["echo", "vault"]


def test_A18_the_policy_of_the_caller_alone_is_enough(project: Project) -> None:
    ref = module(project, server("one", 'labels: { vault: ["secret"] }'))
    project.write("strict.mld", 'policy @strict = { labels: { secret: { deny: ["op:mcp"] } } }\nexport { @strict }\n')
    report = spawn(project, ref, [["send", {}], ["vault", {}], ["send", {}]], "--policy", "./strict.mld")
    assert answers(report) == ["send ok", "vault ok", "send denied"]


def test_A21_a_thousand_calls_at_once_keep_their_verdicts(project: Project) -> None:
    more = """
guard @even before op:mcp:one:echo = when [ @input[0].text.endsWith("even") => deny `denied: @input[0].text` * => allow ]
guard @nine after op:mcp:one:echo = when [ @output.includes("9") => deny "holds a nine" * => allow ]
"""
    ref = module(project, server("one"), more=more)
    texts = [f"{n}-{'even' if n % 2 == 0 else 'odd'}" for n in range(1000)]
    report = spawn(project, ref, ["at once", *(["echo", {"text": text}] for text in texts)])
    assert len(report["answers"]) == 1000
    for text, (_, kind, said) in zip(texts, report["answers"], strict=True):
        if text.endswith("even"):
            assert kind == "denied"
            assert f"denied: {text}" in said
        elif "9" in text:
            assert (kind, "holds a nine" in said) == ("denied", True)
        else:
            assert (kind, said) == ("ok", f"one.echo({text})")


def test_A22_readonly_and_full_in_one_script_in_parallel(project: Project, engine: docker.DockerClient) -> None:
    module(project, server("one"))
    done = run_script(
        project,
        """
import { @spawn } from "@local/my"
exe @in(name) = env {} with { profile: @name } [
  let @said = @spawn('[["echo", {"text": "hi"}]]')
  => `@name: @said`
]
var @names = ["full", "readonly", "full", "readonly"]
var @all = for parallel(4) @n in @names => @in(@n)
for @line in @all => show @line
""",
    )
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.strip()]
    assert [line.split(":")[0] for line in lines] == ["full", "readonly", "full", "readonly"]
    for line in lines:
        said = json.loads(line.partition(":")[2])
        if line.startswith("full"):
            assert said["answers"] == [["echo", "ok", "one.echo(hi)"]]
        else:
            assert said == {"servers": None}
    nothing_left(engine, project)


def test_A13_a_single_file_is_served_alone_and_guarded_by_itself(project: Project) -> None:
    project.write(".env", "TOKEN=hunter2")
    project.write("other.mld", "exe @hidden() = `never`\n")
    project.write(
        "tools.mld",
        """
guard @own before @close = when [ @input[0] == "T-1" => deny "T-1 stays open" * => allow ]
exe @close(id: string) = `closed @id`
exe @look(path: string) = sh { ls -a /module; cat /module/.env /workspace/.env 2>&1 || true }
export { @close, @look }
""",
    )
    ref = module(project, '{ name: "tools", module: "../../../tools.mld" }')
    report = spawn(project, ref, [["close", {"id": "T-1"}], ["close", {"id": "T-2"}], ["look", {"path": "."}]])
    assert report["tools"] == ["close", "look"]
    assert answers(report) == ["close denied", "close ok", "look ok"]
    assert "T-1 stays open" in report["answers"][0][2]
    seen = report["answers"][2][2]
    assert "tools.mld" in seen
    assert "other.mld" not in seen
    assert "hunter2" not in seen


TICKETS = """
exe @listTickets() = `T-1 open`
exe destructive @closeTicket(id: string) = `closed @id`
export { @listTickets, @closeTicket }
"""
STORY = """
import { @spawn } from "@local/story"
policy @mine = { danger: ["cmd:rm:-rf"], labels: { "src:mcp": { deny: ["destructive"] } } }
exe destructive @deleteFile(path) = run cmd { rm -rf "@path" }
guard @secrets before net:w = when [ @mx.taint.includes("secret") => deny "No secrets to network operations" * => allow ]
exe net:w @createIssue(title) = `created @title`
var secret @apiKey = "hunter2-of-the-script"
var @result = @spawn('[["list_tickets", {}], ["close_ticket", {"id": "T-1"}]]')
show @result.mx.taint.join(",")
show @result
show @createIssue("fine")
"""


def test_A23_the_whole_story(project: Project, engine: docker.DockerClient) -> None:
    project.write(".mlld/env/story/tickets/index.mld", TICKETS)
    project.write(".mlld/env/story/tickets/module.yml", "name: tickets\ntype: library\nentry: index.mld\n")
    keep = project.write("keep.txt", "still here")
    project.module(
        "story",
        """
profiles { full: { requires: { network } }, readonly: { requires: { } } }
exe @mcpConfig() = when [
  @mx.profile == "full" => { servers: [
    { name: "tickets", module: "./tickets", labels: { close_ticket: ["destructive"] } }
  ] }
  * => { servers: [] }
]
auth @github = { from: "env:STORY_TOKEN", as: "GITHUB_TOKEN" }
policy @config = { labels: { "src:mcp": { deny: ["op:cmd:git:push"] } } }
guard @careful before destructive = when [ * => deny "tickets stay open" ]
exe @spawn(prompt) = run cmd { python3 agent.py } with { stdin: @prompt } using auth:github
export { @spawn, @mcpConfig }
""",
    )
    token = "ghp_story_0123456789"

    def story(more: str = "", start: str = "") -> Done:
        project.write("story.mld", start + STORY + more)
        return project.mlld("run", "story.mld", STORY_TOKEN=token)

    done = story()
    assert done.code == 0, done.err
    taint, *said, created = done.out.strip().splitlines()
    assert {"src:cmd", "src:mcp", "secret"} <= set(taint.split(","))
    report = json.loads("\n".join(said))
    # Asked after the calls: by @mine, whoever has seen what an MCP server says has no destructive tool any more.
    assert report["tools"] == ["list_tickets"]
    assert report["token"] == len(token)
    assert report["answers"][0] == ["list_tickets", "ok", "T-1 open"]
    assert report["answers"][1][1] == "denied"
    assert "tickets stay open" in report["answers"][1][2]
    assert created == "created fine"

    blocked = story("show @deleteFile(@result)\n")
    assert (blocked.code, "cannot flow to 'destructive'" in blocked.err) == (4, True), blocked.err
    assert keep.exists()
    secret = story("show @createIssue(@apiKey)\n")
    assert (secret.code, "No secrets to network operations" in secret.err) == (4, True), secret.err
    flipped = story(start='policy @strict = { deny: ["network"] }\n')
    assert flipped.code == 0, flipped.err
    assert '"servers": null' in flipped.out
    for each in (done, blocked, secret, flipped):
        assert token not in each.out + each.err
        assert "hunter2" not in each.out + each.err
    for record in (project.home / ".local/share/mlld/runs").glob("*"):
        assert token not in record.read_text()
    nothing_left(engine, project)
