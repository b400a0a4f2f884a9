"""Labels and guards in scripts, and where a tainted or secret value may not go: A16, A17 and A18 of the acceptance list."""

from __future__ import annotations

from pathlib import Path

import pytest

from interpreter import ModuleGuards, load_environment
from tests.support.worlds import ISSUES, Session, World, denied, fine


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, servers=ISSUES)


IMPORT = 'import tools { @listIssues, @createIssue } from mcp "issues"\n'
WIPE = "exe destructive @wipe(x) = `wiped @x`\n"

# ── A16: label flow ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "made",
    [
        "@listIssues()",
        "`text: @raw`",
        "{ a: { b: @raw } }",
        "[ 1, @raw ]",
        "@raw.toUpperCase()",
        "@raw | @upper",
        "@raw.slice(0, 3)",
        "[ @raw ].join(',')",
        "true ? @raw : 'x'",
        "when [ true => @raw ]",
        "for @c in [ @raw ] => `- @c`",
        "@id(@raw)",
        "@raw ?? 'x'",
        "{ ...@object }",
        "@code(@raw)",
        "cmd { echo @raw }",
        "@parsed.list[0]",
        "`@parsed.list`",
    ],
)
async def test_A16_taint_goes_wherever_the_value_goes(world: World, made: str) -> None:
    start = f"""{IMPORT}{WIPE}
var @raw = @listIssues()
var @object = {{ text: @raw }}
var @parsed = {{ list: [ @raw ] }}
exe @id(x) = @x
exe @code(x) = js {{ return x + "?" }}
var @value = {made}
"""
    assert "src:mcp" in fine(await world.run(start + 'show @value.mx.taint.join(",")\n'))[-1]
    done = await world.run(
        'policy @p = { labels: { "src:mcp": { deny: ["destructive"] } } }\n' + start + "show @wipe(@value)\n"
    )
    assert "Label 'src:mcp' cannot flow to 'destructive'" in denied(done)
    assert "wiped" not in done.out


async def test_A16_what_is_not_tainted_passes(world: World) -> None:
    text = (
        'policy @p = { labels: { "src:mcp": { deny: ["destructive"] } } }\n'
        + IMPORT
        + WIPE
        + "var @x = @listIssues()\n"
    )
    assert fine(await world.run(text + "show @wipe('mine')\n"))[-1] == "wiped mine"


@pytest.mark.parametrize(
    ("filter_", "fires"),
    [
        ("secret", True),
        ("op:cmd", True),
        ("op:cmd:echo", True),
        ("op:cmd:echo:*", True),
        ("op:cmd:cat", False),
        ("op:run", True),
        ("src:cmd", False),
    ],
)
async def test_A16_every_filter_that_parses_fires(world: World, filter_: str, fires: bool) -> None:
    done = await world.run(f"""
guard @g before {filter_} = when [ * => deny "stopped by @mx.guard.name" ]
var secret @key = "hunter2"
run cmd {{ echo @key }}
""")
    if fires:
        assert "stopped by g" in denied(done)
        assert "hunter2" not in done.error.render().replace("@key", "")
    else:
        assert done.error is None


async def test_A16_guards_on_taint_see_what_tools_said(world: World) -> None:
    done = await world.run(f"""{IMPORT}
guard @g before src:mcp = when [ @mx.op.type == "show" => deny "not shown: @mx.taint.join(',')" * => allow ]
var @x = @listIssues()
show "before"
show @x
""")
    assert done.lines == ["before"]
    assert "not shown: src:mcp" in denied(done)


async def test_A16_decisions_rank_deny_then_retry_then_values(world: World) -> None:
    done = await world.run("""
exe @f(x) = `got @x`
guard @a before @f = when [ * => allow "first" ]
guard @b before @f = when [ * => allow "second" ]
guard @c before @f = when [ @input[0] == "bad" => deny "bad: @input[0]" * => allow ]
guard @d after @f = when [ * => allow `(@output)` ]
guard @e after @f = when [ * => allow `{@output}` ]
show @f("good")
show @f("bad")
""")
    assert done.lines == ["{(got second)}"]
    assert "bad: bad" in denied(done)


async def test_A16_a_function_can_handle_its_denial(world: World) -> None:
    done = await world.run("""
exe net:w @send(x) = when [
  denied => `refused: @mx.guard.reason`
  * => `sent @x`
]
guard @g before net:w = when [ @mx.taint.includes("secret") => deny "No secrets to network operations" * => allow ]
var secret @key = "hunter2"
show @send("hello")
show @send(@key)
""")
    assert fine(done) == ["sent hello", "refused: No secrets to network operations"]
    assert "[Guard Warning] No secrets to network operations" in done.err


PRIVILEGED = """
policy @p = {{ labels: {{ "src:mcp": {{ deny: ["destructive"] }} }}{locked} }}
guard {privileged} @ok before destructive = when [ * => allow ]
{imports}{wipe}
var @x = @listIssues()
show @wipe(@x)
"""


@pytest.mark.parametrize(
    ("privileged", "locked", "passes"),
    [("privileged", "", True), ("", "", False), ("privileged", ", locked: true", False)],
)
async def test_A16_only_a_privileged_guard_lifts_a_rule_and_never_a_locked_one(
    world: World, privileged: str, locked: str, passes: bool
) -> None:
    done = await world.run(PRIVILEGED.format(privileged=privileged, locked=locked, imports=IMPORT, wipe=WIPE))
    if passes:
        assert fine(done)[-1].startswith("wiped issue 7")
    else:
        assert "cannot flow to 'destructive'" in denied(done)


@pytest.mark.parametrize("label", ["secret", "untrusted", "src:mcp"])
async def test_A16_protected_labels_leave_only_by_privilege(world: World, label: str) -> None:
    text = f"""{IMPORT}
guard PRIVILEGED @strip before @look = when [ * => allow @input[0] with {{ removeLabels: ["{label}"] }} ]
var secret, untrusted @s = "x"
var @both = `@s @listIssues()`
exe @look(x) = `labels @x.mx.taint.join(",")`
show @look(@both)
"""
    plain = await world.run(text.replace("PRIVILEGED", ""))
    assert "protected" in denied(plain)
    strong = await world.run(text.replace("PRIVILEGED", "privileged"))
    assert label not in fine(strong)[-1]


@pytest.mark.parametrize("condition", ["@effect(@input[0])", "@forever(0)", "@missing(@input[0])"])
async def test_A16_a_guard_that_fails_denies(world: World, condition: str) -> None:
    done = await world.run(f"""
exe @f(x) = `did @x`
exe @effect(x) = cmd {{ touch effect.txt }}
exe recursive @forever(n) = @forever(@n)
guard @g before @f = when [
  {condition} => allow
  * => allow
]
show @f("x")
""")
    assert "the guard failed" in denied(done)
    assert "did" not in done.out
    assert not (world.root / "effect.txt").exists()


# ── A17: taint through returns and through @spawn ───────────────────────────────────────────────────

ISSUES_MODULE = """
profiles { full: { requires: { network } }, readonly: { requires: { } } }
exe @mcpConfig() = when [
  @mx.profile == "full" => { servers: [ { name: "issues", npm: "issues", labels: { list_issues: ["untrusted"] } } ] }
  * => { servers: [] }
]
exe @spawn(prompt) = cmd { echo "answer to @prompt" }
exe @quiet() = "said without an agent"
export { @spawn, @quiet, @mcpConfig }
"""


@pytest.mark.parametrize(
    "block",
    [
        "env {} [ => @listIssues() ]",
        "env {} [ let @d = @listIssues()\n => @d ]",
        "env {} [ let @d = @listIssues()\n => { text: @d } ]",
        "env {} [ let @d = @listIssues()\n => `was: @d` ]",
        "env {} [ => env {} [ => @listIssues() ] ]",
        "env {} [ let @d = env {} [ => @listIssues() ]\n => @d ]",
    ],
)
async def test_A17_a_value_that_leaves_a_block_keeps_its_taint(world: World, block: str) -> None:
    world.module("my", ISSUES_MODULE)
    start = 'import { @quiet } from "@local/my"\n' + WIPE
    done = await world.run(f"{start}var @r = {block}\nshow @r.mx.taint.join(',')\n")
    assert {"src:mcp", "untrusted"} <= set(fine(done)[-1].split(",")), done.out
    rule = 'policy @p = { labels: { "src:mcp": { deny: ["destructive"] } } }\n'
    assert "cannot flow" in denied(await world.run(f"{rule}{start}var @r = {block}\nshow @wipe(@r)\n"))


def agent_calls(session: Session) -> None:
    """An agent in the sandbox lists issues."""
    if "issues" in session.connection.servers:
        session.connection.calls.append(("issues", "list_issues", ("untrusted",)))


async def test_A17_what_the_agent_saw_taints_its_answer(world: World) -> None:
    world.module("my", ISSUES_MODULE)
    text = """import { @spawn } from "@local/my"
var @r = @spawn("List open issues")
show @r
show @r.mx.taint.join(",")
show @r.mx.sources.join(",")
"""
    innocent = fine(await world.run(text))
    assert innocent[:2] == ["answer to List open issues", "src:cmd"]
    world.on_command = agent_calls
    seen = fine(await world.run(text))
    assert {"src:cmd", "src:mcp", "untrusted"} <= set(seen[1].split(","))
    assert "mcp:issues:list_issues" in seen[2].split(",")
    readonly = fine(await world.run(text, profile="readonly"))
    assert readonly[1] == "src:cmd"


async def test_A17_the_answer_of_a_command_line_spawn_is_tainted_too(world: World) -> None:
    world.module("my", ISSUES_MODULE)
    world.on_command = agent_calls
    module = await load_environment("@local/my", project=world.root, ports=world.ports())
    answer = await module.spawn("hello", world.ports())
    assert answer.text.strip() == "answer to hello"
    assert {"src:cmd", "src:mcp", "src:user", "untrusted"} <= set(answer.taint)
    assert "mcp:issues:list_issues" in answer.sources
    assert [session.closed for session in world.sessions] == [True]


# ── A18: a secret on its way to an MCP tool ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ('guard @g before op:mcp = when [ @mx.taint.includes("secret") => deny "No secrets" * => allow ]', "No secrets"),
        ('guard @g before op:mcp:issues:create_issue = when [ @mx.taint.includes("secret") => deny "No" * => allow ]', "No"),
        ('guard @g before secret = when [ @mx.op.type == "mcp" => deny "Stays here" * => allow ]', "Stays here"),
        ('policy @p = { labels: { secret: { deny: ["op:mcp"] } } }', "Label 'secret' cannot flow to 'op:mcp'"),
        ('policy @p = { labels: { secret: { deny: ["op:mcp:issues"] } } }', "Label 'secret' cannot flow to 'op:mcp:issues'"),
        (
            'policy @p = { defaults: { rules: ["no-secret-exfil"] }, operations: { exfil: ["op:mcp"] } }',
            "Rule 'no-secret-exfil': label 'secret' cannot flow to 'exfil'",
        ),
    ],
)  # fmt: skip
async def test_A18_a_secret_is_stopped_on_its_way_to_a_tool(world: World, rule: str, reason: str) -> None:
    text = f"{rule}\n{IMPORT}var secret @key = \"hunter2\"\nshow @createIssue('fine')\n"
    for leak in ("@createIssue(@key)", "@createIssue(`title: @key`)", "@createIssue({ text: @key })"):
        done = await world.run(f"{text}show {leak}\n")
        assert done.lines == ["created fine"]
        assert reason in denied(done)
        assert "hunter2" not in done.error.render().replace('@key = "hunter2"', "")


async def test_A18_in_the_sidecar_a_secret_that_the_agent_saw_is_stopped(world: World) -> None:
    world.module(
        "my",
        ISSUES_MODULE
        + """
policy @p = { labels: { secret: { deny: ["op:mcp:issues:create_issue"] } } }
guard @g before op:mcp:issues:delete_issue = when [ @mx.taint.includes("secret") => deny "not after secrets" * => allow ]
""",
    )
    spec = (await load_environment("@local/my", project=world.root, ports=world.ports())).spec()
    assert spec.module is not None
    guards = ModuleGuards.load(spec.module.files, spec.module.entry, "full", spec.policy)
    for tool, reason in (("create_issue", "Label 'secret' cannot flow"), ("delete_issue", "not after secrets")):
        clean = await guards.judge("request", "tools/call", "issues", tool, {"text": "x"}, frozenset({"src:mcp"}))
        assert clean.kind == "allow"
        tainted = await guards.judge(
            "request", "tools/call", "issues", tool, {"text": "x"}, frozenset({"src:mcp", "secret"})
        )
        assert tainted.kind == "deny"
        assert reason in (tainted.reason or "")
