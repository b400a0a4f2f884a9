"""The door of a running sandbox: its user's commands get in, nobody else does, and nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runner.backends.base import Pipe
from runner.endpoint import Endpoint
from runner.errors import SandboxFailure
from runner.host import door as module
from runner.host.door import Door, knock
from runner.record import new_name
from tests.support.waiting import PATIENCE, until
from tests.unit.sidecar.channel_world import Stdio
from tests.unit.sidecar.endpoint_world import TOKEN, FakeServer, Line, Message, World, world


@dataclass
class Socket:
    """A pipe that is a connection to an endpoint of a test: what `docker exec … bridge --talk` is in a sandbox."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self) -> bytes:
        return await self.reader.read(1 << 16)

    async def finish(self) -> None:
        self.writer.write_eof()

    async def close(self) -> None:
        self.closed.set()
        self.writer.close()


@contextlib.asynccontextmanager
async def opened(w: World, run: str, token: str = TOKEN) -> AsyncIterator[tuple[Door, list[Socket]]]:
    """The door of a run whose endpoint is this world's, and the ways that were laid to it."""
    ways: list[Socket] = []

    async def dial() -> Pipe:
        ways.append(Socket(*await asyncio.open_connection("127.0.0.1", w.port)))
        return ways[-1]

    door = Door(run, Endpoint(opener=dial, token=token).switch)
    await door.open()
    try:
        yield door, ways
    finally:
        await door.close()


async def enter(run: str) -> Stdio:
    """A client of this user."""
    end = await asyncio.to_thread(knock, run)
    return Stdio(*await asyncio.open_unix_connection(sock=end, limit=64 << 20))


async def test_a_command_of_the_same_user_gets_all_of_the_protocol(tmp_path: Path) -> None:
    async def ask(line: Line, message: Message) -> Message:
        answer = await line.ask("sampling/createMessage", {"messages": []})
        return {"content": [{"type": "text", "text": answer["result"]["model"]}]}

    run = new_name()
    async with world(tmp_path, FakeServer("a", handlers={"tools/call": ask})) as w, opened(w, run) as (_, ways):
        client, other = await enter(run), await enter(run)
        await client.open(capabilities={"sampling": {}})
        await other.open()
        call = client.begin("tools/call", {"name": "echo"})
        question = await client.asked.get()
        await client.say({"jsonrpc": "2.0", "id": question["id"], "result": {"model": "m" * (1 << 20)}})
        assert (await call)["result"]["content"][0]["text"] == "m" * (1 << 20)
        assert await other.tools() == ["echo"]
        client.writer.write_eof()
        await asyncio.wait_for(client.ended, PATIENCE)
        assert await other.tools() == ["echo"]
        await client.close()
        await other.close()
        async with asyncio.timeout(PATIENCE):
            for way in ways:
                await way.closed.wait()
    with pytest.raises(SandboxFailure, match="it has ended"):
        knock(run)


async def test_a_guest_who_leaves_is_no_guest_any_more(tmp_path: Path) -> None:
    run = new_name()
    async with world(tmp_path, FakeServer("a")) as w, opened(w, run) as (_, ways):
        client = await enter(run)
        await client.open()
        assert w.endpoint.sessions == 1
        await client.close()
        async with asyncio.timeout(PATIENCE):
            await ways[0].closed.wait()
            while w.endpoint.sessions:
                await asyncio.sleep(0.01)


async def test_closing_sees_everybody_out(tmp_path: Path) -> None:
    run = new_name()
    async with world(tmp_path, FakeServer("a")) as w, opened(w, run) as (door, ways):
        client = await enter(run)
        await client.open()
        await asyncio.wait_for(door.close(), PATIENCE)
        await asyncio.wait_for(client.ended, PATIENCE)
        assert ways[0].closed.is_set()
        await client.close()


async def test_a_guest_who_cannot_be_let_in_is_told_why(tmp_path: Path) -> None:
    run = new_name()
    async with world(tmp_path, FakeServer("a")) as w, opened(w, run, "wrong") as (_, ways):
        client = await enter(run)
        await asyncio.wait_for(client.ended, PATIENCE)
        assert "bearer token" in client.told[0]["error"]["message"]
        assert ways[0].closed.is_set()
        await client.close()


async def test_a_guest_who_came_with_us_is_led_in(tmp_path: Path) -> None:
    run = new_name()
    async with world(tmp_path, FakeServer("a")) as w, opened(w, run) as (door, _):
        here, there = socket.socketpair()
        led = asyncio.create_task(door.lead_in(there))
        client = Stdio(*await asyncio.open_unix_connection(sock=here))
        await client.open()
        assert await client.tools() == ["echo"]
        await client.close()
        await asyncio.wait_for(led, PATIENCE)


async def test_cannot_get_in_as_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_name()
    async with world(tmp_path, FakeServer("a")) as w, opened(w, run) as (_, ways):
        monkeypatch.setattr(module, "is_ours", lambda _: False)
        leave, gone = module._leave, []

        async def leaving(writer: asyncio.StreamWriter) -> None:
            await leave(writer)
            gone.append(writer)

        monkeypatch.setattr(module, "_leave", leaving)
        reader, writer = await asyncio.open_unix_connection(module.address(run))
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
        await until(lambda: gone)
        gone.clear()
        assert ways == []
        with pytest.raises(SandboxFailure, match="somebody else pretends"):
            await asyncio.to_thread(knock, run)
        await until(lambda: gone)  # the door has to take note of its guest, or the loop ends with a half-open socket


def test_who_calls_is_asked_of_the_kernel() -> None:
    ours, other = socket.socketpair()
    with ours, other:
        assert module.is_ours(ours)
