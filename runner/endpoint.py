"""The runner as a client of a sandbox's endpoint, from the agent's seat: HTTP over a pipe that the backend opens.

It proves that the agent's way to the tools works before the agent takes it (readiness is its `tools/list`), and it
serves the tools to scripts and to `mlld sandbox call`. Its session is one among the agent's: same filters, same guards.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from interpreter.ports import Denial, ToolInfo, ToolResult
from runner.backends.base import Pipe
from runner.errors import RunnerError, SandboxFailure
from runner.planner_seats import MCP_PORT

PROTOCOL = "2025-11-25"
MOST_PAGES = 200
_META = "dev.mlld/"
_CHANNELS = 4
_SWITCHED = 101


class CallFailed(RunnerError):
    """The endpoint answered a request with an error instead of a result."""

    code = "tool-failed"


class _Broken(ConnectionError):
    """A channel that ended in the middle of an answer."""


@dataclass(kw_only=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class _Channel:
    """One connection: one request at a time, kept for the next."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self._rest = b""

    async def ask(self, method: str, headers: Mapping[str, str], body: bytes = b"") -> _Answer:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        start = f"{method} /mcp HTTP/1.1\r\nHost: 127.0.0.1:{MCP_PORT}\r\n{head}Content-Length: {len(body)}\r\n\r\n"
        await self.pipe.send(start.encode() + body)
        lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        status = int(lines[0].split(" ")[1])
        return _Answer(status=status, headers=found, body=await self._body(status, found))

    async def _body(self, status: int, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "") == "chunked":
            body = b""
            while size := int((await self._until(b"\r\n")).split(b";")[0], 16):
                body += await self._exactly(size)
                await self._until(b"\r\n")
            await self._until(b"\r\n")
            return body
        if "content-length" in headers:
            return await self._exactly(int(headers["content-length"]))
        return b"" if status in (_SWITCHED, 202, 204, 304) else await self._all()

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            self._rest += await self._more()
        found, _, self._rest = self._rest.partition(mark)
        return found

    async def _exactly(self, size: int) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < size:
            parts.append(await self._more())
            have += len(parts[-1])
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]

    async def _all(self) -> bytes:
        parts = [self._rest]
        while data := await self.pipe.receive():
            parts.append(data)
        self._rest = b""
        return b"".join(parts)

    async def _more(self) -> bytes:
        if not (data := await self.pipe.receive()):
            raise _Broken("the endpoint's connection ended")
        return data


@dataclass(kw_only=True)
class Endpoint:
    """A session with the endpoint (`ports.ToolConnection`). `opener` gives a new way to it."""

    opener: Callable[[], Awaitable[Pipe]]
    token: str = field(repr=False)
    tools: Sequence[ToolInfo] = ()
    session: str = ""
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _idle: list[_Channel] = field(default_factory=list)
    _room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_CHANNELS))

    async def warm(self) -> None:
        """Lays a way to the endpoint, over which nothing has gone yet."""
        self._idle.append(_Channel(await self.opener()))

    async def open(self) -> None:
        """Starts the session, and with it the servers, and lists the tools. Errors: `SandboxFailure`."""
        self.session = await self.greet()
        self.tools = await self._list()

    async def greet(self) -> str:
        """A new session with the endpoint: its id."""
        params = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": {"name": "mlld", "version": "1"}}
        answer = await self._post("initialize", params, session="")
        session = answer.headers.get("mcp-session-id", "")
        self._result(answer)
        notice = msgspec.json.encode({"jsonrpc": "2.0", "method": "notifications/initialized"})
        await self._ask("POST", self._headers(session), notice)
        return session

    async def leave(self, session: str) -> None:
        """Ends a session."""
        await self._ask("DELETE", self._headers(session), b"")

    async def call(self, tool: str, arguments: Mapping[str, object]) -> ToolResult:
        """Calls a tool. Errors: `CallFailed` for an error of the protocol; a tool's own error is a result."""
        answer = await self._post("tools/call", {"name": tool, "arguments": dict(arguments)}, session=self.session)
        result = self._result(answer)
        content = result.get("content") or []
        meta = result.get("_meta") or {}
        texts = [item.get("text", "") for item in content if isinstance(item, dict) and item.get("type") == "text"]
        return ToolResult(
            text="\n".join(texts),
            structured=result.get("structuredContent"),
            is_error=bool(result.get("isError")),
            labels=tuple(meta.get(f"{_META}labels") or ()),
            audit=str(meta.get(f"{_META}call", "")),
            denied=_denial(meta.get(f"{_META}denied")),
        )

    async def switch(self) -> Pipe:
        """A way to it that carries lines, for one client which speaks MCP over its standard input and output. Everything
        else about that client, its session and its questions, is between it and the endpoint. Errors: `SandboxFailure`."""
        channel = _Channel(await self.opener())
        headers = {"Authorization": f"Bearer {self.token}", "Connection": "Upgrade", "Upgrade": "mcp-stdio"}
        try:
            answer = await channel.ask("GET", headers)
            if answer.status != _SWITCHED:
                raise SandboxFailure(
                    f"the endpoint lets no more clients in: {answer.body[:200].decode(errors='replace')}"
                )
        except BaseException as error:
            await channel.pipe.close()
            if isinstance(error, OSError | ValueError | IndexError):
                raise SandboxFailure("the endpoint does not answer", detail=str(error)) from error
            raise
        return channel.pipe

    async def close(self) -> None:
        """Closes every way to it; the session ends with the sandbox."""
        for channel in self._idle:
            await channel.pipe.close()
        self._idle.clear()

    # ------------------------------------------------------------------------------------------------------ messages

    async def _list(self) -> list[ToolInfo]:
        found: list[ToolInfo] = []
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            params = {"cursor": cursor} if cursor else {}
            page = self._result(await self._post("tools/list", params, session=self.session))
            found += [_tool(item) for item in page.get("tools", [])]
            cursor = page.get("nextCursor")
            if not cursor:
                return found
        raise SandboxFailure(f"the endpoint's list of tools has more than {MOST_PAGES} pages")

    async def _post(self, method: str, params: Mapping[str, object], *, session: str) -> _Answer:
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": dict(params)}
        return await self._ask("POST", self._headers(session), msgspec.json.encode(message))

    def _headers(self, session: str) -> dict[str, str]:
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        return headers | ({"Mcp-Session-Id": session, "MCP-Protocol-Version": PROTOCOL} if session else {})

    def _result(self, answer: _Answer) -> dict[str, Any]:
        """The result in an answer, plain or as the last event of a stream. Errors: `CallFailed`, `SandboxFailure`."""
        try:
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                messages = [msgspec.json.decode(data) for data in _events(answer.body)]
                message = next(m for m in reversed(messages) if "result" in m or "error" in m)
            else:
                message = msgspec.json.decode(answer.body)
        except (msgspec.MsgspecError, StopIteration, TypeError) as error:
            text = answer.body[:200].decode(errors="replace")
            raise SandboxFailure(f"the endpoint answered {answer.status} with what is no message: {text}") from error
        if not isinstance(message, dict) or "error" in message or "result" not in message:
            told = message.get("error") if isinstance(message, dict) else None
            raise CallFailed(str((told or {}).get("message", message)))
        result: dict[str, Any] = message["result"]
        return result

    async def _ask(self, method: str, headers: Mapping[str, str], body: bytes) -> _Answer:
        async with self._room:
            channel = self._idle.pop() if self._idle else _Channel(await self.opener())
            try:
                answer = await channel.ask(method, headers, body)
            except BaseException as error:
                await channel.pipe.close()
                if isinstance(error, OSError | ValueError | IndexError):
                    raise SandboxFailure("the endpoint ended in the middle of an answer", detail=str(error)) from error
                raise
            if answer.headers.get("connection", "").lower() == "close":
                await channel.pipe.close()
            else:
                self._idle.append(channel)
            return answer


def _events(body: bytes) -> list[bytes]:
    """The data of each event of a stream that has one."""
    blocks = body.replace(b"\r\n", b"\n").split(b"\n\n")
    data = [
        b"\n".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")) for block in blocks
    ]
    return [item for item in data if item]


def _denial(told: Any) -> Denial | None:
    """What the sidecar says of a call that it refused. Nobody else can: it takes its names out of what servers send."""
    if not isinstance(told, Mapping):
        return None
    return Denial(rule=str(told.get("rule") or "policy"), reason=str(told.get("reason") or ""))


def _tool(item: Mapping[str, Any]) -> ToolInfo:
    meta = item.get("_meta") or {}
    return ToolInfo(
        server=str(meta.get(f"{_META}server", "")),
        name=str(item["name"]),
        description=str(item.get("description") or ""),
        input_schema=item.get("inputSchema") or {},
        annotations=item.get("annotations") or {},
    )
