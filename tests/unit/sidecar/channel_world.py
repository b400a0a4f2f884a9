"""Clients of the transports with one stream for everything: lines, and HTTP+SSE."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from tests.support.waiting import PATIENCE, until
from tests.unit.sidecar.endpoint_world import Agent, Message, Reply, parse_events


class Talk:
    """A client that has one stream for everything: what comes is an answer by its id, or `told`."""

    def __init__(self) -> None:
        self._count = 0
        self._answers: dict[Any, asyncio.Future[Message]] = {}
        self.told: list[Message] = []
        self.asked: asyncio.Queue[Message] = asyncio.Queue()
        """Requests of servers, in order."""

    async def put(self, data: bytes) -> int:
        """Sends what may be no message; the status, where there is one."""
        raise NotImplementedError

    def take(self, message: Message) -> None:
        if "method" not in message and message.get("id") in self._answers:
            self._answers.pop(message["id"]).set_result(message)
        elif "method" in message and "id" in message:
            self.asked.put_nowait(message)
        else:
            self.told.append(message)

    async def say(self, message: Any) -> int:
        return await self.put(json.dumps(message).encode())

    def begin(self, method: str, params: Message | None = None, id: Any = None) -> asyncio.Task[Message]:
        """A request; its whole answer later."""
        self._count += 1
        number = self._count if id is None else id
        answer = self._answers[number] = asyncio.get_running_loop().create_future()

        async def asked() -> Message:
            await self.say({"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}})
            return await answer

        return asyncio.create_task(asked())

    async def request(self, method: str, params: Message | None = None, id: Any = None) -> Message:
        async with asyncio.timeout(PATIENCE):
            return await self.begin(method, params, id)

    async def notify(self, method: str, params: Message | None = None) -> int:
        return await self.say({"jsonrpc": "2.0", "method": method, "params": params or {}})

    async def open(self, version: str = "2025-11-25", capabilities: Message | None = None) -> Message:
        info = {"name": "t", "version": "1"}
        params = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": info}
        opened = await self.request("initialize", params)
        await self.notify("notifications/initialized")
        return dict(opened["result"])

    async def tools(self) -> list[str]:
        return [tool["name"] for tool in (await self.request("tools/list"))["result"]["tools"]]

    async def call(self, name: str, arguments: Message | None = None, **more: Any) -> Message:
        return await self.request("tools/call", {"name": name, "arguments": arguments or {}, **more})

    async def hears(self, method: str) -> Message:
        """The first notification of that method."""
        found = await until(lambda: [m for m in self.told if m.get("method") == method])
        return found[0]


class Stdio(Talk):
    """A client over lines, on a connection that was switched to them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self.reader, self.writer = reader, writer
        self.ended = asyncio.create_task(self._read())

    @classmethod
    async def dial(cls, agent: Agent) -> Stdio:
        reader, writer = await agent.send("GET", headers={"Connection": "Upgrade", "Upgrade": "mcp-stdio"})
        status, got = await agent.head(reader)
        assert (status, got["upgrade"]) == (101, "mcp-stdio")
        return cls(reader, writer)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await self.reader.readline():
                self.take(json.loads(line))

    async def put(self, data: bytes) -> int:
        self.writer.write(data + b"\n")
        await self.writer.drain()
        return 0

    async def close(self) -> None:
        self.writer.close()
        await asyncio.wait([self.ended])


class OldSse(Talk):
    """A client of the transport of 2024-11-05."""

    def __init__(self, agent: Agent, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self.agent, self.writer = agent, writer
        self.place = ""
        self.ended: asyncio.Task[None]

    @classmethod
    async def dial(cls, agent: Agent) -> OldSse:
        reader, writer = await agent.send("GET", target="/sse", headers={"Accept": "text/event-stream"})
        status, got = await agent.head(reader)
        assert (status, got["content-type"]) == (200, "text/event-stream")
        client = cls(agent, writer)
        first, *_ = parse_events(await anext(agent.chunks(reader)))
        assert first["event"] == "endpoint"
        client.place = first["data"]
        client.ended = asyncio.create_task(client._read(reader))
        return client

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            async for chunk in self.agent.chunks(reader):
                for event in parse_events(chunk):
                    if event.get("data"):
                        assert event["event"] == "message"
                        assert "id" not in event
                        self.take(json.loads(event["data"]))

    async def put(self, data: bytes) -> int:
        return (await self.post(data)).status

    async def post(self, data: bytes, place: str = "", headers: dict[str, str] | None = None) -> Reply:
        return await self.agent.http("POST", data, headers, place or self.place)

    async def close(self) -> None:
        self.writer.close()
        await asyncio.wait([self.ended])


Dialled = type[Stdio] | type[OldSse]
