"""Secrets in scripts, and the whole story: A20 and A23 of the acceptance list (semantics §13)."""

from __future__ import annotations

from pathlib import Path

import pytest

from interpreter import load_environment
from tests.support.worlds import ISSUES, World, denied, fine


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, servers=ISSUES)


# ── A20: auth ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("declared", "source"),
    [
        ('{ from: "env:GH", as: "TOKEN" }', "env:GH"),
        ('{ from: "keychain:svc/acct", as: "TOKEN" }', "keychain:svc/acct"),
        ('{ from: "command:pass show gh", as: "TOKEN" }', "command:pass show gh"),
        ('"TOKEN"', "keychain:mlld-box-{projectname}/TOKEN"),
    ],
)
async def test_A20_each_source_reaches_the_one_command_that_asks(world: World, declared: str, source: str) -> None:
    world.secrets = {source.replace("{projectname}", world.root.name): "hunter2-token"}
    done = await world.run(f"""
auth @gh = {declared}
var @with = run cmd {{ printenv TOKEN }} using auth:gh
show @with.mx.labels.join(",")
show @with.length
var @without = run sh {{ printenv TOKEN || echo none }}
show @without
""")
    lines = fine(done)
    assert lines[0] == "secret"
    assert lines[-1] == "none"
    assert "hunter2-token" not in done.out + done.err


async def test_A20_a_secret_is_masked_wherever_it_shows(world: World) -> None:
    world.secrets = {"env:GH": "hunter2-token"}
    done = await world.run("""
auth @gh = { from: "env:GH", as: "TOKEN" }
var @out = run cmd { printenv TOKEN } using auth:gh
show `the token is @out`
log @out
run cmd { sh -c "echo $TOKEN >&2; exit 3" } using auth:gh
""")
    assert "the token is [REDACTED]" in done.out
    assert done.error is not None
    assert "hunter2-token" not in done.out + done.err + done.error.render() + getattr(done.error, "stderr", "")


@pytest.mark.parametrize(
    ("declarations", "message", "hint"),
    [
        ("", "Auth config 'gh' is not defined", "declare `auth @gh"),
        ('auth @gh = { from: "env:ABSENT", as: "T" }', "the secret of auth:gh is missing: looked at env:ABSENT", "env:ABSENT"),
        ('auth @gh = { from: "op://x/y", as: "T" }', "auth @gh cannot be read from 'op:…'", "env:NAME"),
        ('auth @gh = { from: "env:A", as: "NOT A NAME" }', "auth @gh names the variable 'NOT A NAME'", "GITHUB_TOKEN"),
        ('auth @gh = { form: "env:A" }', "auth @gh has no key 'form'", "did you mean 'from'?"),
        ("auth @gh = 3", 'auth @gh must be "VARIABLE" or { from: "env:NAME", as: "VARIABLE" }, got a number', None),
        ('auth @gh = { as: "T" }', "auth @gh.from must be where the secret is", None),
        (
            'policy @p = { deny: [] }\nauth @gh = { from: "keychain:svc/acct", as: "T" }',
            "keychain entry 'svc/acct' is dangerous", None,
        ),
        (
            'policy @p = { danger: ["@keychain"], keychain: { allow: ["other/*"] } }\n'
            'auth @gh = { from: "keychain:svc/acct", as: "T" }',
            "keychain entry 'svc/acct' is not permitted by policy @p", None,
        ),
    ],
)  # fmt: skip
async def test_A20_each_error_says_where_it_looked(
    world: World, declarations: str, message: str, hint: str | None
) -> None:
    world.secrets = {"keychain:svc/acct": "hunter2-token"}
    done = await world.run(f"{declarations}\nrun cmd {{ true }} using auth:gh\n")
    assert done.error is not None
    assert message in done.error.message
    assert hint is None or hint in (done.error.hint or "")
    assert done.error.span is not None


async def test_A20_the_callers_declaration_wins_over_the_modules(world: World) -> None:
    world.secrets = {"env:MODULE": "of the module", "env:CALLER": "of the caller", "env:POLICY": "of the policy"}
    world.write(
        "lib.mld",
        """
auth @gh = { from: "env:MODULE", as: "WHOSE" }
exe @ask() = run cmd { sh -c "printenv WHOSE | wc -c" } using auth:gh
export { @ask }
""",
    )
    start = 'import { @ask } from "./lib.mld"\n'
    standalone = 'auth @gh = { from: "env:CALLER", as: "WHOSE" }\n'
    policy = 'policy @p = { auth: { gh: { from: "env:POLICY", as: "WHOSE" } } }\n'
    lengths = {}
    for name, text in (("module", ""), ("caller", standalone), ("policy", standalone + policy)):
        lengths[name] = int(fine(await world.run(start + text + "show @ask()\n"))[-1])
    assert lengths == {
        "module": len("of the module\n"),
        "caller": len("of the caller\n"),
        "policy": len("of the policy\n"),
    }


async def test_A20_the_output_of_an_imported_function_is_secret_too(world: World) -> None:
    world.secrets = {"env:GH": "hunter2-token"}
    world.write(
        "lib.mld",
        """
auth @gh = { from: "env:GH", as: "TOKEN" }
exe @ask() = run cmd { printenv TOKEN } using auth:gh
export { @ask }
""",
    )
    done = await world.run('import { @ask } from "./lib.mld"\nvar @r = @ask()\nshow @r.mx.labels.join(",")\n')
    assert fine(done) == ["secret"]


async def test_A20_a_server_that_wants_an_undeclared_secret_is_an_error(world: World) -> None:
    world.module(
        "my",
        """
auth @github = "GITHUB_TOKEN"
exe @mcpConfig() = { servers: [ { name: "issues", npm: "issues", auth: ["gihub"] } ] }
exe @spawn(prompt) = "x"
""",
    )
    with pytest.raises(Exception, match="server 'issues' wants auth 'gihub', which is not declared") as caught:
        await load_environment("@local/my", project=world.root, ports=world.ports())
    assert caught.value.hint == "did you mean 'github'?"


# ── A23: the whole story ────────────────────────────────────────────────────────────────────────────

PROJECT = """
profiles {
  full: { requires: { network }, description: "issues can be read and written" },
  readonly: { requires: { }, description: "nothing is reached" }
}
exe @mcpConfig() = when [
  @mx.profile == "full" => { servers: [ { name: "issues", npm: "@github/issues", tools: "*" } ] }
  @mx.profile == "readonly" => { servers: [] }
  * => { servers: [] }
]
policy @config = {
  auth: { github: { from: "keychain:mlld-env/github", as: "GITHUB_TOKEN" } },
  keychain: { allow: ["mlld-env/*"] },
  danger: ["@keychain"],
  labels: { secret: { deny: ["net:w"] }, "src:mcp": { deny: ["op:cmd:git:push", "destructive"] } }
}
exe @spawn(prompt) = run cmd { sh -c "test -n \\"$GITHUB_TOKEN\\" && echo answered: @prompt" } using auth:github
exe @shell() = run cmd { sh } using auth:github
export { @spawn, @shell, @mcpConfig }
"""
STORY = """
import { @spawn } from "@local/project-env"
policy @mine = { danger: ["cmd:rm:-rf", "@keychain"], labels: { "src:mcp": { deny: ["destructive"] } } }
exe destructive @deleteFile(path) = run cmd { rm -rf "@path" }
guard @secrets before net:w = when [ @input.any.mx.taint.includes("secret") => deny "No secrets to network operations" * => allow ]
exe net:w @createIssue(title) = @spawn(`Create issue: @title`)
var secret @apiKey = "hunter2"
var @result = @spawn("List open issues")
show @result.mx.taint.join(",")
"""


async def test_A23_the_whole_story(world: World) -> None:
    world.secrets = {"keychain:mlld-env/github": "ghp_0123456789"}
    world.module("project-env", PROJECT)
    world.on_command = lambda s: (
        s.connection.calls.append(("issues", "list_issues", ())) if s.connection.servers else None
    )
    keep = world.write("keep.txt", "still here")

    done = await world.run(STORY)
    assert {"src:cmd", "src:mcp", "secret"} <= set(fine(done)[0].split(","))
    (session,) = done.sessions
    assert session.closed
    assert sorted(session.connection.servers["issues"]) == ["create_issue", "delete_issue", "list_issues"]
    assert session.spec.policy["layers"]
    assert session.commands.seen[0].secrets == {"GITHUB_TOKEN": "ghp_0123456789"}

    blocked = await world.run(STORY + f'show @deleteFile("{keep}")\nshow @deleteFile(@result)\n')
    assert "cannot flow to 'destructive'" in denied(blocked)
    assert not keep.exists()  # what the script names itself may be deleted

    secret = await world.run(STORY + "show @createIssue('title')\nshow @createIssue(@apiKey)\n")
    assert "No secrets to network operations" in denied(secret)
    assert len(secret.sessions) == 2
    assert "hunter2" not in secret.out + secret.err

    flipped = await world.run('policy @strict = { deny: ["network"] }\n' + STORY)
    assert flipped.sessions[0].spec.profile.profile.name == "readonly"
    assert flipped.sessions[0].connection.servers == {}
    assert "src:mcp" not in fine(flipped)[0]
    for run in (done, blocked, secret, flipped):
        assert all(each.closed for each in run.sessions)
        assert "ghp_0123456789" not in run.out + run.err
