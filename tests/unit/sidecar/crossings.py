"""One client for each way to the endpoint, and a server with everything behind each way from it.

A remote server is an endpoint too, with the same server behind it: what it says went through two of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from images.sidecar.seams import ServerSpec
from tests.support.waiting import PATIENCE, until
from tests.unit.sidecar.channel_world import OldSse, Stdio, Talk
from tests.unit.sidecar.endpoint_world import TOKEN, Agent, Message, World, parse_events, world
from tests.unit.sidecar.test_endpoint_protocol import EVERYTHING, Library, Worker

META = "io.modelcontextprotocol/"
MODERN = "2026-07-28"


class Http(Talk):
    """A client of streamable HTTP with a session; its GET stream is open from the beginning."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def dial(cls, agent: Agent) -> Http:
        return cls(agent)

    def headers(self, message: Message) -> dict[str, str]:
        return {}

    async def put(self, data: bytes) -> int:
        reader, writer = await self.agent.send("POST", data, self.headers(json.loads(data)))
        return await self._answer(reader, writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        self._writers.append(writer)
        status, got = await self.agent.head(reader)
        if "mcp-session-id" in got:
            self.agent.headers["Mcp-Session-Id"] = got["mcp-session-id"]
        if got.get("content-type") == "text/event-stream":
            task = asyncio.create_task(self._events(reader))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif body := await reader.readexactly(int(got.get("content-length", "0"))):
            self.take(json.loads(body))
        return status

    async def _events(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            async for chunk in self.agent.chunks(reader):
                for event in parse_events(chunk):
                    if event.get("data"):
                        self.take(json.loads(event["data"]))

    async def open(self, version: str = "2025-11-25", capabilities: Message | None = None) -> Message:
        opened = await super().open(version, capabilities)
        self.agent.headers["MCP-Protocol-Version"] = opened["protocolVersion"]
        reader, writer = await self.agent.send("GET", headers={"Accept": "text/event-stream"})
        await self._answer(reader, writer)
        return opened

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)


class Stateless(Talk):
    """What a client without a session does otherwise: each message says who asks."""

    capabilities: Message

    async def open(self, version: str = MODERN, capabilities: Message | None = None) -> Message:
        self.capabilities = capabilities or {}
        return dict((await self.request("server/discover"))["result"])

    async def say(self, message: Any) -> int:
        if "method" in message and "id" in message:
            params = message["params"]
            meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": self.capabilities}
            message = message | {"params": params | {"_meta": meta | params.get("_meta", {})}}
        return await super().say(message)


class StatelessHttp(Stateless, Http):
    """Streamable HTTP of 2026-07-28."""

    def headers(self, message: Message) -> dict[str, str]:
        params = message.get("params", {})
        named = params.get("name") or params.get("uri")
        sent = {"MCP-Protocol-Version": MODERN, "Mcp-Method": str(message.get("method"))}
        return sent | ({"Mcp-Name": str(named)} if named else {})


class StatelessStdio(Stateless, Stdio):
    """Lines of 2026-07-28."""


class Full(Library, Worker):
    """A server that has all that a server can have."""

    def __init__(self) -> None:
        super().__init__("full", ("work",), EVERYTHING)
        self.done = asyncio.Event()
        self.done.set()


Client = Http | StatelessHttp | Stdio | StatelessStdio | OldSse
AGENT_WAYS: dict[str, type[Any]] = {
    "http": Http,
    "http 2026": StatelessHttp,
    "stdio": Stdio,
    "stdio 2026": StatelessStdio,
    "sse": OldSse,
}
"""Ways to the endpoint; the server is behind a link."""
SERVER_WAYS: dict[str, tuple[Literal["http", "sse"], str, type[Any]]] = {
    "to http": ("http", "/mcp", Http),
    "to http 2026": ("http", "/mcp", StatelessHttp),
    "to sse": ("sse", "/sse", Http),
}
"""Ways to a remote server; the client comes over streamable HTTP."""
WAYS = (*AGENT_WAYS, *SERVER_WAYS)


@dataclass
class Crossing:
    """A client at one end, a server at the other."""

    client: Client
    server: Full
    modern: bool

    async def open(self, **capabilities: Any) -> Message:
        opened = await self.client.open(MODERN if self.modern else "2025-11-25", capabilities)
        await self.client.tools()  # and now the server runs
        return opened

    async def result(self, method: str, **params: Any) -> Message:
        answer = await self.client.request(method, params)
        assert "result" in answer, answer
        return dict(answer["result"])

    async def asked(self, answer: Message) -> tuple[Message, Message]:
        """Calls the tool, which asks one thing, and answers that; what was asked, and the call's result."""
        call = {"name": "work", "arguments": {}}
        if self.modern:
            wanted = await self.result("tools/call", **call)
            assert wanted["resultType"] == "input_required"
            ((key, question),) = wanted["inputRequests"].items()
            state = {"requestState": wanted["requestState"]} if "requestState" in wanted else {}
            return question, await self.result("tools/call", **call, **state, inputResponses={key: answer})
        begun = self.client.begin("tools/call", call)
        async with asyncio.timeout(PATIENCE):
            question = await self.client.asked.get()
            await self.client.say({"jsonrpc": "2.0", "id": question["id"], "result": answer})
            return question, dict((await begun)["result"])

    async def told(self, method: str) -> Message:
        """The notification, once the server has it."""
        return dict((await until(lambda: self.server.calls(method)))[-1])


@contextlib.asynccontextmanager
async def crossing(tmp: Path, way: str) -> AsyncIterator[Crossing]:
    """Both ends of a way, with nothing said yet."""
    server = Full()
    async with contextlib.AsyncExitStack() as stack:
        if way in AGENT_WAYS:
            kind = AGENT_WAYS[way]
            w: World = await stack.enter_async_context(world(tmp, server))
        else:
            transport, path, kind = SERVER_WAYS[way]
            (tmp / "far").mkdir()
            far = await stack.enter_async_context(world(tmp / "far", server))
            headers = {"Authorization": f"Bearer {TOKEN}"}
            url = f"http://127.0.0.1:{far.port}{path}"
            spec = ServerSpec(name="far", transport=transport, url=url, headers=headers)
            w = await stack.enter_async_context(world(tmp, remote=(spec,)))
        client = await kind.dial(w.agent())
        stack.push_async_callback(client.close)
        yield Crossing(client, server, kind in (StatelessHttp, StatelessStdio))
