"""A whole sidecar as its own process, an agent that speaks HTTP over the link, and servers that come through a bridge.

The sidecar runs in a network namespace of its own where nobody was granted a host, as it does in a container: what it
checks about its own seat is true there.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[3]
TOKEN = "token-0123456789abcdef"
ALONE = ("unshare", "--user", "--map-root-user", "--net")

Tool = dict[str, Any]
Handler = Callable[[str, dict[str, Any]], Any]


def tool(name: str, description: str = "", **properties: Any) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": description or name, "inputSchema": schema}


def text(value: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}]}


@dataclass
class FakeServer:
    """An MCP server and its bridge in one: dials the link, and answers on the connection."""

    tools: list[Tool]
    call: Handler
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def serve(self, link: Path) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(link / "stdio.sock"), limit=1 << 26)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            try:
                await self._converse(reader, writer)
            finally:
                writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            if "id" not in message:
                continue
            answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
            try:
                answer["result"] = self._answer(message)
            except LookupError as error:
                answer["error"] = {"code": -32000, "message": repr(error)}
            writer.write(json.dumps(answer).encode() + b"\n")

    def _answer(self, message: dict[str, Any]) -> Any:
        params = message.get("params", {})
        match message["method"]:
            case "initialize":
                return {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
                    "serverInfo": {"name": "fake", "version": "1"},
                }
            case "tools/list":
                return {"tools": self.tools}
            case "tools/call":
                self.calls.append((params["name"], params.get("arguments", {})))
                return self.call(params["name"], params.get("arguments", {}))
            case "prompts/list":
                return {"prompts": [{"name": "greet"}]}
            case "prompts/get":
                return {"messages": [{"role": "user", "content": {"type": "text", "text": "hello"}}]}
            case "resources/list":
                return {"resources": [{"uri": "file:///a/b", "name": "b"}, {"uri": "file:///c", "name": "c"}]}
            case "resources/templates/list":
                return {"resourceTemplates": [{"uriTemplate": "file:///{path}", "name": "any"}]}
            case "resources/read":
                return {"contents": [{"uri": params["uri"], "text": "content"}]}
            case _:
                return {}


@dataclass
class Agent:
    """A client of the endpoint, over the link's socket."""

    path: str
    session: str = ""
    ids: int = 0

    async def http(self, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await asyncio.open_unix_connection(self.path, limit=1 << 26)
        wanted = (
            {
                "Host": "127.0.0.1:7000",
                "Authorization": f"Bearer {TOKEN}",
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                "Content-Length": str(len(body)),
                "Connection": "close",
            }
            | ({"Mcp-Session-Id": self.session} if self.session else {})
            | {k.replace("_", "-"): v for k, v in headers.items()}
        )
        head = "".join(f"{name}: {value}\r\n" for name, value in wanted.items())
        writer.write(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
        try:
            async with asyncio.timeout(PATIENCE):
                status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                got = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines if line)}
                if "content-length" in got:
                    return int(status.split()[1]), got, await reader.readexactly(int(got["content-length"]))
                return int(status.split()[1]), got, await reader.read(-1)
        finally:
            writer.close()

    async def ask(
        self, method: str, params: Mapping[str, Any] | None = None, id: int | str | None = None
    ) -> dict[str, Any]:
        """The JSON-RPC answer, out of a JSON body or the last event of a stream."""
        self.ids += 1
        message = {"jsonrpc": "2.0", "id": self.ids if id is None else id, "method": method, "params": params or {}}
        _, headers, body = await self.http(json.dumps(message).encode())
        if headers.get("content-type", "").startswith("text/event-stream"):
            body = [line for line in body.split(b"\n") if line.startswith(b"data: {")][-1].partition(b": ")[2]
        answer: dict[str, Any] = json.loads(body)
        self.session = headers.get("mcp-session-id", self.session)
        return answer

    async def hello(self) -> Agent:
        info = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        await self.ask("initialize", info)
        await self.http(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode())
        return self

    async def tools(self) -> list[Tool]:
        return list((await self.ask("tools/list"))["result"]["tools"])

    async def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        return await self.ask("tools/call", {"name": name, "arguments": arguments})


@dataclass
class Sidecar:
    """The process, its events so far, and its agent."""

    process: asyncio.subprocess.Process
    agent: Agent
    directory: Path
    events: list[dict[str, Any]]
    errors: bytearray
    ended: asyncio.Task[None]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    async def until(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        async with asyncio.timeout(PATIENCE):
            while len(self.of(kind)) < count:
                if self.process.returncode is not None and self.ended.done():
                    raise AssertionError(f"exit {self.process.returncode}: {self.errors.decode()}")
                await asyncio.sleep(0.005)
        return self.of(kind)

    async def exit(self) -> int:
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await self.ended
        return code


@asynccontextmanager
async def sidecar(
    directory: Path,
    servers: Mapping[str, FakeServer] | None = None,
    *,
    alone: bool = True,
    wait: bool = True,
    **more: Any,
) -> AsyncIterator[Sidecar]:
    """A sidecar with these servers; `more` goes into its configuration, `server_NAME` into that of one server."""
    servers = servers or {}
    links = {name: directory / name for name in ("agent", *servers)}
    for link in links.values():
        link.mkdir()
    config = {
        "version": 1,
        "run": "test",
        "token": TOKEN,
        "agent": {"link": str(links["agent"])},
        "servers": [
            {"name": name, "link": str(links[name]), "tools": "*", **more.pop(f"server_{name}", {})} for name in servers
        ],
        **more,
    }
    module = ["-m", "images.sidecar"]
    command = [*(ALONE if alone else ()), sys.executable, *module]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        limit=1 << 26,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(config).encode() + b"\n")
    events: list[dict[str, Any]] = []
    errors = bytearray()

    async def listen() -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        while line := await process.stdout.readline():
            events.append(json.loads(line))
        errors.extend(await process.stderr.read())

    made = Sidecar(
        process, Agent(str(links["agent"] / "mcp.sock")), directory, events, errors, asyncio.ensure_future(listen())
    )
    running = [asyncio.ensure_future(server.serve(links[name])) for name, server in servers.items()]
    try:
        if wait:
            await made.until("ready")
        yield made
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        process.stdin.close()
        if process.returncode is None:
            await made.exit()


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0
