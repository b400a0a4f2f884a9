"""`plan --format docker`: a container created from the printed line is the container that a run has."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interpreter.declarations import Files, HostRule, Network, PathRule
from runner import report_docker
from runner.errors import Unsupported
from runner.plan import AGENT, SIDECAR
from tests.support.runs import Runs, environment, server

pytestmark = [pytest.mark.engine]
# The CLI of one version writes an empty list where another writes nothing.
LOOSE = {"MaskedPaths", "ReadonlyPaths", "ConsoleSize", "Annotations"}


def plain(value: Any) -> Any:
    """Without the difference between empty and absent, and with sets in order."""
    if isinstance(value, dict):
        return {
            k: v
            for k, v in ((k, plain(v)) for k, v in value.items() if k not in LOOSE)
            if v not in (None, "", [], {}, 0, False)
        }
    if isinstance(value, str) and value.startswith("seccomp="):
        return json.dumps(json.loads(value.removeprefix("seccomp=")))  # the CLI leaves white space out
    if isinstance(value, list):
        return sorted((plain(item) for item in value), key=str)
    return value


async def test_a_printed_line_makes_the_same_container(runs: Runs, tmp_path: Path) -> None:
    net = Network(allow=(HostRule(host="api.example.com"),))
    spec = environment(
        server("a", files=Files(write=(PathRule(path="data"),))), grants=("network", "filesystem"), network=net
    )
    workspace = runs.workspace({"data/x": "1", ".git/config": "", ".env": "A=1"})
    async with runs.sandbox(spec, workspace=workspace) as sandbox:
        made = {c.member: runs.inspect(sandbox, c.member) for c in sandbox.plan.containers}
        plan = replace(sandbox.plan, run=f"{sandbox.run_id}-again")
        script = report_docker.script(plan)
        names = [f"mlld-{plan.run}-{member}" for member in made]
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        try:
            subprocess.run(["sh", "-c", script], check=True, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
            for member, effective in made.items():
                again = runs.client.api.inspect_container(plan.container_name(member))
                old, new = (plain(x["HostConfig"]) for x in (effective, again))
                text = str(new).replace(plan.run, sandbox.run_id)
                assert text == str(old), member
                for key in (
                    "User",
                    "Env",
                    "Cmd",
                    "Entrypoint",
                    "Image",
                    "WorkingDir",
                    "OpenStdin",
                    "StdinOnce",
                    "Hostname",
                ):
                    assert plain(again["Config"][key]) == plain(effective["Config"][key]), key
        finally:
            for name in names:
                subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=False, env=env)
            volumes = [plan.volume_name(link.member) for link in plan.links]
            subprocess.run(["docker", "volume", "rm", "-f", *volumes], capture_output=True, check=False, env=env)
            subprocess.run(["docker", "network", "rm", plan.network_name], capture_output=True, check=False, env=env)


def test_what_cannot_be_said_is_refused(runs: Runs) -> None:
    plan = runs.plan(environment())
    agent = plan.container(AGENT)
    odd = replace(agent, mounts=tuple(replace(m, source="/a,b") if m.kind == "bind" else m for m in agent.mounts))
    with pytest.raises(Unsupported, match="comma"):
        report_docker.create_argv(plan, odd)
    shares = replace(agent, hardening=replace(agent.hardening, privileged=True))
    with pytest.raises(Unsupported, match="Privileged = True"):
        report_docker.create_argv(plan, shares)


def test_no_line_holds_a_token_or_a_secret(runs: Runs) -> None:
    script = report_docker.script(runs.plan(environment(server("a"))))
    assert "token" not in script.lower()
    words = shlex.split(script.split("PROFILE\n")[-1])
    assert words.count("create") == 2 + 3
    assert f"mlld-{SIDECAR}" not in words
