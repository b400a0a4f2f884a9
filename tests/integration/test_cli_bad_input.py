"""Whatever can be given that is wrong: one diagnostic, with its next step, the right exit code, and nothing left."""

from __future__ import annotations

import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import pytest

from tests.support.projects import SMALL, SPAWN, Done, Project

pytestmark = pytest.mark.engine


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.make(tmp_path)


def left_of(client: docker.DockerClient, run: str) -> list[str]:
    filters = {"label": f"dev.mlld.run={run}"}
    things = [*client.containers.list(all=True, filters=filters), *client.volumes.list(filters=filters)]
    return [thing.name or "" for thing in [*things, *client.networks.list(filters=filters)]]


def told(done: Done, code: int, *parts: str) -> None:
    """It ended with this code, said these things and a next step, nothing on stdout and no traceback."""
    assert done.code == code, done.err
    assert done.out == ""
    for part in parts:
        assert part in done.err, done.err
    assert "Traceback" not in done.err
    assert "a defect of this program" not in done.err
    assert "next:" in done.err or "hint:" in done.err or "expected:" in done.err, done.err


# -------------------------------------------------------------------------------------------------- before anything starts


def test_an_unknown_environment_offers_the_nearest(project: Project) -> None:
    project.module("review", SPAWN)
    told(project.spawn("x", "@local/reviw"), 2, "there is no environment '@local/reviw'", "@local/review")


def test_a_bad_name_is_refused(project: Project) -> None:
    told(project.spawn("x", "@local/../../etc"), 2, "is no name of an environment")


def test_a_module_that_is_no_environment(project: Project) -> None:
    ref = project.module("tools", SPAWN, manifest="name: tools\ntype: library\nentry: index.mld\n")
    told(project.spawn("x", ref), 3, "is no environment module", "type: environment")


def test_an_environment_without_spawn(project: Project) -> None:
    ref = project.module("mute", "var @x = 1\nexport { @x }\n")
    told(project.spawn("x", ref), 3, "exports no @spawn")


def test_an_unknown_profile_lists_the_choices(project: Project) -> None:
    ref = project.module("two", "profiles { full: { requires: {} }, readonly: { requires: {} } }\n" + SPAWN)
    done = project.spawn("x", ref, "--profile", "readnly")
    told(done, done.code, "readnly", "readonly")
    assert done.code in (2, 3)


def test_a_syntax_error_has_a_caret(project: Project) -> None:
    ref = project.module("broken", "var @x = { a: 1,, b: 2 }\n" + SPAWN)
    told(project.spawn("x", ref), 3, "index.mld:1:", "^")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[]", "mcpConfig must be"),
        ('{ servers: "git" }', "mcpConfig.servers must be a list"),
        ("{ servers: [ 7 ] }", "mcpConfig.servers[0]"),
        ("{ servers: [ { } ] }", "must have exactly one of"),
        ('{ servers: [ { npm: "x", command: "y" } ] }', "must have exactly one of"),
        ("{ servers: [ { command: 7 } ] }", "mcpConfig.servers[0].command must be a string, got a number"),
        ('{ servers: [ { command: "x", tols: [] } ] }', "tools"),
        ('{ servers: [ { command: "x", tools: 5 } ] }', "mcpConfig.servers[0].tools"),
        ('{ servers: [ { npm: "https://evil.example/x.tgz" } ] }', "no npm package"),
        ('{ servers: [ { image: "UPPER CASE" } ] }', "no image reference"),
        ('{ servers: [ { url: "ftp://x" } ] }', "http"),
        ('"{not json"', "not JSON"),
        ('{ servers: [], lifecycle: { startupTimeoutMs: "soon" } }', "startupTimeoutMs"),
    ],
)
def test_each_malformed_config_names_its_path(project: Project, config: str, said: str) -> None:
    ref = project.module("bad", f"exe @mcpConfig() = {config}\n{SPAWN.replace('@spawn }', '@spawn, @mcpConfig }')}")
    done = project.spawn("x", ref)
    told(done, done.code, said)
    assert done.code in (1, 3)


@pytest.mark.parametrize("prompt", ["", "  ", "\n\t"])
def test_an_empty_prompt(project: Project, prompt: str) -> None:
    told(project.spawn(prompt, project.module("m", SPAWN)), 2, "the prompt is empty")


def test_an_unknown_agent_offers_the_nearest(project: Project) -> None:
    told(project.spawn("x", project.module("m", SPAWN), "--agent", "scriptd"), 3, "did you mean 'scripted'?")


def test_an_engine_that_does_not_answer(project: Project, tmp_path: Path) -> None:
    done = project.spawn("x", project.servers("m", SMALL), DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    told(done, 5, "engine", "mlld doctor")


def test_a_secret_that_is_nowhere(project: Project) -> None:
    server = SMALL.replace("}", ', auth: ["gh"] }').replace('["."] ,', '["."] },')
    server = '{ name: "small", command: "python3 server.py", fs: { read: ["."] }, auth: ["gh"] }'
    ref = project.servers("m", server, more='auth @gh = { from: "env:NO_SUCH_TOKEN", as: "GITHUB_TOKEN" }\n')
    told(project.spawn("x", ref), 5, "auth:gh", "NO_SUCH_TOKEN' is not set")


# ----------------------------------------------------------------------------------------------------- while it starts


def test_a_server_that_fails_shows_its_stderr(project: Project, engine: docker.DockerClient) -> None:
    project.write("server.py", "import sys\nsys.exit('no configuration was found')\n")
    done = project.spawn("x", project.servers("m", SMALL))
    told(done, 5, "'small'", "no configuration was found")
    assert left_of(engine, project_run(project)) == []


def test_a_server_that_never_answers(project: Project, engine: docker.DockerClient) -> None:
    project.write("server.py", "import time, sys\nprint('thinking', file=sys.stderr, flush=True)\ntime.sleep(600)\n")
    done = project.spawn("x", project.servers("m", SMALL, lifecycle="{ startupTimeoutMs: 500 }"))
    told(done, 5, "'small' did not answer within 0.5 s", "startupTimeoutMs")
    assert left_of(engine, project_run(project)) == []


def test_a_filter_that_names_an_unknown_tool(project: Project) -> None:
    server = '{ name: "small", command: "python3 server.py", fs: { read: ["."] }, tools: ["echo_txt"] }'
    told(project.spawn("x", project.servers("m", server)), 5, "echo_txt", "echo_text")


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ('{ name: "s", npm: "@mlld-sandbox-test/no-such-package-at-all" }', "no-such-package-at-all"),
        ('{ name: "s", python: "mlld-sandbox-test-no-such-package" }', "mlld-sandbox-test-no-such-package"),
    ],
)
def test_a_package_that_does_not_exist(project: Project, server: str, said: str) -> None:
    told(project.spawn("x", project.servers("m", server)), 5, "there is no", said)


def test_a_disk_that_is_full_stops_the_run(project: Project, engine: docker.DockerClient) -> None:
    ref = project.servers("m", SMALL)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "runner", "sandbox", "spawn", "Show env", "--env", ref],
        cwd=project.path, env=project.environment(), capture_output=True, text=True, timeout=120, check=False,
        # No file may grow beyond this: the plan's line fits, the run's do not.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000)),
    )  # fmt: skip
    told(Done(done.returncode, done.stdout, done.stderr), 5, "the record of this run cannot be written")
    assert left_of(engine, project_run(project)) == []


# ------------------------------------------------------------------------------------------------ unusual, but not wrong


def test_two_runs_of_one_module_at_once(project: Project) -> None:
    ref = project.servers("m", SMALL)
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda text: project.spawn(f'Show me the echo text "{text}"', ref, "-q"), ["one", "two"]))
    assert [d.code for d in done] == [0, 0], done
    assert "one" in done[0].out
    assert "two" in done[1].out


def test_a_prompt_with_everything_in_it(project: Project) -> None:
    ref = project.module("m", "exe @spawn(prompt) = cmd { cat } with { stdin: @prompt }\nexport { @spawn }\n")
    prompt = "a 'b' \"c\" $(touch /tmp/x) `id` @home @{y} %s \\n {} [] \n\nend; rm -rf / && ü\U0001f600"
    assert project.spawn(prompt, ref, "-q").out.rstrip("\n") == prompt
    long = prompt + "x" * (1 << 20)
    assert project.mlld("sandbox", "spawn", "-", "--env", ref, "-q", stdin=long).out.rstrip("\n") == long


def project_run(project: Project) -> str:
    """The name of the latest run of this home."""
    records = sorted((project.home / ".local" / "share" / "mlld" / "runs").iterdir())
    return records[-1].name.removesuffix(".jsonl").rpartition("-")[2]
