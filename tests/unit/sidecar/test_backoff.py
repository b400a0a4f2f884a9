"""Starts that fail are made more and more seldom, for each cohort by itself: one that fails holds off nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from images.sidecar import backoff
from images.sidecar.backoff import MOST_SECONDS, BackOff
from images.sidecar.upstream import NEWCOMER_SECONDS
from tests.unit.sidecar.endpoint_world import Agent, FakeServer, Line, Message, world
from tests.unit.sidecar.test_endpoint_eras import ModernServer, Stateless

HELD_OFF = "keeps failing; the next attempt is in"


def test_each_failure_in_a_row_waits_longer_and_none_for_ever() -> None:
    now = 100.0
    back_off = BackOff(lambda: now)
    waits = [round(back_off.failed(0.0) - now, 3) for _ in range(20)]
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits == sorted(waits)
    assert waits[-1] == MOST_SECONDS
    assert round(back_off.failed(3600.0) - now, 3) == 0.2, "what lived for long begins anew"


@pytest.fixture
def severe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first failure has whoever pays for it wait longer than anybody has patience."""
    monkeypatch.setattr(backoff, "_FIRST", 3600.0)


class Fussy(FakeServer):
    """A server that ends when its client can do what it does not like."""

    async def _initialize(self, line: Line, message: Message) -> Message | None:
        if "sampling" in message["params"]["capabilities"]:
            line.writer.close()
            return None
        return await super()._initialize(line, message)


class FussyModern(ModernServer):
    async def _server_discover(self, line: Line, message: Message) -> Message:
        if "sampling" in str(message["params"]["_meta"]):
            line.writer.close()
            await asyncio.Event().wait()
        return await super()._server_discover(line, message)


async def held_off(agent: Agent) -> bool:
    """Whether it may not even try."""
    await agent.tools()
    return HELD_OFF in str((await agent.request("tools/list")).result["_meta"])


@pytest.mark.usefixtures("severe")
async def test_cannot_hold_off_a_server_with_a_session_that_makes_it_fail(tmp_path: Path) -> None:
    async with world(tmp_path, Fussy("a")) as w:
        evil, good = w.agent(), w.agent()
        await evil.open(capabilities={"sampling": {}})
        assert await held_off(evil), "the control: whoever fails waits"
        await good.open(capabilities={"roots": {}})
        assert await good.tools() == ["echo"]
        assert "result" in (await good.call("echo")).message


@pytest.mark.usefixtures("severe")
async def test_cannot_hold_off_a_server_that_somebody_uses(tmp_path: Path) -> None:
    """What was stopped because nobody needed it comes back at once, whoever failed in the meantime."""
    async with world(tmp_path, Fussy("a")) as w:
        good, evil = w.agent(), w.agent()
        await good.open(capabilities={"roots": {}})
        await good.tools()
        await evil.open(capabilities={"sampling": {}})
        assert await held_off(evil)
        for cohort in w.endpoint.cohorts():
            cohort.idle(asyncio.get_running_loop().time() + 3600)
        assert "result" in (await good.call("echo")).message


@pytest.mark.usefixtures("severe")
async def test_cannot_have_it_started_all_the_time_with_new_sessions(tmp_path: Path) -> None:
    async with world(tmp_path, Fussy("a")) as w:
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            agent = w.agent()
            await agent.open(capabilities={"sampling": {}})
            await agent.tools()
        assert asyncio.get_running_loop().time() - began > 2 * NEWCOMER_SECONDS - 0.1


@pytest.mark.usefixtures("severe")
async def test_cannot_hold_off_the_process_that_stateless_clients_share(tmp_path: Path) -> None:
    async with world(tmp_path, FussyModern("a")) as w:
        evil, good = Stateless(w.port, {"sampling": {}}), Stateless(w.port)
        shown = (await evil.ask("tools/list")).result["_meta"]["dev.mlld/servers"]["a"]
        assert (shown["state"], shown["retryMs"] > 20_000) == ("failed", True), "the control: whoever fails waits"
        assert [tool["name"] for tool in (await good.ask("tools/list")).result["tools"]] == ["echo"]
