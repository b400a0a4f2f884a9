"""Modules that are read, asked and judged with: no effect, no end without a bound, no verdict lost (P9, P13)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from interpreter import ModuleGuards, load_environment
from interpreter.errors import MlldError
from interpreter.module import EnvironmentModule
from interpreter.module_messages import text_of
from interpreter.policy_parse import parse_policy
from tests.support.worlds import World

SPAWN = "exe @spawn(prompt) = cmd { echo @prompt }\nexport { @spawn, @mcpConfig }\n"
NO_SERVERS = "exe @mcpConfig() = null\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def load(world: World, text: str, **options: object) -> EnvironmentModule:
    world.module("my", text)
    return await load_environment("@local/my", project=world.root, ports=world.ports(), **options)


# ── P13: reading acts on nothing ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        "run cmd { touch effect.txt }",
        "run sh { touch effect.txt }",
        "var @x = cmd { touch effect.txt }",
        "var @x = sh { touch effect.txt }",
        "var @x = py { open('effect.txt', 'w') }",
        "var @x = node { require('fs').writeFileSync('effect.txt', '') }",
        "var @x = js { return 1 }",
        'output "x" to "effect.txt"',
        'append "x" to "effect.txt"',
        'output "x" to "@root/effect.txt"',
        "exe @f() = cmd { touch effect.txt }\nvar @x = @f()",
        'import tools { @echo } from mcp "touch effect.txt"',
        "env {} [ run cmd { touch effect.txt } ]",
        "var @x = <../../../secret.txt>",
        "var @x = <@root/secret.txt>",
        'import { @x } from "../../../outside.mld"',
        "var @x = <https://example.com/>",
        'auth @a = { from: "env:SECRET", as: "S" }\nrun cmd { echo $S > effect.txt } using auth:a',
        "var @x = for @i in [1, 2] => cmd { touch effect.txt }",
        "var @x = [1] | cmd { touch effect.txt }",
        "exe @f() = js { return 1 }\nvar @x = @f()",
        "import { @path } from node @fs",
    ],
)
async def test_cannot_act_while_a_module_is_read(world: World, text: str) -> None:
    world.write("secret.txt", "hunter2")
    world.write("outside.mld", "var @x = 1\nexport { @x }\n")
    with pytest.raises(MlldError) as caught:
        await load(world, f"{text}\n{NO_SERVERS}{SPAWN}")
    assert "hunter2" not in caught.value.render()
    assert not list(world.root.rglob("effect.txt"))
    assert world.opened == []
    assert world.sessions == []


async def test_its_own_files_can_be_read(world: World) -> None:
    world.write(".mlld/env/my/words.txt", "hello")
    world.write(".mlld/env/my/lib.mld", "exe @twice(x) = `@x @x`\nexport { @twice }\n")
    module = await load(
        world, 'import { @twice } from "./lib.mld"\nvar @w = <./words.txt>\nvar @x = @twice(@w)\n' + NO_SERVERS + SPAWN
    )
    assert module.name == "my"


@pytest.mark.parametrize(
    "text",
    [
        "exe recursive @f(n) = @f(@n)\nvar @x = @f(1)",
        "exe @f() = loop [ let @x = 1 ]\nvar @x = @f()",
        "exe @f() = loop(99999999) [ let @x = 1 ]\nvar @x = @f()",
        "var @a = [1,2,3,4,5,6,7,8,9,10]\nvar @x = " + "for @i in @a => " * 7 + "1",
        "\n".join(["var @a0 = 'xxxxxxxxxx'", *(f"var @a{n} = `{' '.join([f'@a{n - 1}'] * 10)}`" for n in range(1, 12))]),
        "\n".join(["var @a0 = 'x'", *(f"var @a{n} = [{', '.join([f'@a{n - 1}'] * 10)}]" for n in range(1, 10)), "var @x = `@a9`"]),
        "var @x = " + "[" * 5000 + "]" * 5000,
        "var @x = " + "(" * 5000 + "1" + ")" * 5000,
        "var @x = " + "!" * 20_000 + "true",
        "var @x = { a: " * 3000 + "1" + " }" * 3000,
        "exe @a() = @b()\nexe @b() = @a()\nvar @x = @a()",
        'import { @x } from "./index.mld"\nvar @x = 1',
    ],
    ids=[
        "recursion", "loop", "long loop", "nested loops", "text laughs", "list laughs", "lists", "parens", "nots", "objects",
        "ring", "import ring",
    ],
)  # fmt: skip
async def test_cannot_go_on_for_ever(world: World, text: str) -> None:
    before = time.process_time()
    with pytest.raises(MlldError):
        await load(world, f"{text}\n{NO_SERVERS}{SPAWN}")
    assert time.process_time() - before < 20


async def test_a_module_of_many_megabytes_is_refused(world: World) -> None:
    world.write(".mlld/env/my/big.txt", "x" * (9 << 20))
    with pytest.raises(MlldError, match="larger than 8 MB"):
        await load(world, "var @x = <./big.txt>\n" + NO_SERVERS + SPAWN)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"show \x00", b"var @x = 'a\x80'"])
async def test_bytes_that_are_no_text_are_refused(world: World, data: bytes) -> None:
    world.module("my", "")
    (world.root / ".mlld/env/my/index.mld").write_bytes(data)
    with pytest.raises(MlldError):
        await load_environment("@local/my", project=world.root, ports=world.ports())


# ── What is loaded ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("exe @spwn(p) = `x`\nexport { @spwn }", "did you mean @spwn? The function must be called @spawn"),
        ("exe @spawn(p) = `x`\nexe @other() = `y`\nexport { @other }", "export { @spawn }"),
        ("var @x = 1\nexport { @x }", "exe @spawn(prompt) = cmd { … }"),
        ("var @spawn = 'text'\nexport { @spawn }", None),
    ],
)
async def test_a_module_without_spawn_says_what_it_has(world: World, text: str, hint: str | None) -> None:
    module = await load(world, text)
    with pytest.raises(MlldError, match="'my' exports no @spawn") as caught:
        module.require("spawn")
    assert caught.value.exit_code == 3
    assert hint is None or caught.value.hint == hint


async def test_a_syntax_error_has_its_caret(world: World) -> None:
    with pytest.raises(MlldError) as caught:
        await load(world, "var @x = [1,\nexe @spawn(p) = `x`\n")
    assert caught.value.exit_code == 3
    assert ".mlld/env/my/index.mld:" in caught.value.render()
    assert "^" in caught.value.render()


async def test_the_callers_policy_is_put_on_top(world: World) -> None:
    text = "profiles { full: { requires: { network } }, small: { requires: { } } }\n" + NO_SERVERS + SPAWN
    assert (await load(world, text)).spec().profile.profile.name == "full"
    denying = parse_policy({"deny": ["net"]}, name="caller")
    assert (await load(world, text, policy=denying)).spec().profile.profile.name == "small"
    world.write("strict.mld", 'policy @strict = { deny: ["network"] }\nexport { @strict }\n')
    spec = (await load(world, text, policy="./strict.mld")).spec()
    assert spec.profile is not None
    assert spec.profile.profile.name == "small"
    assert spec.profile.denied["full"][0].rule.startswith("policy @strict: deny network (strict.mld:1:")
    world.write("none.mld", "var @x = 1\n")
    with pytest.raises(MlldError, match="declares no policy"):
        await load(world, text, policy="./none.mld")


async def test_the_profile_and_the_provider_come_from_the_caller(world: World) -> None:
    text = "profiles { full: { requires: { network } }, small: { requires: { } } }\n" + NO_SERVERS + SPAWN
    spec = (await load(world, text, profile="small", provider="local")).spec()
    assert (spec.profile.profile.name, spec.provider) == ("small", "local")
    with pytest.raises(MlldError, match="unknown profile 'smal'"):
        await load(world, text, profile="smal")
    with pytest.raises(MlldError, match="there is no provider 'podman'"):
        await load(world, text, provider="podman")


async def test_the_configuration_of_the_module_shapes_its_environment(world: World) -> None:
    spec = (
        await load(
            world,
            'var @config = { image: "alpine:3", limits: { pids: 7 }, fs: { read: ["."] } }\n' + NO_SERVERS + SPAWN,
        )
    ).spec()
    assert (spec.image, spec.limits.pids, [rule.path for rule in spec.files.read]) == ("alpine:3", 7, ["."])
    with pytest.raises(MlldError, match="has no key 'imge'") as caught:
        await load(world, 'var @config = {\n  imge: "alpine:3"\n}\n' + NO_SERVERS + SPAWN)
    assert caught.value.span is not None
    assert caught.value.span.line == 2


@pytest.mark.parametrize("guard", ["", "guard @g before op:mcp = when [ * => allow ]\n"])
async def test_a_served_module_is_found_from_where_it_is_named(world: World, guard: str) -> None:
    servers = 'exe @mcpConfig() = { servers: [ { module: "./tools" }, { module: "@local/x" } ] }\n'
    spec = (await load(world, guard + servers + SPAWN)).spec()
    home = world.root / ".mlld/env/my"
    if guard:  # the module travels, and with it the directory
        assert spec.module is not None
        assert spec.module.root == str(home)
        assert [s.target for s in spec.mcp.servers] == ["./tools", "@local/x"]
    else:
        assert spec.module is None
        assert [s.target for s in spec.mcp.servers] == [str(home / "tools"), "@local/x"]


async def test_secrets_that_commands_use_are_known_by_name(world: World) -> None:
    spec = (
        await load(
            world,
            """
auth @gh = { from: "env:GH", as: "TOKEN" }
auth @unused = { from: "env:U", as: "U" }
exe @spawn(prompt) = run cmd { printenv TOKEN } using auth:gh
""",
        )
    ).spec()
    assert spec.agent_auth == ("gh",)
    assert set(spec.auth) == {"gh", "unused"}


async def test_shell_runs_in_the_environment(world: World) -> None:
    module = await load(world, NO_SERVERS + "exe @shell() = cmd { echo hello }\nexport { @shell }\n")
    await module.shell(world.ports())
    assert [session.closed for session in world.sessions] == [True]


async def test_without_sandboxes_nothing_is_entered(world: World) -> None:
    module = await load(world, NO_SERVERS + SPAWN)
    with pytest.raises(MlldError, match="an environment cannot be used here"):
        await module.spawn("x", world.ports(sandboxes=False))


# ── Judging in the sidecar ──────────────────────────────────────────────────────────────────────────

GUARDS = """
exe @mcpConfig() = { servers: [ { name: "s", npm: "s", labels: { wipe: ["destructive"] } } ] }
guard @args before op:mcp:s:named = when [ @input[0].path.includes("..") => deny `no way up: @input[0].path` * => allow ]
guard @danger before destructive = when [ * => deny "nothing is wiped" ]
guard @again before op:mcp:s:again = when [ * => retry "say please" ]
guard @mask after op:mcp:s:mask = when [ * => allow "***" ]
guard @label after op:mcp:s:label = when [ * => allow @output with { addLabels: ["pii"] } ]
guard @ask before op:mcp:s = when [
  @mx.taint.includes("src:mcp") && @mx.op.tool == "sampling/createMessage" => deny "no questions"
  * => allow
]
guard @loop before op:mcp:s:loop = when [
  @forever(1) => allow
  * => allow
]
guard @act before op:mcp:s:act = when [
  @effect() => allow
  * => allow
]
exe recursive @forever(n) = @forever(@n)
exe @effect() = cmd { touch effect.txt }
exe @spawn(prompt) = "x"
"""
NOTHING: frozenset[str] = frozenset()


def guards(text: str = GUARDS, **more: str) -> ModuleGuards:
    files = {"module.yml": "name: my\ntype: environment\n", "index.mld": text, **more}
    return ModuleGuards.load(files, "index.mld", None, {})


def result(text: str, **more: object) -> dict[str, object]:
    return {"content": [{"type": "text", "text": text}], **more}


@pytest.mark.parametrize(
    ("direction", "name", "value", "kind", "reason"),
    [
        ("request", "named", {"path": "a/b"}, "allow", None),
        ("request", "named", {"path": "../b"}, "deny", "no way up: ../b"),
        ("request", "wipe", {}, "deny", "nothing is wiped"),
        ("request", "other", {}, "allow", None),
        ("request", "again", {}, "retry", "say please"),
        ("request", "loop", {}, "deny", None),
        ("request", "act", {}, "deny", None),
        ("result", "mask", result("secret"), "transform", None),
        ("result", "other", result("fine"), "allow", None),
    ],
)
async def test_verdicts(direction: str, name: str, value: object, kind: str, reason: str | None) -> None:
    verdict = await guards().judge(direction, "tools/call", "s", name, value, NOTHING)
    assert verdict.kind == kind
    assert reason is None or verdict.reason == reason
    if kind == "deny":
        assert verdict.rule
        assert "index.mld:" in verdict.rule


async def test_a_changed_result_keeps_its_envelope_and_loses_what_was_behind_it() -> None:
    original = result("secret", structuredContent={"a": "secret"}, isError=False, _meta={"x": 1})
    verdict = await guards().judge("result", "tools/call", "s", "mask", original, NOTHING)
    assert verdict.value == {"content": [{"type": "text", "text": "***"}], "isError": False, "_meta": {"x": 1}}


async def test_labels_that_guards_add_are_told() -> None:
    verdict = await guards().judge("result", "tools/call", "s", "label", result("x"), frozenset({"src:mcp"}))
    assert (verdict.kind, verdict.labels) == ("allow", frozenset({"pii"}))


async def test_what_a_server_asks_comes_from_the_server() -> None:
    asked = await guards().judge("request", "sampling/createMessage", "s", "", {"messages": []}, NOTHING)
    assert (asked.kind, asked.reason) == ("deny", "no questions")


def test_a_guard_sees_structured_content_and_resources_too() -> None:
    assert "hidden" in text_of(result("fine", structuredContent={"a": "hidden"}))
    assert "inside" in text_of({"content": [{"type": "resource", "resource": {"uri": "x:", "text": "inside"}}]})
    assert text_of({"no": "content"}) == '{"no": "content"}'


@pytest.mark.parametrize(
    ("policy", "active"),
    [
        ({}, False),
        ({"env": {"net": {"allow": ["a.org"]}}}, False),
        ({"deny": ["network"]}, False),
        ({"labels": {"secret": {"deny": ["op:mcp"]}}}, True),
        ({"defaults": {"rules": ["no-secret-exfil"]}}, True),
        ({"deny": ["mcp:s:x"]}, True),
        ({"default": "deny"}, True),
        ({"env": {"tools": {"deny": ["x"]}}}, True),
    ],
)
def test_a_module_with_nothing_to_say_costs_nothing(policy: dict[str, object], active: bool) -> None:
    said = parse_policy(policy, name="p").json()
    assert ModuleGuards.load({"index.mld": 'exe @spawn(p) = "x"\n'}, "index.mld", None, said).active is active


async def test_policy_that_travelled_decides() -> None:
    policy = parse_policy(
        {
            "labels": {"secret": {"deny": ["op:mcp:s:send"]}},
            "env": {"tools": {"deny": ["gone"]}},
            "deny": ["mcp:s:never"],
        },
        name="p",
    )
    judge = ModuleGuards.load({"index.mld": 'exe @spawn(p) = "x"\n'}, "index.mld", None, policy.json()).judge
    for tool, labels, reason in (
        ("send", {"secret"}, "Label 'secret' cannot flow to 'op:mcp:s:send'"),
        ("gone", set(), "tool 'gone' is not permitted in environments"),
        ("never", set(), "tool 'never' of server 's' is denied by policy @p"),
    ):
        verdict = await judge("request", "tools/call", "s", tool, {}, frozenset(labels))
        assert (verdict.kind, (verdict.reason or "").split(". ")[0]) == ("deny", reason)
    assert (await judge("request", "tools/call", "s", "send", {}, NOTHING)).kind == "allow"


async def test_the_profile_in_force_is_the_one_that_travelled() -> None:
    text = """
profiles { full: { requires: { network } }, readonly: { requires: { } } }
guard @g before op:mcp = when [ @mx.profile == "readonly" => deny "read only" * => allow ]
exe @spawn(p) = "x"
"""
    for profile, kind in (("full", "allow"), ("readonly", "deny"), (None, "allow")):
        loaded = ModuleGuards.load({"index.mld": text}, "index.mld", profile, {})
        assert (await loaded.judge("request", "tools/call", "s", "x", {}, NOTHING)).kind == kind


def test_a_module_that_cannot_be_read_is_never_served_without_its_guards() -> None:
    for text in (
        "guard @g before = when [",
        "run cmd { touch effect.txt }",
        "exe recursive @f(n) = @f(@n)\nvar @x = @f(1)",
    ):
        with pytest.raises(MlldError):
            guards(text)
    with pytest.raises(OSError, match=r"absent\.mld"):
        ModuleGuards.load({"index.mld": ""}, "absent.mld", None, {})


async def test_a_script_is_read_for_its_guards_and_not_run() -> None:
    script = """
run cmd { touch effect.txt }
show "hello"
import tools { @echo } from mcp "nobody"
import { @spawn } from "@local/my"
var @limit = 3
var @worked = cmd { echo out }
var @after = `from @worked`
guard @g before op:mcp:s:count = when [ @input[0].n > @limit => deny `more than @limit` * => allow ]
guard @h before op:mcp:s:unknown = when [ @input[0].n == @after => deny "never" * => allow ]
policy @p = { labels: { secret: { deny: ["op:mcp:s:send"] } } }
output "x" to "effect.txt"
env {} [ run cmd { touch effect.txt } ]
"""
    module = """
guard @of before op:mcp:s:guarded = when [ * => deny "by the module" ]
exe @mcpConfig() = null
exe @spawn(p) = "x"
export { @spawn, @mcpConfig }
"""
    files = {
        "script.mld": script,
        ".mlld/env/my/index.mld": module,
        ".mlld/env/my/module.yml": "name: my\ntype: environment\nentry: index.mld\n",
    }
    judge = ModuleGuards.load(files, "script.mld", None, {}).judge
    for tool, value, labels, reason in (
        ("count", {"n": 4}, NOTHING, "more than 3"),
        ("count", {"n": 2}, NOTHING, None),
        ("send", {}, frozenset({"secret"}), "Label 'secret' cannot flow to 'op:mcp:s:send'"),
        ("guarded", {}, NOTHING, "by the module"),
        ("other", {}, NOTHING, None),
    ):
        verdict = await judge("request", "tools/call", "s", tool, value, labels)
        told = verdict.reason and verdict.reason.split(". ")[0]
        assert (verdict.kind, told) == (("deny", reason) if reason else ("allow", None))
    unknown = await judge("request", "tools/call", "s", "unknown", {"n": 1}, NOTHING)
    assert unknown.kind == "deny"
    assert "the guard failed" in (unknown.reason or "")


async def test_files_that_a_module_read_travel_with_it(world: World) -> None:
    world.write(".mlld/env/my/words.txt", "forbidden")
    text = """
var @words = <./words.txt>
guard @g before op:mcp = when [ @input[0].text == @words => deny "not that word" * => allow ]
exe @spawn(p) = "x"
"""
    spec = (await load(world, text)).spec()
    assert spec.module is not None
    assert set(spec.module.files) == {"index.mld", "module.yml", "words.txt"}
    judge = ModuleGuards.load(spec.module.files, spec.module.entry, None, spec.policy).judge
    assert (await judge("request", "tools/call", "s", "x", {"text": "forbidden"}, NOTHING)).kind == "deny"
    assert (await judge("request", "tools/call", "s", "x", {"text": "fine"}, NOTHING)).kind == "allow"


async def test_it_can_be_loaded_inside_a_running_loop_and_with_imports() -> None:
    text = """
import { @check } from "./lib/rules.mld"
guard @g before op:mcp = when [ @check(@input[0]) => deny "rule" * => allow ]
exe @spawn(p) = "x"
"""
    rules = 'exe @check(x) = @x.path == "no"\nexport { @check }\n'
    loaded = guards(text, **{"lib/rules.mld": rules})
    assert (await loaded.judge("request", "tools/call", "s", "x", {"path": "no"}, NOTHING)).kind == "deny"
    assert (await loaded.judge("request", "tools/call", "s", "x", {"path": "yes"}, NOTHING)).kind == "allow"


@pytest.mark.parametrize("value", [None, 3, "text", [], {"a": {"b": [1, {"c": None}]}}, {"deep": [[[[[[]]]]]]}])
async def test_any_value_gets_a_verdict(value: object) -> None:
    loaded = guards()
    for direction in ("request", "result"):
        for method in ("tools/call", "resources/read", "prompts/get", "elicitation/create"):
            verdict = await loaded.judge(
                direction, method, "s", "named", value, frozenset({"trusted", "untrusted", "mcp:s:x"})
            )
            assert verdict.kind in ("allow", "deny")


async def test_hostile_arguments_are_judged_in_bounded_time() -> None:
    loaded = guards()
    value = {"path": "x" * 4_000_000, "many": list(range(100_000))}
    before = time.process_time()
    verdicts = await asyncio.gather(
        *(loaded.judge("request", "tools/call", "s", "named", value, NOTHING) for _ in range(5))
    )
    assert {verdict.kind for verdict in verdicts} == {"allow"}
    assert time.process_time() - before < 10


def test_guards_of_a_script_take_a_profile_that_only_its_module_declares() -> None:
    files = {
        "script.mld": 'import { @spawn } from "./env/index.mld"\n',
        "env/module.yml": "name: env\ntype: environment\nentry: index.mld\n",
        "env/index.mld": "profiles { readonly: { requires: { } } }\nexe @spawn(p) = cmd { echo hi }\nexport { @spawn }\n",
    }
    assert not ModuleGuards.load(files, "script.mld", "readonly", {}).active
