"""Profiles, policies and environments in scripts: A1 to A7, A14, A19, A22 of the acceptance list (semantics §13)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.worlds import Done, World

MODULE = """
profiles {
  full: { requires: { network, sh }, description: "everything" },
  git: { requires: { cmd: [git] } },
  readonly: { requires: { } }
}
exe @mcpConfig() = when [
  @mx.profile == "full" => { servers: [
    { name: "tickets", npm: "tickets", tools: "*" },
    { name: "notes", npm: "notes", tools: ["read_note"] }
  ] }
  * => { servers: [] }
]
exe @spawn(prompt) = cmd { echo "@prompt" }
exe @who() = `@mx.profile`
export { @spawn, @who, @mcpConfig }
"""
SERVERS = {
    "tickets": {"list_tickets": lambda _: "t1 t2", "close_ticket": lambda a: f"closed {a['text']}"},
    "notes": {"read_note": lambda _: "a note", "write_note": lambda _: "written"},
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, servers=SERVERS)
    made.module("my", MODULE)
    return made


def profiles(done: Done) -> list[str | None]:
    assert done.error is None, done.error.render()
    assert all(session.closed for session in done.sessions)
    return [s.spec.profile.profile.name if s.spec.profile else None for s in done.sessions]


def servers(done: Done) -> list[list[str]]:
    return [sorted(s.connection.servers) for s in done.sessions]


# ── A1, A2 ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("policy", "profile"),
    [
        ("{}", "full"),
        ('{ deny: ["network"] }', "git"),
        ('{ deny: ["net", "cmd:git"] }', "readonly"),
        ('{ allow: ["cmd:echo"] }', "readonly"),
        ('{ allow: ["cmd:git", "cmd:echo"] }', "git"),
        ('{ allow: ["network", "sh"] }', "full"),
        ('{ deny: ["bash"] }', "git"),
        ("{ deny: true }", "readonly"),
    ],
)
async def test_A1_A2_the_first_profile_that_policy_permits(world: World, policy: str, profile: str) -> None:
    done = await world.run(f"""
policy @p = {policy}
profiles {{ full: {{ requires: {{ network, sh }} }}, git: {{ requires: {{ cmd: [git] }} }}, readonly: {{ requires: {{ }} }} }}
show @mx.profile
""")
    assert done.error is None, done.error
    assert done.lines == [profile]


async def test_A1_selection_does_not_depend_on_the_order_of_the_text(world: World) -> None:
    done = await world.run("""
profiles { full: { requires: { network } }, readonly: { requires: { } } }
policy @late = { deny: ["network"] }
show @mx.profile
""")
    assert done.lines == ["readonly"]


async def test_A1_none_permitted_falls_back_with_a_warning_or_strictly_fails(world: World) -> None:
    text = """
policy @p = { deny: ["network"] }
profiles { full: { requires: { network, sh } }, net: { requires: { network } } }
env { limits: { pids: 9 } } [ show @mx.profile ]
"""
    done = await world.run(text)
    assert done.lines == ["net"]
    assert "no profile is permitted by policy; 'net' is used, which was declared last" in done.err
    assert "'full' wants network (policy @p: deny network (script.mld:2:" in done.err
    strict = await world.run(text, strict_profiles=True)
    assert strict.error is not None
    assert "no profile is permitted by policy" in strict.error.message
    assert strict.sessions == []


async def test_A1_a_second_policy_narrows_the_first(world: World) -> None:
    done = await world.run("""
policy @a = { allow: ["network", "cmd:git"] }
policy @b = { allow: ["network", "sh"] }
profiles { full: { requires: { network, sh } }, net: { requires: { network } }, none: { requires: { } } }
show @mx.profile
""")
    assert done.lines == ["net"]


# ── A3 ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_A3_a_configuration_has_profiles_of_its_own(world: World) -> None:
    done = await world.run("""
policy @p = { deny: ["sh"] }
var @cfg = { profiles: { big: { requires: { sh: true } }, small: { requires: { cmd: ["git"] } }, last: {} } }
env @cfg [ show @mx.profile ]
env @cfg with { profile: "big" } [ show @mx.profile ]
""")
    assert done.error is None, done.error
    assert done.lines == ["small", "big"]
    assert done.sessions[1].spec.profile is not None
    assert "sh" not in done.sessions[1].spec.profile.granted  # asked for, and still denied
    assert "sh requested, denied by policy @p: deny sh" in done.err


async def test_A3_the_first_given_wins(world: World) -> None:
    text = """
import { @who } from "@local/my"
var @cfg = { profile: "git" }
env @cfg with { profile: "readonly" } [ show @who() ]
env @cfg [ show @who() ]
env {} [ show @who() ]
"""
    done = await world.run(text, profile="full")
    assert done.error is None, done.error
    assert done.lines == ["readonly", "git", "full"]


async def test_A3_an_unknown_name_lists_the_choices_of_the_module_and_the_configuration(world: World) -> None:
    done = await world.run("""
import { @who } from "@local/my"
env { profiles: { mine: {} } } with { profile: "ful" } [ show @who() ]
""")
    assert done.error is not None
    assert done.error.exit_code == 3
    assert done.error.span is not None
    for name in ("unknown profile 'ful'", "mine", "full", "git", "readonly"):
        assert name in done.error.message
    assert done.error.hint == "did you mean 'full'?"
    assert done.sessions == []


# ── A4: whose profile it is ─────────────────────────────────────────────────────────────────────────


async def test_A4_importing_a_module_changes_nothing_here(world: World) -> None:
    done = await world.run("""
profiles { mine: { requires: { } } }
import { @who } from "@local/my"
show @mx.profile
show @who()
""")
    assert done.error is None, done.error
    assert done.lines[0] == "mine"


async def test_A4_nested_blocks_each_have_their_own_and_give_it_back(world: World) -> None:
    done = await world.run("""
import { @who } from "@local/my"
env {} with { profile: "full" } [
  show `1 @who() @mx.profile`
  env {} with { profile: "readonly" } [ show `2 @who() @mx.profile` ]
  show `3 @who() @mx.profile`
]
show `4 @mx.profile`
""")
    assert done.error is None, done.error
    assert done.lines == ["1 full full", "2 readonly readonly", "3 full full", "4 null"]


async def test_A4_an_error_gives_the_outer_profile_back(world: World) -> None:
    done = await world.run("""
import { @who } from "@local/my"
exe @fails() = when [
  denied => `denied in @mx.profile`
  * => @inner()
]
exe @inner() = cmd { sh -c "exit 3" }
env {} with { profile: "full" } [
  let @r = when [ true => @who() ]
  show @r
]
show `after @mx.profile`
env {} with { profile: "readonly" } [ run cmd { false } ]
show "never"
""")
    assert done.error is not None
    assert done.lines == ["full", "after null"]
    assert [s.closed for s in done.sessions] == [True, True]
    assert done.sessions[1].error is done.error


async def test_A4_parallel_blocks_each_see_their_own(world: World) -> None:
    done = await world.run("""
import { @who } from "@local/my"
exe @in(name) = env {} with { profile: @name } [
  run cmd { sleep 0.05 }
  => `@name=@who()`
]
var @names = ["full", "readonly", "git", "full", "readonly"]
var @seen = for parallel(5) @n in @names => @in(@n)
show @seen | @json
show `after @mx.profile`
""")
    assert done.error is None, done.error
    for name in ("full", "readonly", "git"):
        assert f"{name}={name}" in done.out
    assert "after null" in done.out
    assert sorted(filter(None, profiles(done))) == ["full", "full", "git", "readonly", "readonly"]


# ── A5, A6, A7 ──────────────────────────────────────────────────────────────────────────────────────


async def test_A5_one_module_with_servers_in_full_and_none_in_readonly(world: World) -> None:
    done = await world.run("""
import { @who, @mcpConfig } from "@local/my"
env {} with { profile: "full" } [
  show @listTickets()
  show @readNote()
]
env {} with { profile: "readonly" } [ show @who() ]
""")
    assert done.error is None, done.error
    assert done.lines == ["t1 t2", "a note", "readonly"]
    assert servers(done) == [["notes", "tickets"], []]


@pytest.mark.parametrize("how", ['import { @spawn } from "@local/my"', 'import "@local/my" as @my'])
async def test_A6_importing_only_spawn_configures_the_servers(world: World, how: str) -> None:
    call = "@spawn" if "{" in how else "@my.spawn"
    done = await world.run(f'{how}\nvar @r = {call}("hello")\nshow @r\nenv {{}} [ show @listTickets() ]\n')
    assert done.error is None, done.error
    assert done.lines == ["hello", "t1 t2"]
    assert servers(done) == [["notes", "tickets"]] * 2


async def test_A6_two_modules_with_servers_are_an_error_that_names_both(world: World) -> None:
    world.module("other", MODULE)
    done = await world.run("""
import { @spawn } from "@local/my"
import { @spawn as @other } from "@local/other"
env {} [ show "x" ]
""")
    assert done.error is not None
    assert "my" in done.error.message
    assert "other" in done.error.message
    assert done.sessions == []
    chosen = await world.run("""
import { @spawn, @mcpConfig } from "@local/my"
import { @spawn as @other } from "@local/other"
env {} [ show @listTickets() ]
""")
    assert chosen.lines == ["t1 t2"]


async def test_A7_the_policy_of_the_caller_flips_the_profile(world: World) -> None:
    start, end = 'import { @spawn } from "@local/my"\n', '\nvar @r = @spawn("hello")\nshow @r\n'
    assert profiles(await world.run(start + end)) == ["full"]
    flipped = await world.run(start + 'policy @mine = { deny: ["network"] }' + end)
    assert profiles(flipped) == ["git"]
    assert servers(flipped) == [[]]
    earlier = await world.run('policy @mine = { deny: ["network", "cmd:git"] }\n' + start + end)
    assert profiles(earlier) == ["readonly"]


async def test_A7_a_policy_of_the_module_binds_its_environment_and_nobody_else(world: World) -> None:
    world.module("strict", 'policy @own = { deny: ["cmd:cat"] }\n' + MODULE.replace("echo", "cat"))
    done = await world.run("""
import { @spawn } from "@local/strict"
var @mine = run cmd { cat script.mld }
show `mine`
show @spawn("x")
""")
    assert done.lines == ["mine"]
    assert done.error is not None
    assert done.error.exit_code == 4
    assert "command 'cat' is denied by policy @own" in done.error.message


# ── A14, A19, A22 ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("outer", "inner", "difference"),
    [
        ('{ tools: ["Read", "Bash"] }', '{ tools: ["Write"] }', "tools: Write"),
        ('{ mcps: ["tickets"] }', '{ mcps: ["notes"] }', "mcps: notes"),
        ('{ net: { allow: ["a.example.com"] } }', '{ net: { allow: ["b.example.com"] } }', "net: b.example.com"),
        ('{ fs: { write: ["out"] } }', '{ fs: { write: ["src"] } }', "fs.write: src"),
        ('{ limits: { mem: "100m" } }', '{ limits: { mem: "200m" } }', "limits.mem: 200m"),
        (
            '{ tools: { close: { mcp: "tickets:close_ticket", labels: ["destructive"] } } }',
            '{ tools: { close: { mcp: "tickets:close_ticket", labels: ["harmless"] } } }',
            "labels of close: without destructive",
        ),
    ],
)
async def test_A14_a_child_can_only_narrow(world: World, outer: str, inner: str, difference: str) -> None:
    nested = await world.run(f"var @outer = {outer}\nvar @inner = {inner}\nenv @outer [ env @inner [ show 'x' ] ]\n")
    derived = await world.run(f"var @outer = {outer}\nvar @inner = new @outer with {inner}\nenv @inner [ show 'x' ]\n")
    for done in (nested, derived):
        assert done.error is not None
        assert difference in done.error.message
        assert "x" not in done.lines
        assert all(session.closed for session in done.sessions)
    fine = await world.run(f"var @outer = {outer}\nenv @outer [ env @outer [ show 'x' ] ]\n")
    assert fine.lines == ["x"], fine.error


async def test_A19_union_in_scripts(world: World) -> None:
    text = """
var @a = { allow: { cmd: ["git:*", "echo"] } }
var @b = { allow: ["cmd:git:status", "cmd:echo:*"] }
var @c = { labels: { secret: { deny: ["op:show"] } } }
policy @p = union(@a, @b, @c)
run cmd { echo fine }
"""
    done = await world.run(text)
    assert done.error is None, done.error
    assert done.lines == ["fine"]
    for denied in ("git push", "git log", "ls"):
        refused = await world.run(f"{text}\nrun cmd {{ {denied} }}\n")
        assert refused.error is not None
        assert refused.error.exit_code == 4
    absent = await world.run('policy @a = { deny: ["cmd:curl"] }\npolicy @b = { locked: true }\nrun cmd { echo hi }\n')
    assert absent.lines == ["hi"]


async def test_A22_readonly_and_full_in_one_script_in_parallel(world: World) -> None:
    done = await world.run("""
import { @who } from "@local/my"
exe @in(name) = env {} with { profile: @name } [
  run cmd { sleep 0.02 }
  => `@name=@who()`
]
var @names = ["full", "readonly", "full", "readonly", "full", "readonly"]
var @seen = for parallel(6) @n in @names => @in(@n)
show @seen.join(" ")
""")
    assert done.error is None, done.error
    assert done.lines == ["full=full readonly=readonly full=full readonly=readonly full=full readonly=readonly"]
    assert (
        sorted(zip(filter(None, profiles(done)), map(len, servers(done)), strict=True))
        == [("full", 2)] * 3 + [("readonly", 0)] * 3
    )
