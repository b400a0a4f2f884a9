"""A world for the endpoint: servers that dial its links as a bridge would, agents over HTTP, and a gate that can be told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images.sidecar.endpoint import Endpoint
from images.sidecar.seams import (
    Allowed,
    Call,
    EndpointSpec,
    Hidden,
    Kind,
    Lifecycle,
    Limits,
    Narrows,
    ServerSpec,
    Verdict,
)
from images.sidecar.trace import RunTrace

TOKEN = "token-of-this-run"
Message = dict[str, Any]


class Gate:
    """Admission, guarding and audit in one, permissive until a test says otherwise."""

    def __init__(self) -> None:
        self.active = False
        self.hidden: set[tuple[str, str]] = set()
        self.labels: dict[tuple[str, str], tuple[str, ...]] = {}
        self.events: list[Message] = []
        self.judge_request: Callable[[Call], Awaitable[Verdict]] | None = None
        self.judge_result: Callable[[Call, bytes], Awaitable[Verdict]] | None = None
        self.descriptions: dict[str, str] = {}
        self.narrowed: Narrows | None = None
        self.read = asyncio.Event()
        """Whether the record's reader keeps up."""
        self.read.set()
        self.unreadable = False

    def admit(self, server: str, kind: Kind, name: str) -> Allowed | Hidden:
        if (server, name) in self.hidden:
            return Hidden("a test hides it")
        return Allowed(labels=self.labels.get((server, name), ()))

    def shapes(self, server: str) -> bool:
        return server in self.descriptions

    def describe(self, server: str, kind: Kind, item: Message, *, remembered: bool = False) -> Message | Hidden:
        return {**item, "description": self.descriptions[server]}

    def introduce(self, server: str, text: str, *, remembered: bool = False) -> Hidden | None:
        return None

    def listed(self, server: str, names: Sequence[str]) -> str | None:
        return None

    async def narrows(self) -> Narrows | None:
        return self.narrowed

    async def request(self, call: Call) -> Verdict:
        return await self.judge_request(call) if self.judge_request else Verdict(kind="allow")

    def watches(self, call: Call) -> bool:
        return self.active

    async def result(self, call: Call, raw: bytes) -> Verdict:
        return await self.judge_result(call, raw) if self.judge_result else Verdict(kind="allow")

    def emit(self, event: Message) -> None:
        self.events.append(event)

    @property
    def behind(self) -> bool:
        return not self.read.is_set()

    async def drain(self) -> None:
        await self.read.wait()
        if self.unreadable:
            raise OSError("nobody reads the record")

    def of(self, kind: str) -> list[Message]:
        return [event for event in self.events if event["event"] == kind]


class Line:
    """The server's end of one process: whole messages, and raw bytes for the tests that want to misbehave."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._count = 0
        self.replies: dict[str, asyncio.Future[Message]] = {}

    def raw(self, data: bytes) -> None:
        self.writer.write(data)

    def send(self, message: Message) -> None:
        self.raw(json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False).encode() + b"\n")

    def result(self, request: Message, result: Message) -> None:
        self.send({"id": request["id"], "result": result})

    def notify(self, method: str, params: Message) -> None:
        self.send({"method": method, "params": params})

    async def ask(self, method: str, params: Message) -> Message:
        """A request to the agent; its whole answer."""
        self._count += 1
        number = f"ask-{self._count}"
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.replies[number] = future
        self.send({"id": number, "method": method, "params": params})
        return await future


Handler = Callable[[Line, Message], Awaitable[Message | None]]


@dataclass
class FakeServer:
    """A server of a test. `handlers` answer methods; None as an answer means that the handler did it itself."""

    name: str
    tools: tuple[str, ...] = ("echo",)
    capabilities: Message = field(default_factory=lambda: {"tools": {}})
    handlers: dict[str, Handler] = field(default_factory=dict)
    instructions: str = ""
    seen: list[Message] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    refuse_start: bool = False
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def gone(self) -> None:
        """Closes every connection it ever had."""
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def calls(self, method: str) -> list[Message]:
        return [m for m in self.seen if m.get("method") == method]

    async def bridge(self, link: str) -> None:
        """Keeps a spare connection to the link; the first byte makes it a process."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(f"{link}/stdio.sock", limit=64 << 20)
            except OSError:
                await asyncio.sleep(0.005)
                continue
            self._writers.append(writer)
            first = await reader.read(1)
            if not first:
                writer.close()
                return
            task = asyncio.create_task(self._process(Line(reader, writer), first))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _process(self, line: Line, first: bytes) -> None:
        self.lines.append(line)
        inner: set[asyncio.Task[None]] = set()
        try:
            while data := await line.reader.readline():
                message = json.loads(first + data)
                first = b""
                self.seen.append(message)
                if "method" not in message:
                    line.replies.pop(message["id"]).set_result(message)
                else:
                    task = asyncio.create_task(self._answer(line, message))
                    inner.add(task)
                    task.add_done_callback(inner.discard)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            for task in inner:
                task.cancel()
            line.writer.close()

    async def _answer(self, line: Line, message: Message) -> None:
        method = message["method"]
        handler = self.handlers.get(method) or getattr(self, "_" + method.replace("/", "_"), None)
        if handler is None:
            if "id" in message:
                line.send({"id": message["id"], "error": {"code": -32601, "message": f"no {method}"}})
            return
        result = await handler(line, message)
        if result is not None and "id" in message:
            line.result(message, result)

    async def _initialize(self, line: Line, message: Message) -> Message | None:
        if self.refuse_start:
            line.writer.close()
            return None
        told = {"instructions": self.instructions} if self.instructions else {}
        info = {"name": self.name, "version": "1"}
        version = message["params"]["protocolVersion"]
        return {"protocolVersion": version, "capabilities": self.capabilities, "serverInfo": info, **told}

    async def _tools_list(self, line: Line, message: Message) -> Message:
        schema = {"type": "object", "properties": {"text": {"type": "string"}}}
        return {"tools": [{"name": name, "inputSchema": schema, "x-kept": [1, None]} for name in self.tools]}

    async def _tools_call(self, line: Line, message: Message) -> Message:
        params = message["params"]
        text = json.dumps({"server": self.name, "tool": params["name"], "arguments": params.get("arguments")})
        return {"content": [{"type": "text", "text": text}]}


@dataclass
class Reply:
    """What an agent got for one request."""

    status: int
    headers: dict[str, str]
    messages: list[Message]
    body: bytes
    events: list[dict[str, str]]

    @property
    def message(self) -> Message:
        return self.messages[-1]

    @property
    def result(self) -> Message:
        assert "result" in self.message, self.message
        return dict(self.message["result"])

    @property
    def error(self) -> Message:
        assert "error" in self.message, self.message
        return dict(self.message["error"])

    @property
    def text(self) -> str:
        return str(self.result["content"][0]["text"])


class Agent:
    """An agent's client: one connection per request, so that many can be in flight."""

    def __init__(self, port: int, token: str = TOKEN) -> None:
        self.port = port
        self.headers = {"Host": f"127.0.0.1:{port}", "Accept": "application/json, text/event-stream"}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"
        self._count = 0

    async def http(
        self, method: str, body: bytes = b"", headers: dict[str, str] | None = None, target: str = "/mcp"
    ) -> Reply:
        """One exchange, to the end of the answer."""
        reader, writer = await self.send(method, body, headers, target)
        try:
            status, got = await self.head(reader)
            if got.get("transfer-encoding") == "chunked":
                return self._parsed(status, got, b"".join([chunk async for chunk in self.chunks(reader)]))
            return self._parsed(status, got, await reader.readexactly(int(got.get("content-length", "0"))))
        finally:
            writer.close()

    async def send(
        self, method: str, body: bytes = b"", headers: dict[str, str] | None = None, target: str = "/mcp"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=64 << 20)
        sent = self.headers | ({"Content-Type": "application/json"} if method == "POST" else {}) | (headers or {})
        lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in sent.items() if v)]
        if method == "POST" and "Transfer-Encoding" not in sent and "Content-Length" not in sent:
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return reader, writer

    @staticmethod
    async def head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        return int(lines[0].split()[1]), {
            k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines[1:] if x)
        }

    @staticmethod
    async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while size := int(await reader.readline(), 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)

    @staticmethod
    def _parsed(status: int, headers: dict[str, str], body: bytes) -> Reply:
        events = parse_events(body) if headers.get("content-type") == "text/event-stream" else []
        if events:
            messages = [json.loads(event["data"]) for event in events if event.get("data")]
        else:
            messages = [json.loads(body)] if body[:1] in (b"{", b"[") else []
        return Reply(status, headers, messages, body, events)

    async def post(self, message: Any, headers: dict[str, str] | None = None) -> Reply:
        return await self.http("POST", json.dumps(message).encode(), headers)

    async def request(self, method: str, params: Message | None = None, **extra: Any) -> Reply:
        self._count += 1
        message = {"jsonrpc": "2.0", "id": self._count, "method": method, **extra}
        return await self.post(message if params is None else message | {"params": params})

    async def settle(self) -> None:
        """A round trip that asks for nothing: what clients and servers had sent or closed before it has been read."""
        assert (await self.http("PUT")).status == 405

    async def notify(self, method: str, params: Message | None = None) -> Reply:
        return await self.post({"jsonrpc": "2.0", "method": method, "params": params or {}})

    async def open(self, version: str = "2025-11-25", capabilities: Message | None = None) -> Reply:
        params = {
            "protocolVersion": version,
            "capabilities": capabilities or {},
            "clientInfo": {"name": "t", "version": "1"},
        }
        reply = await self.request("initialize", params)
        assert reply.status == 200, reply.body
        self.headers["Mcp-Session-Id"] = reply.headers["mcp-session-id"]
        self.headers["MCP-Protocol-Version"] = reply.result["protocolVersion"]
        assert (await self.notify("notifications/initialized")).status == 202
        return reply

    async def tools(self) -> list[str]:
        return [tool["name"] for tool in (await self.request("tools/list")).result["tools"]]

    async def call(self, name: str, arguments: Message | None = None, meta: Message | None = None) -> Reply:
        params: Message = {"name": name, "arguments": arguments or {}}
        return await self.request("tools/call", params | ({"_meta": meta} if meta else {}))


def parse_events(body: bytes) -> list[dict[str, str]]:
    """The events of an SSE body."""
    blocks = (block for block in body.decode().split("\n\n") if block)
    return [
        {key: value.removeprefix(" ") for key, _, value in (line.partition(":") for line in block.split("\n")) if key}
        for block in blocks
    ]


class World:
    """A running endpoint with its servers."""

    def __init__(self, endpoint: Endpoint, port: int, gate: Gate) -> None:
        self.endpoint, self.port, self.gate = endpoint, port, gate

    def agent(self, token: str = TOKEN) -> Agent:
        return Agent(self.port, token)


PATIENT = Lifecycle(startup_timeout=20.0, call_timeout=20.0)


async def dial(server: str, host: str, port: int) -> socket.socket:
    """The gate's way out, for a server on this machine's loopback; of other hosts it says that they are denied."""
    if host != "127.0.0.1":
        raise PermissionError(f"{host} is not granted to {server}")
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.asynccontextmanager
async def world(
    tmp: Path,
    *servers: FakeServer,
    lifecycle: Lifecycle = PATIENT,
    limits: Limits | None = None,
    absent: tuple[str, ...] = (),
    remote: tuple[ServerSpec, ...] = (),
    trace: RunTrace | None = None,
) -> AsyncIterator[World]:
    """An endpoint whose links lie in `tmp`. `absent` names servers whose bridge never comes."""
    specs = list(remote)
    for name in [*(server.name for server in servers), *absent]:
        (tmp / name).mkdir(exist_ok=True)
        specs.append(ServerSpec(name=name, link=str(tmp / name)))
    gate = Gate()
    spec = EndpointSpec(servers=tuple(specs), token=TOKEN, lifecycle=lifecycle, limits=limits or Limits(), trace=trace)
    endpoint = Endpoint(spec, gate, gate, gate, dial)
    port = endpoint.listen_tcp()
    bridges = [asyncio.create_task(server.bridge(str(tmp / server.name))) for server in servers]
    try:
        yield World(endpoint, port, gate)
    finally:
        await endpoint.close()
        for bridge in bridges:
            bridge.cancel()
        await asyncio.gather(*bridges, return_exceptions=True)
        await asyncio.gather(*(server.gone() for server in servers))
