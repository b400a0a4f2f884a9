"""What people see of a server's life: in the list of tools, and in the record."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from images.sidecar.seams import Lifecycle
from tests.unit.sidecar.endpoint_world import Agent, FakeServer, Gate, Line, Message, world


async def shown(agent: Agent) -> dict[str, Any]:
    return dict((await agent.request("tools/list")).result["_meta"]["dev.mlld/servers"])


def states(gate: Gate, server: str) -> list[str]:
    return [event["state"] for event in gate.of("server") if event["server"] == server]


async def dies(line: Line, message: Message) -> None:
    line.writer.close()


async def test_every_server_is_shown_with_what_it_has_done(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a", ("one",)), FakeServer("b", ("two",))) as w:
        agent = w.agent()
        await agent.open()
        fresh = {"state": "ready", "calls": 0, "restarts": 0, "p50Ms": None}
        assert await shown(agent) == {"a": fresh, "b": fresh}
        for _ in range(3):
            await agent.call("one")
        now = await shown(agent)
        assert (now["a"]["calls"], now["b"]["calls"]) == (3, 0)
        assert now["a"]["p50Ms"] > 0
        assert states(w.gate, "a") == ["starting", "ready"]


async def test_a_call_that_a_guard_refuses_is_none_of_the_servers(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a", ("one",))) as w:
        agent = w.agent()
        await agent.open()
        await agent.tools()
        w.gate.hidden.add(("a", "one"))
        await agent.call("one")
        assert (await shown(agent))["a"]["calls"] == 0


async def test_a_server_that_dies_is_failed_until_it_is_back(tmp_path: Path) -> None:
    server = FakeServer("a", ("one",), handlers={"tools/call": dies})
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open()
        await agent.tools()
        await agent.call("one")
        after = (await shown(agent))["a"]
        assert (after["state"], after["restarts"]) == ("failed", 0)
        assert "ended by itself" in after["reason"]
        assert 0 < after["retryMs"] <= 200
        del server.handlers["tools/call"]
        assert (await agent.call("one")).text
        again = (await shown(agent))["a"]
        assert (again["state"], again["restarts"], "reason" in again) == ("ready", 1, False)
        assert states(w.gate, "a") == ["starting", "ready", "exited", "starting", "ready"]
        exited = next(event for event in w.gate.of("server") if event["state"] == "exited")
        assert (exited["processes"], exited["retryMs"] > 0) == (0, True)


async def test_a_server_that_cannot_start_says_why_and_when_again(tmp_path: Path) -> None:
    lifecycle = Lifecycle(startup_timeout=1.0)
    async with world(tmp_path, FakeServer("a", refuse_start=True), FakeServer("b"), lifecycle=lifecycle) as w:
        agent = w.agent()
        await agent.open()
        entry = (await shown(agent))["a"]
        assert entry["state"] in ("failed", "starting")
        assert "a did not start" in entry["reason"]
        failed = next(event for event in w.gate.of("server") if event["state"] == "failed")
        assert (failed["server"], failed["retryMs"] > 0, failed["restarts"]) == ("a", True, 0)


async def test_a_server_that_nobody_needs_is_idle_and_woken_by_a_call(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a", ("one",)), lifecycle=Lifecycle(idle_timeout=3600)) as w:
        agent = w.agent()
        await agent.open()
        await agent.tools()
        for cohort in w.endpoint.cohorts():
            cohort.idle(asyncio.get_running_loop().time() + 3601)
        assert (await shown(agent))["a"]["state"] == "idle"
        await agent.call("one")
        entry = (await shown(agent))["a"]
        assert (entry["state"], entry["restarts"]) == ("ready", 1)
        assert states(w.gate, "a") == ["starting", "ready", "idle", "starting", "ready"]


async def test_clients_with_processes_of_their_own_are_no_restarts(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a", ("one",))) as w:
        first = w.agent()
        await first.open()
        second = w.agent()
        await second.open(capabilities={"sampling": {}})
        await second.http("DELETE")
        third = w.agent()
        await third.open(capabilities={"sampling": {}})
        assert (await shown(first))["a"]["restarts"] == 0
        assert [event["processes"] for event in w.gate.of("server") if event["state"] == "ready"] == [1, 2, 1, 2]
