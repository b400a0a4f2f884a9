"""Serving tools over MCP: JSON-RPC messages in, JSON-RPC messages out.

The transport (lines on stdio, an HTTP endpoint) belongs to whoever calls `Server.receive` and `Server.handle`; this
file neither opens nor reads anything. It speaks the handshake revisions up to 2025-11-25, and the stateless one of
2026-07-28, whose requests name their revision in `_meta`. Calls of tools run side by side and share nothing: a verdict
can never reach another call."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interpreter.errors import Denied, MlldError, listing
from interpreter.names import same_name
from interpreter.policy_patterns import nearest

HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
STATELESS = ("2026-07-28",)
PAGE = 100
LARGEST = 16 << 20  # of one message
_VERSION = "io.modelcontextprotocol/protocolVersion"
PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS = -32700, -32600, -32601, -32602
NOT_INITIALIZED, BAD_VERSION = -32002, -32022

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a tool gives back: text, and the value itself where it is an object."""

    text: str
    structured: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One tool as it is served. `call` makes a world of its own for each call."""

    name: str
    description: str
    schema: Mapping[str, Any]
    call: Callable[[Mapping[str, Any]], Awaitable[Answer]]
    labels: tuple[str, ...] = ()

    def json(self) -> Message:
        shown: Message = {"name": self.name, "description": self.description, "inputSchema": dict(self.schema)}
        if "destructive" in self.labels:
            shown["annotations"] = {"destructiveHint": True, "readOnlyHint": False}
        if self.labels:
            # For whoever connects to us directly: a sidecar has labels of its own, and takes these out.
            shown["_meta"] = {"dev.mlld/labels": list(self.labels)}
        return shown


class RpcError(Exception):
    """A failure of the protocol: becomes the `error` of the reply."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


@dataclass(kw_only=True, eq=False)
class Server:
    """One client's session with a set of tools."""

    name: str
    version: str
    tools: Sequence[Tool]
    instructions: str = ""
    _ready: bool = False
    _running: dict[object, asyncio.Task[None]] = field(default_factory=dict)

    async def receive(self, line: bytes | str, send: Callable[[bytes], Awaitable[None]]) -> None:
        """One line of a stdio client. Calls run on while the next line is read; `send` gets one whole line at a
        time.
        """
        if not line.strip():
            return
        message, fault = parse(line)
        if fault is not None:
            await send(_line(fault))
            return
        if isinstance(message, dict) and message.get("method") == "tools/call" and message.get("id") is not None:
            key = _key(message["id"])
            if key in self._running:
                await send(
                    _line(_fault(message["id"], INVALID_REQUEST, "this id is in use by a call that is still running"))
                )
                return
            self._running[key] = asyncio.create_task(self._run(key, message, send))
            return
        reply = await self.handle(message)
        if reply is not None:
            await send(_line(reply))

    async def _run(self, key: object, message: Message, send: Callable[[bytes], Awaitable[None]]) -> None:
        try:
            reply = await self.handle(message)
            if reply is not None:
                await send(_line(reply))
        except asyncio.CancelledError:
            pass  # by the client: it wants no answer
        finally:
            self._running.pop(key, None)

    async def close(self) -> None:
        """The client is gone: what still runs is for nobody."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self) -> None:
        """Waits until every call has been answered."""
        while self._running:
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def handle(self, message: object) -> Message | None:
        """The reply to one message; None for a notification and for a reply of the client."""
        if not isinstance(message, dict):
            return _fault(None, INVALID_REQUEST, "a message must be an object; batches were dropped from the protocol")
        has_id, identity = "id" in message, message.get("id")
        if not isinstance(method := message.get("method"), str):
            if has_id and ("result" in message or "error" in message):
                return None
            return _fault(identity if _is_id(identity) else None, INVALID_REQUEST, "method must be a string")
        if message.get("jsonrpc") != "2.0" or (has_id and not _is_id(identity)):
            return _fault(identity if _is_id(identity) else None, INVALID_REQUEST, "this is no JSON-RPC 2.0 request")
        params = message.get("params", {})
        if not isinstance(params, dict):
            return _fault(identity, INVALID_PARAMS, "params must be an object") if has_id else None
        if not has_id:
            if method == "notifications/cancelled" and (task := self._running.get(_key(params.get("requestId")))):
                task.cancel()
            return None
        try:
            stateless = self._era(params, method)
            result = await self._request(method, params, stateless)
        except RpcError as error:
            return _fault(identity, error.code, error.message, error.data)
        if stateless:
            result = {"resultType": "complete", **result}
            if method in ("tools/list", "server/discover"):
                result |= {"ttlMs": 0, "cacheScope": "private"}
        return {"jsonrpc": "2.0", "id": identity, "result": result}

    def _era(self, params: Message, method: str) -> bool:
        """Whether a request is of the stateless era. Errors: `RpcError` for a revision that nobody speaks here."""
        meta = params.get("_meta")
        version = meta.get(_VERSION) if isinstance(meta, dict) else None
        if version is None:
            return method == "server/discover"
        if version not in STATELESS:
            raise RpcError(BAD_VERSION, f"unsupported protocol version {version!r}"[:200],
                           {"supported": list(STATELESS), "requested": str(version)[:100]})  # fmt: skip
        return True

    async def _request(self, method: str, params: Message, stateless: bool) -> Message:
        match method:
            case "initialize" if not stateless:
                asked = params.get("protocolVersion")
                self._ready = True
                agreed = asked if asked in HANDSHAKE else HANDSHAKE[0]
                return {"protocolVersion": agreed, **self._about()}
            case "ping" if not stateless:
                return {}
            case "server/discover":
                return {"supportedVersions": [*STATELESS, *HANDSHAKE], **self._about()}
            case "tools/list" | "tools/call" if not (stateless or self._ready):
                raise RpcError(NOT_INITIALIZED, "the server is not initialized: send initialize first")
            case "tools/list":
                return self._list(params.get("cursor"))
            case "tools/call":
                return await self._call(params)
        raise RpcError(NO_METHOD, f"there is no method {method!r}"[:200])

    def _about(self) -> Message:
        about: Message = {"capabilities": {"tools": {}}, "serverInfo": {"name": self.name, "version": self.version}}
        return {**about, "instructions": self.instructions} if self.instructions else about

    def _list(self, cursor: object) -> Message:
        start = 0
        if cursor is not None:
            try:
                start = int(base64.b64decode(str(cursor), validate=True))
            except (ValueError, binascii.Error):
                start = -1
            if not 0 < start < len(self.tools):
                raise RpcError(INVALID_PARAMS, "this cursor was not given out by the server")
        page: Message = {"tools": [tool.json() for tool in self.tools[start : start + PAGE]]}
        if start + PAGE < len(self.tools):
            page["nextCursor"] = base64.b64encode(str(start + PAGE).encode()).decode()
        return page

    async def _call(self, params: Message) -> Message:
        name, arguments = params.get("name"), params.get("arguments", {})
        if not isinstance(name, str):
            raise RpcError(INVALID_PARAMS, "name must be a string")
        tool = self.find(name)
        if tool is None:
            close = nearest(name, [tool.name for tool in self.tools])
            raise RpcError(
                INVALID_PARAMS, f"unknown tool {name!r}"[:200] + (f": did you mean {close!r}?" if close else "")
            )
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise RpcError(INVALID_PARAMS, "arguments must be an object")
        try:
            check(tool, arguments)
            answer = await tool.call(arguments)
        except Denied as denied:
            rule = f" ({denied.rule})" if denied.rule else ""
            return _failed(f"denied: {denied.reason}{rule}")
        except MlldError as error:
            return _failed(error.message)
        result: Message = {"content": [{"type": "text", "text": answer.text}], "isError": False}
        return {**result, "structuredContent": dict(answer.structured)} if answer.structured is not None else result

    def find(self, name: str) -> Tool | None:
        """The tool of a name, which may carry the prefix of a namespace (`ns:tool`) but no other spelling."""
        bare = name.rsplit(":", 1)[-1]
        return next((tool for tool in self.tools if tool.name in (name, bare)), None)


def check(tool: Tool, arguments: Mapping[str, Any]) -> None:
    """Nothing, when the arguments fit the schema's parameters. Errors: `MlldError` that a model can correct itself
    by.
    """
    properties: Mapping[str, Any] = tool.schema.get("properties", {})
    missing = [name for name in tool.schema.get("required", ()) if name not in arguments]
    if missing:
        raise MlldError(f"tool '{tool.name}' requires {listing(missing).replace(' or ', ' and ')}")
    for name, value in arguments.items():
        if name not in properties:
            close = nearest(name, properties) or next((known for known in properties if same_name(known, name)), None)
            hint = f": did you mean '{close}'?" if close else f": it has {listing(properties)}"
            raise MlldError(f"tool '{tool.name}' has no parameter '{name}'{hint}")
        wanted = properties[name].get("type")
        if wanted and not _fits(value, wanted):
            raise MlldError(f"parameter '{name}' of tool '{tool.name}' must be {_ARTICLES[wanted]}")


_ARTICLES = {"string": "a string", "number": "a number", "integer": "a whole number", "boolean": "true or false",
             "array": "an array", "object": "an object"}  # fmt: skip


def _fits(value: object, wanted: str) -> bool:
    match wanted:
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, {"string": str, "array": list, "object": dict}[wanted])


def parse(line: bytes | str) -> tuple[object, Message | None]:
    """The message of a line, or the fault to send back."""
    if len(line) > LARGEST:
        return None, _fault(None, INVALID_REQUEST, f"a message may have {LARGEST >> 20} MB")
    try:
        return json.loads(line, parse_constant=_no_constant), None
    except (ValueError, RecursionError):
        return None, _fault(None, PARSE_ERROR, "this is no JSON")


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _key(identity: object) -> object:
    # 1 and "1" are two ids, and 1 == True in Python.
    return (type(identity).__name__, identity) if _is_id(identity) else None


def _failed(text: str) -> Message:
    return {"content": [{"type": "text", "text": text}], "isError": True}


def _fault(identity: object, code: int, message: str, data: object = None) -> Message:
    error: Message = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "id": identity, "error": {**error, "data": data} if data is not None else error}


def _line(message: Message) -> bytes:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
