"""The life of a run where things go wrong on our side: a fence that is not what was planned, neighbours, a busy engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from interpreter.declarations import HostRule, Network
from runner.backends import docker_create
from runner.errors import FenceBroken, ImageMissing, PlanViolated, SandboxFailure
from runner.plan import AGENT, SIDECAR, SandboxPlan
from tests.support.mcp_server import PROGRAM
from tests.support.runs import Recorder, Runs, environment, python, server
from tests.support.waiting import until

pytestmark = [pytest.mark.engine]
Loosen = Callable[[dict[str, Any]], None]


def network(body: dict[str, Any]) -> None:
    body["HostConfig"]["NetworkMode"] = "bridge"


def root(body: dict[str, Any]) -> None:
    body["HostConfig"]["ReadonlyRootfs"] = False


def capability(body: dict[str, Any]) -> None:
    body["HostConfig"]["CapAdd"] = ["NET_RAW"]


def privileges(body: dict[str, Any]) -> None:
    body["HostConfig"]["SecurityOpt"] = [o for o in body["HostConfig"]["SecurityOpt"] if not o.startswith("no-new")]


def seccomp(body: dict[str, Any]) -> None:
    body["HostConfig"]["SecurityOpt"] = ["no-new-privileges:true", "seccomp=unconfined"]


def link(body: dict[str, Any]) -> None:
    for mount in body["HostConfig"]["Mounts"]:
        if mount["Target"] == "/.mlld/link":
            mount["ReadOnly"] = False


BROKEN: dict[str, tuple[str, Loosen, str]] = {
    "the agent has a network": (AGENT, network, "interfaces: saw eth0"),
    "a server has a network": ("a", network, "interfaces: saw eth0"),
    "the sidecar has a network": (SIDECAR, network, "sidecar-network"),
    "a writable root": ("a", root, "root: saw writable"),
    "a capability": (AGENT, capability, "capabilities"),
    "new privileges": ("a", privileges, "no-new-privileges"),
    "no seccomp": (AGENT, seccomp, "vsock"),
    "a link that its member writes": ("a", link, "read-only-stdio.sock"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_fence_that_is_not_the_planned_one_is_seen_and_nothing_runs(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As an engine that ignores a flag, or a defect of ours after all checks, would leave it."""
    member, loosen, saw = BROKEN[name]
    real = docker_create.container_body

    def body(plan: SandboxPlan, container: Any, **fields: Any) -> dict[str, Any]:
        made = real(plan, container, **fields)
        if container.member == member:
            loosen(made)
        return made

    monkeypatch.setattr(docker_create, "container_body", body)
    workspace = runs.workspace({"started": ""})
    program = "open('/tmp/ran', 'w'); import sys; print('RAN', file=sys.stderr); sys.stdin.read()"
    sandbox = runs.sandbox(environment(server("a", program)), workspace=workspace)
    with pytest.raises(FenceBroken, match=f"around {member}") as caught:
        await sandbox.__aenter__()
    assert saw in caught.value.detail
    assert isinstance(sandbox.sink, Recorder)
    assert {"member": member, "ok": False} in [
        {"member": event["member"], "ok": event["ok"]} for event in sandbox.sink.of("canary")
    ]
    assert sandbox.sink.of("ready") == []
    if member in (AGENT, "a"):
        assert not [event for event in sandbox.sink.of("log") if event["member"] == "a" and "RAN" in event["line"]]
    assert runs.left(sandbox.run_id) == []


async def test_a_plan_that_breaks_an_invariant_makes_nothing(runs: Runs) -> None:
    def loosened(plan: SandboxPlan) -> SandboxPlan:
        agent = replace(plan.container(AGENT), network="egress")
        return replace(plan, containers=tuple(agent if c.member == AGENT else c for c in plan.containers))

    sandbox = runs.sandbox(environment(), change=loosened)
    with pytest.raises(PlanViolated, match="breaks 1 invariant"):
        await sandbox.__aenter__()
    assert runs.left(sandbox.run_id) == []


async def test_an_image_that_is_gone_is_told_and_never_pulled(runs: Runs) -> None:
    def unknown(plan: SandboxPlan) -> SandboxPlan:
        agent = replace(plan.container(AGENT), image="sha256:" + "0" * 64)
        return replace(plan, containers=tuple(agent if c.member == AGENT else c for c in plan.containers))

    sandbox = runs.sandbox(environment(), change=unknown)
    with pytest.raises(ImageMissing):
        await sandbox.__aenter__()
    assert runs.left(sandbox.run_id) == []


async def test_two_runs_share_a_workspace_and_its_masks(runs: Runs) -> None:
    """The first to leave must not take away what covers the other one's `.mcp.json`."""
    workspace = runs.workspace({"a.txt": "1"})
    before = set(os.listdir(workspace))
    spec = environment(grants=("filesystem", "sh"))
    create = (
        "import os\ntry:\n open('/workspace/.claude/x', 'w')\n print('reached')\nexcept OSError as e: print(e.errno)"
    )
    async with runs.sandbox(spec, workspace=workspace) as second:
        async with runs.sandbox(spec, workspace=workspace) as first:
            assert await python(first, create) == "30"
        assert await python(second, create) == "30"
        assert await python(second, "print(open('/workspace/.mcp.json').read() == '')") == "True"
        move = (
            "import os\ntry:\n os.rename('/workspace/.mcp.json', '/workspace/x')\nexcept OSError as e: print(e.errno)"
        )
        assert await python(second, move) == "16"
    assert set(os.listdir(workspace)) == before


async def test_two_runs_of_one_module_at_once(runs: Runs) -> None:
    """Their names, links and networks are their own: neither sees the other."""
    net = Network(allow=(HostRule(host="api.example.com"),))
    full = environment(server("a"), grants=("network", "sh"), network=net)
    readonly = environment(server("a"))
    async with runs.sandbox(full) as one, runs.sandbox(readonly) as two:
        assert one.tools is not None
        assert two.tools is not None
        await asyncio.gather(one.tools.call("echo", {"n": 1}), two.tools.call("echo", {"n": 2}))
        await asyncio.gather(one.witnessed(0), two.witnessed(0))
        for sandbox, number in ((one, 1), (two, 2)):
            assert isinstance(sandbox.sink, Recorder)
            assert [event["arguments"] for event in sandbox.sink.of("call")] == [{"n": number}]
        assert one.plan.networked
        assert not two.plan.networked


async def test_the_states_of_a_run_are_recorded_in_order(runs: Runs) -> None:
    async with runs.sandbox(environment(server("a"))) as sandbox:
        pass
    assert isinstance(sandbox.sink, Recorder)
    kinds = [event["event"] for event in sandbox.sink.events]
    assert kinds.index("canary") < kinds.index("ready") < kinds.index("left") == len(kinds) - 1
    states = [(event["member"], event["state"]) for event in sandbox.sink.of("state")]
    for member in (AGENT, "a"):
        assert states.index((member, "starting")) < states.index((member, "fenced"))
    assert all(event["ok"] for event in sandbox.sink.of("canary"))
    assert len(sandbox.sink.of("canary")) >= 2 * 17


async def test_a_server_that_floods_its_stderr_does_not_fill_the_record(runs: Runs) -> None:
    flood = "import sys\nfor _ in range(400): sys.stderr.write('x' * 65536 + '\\n')\n"
    async with runs.sandbox(environment(server("a", flood + PROGRAM))) as sandbox:
        assert isinstance(sandbox.sink, Recorder)
        logs = await until(lambda: [e for e in sandbox.sink.of("log") if "not kept" in e["line"]])
        assert len(logs) == 1
        assert sum(len(event["line"]) for event in sandbox.sink.of("log")) <= (1 << 20) + 100


async def test_a_second_end_is_no_error(runs: Runs) -> None:
    async with runs.sandbox(environment()) as sandbox:
        await sandbox.close()
        await sandbox.close()
    with pytest.raises(SandboxFailure, match="is gone"):
        await python(sandbox, "print(1)")
