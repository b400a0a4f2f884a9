"""Without a runner: the agent's connection is the lease of the whole run."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from images.sidecar.holding import Holding
from tests.support.waiting import PATIENCE, until
from tests.unit.sidecar.sidecar_process import ALONE, ROOT, TOKEN


def links(folder: Path, *members: str) -> dict[str, str]:
    for member in members:
        (folder / member).mkdir()
    return {member: str(folder / member) for member in members}


async def test_only_the_agents_end_is_the_end(tmp_path: Path) -> None:
    over = asyncio.Event()
    holding = Holding(over.set)
    await holding.start(links(tmp_path, "agent", "tickets"))
    try:
        _, server = await asyncio.open_unix_connection(str(tmp_path / "tickets/lease.sock"))
        agent_reader, agent = await asyncio.open_unix_connection(str(tmp_path / "agent/lease.sock"))
        server.close()
        await asyncio.sleep(0.1)
        assert not over.is_set()
        agent.close()
        await asyncio.wait_for(over.wait(), PATIENCE)
        assert await agent_reader.read() == b""
    finally:
        await holding.close()


async def test_its_own_end_ends_every_member(tmp_path: Path) -> None:
    holding = Holding(lambda: None)
    await holding.start(links(tmp_path, "agent", "tickets"))
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "tickets/lease.sock"))
    await until(lambda: holding._held)
    await holding.close()
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()


async def test_a_stale_socket_of_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    given = links(tmp_path, "agent")
    for _ in range(2):
        holding = Holding(lambda: None)
        await holding.start(given)
        await holding.close()


async def test_a_sidecar_of_compose_ends_with_its_agent(tmp_path: Path) -> None:
    config = {
        "version": 1,
        "run": "r",
        "token": TOKEN,
        "agent": {"link": links(tmp_path, "agent")["agent"]},
        "servers": [],
    }
    process = await asyncio.create_subprocess_exec(
        *ALONE, sys.executable, "-m", "images.sidecar", "--config-from", "MLLD_CONFIG",
        env=os.environ | {"PYTHONPATH": str(ROOT), "MLLD_CONFIG": json.dumps(config)},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while json.loads(await process.stdout.readline())["event"] != "ready":
            pass
        _, agent = await asyncio.open_unix_connection(str(tmp_path / "agent/lease.sock"))
        assert process.returncode is None
        agent.close()
        assert await process.wait() == 0


async def test_a_variable_without_a_configuration_is_refused(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "images.sidecar", "--config-from", "MLLD_NOT_SET",
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 2
    assert b"config is not JSON" in errors
