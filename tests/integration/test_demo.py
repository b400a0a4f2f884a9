"""The demo of the README, from a clone: both profiles, its one denial, its taint, and nothing left behind."""

from __future__ import annotations

import re
import shutil
import subprocess

import docker
import pytest

from tests.support.projects import ROOT, Done, Project

pytestmark = pytest.mark.engine
REF = "@local/myenv"
PROMPT = "Summarize open tickets"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """This project's demo as a project of its own, with a git history."""
    base = tmp_path_factory.mktemp("demo")
    base.chmod(0o755)
    project = Project(path=base / "clone", home=base / "home")
    project.home.mkdir()
    for name in (".mlld", "docs"):
        shutil.copytree(ROOT / name, project.path / name)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", str(project.path)]
    subprocess.run(["git", "init", "-q", str(project.path)], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "The demo"], check=True)
    return project


@pytest.fixture(scope="module")
def done(demo: Project) -> Done:
    """The demo, once."""
    return demo.spawn(PROMPT, REF)


def test_the_transcript_tells_the_whole_story(demo: Project, done: Done) -> None:
    assert done.code == 0, done.err
    assert done.out.startswith("4 open tickets:\n* T-2: Let the gate add credentials")
    assert "T-7" in done.out
    assert "weakness of an upstream server is" not in done.out
    for line in (
        "profile: full (first permitted)",
        "who may reach what",
        "api.github.com",
        "✓ tickets.list_tickets",
        "✗ tickets.get_ticket",
        "guard @embargo",
        "this ticket is under embargo; ask a maintainer",
        "taint: ",
        "mcp:tickets:list_tickets",
        "left behind: nothing",
    ):
        assert line in done.err, done.err
    named = re.search(r"^run ([a-z]+) ·", done.err, re.M)
    assert named, done.err
    assert demo.mlld("sandbox", "verify", named[1]).code == 0
    why = demo.mlld("sandbox", "explain", named[1]).out
    assert "at         index.mld:25:1\nbecause    this ticket is under embargo; ask a maintainer" in why, why
    shown = {steady(line) for line in (done.out + done.err).splitlines()}
    block = (ROOT / "README.md").read_text().split("```text\n")[1].split("```")[0]
    assert [line for line in block.splitlines() if line and steady(line) not in shown] == []


def steady(line: str) -> str:
    """A line of a transcript without what differs from run to run: names, times and numbers of events."""
    return re.sub(r"run [a-z]+ |\d+ ms|\d+\.\d s|#\d+|explain [a-z]+ \d+", "_", line)


def test_readonly_has_fewer_tools_and_no_network(demo: Project) -> None:
    full = demo.mlld("sandbox", "tools", "--env", REF, "--json").json()
    readonly = demo.mlld("sandbox", "tools", "--env", REF, "--profile", "readonly", "--json").json()
    names = {tool["name"] for tool in readonly}
    assert "close_ticket" in {tool["name"] for tool in full}
    assert names == {"list_tickets", "get_ticket", "search_tickets", "git_log", "git_status", "git_show"}
    assert names < {tool["name"] for tool in full}
    plan = demo.mlld("sandbox", "plan", "--env", REF, "--profile", "readonly", "--format", "json").json()
    assert plan["egress"] == []
    assert all(container["network"] == "none" for container in plan["containers"])


def test_a_policy_of_the_caller_flips_the_profile(demo: Project) -> None:
    demo.write("strict.mld", 'policy @strict = { capabilities: { deny: ["network"] } }\nexport { @strict }\n')
    plan = demo.mlld("sandbox", "plan", "--env", REF, "--policy", "./strict.mld", "--format", "json").json()
    assert plan["profile"]["name"] == "readonly"
    assert any("network" in rule for rule in plan["profile"]["denied"]["full"])


def test_the_secret_of_one_server_is_with_nobody_else(demo: Project) -> None:
    seen = demo.mlld("sandbox", "call", "--env", REF, "get-env")
    assert seen.code == 0, seen.err
    assert "PLAYGROUND_KEY" in seen.out
    record = (demo.home / ".local/share/mlld/runs").iterdir()
    assert all("PLAYGROUND_KEY=" not in path.read_text() for path in record)
    plan = demo.mlld("sandbox", "plan", "--env", REF, "--format", "json").json()
    assert [secret["holders"] for secret in plan["secrets"]] == [["everything"]]


@pytest.mark.usefixtures("done")
def test_nothing_is_left(demo: Project, engine: docker.DockerClient) -> None:
    runs = [
        path.name.removesuffix(".jsonl").rpartition("-")[2] for path in (demo.home / ".local/share/mlld/runs").iterdir()
    ]
    assert runs
    for run in runs:
        filters = {"label": f"dev.mlld.run={run}"}
        assert engine.containers.list(all=True, filters=filters) == []
        assert engine.volumes.list(filters=filters) == []
        assert engine.networks.list(filters=filters) == []


def test_a_script_of_the_reader_uses_both_profiles_of_the_imported_module(demo: Project) -> None:
    demo.write(
        "both.mld",
        'import { @spawn } from "@local/myenv"\n'
        f'var @read = env {{ profile: "readonly" }} [ => @spawn("{PROMPT}") ]\n'
        f'var @full = env {{ profile: "full" }} [ => @spawn("{PROMPT}") ]\n'
        'show @read.mx.taint.includes("mcp:tickets:list_tickets")\n'
        'show @full.mx.taint.includes("mcp:tickets:list_tickets")\n'
        'show @read.includes("T-7: Denied by guard @embargo")\n',
    )
    done = demo.mlld("run", "both.mld")
    assert (done.code, done.out.split()) == (0, ["true", "true", "true"]), done.err
