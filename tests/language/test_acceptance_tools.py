"""Servers, tools and what is served, in scripts: A8 to A13, A15 and A21 of the acceptance list (semantics §13)."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from interpreter import ModuleGuards, load_environment, serve_module
from interpreter.errors import Denied, MlldError
from interpreter.ports import Denial
from tests.support.worlds import World, fine

SERVERS = {
    "tickets": {
        "list_tickets": lambda a: f"tickets {a.get('text', '')}".strip(),
        "close_ticket": lambda a: f"closed {a.get('text')}",
        "getTicketText": lambda _: '{"id": 7}',
    },
    "notes": {"list_notes": lambda _: "notes", "search": lambda _: "found in notes"},
    "wiki": {"search": lambda _: "found in the wiki"},
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, servers=SERVERS)


def config(*servers: str) -> str:
    return f"exe @mcpConfig() = {{ servers: [ {', '.join(servers)} ] }}\n"


TICKETS = '{ name: "tickets", npm: "tickets" }'
NOTES = '{ name: "notes", npm: "notes" }'


async def test_a_call_that_the_fence_refuses_is_a_denial_with_its_rule(tmp_path: Path) -> None:
    refused = Denial(rule="guard @no (index.mld:3:1)", reason="not now")
    world = World(tmp_path, servers={"tickets": {"list_tickets": lambda _: refused}})
    for text in (
        config(TICKETS) + "env {} [ show @listTickets() ]\n",
        'import tools { @listTickets } from mcp "tickets"\nshow @listTickets()\n',
    ):
        done = await world.run(text)
        assert isinstance(done.error, Denied), done.error
        assert (done.error.exit_code, done.error.rule) == (4, "guard @no (index.mld:3:1)")
        assert "not now" in done.error.message
    handled = """import tools { @listTickets } from mcp "tickets"
exe @ask() = when [ denied => `refused: @mx.guard.reason` ; * => @listTickets() ]
show @ask()
"""
    assert fine(await world.run(handled)) == ["refused: not now"]


LENT = """exe @read(id: string) = `data:@id`
var tools @lent = { read: { mlld: @read, labels: ["untrusted", "destructive"] } }
exe @agent(tools) = box with { tools: @tools } [ => @read("1") ]
exe @nested(tools) = box with { tools: @tools } [ => box [ => @read("1") ] ]
"""


async def test_cannot_lose_the_labels_of_a_tool_by_calling_its_function_in_the_block(world: World) -> None:
    asked = """var @direct = @agent(@lent)
var @deeper = @nested(@lent)
show @direct.mx.taint.includes("untrusted")
show @deeper.mx.taint.includes("untrusted")
show @read("1").mx.taint.includes("untrusted")
"""
    # The control is the last one: outside of the block it is the function alone.
    assert fine(await world.run(LENT + asked)) == ["true", "true", "false"]


async def test_cannot_pass_a_guard_by_a_function_that_a_collection_labels(world: World) -> None:
    guarded = 'guard before destructive = when [ * => deny "not this one" ]\n' + LENT
    assert fine(await world.run(guarded + 'show @read("0")\n')) == ["data:0"]
    done = await world.run(guarded + "show @agent(@lent)\n")
    assert isinstance(done.error, Denied), done.error
    assert "not this one" in done.error.message


# ── A8 ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_A8_names_of_tools_end_with_the_block(world: World) -> None:
    text = config(TICKETS) + "env {} [ show @listTickets() ]\n"
    assert fine(await world.run(text)) == ["tickets"]
    done = await world.run(text + "show @listTickets()\n")
    assert done.error is not None
    assert "listTickets" in done.error.message
    again = await world.run(text + "env {} [ show @listTickets() ]\n")  # and can be there again
    assert fine(again) == ["tickets", "tickets"]


@pytest.mark.parametrize(
    "body",
    [
        "run cmd { false }",
        "show @nobody",
        'let @x = env { tools: ["Nope"] } [ show "x" ]',
        'bail "stop"',
        "=> @listTickets()",
        "let @r = js { throw new Error('x') }",
    ],
)
async def test_A8_every_way_out_closes_the_sandbox(world: World, body: str) -> None:
    done = await world.run(config(TICKETS) + f'env {{ tools: ["Bash", "list_tickets"] }} [\n  {body}\n]\n')
    assert [session.closed for session in done.sessions] == [True]
    assert done.sessions[0].error is done.error or done.error is None


async def test_A8_a_cancelled_script_closes_its_sandboxes(world: World) -> None:
    task = asyncio.create_task(world.run(config(TICKETS) + "env {} [ run cmd { sleep 30 } ]\n"))
    while not world.sessions:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.sessions[0].closed
    assert isinstance(world.sessions[0].error, asyncio.CancelledError)


async def test_A8_one_sandbox_for_all_commands_of_a_block(world: World) -> None:
    done = await world.run("""
exe @outside() = cmd { echo from outside }
exe @script() = sh { echo "in sh" }
env {} [
  let @first = run cmd { echo one }
  show @first
  let @a = cmd { echo two }
  show @a
  show @outside()
  show @script()
  let @b = "three" | cmd { cat }
  show @b
]
run cmd { echo not inside }
""")
    assert fine(done) == ["one", "two", "from outside", "in sh", "three", "not inside"]
    (session,) = done.sessions
    assert len(session.commands.seen) == 5


# ── A9, A10, A11 ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tools", "listed"),
    [
        ('"*"', ["closeTicket", "getTicketText", "listTickets"]),
        ('["list_tickets"]', ["listTickets"]),
        ('["listTickets", "get_ticket_text"]', ["getTicketText", "listTickets"]),
        ("[]", []),
    ],
)
async def test_A9_A10_the_filter_decides_what_is_listed_and_what_can_be_called(
    world: World, tools: str, listed: list[str]
) -> None:
    start = config(f'{{ name: "tickets", npm: "tickets", tools: {tools} }}')
    done = await world.run(start + "env {} [ show @mx.tools.allowed | @json ]\n")
    assert sorted(json.loads(done.out)) == listed
    for name in ("listTickets", "closeTicket", "getTicketText"):
        called = await world.run(start + f"env {{}} [ show @{name}() ]\n")
        assert (called.error is None) is (name in listed), name


async def test_A9_a_block_narrows_the_tools_further(world: World) -> None:
    done = await world.run(
        config(TICKETS) + 'env { tools: ["listTickets"] } [\n show @listTickets()\n show @closeTicket("1")\n]\n'
    )
    assert done.lines == ["tickets"]
    assert done.error is not None
    imported = await world.run("""
import tools { @closeTicket } from mcp "tickets"
show @closeTicket("1")
env { tools: ["list_tickets"] } [ show @closeTicket("2") ]
""")
    assert imported.lines == ["closed 1"]
    assert imported.error is not None
    assert imported.error.exit_code == 4
    assert "denied by env.tools" in imported.error.message


async def test_A10_a_name_that_no_server_has_lists_what_there_is(world: World) -> None:
    done = await world.run(
        config('{ name: "tickets", npm: "tickets", tools: ["list_tickts"] }') + "env {} [ show 'x' ]\n"
    )
    assert done.error is not None
    assert (
        "server 'tickets' has no tool 'list_tickts': it has list_tickets, close_ticket or getTicketText"
        in done.error.message
    )
    assert done.error.hint == "did you mean 'list_tickets'?"


async def test_A11_servers_with_an_alias_keep_their_tools_apart(world: World) -> None:
    done = await world.run(
        config('{ name: "notes", npm: "n", as: "notes" }', '{ name: "wiki", npm: "w", as: "wiki", tools: ["search"] }')
        + "env {} [ show `@notes.listNotes()` ]\n"
    )
    assert fine(done) == ["notes"]
    (session,) = done.sessions
    assert {name: sorted(tools) for name, tools in session.connection.servers.items()} == {
        "notes": ["list_notes", "search"], "wiki": ["search"]
    }  # fmt: skip
    assert [server.alias for server in session.spec.mcp.servers] == ["notes", "wiki"]


# ── A12 ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "message", "line"),
    [
        ("{ servers: [\n  { npm: \"x\" },\n  { command: 3 }\n] }", "mcpConfig.servers[1].command must be a string", 3),
        ("{ servers: [\n  { npm: \"x\", tools: \"echo\" }\n] }", 'mcpConfig.servers[0].tools must be "*" or a list of strings', 2),
        ("{ servers: [\n  { npm: \"x\",\n    env: [1] }\n] }", "mcpConfig.servers[0].env must be an object, got a list", 3),
        ("{ servers: [\n\n  { nmp: \"x\" } ] }", "mcpConfig.servers[0] has no key 'nmp'", 3),
        ("{\n  server: [] }", "mcpConfig has no key 'server'", 2),
        ("{ servers: [],\n  lifecycle: { idleTimeoutMs: \"1s\" } }", "mcpConfig.lifecycle.idleTimeoutMs must be a whole number", 2),
        ("[ ]", "mcpConfig must be an object", 1),
        ('"not json"', "mcpConfig is text that is not JSON", 1),
        ("when [\n  false => { servers: [] }\n  * => { servers: [ { npm: 3 } ] }\n]", "servers[0].npm must be a string", 3),
        ("when [\n  true => { servers: [ { npm: 3 } ] }\n  * => { servers: [ { npm: 4 } ] }\n]", "servers[0].npm must be", 2),
    ],
)  # fmt: skip
async def test_A12_a_malformed_value_names_its_path_and_its_line(
    world: World, value: str, message: str, line: int
) -> None:
    done = await world.run(f"exe @mcpConfig() = {value}\nenv {{}} [ show 'never' ]\n")
    assert done.error is not None
    assert message in done.error.message
    assert done.error.exit_code == 3
    assert done.error.span is not None
    assert (done.error.span.source.name, done.error.span.line) == ("script.mld", line)
    assert "^" in done.error.render()
    assert (done.out, done.sessions) == ("", [])


async def test_A12_a_value_in_a_variable_is_found_where_it_was_written(world: World) -> None:
    done = await world.run("""var @servers = [
  { npm: "x" },
  { npm: "y", args: "z" }
]
exe @mcpConfig() = { servers: @servers }
env {} [ show "never" ]
""")
    assert done.error is not None
    assert done.error.span is not None
    assert done.error.span.line == 3


@pytest.mark.parametrize("value", ["null", '"null"', "when [ false => { servers: [] } ]", "{ servers: [] }", '"{}"'])
async def test_A12_no_servers_can_be_said_in_many_ways(world: World, value: str) -> None:
    done = await world.run(f"exe @mcpConfig() = {value}\nenv {{}} [ show 'fine' ]\n")
    assert fine(done) == ["fine"]
    assert done.sessions[0].spec.mcp.servers == ()


@pytest.mark.parametrize(
    "effect",
    [
        "cmd { touch /tmp/mlld-effect }",
        "sh { touch /tmp/mlld-effect }",
        "js { return 1 }",
        "py { print(1) }",
        "node { console.log(1) }",
        "[ output 'x' to 'effect.txt'\n => null ]",
        "[ let @x = cmd { touch effect.txt }\n => null ]",
        "[ run cmd { touch effect.txt }\n => null ]",
        "@outside()",
        "[ env {} [ show 'x' ]\n => null ]",
        "<https://example.com/x>",
    ],
)
async def test_A12_mcpConfig_can_have_no_effect(world: World, effect: str) -> None:
    done = await world.run(
        f"exe @outside() = cmd {{ touch effect.txt }}\nexe @mcpConfig() = {effect}\nenv {{}} [ show 'never' ]\n"
    )
    assert done.error is not None, done.out
    assert re.search("without effects|cannot write while it is read|calls itself", done.error.message), (
        done.error.message
    )
    assert done.error.span is not None
    assert done.error.span.line in (1, 2)
    assert not (world.root / "effect.txt").exists()
    assert done.sessions == []


# ── A13 ─────────────────────────────────────────────────────────────────────────────────────────────

SERVED = """
policy @own = { labels: { secret: { deny: ["destructive"] } } }
guard @careful before destructive = when [
  @mx.args.id == "T-1" => deny "T-1 stays open"
  * => allow
]
guard @quiet after op:exe = when [
  @output.includes("hidden") => deny "this is hidden"
  * => allow
]
exe destructive @closeTicket(id: string, reason = "done") = `closed @id: @reason`
exe @getTicket(id: string) = when [
  @id == "T-9" => "a hidden thing"
  * => `ticket @id`
]
exe @count(items: array, factor: number) = `@items.length x @factor`
exe @shape() = { a: 1, b: [true, null] }
exe @private() = "private"
export { @closeTicket, @getTicket, @count, @shape }
"""


async def call(server: Any, name: str, **arguments: object) -> tuple[bool, str]:
    reply = await server.handle(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    )
    result = reply["result"]
    return result["isError"], result["content"][0]["text"]


async def test_A13_a_served_module_is_guarded_by_its_own_guards(world: World) -> None:
    world.write("tickets.mld", SERVED)
    server = await serve_module("./tickets.mld", project=world.root, ports=world.ports())
    server._ready = True
    listed = (await server.handle({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}))["result"]["tools"]
    shown = {tool["name"]: tool for tool in listed}
    assert sorted(shown) == ["close_ticket", "count", "get_ticket", "shape"]
    assert shown["close_ticket"]["inputSchema"] == {
        "type": "object", "properties": {"id": {"type": "string"}, "reason": {"type": "string"}}, "required": ["id"],
        "additionalProperties": False,
    }  # fmt: skip
    assert shown["close_ticket"]["_meta"] == {"dev.mlld/labels": ["destructive"]}
    assert shown["count"]["inputSchema"]["properties"] == {"items": {"type": "array"}, "factor": {"type": "number"}}
    assert await call(server, "close_ticket", id="T-2") == (False, "closed T-2: done")
    error, text = await call(server, "close_ticket", id="T-1")
    assert error
    assert text.startswith("denied: T-1 stays open (guard @careful (tickets.mld:3:1)")
    assert (await call(server, "get_ticket", id="T-9"))[0]
    assert await call(server, "get_ticket", id="T-3") == (False, "ticket T-3")
    assert await call(server, "count", items=[1, 2, 3], factor=2.5) == (False, "3 x 2.5")
    reply = await server.handle(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "shape", "arguments": {}}}
    )
    assert reply["result"]["structuredContent"] == {"a": 1, "b": [True, None]}


async def test_A13_served_tools_add_no_mcp_taint(world: World) -> None:
    world.write("t.mld", "exe @see(x) = `@x.mx.taint | @json`\nexport { @see }\n")
    server = await serve_module("./t.mld", project=world.root, ports=world.ports())
    server._ready = True
    assert "src:mcp" not in (await call(server, "see", x="a"))[1]


async def test_A13_a_collection_binds_parameters_that_nobody_can_send(world: World) -> None:
    world.write(
        "t.mld",
        """
exe @search(org: string, query: string, limit: number) = `@org/@query/@limit`
var tools @mine = {
  find: { mlld: @search, bind: { org: "acme" }, expose: ["query", "limit"], optional: ["limit"], description: "Find it" }
}
export { @search }
""",
    )
    server = await serve_module("./t.mld", project=world.root, ports=world.ports(), collection="@mine")
    server._ready = True
    (tool,) = server.tools
    assert (tool.name, tool.description, tool.schema["required"]) == ("find", "Find it", ["query"])
    assert await call(server, "find", query="x", limit=3) == (False, "acme/x/3")
    error, text = await call(server, "find", query="x", org="evil")
    assert error
    assert text == "tool 'find' has no parameter 'org': it has query or limit"


async def test_A13_what_can_be_served_and_what_cannot(world: World) -> None:
    world.write("lib/a.mld", "exe @one() = 1\nexport { @one }\n")
    world.write("lib/deep/b.mld", "exe @two() = 2\n")
    served = await serve_module("./lib", project=world.root, ports=world.ports())
    assert [tool.name for tool in served.tools] == ["one", "two"]
    some = await serve_module("./lib", project=world.root, ports=world.ports(), tools=["One"])
    assert [tool.name for tool in some.tools] == ["one"]
    world.write("lib/c.mld", "exe @two() = 3\n")
    world.write("none.mld", "var @x = 1\nexport { @x }\n")
    for ref, tools, message in (
        ("./lib", None, "two modules serve a tool 'two'"),
        ("./none.mld", None, "has no function to serve"),
        ("./lib/a.mld", ["tow"], "has no tool 'tow': it has one"),
    ):
        with pytest.raises(MlldError, match=message):
            await serve_module(ref, project=world.root, ports=world.ports(), tools=tools)


# ── A15 ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_A15_direct_imports_coerce_taint_and_keep_their_lineage(world: World) -> None:
    done = await world.run("""
import tools { @listTickets, @getTicketText as @text } from mcp "tickets"
import tools from mcp "notes" as @n
var @a = @listTickets("open")
show @a
show @a.mx.taint.join(",")
show `labels @a.mx.labels.join(",")`
show @a.mx.sources.join(",")
show @a.mx.tools[0].name
var @t = @text() | @parse
show @t.id
show @t.id.mx.taint.join(",")
var @template = `in a template: @a`
show @template.mx.taint.join(",")
show @n.listNotes()
""")
    lines = fine(done)
    assert lines[:3] == ["tickets open", "src:mcp", "labels "]
    assert lines[3] == "mcp:list_tickets,mcp:tickets:list_tickets"
    assert lines[4] == "list_tickets"
    assert lines[5:8] == ["7", "src:mcp", "src:mcp"]
    assert lines[8] == "notes"
    assert sorted(world.opened) == ["notes", "tickets"]


# ── A21 ─────────────────────────────────────────────────────────────────────────────────────────────

GUARDED = """
profiles { full: { requires: { } } }
guard @even before op:mcp:numbers = when [
  @input[0].n % 2 == 0 => deny `@input[0].n is even`
  @input[0].n % 3 == 0 => allow { n: 0 }
  * => allow
]
guard @big after op:mcp:numbers = when [
  @output.includes("9") => deny `@output holds a nine`
  * => allow
]
exe @mcpConfig() = { servers: [ { name: "numbers", npm: "numbers", labels: { wipe: ["destructive"] } } ] }
exe @spawn(prompt) = "x"
export { @spawn, @mcpConfig }
"""


async def test_A21_a_thousand_pipelined_calls_keep_their_verdicts(world: World) -> None:
    world.module("numbers", GUARDED)
    module = await load_environment("@local/numbers", project=world.root, ports=world.ports())
    spec = module.spec()
    assert spec.module is not None
    guards = ModuleGuards.load(spec.module.files, spec.module.entry, "full", spec.policy)
    assert guards.active

    async def both(n: int) -> tuple[str, object, str]:
        asked = await guards.judge("request", "tools/call", "numbers", "look", {"n": n}, frozenset())
        result = {"content": [{"type": "text", "text": f"got {n}"}]}
        said = await guards.judge("result", "tools/call", "numbers", "look", result, frozenset({"src:mcp"}))
        return asked.kind, asked.reason if asked.kind == "deny" else asked.value, said.kind

    verdicts = await asyncio.gather(*(both(n) for n in range(1000)))
    for n, (kind, detail, result) in enumerate(verdicts):
        expected: tuple[str, object] = ("allow", None)
        if n % 2 == 0:
            expected = ("deny", f"{n} is even")
        elif n % 3 == 0:
            expected = ("transform", {"n": 0})
        assert (kind, detail) == expected
        assert result == ("deny" if "9" in str(n) else "allow")


async def test_A21_a_served_module_keeps_verdicts_with_their_calls(world: World) -> None:
    world.write("t.mld", SERVED)
    server = await serve_module("./t.mld", project=world.root, ports=world.ports())
    server._ready = True
    replies: dict[int, dict[str, Any]] = {}

    async def send(line: bytes) -> None:
        message = json.loads(line)
        assert message["id"] not in replies
        replies[message["id"]] = message["result"]

    for n in range(1000):
        params = {"name": "close_ticket", "arguments": {"id": "T-1" if n % 3 == 0 else f"T-{n + 10}"}}
        await server.receive(
            json.dumps({"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": params}).encode(), send
        )
    await server.drain()
    assert len(replies) == 1000
    for n, result in replies.items():
        text = result["content"][0]["text"]
        assert result["isError"] is (n % 3 == 0), (n, text)
        assert text.startswith("denied: T-1 stays open" if n % 3 == 0 else f"closed T-{n + 10}:")
