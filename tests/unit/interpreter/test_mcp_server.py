"""The protocol of `mlld mcp` (semantics §11)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from interpreter.errors import Denied, EvaluationError
from interpreter.mcp import PAGE, Answer, Server, Tool
from tests.support.waiting import PATIENCE

SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "times": {"type": "integer"}},
    "required": ["text"],
}


def tool(name: str = "echo", labels: tuple[str, ...] = (), error: Exception | None = None) -> Tool:
    async def call(arguments: Mapping[str, Any]) -> Answer:
        await asyncio.sleep(arguments.get("times", 0) / 1000)
        if error:
            raise error
        return Answer(text=arguments["text"], structured={"said": arguments["text"]} if name == "structured" else None)

    return Tool(name=name, description=f"The {name}", schema=SCHEMA, call=call, labels=labels)


def server(*tools: Tool, ready: bool = True) -> Server:
    made = Server(name="mlld", version="1", tools=tools or (tool(),))
    made._ready = ready
    return made


async def ask(to: Server, method: str, params: object = None, identity: object = 1, **more: object) -> dict[str, Any]:
    message = {
        "jsonrpc": "2.0",
        "id": identity,
        "method": method,
        **({} if params is None else {"params": params}),
        **more,
    }
    reply = await to.handle(message)
    assert reply is not None
    assert reply["jsonrpc"] == "2.0"
    assert reply["id"] == identity
    return reply


async def call(to: Server, name: str = "echo", **arguments: object) -> dict[str, Any]:
    return await ask(to, "tools/call", {"name": name, "arguments": arguments})


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [("2025-11-25", "2025-11-25"), ("2024-11-05", "2024-11-05"), ("1999", "2025-11-25"), (None, "2025-11-25")],
)
async def test_the_handshake_agrees_on_a_revision(asked: str | None, agreed: str) -> None:
    reply = await ask(server(ready=False), "initialize", {"protocolVersion": asked, "capabilities": {}})
    assert reply["result"] == {
        "protocolVersion": agreed, "capabilities": {"tools": {}}, "serverInfo": {"name": "mlld", "version": "1"}
    }  # fmt: skip


async def test_nothing_before_the_handshake_but_ping() -> None:
    fresh = server(ready=False)
    assert (await ask(fresh, "tools/list"))["error"]["code"] == -32002
    assert (await ask(fresh, "ping"))["result"] == {}
    await ask(fresh, "initialize", {})
    assert await fresh.handle({"jsonrpc": "2.0", "method": "notifications/initialized"}) is None
    assert (await ask(fresh, "tools/list"))["result"]["tools"][0]["name"] == "echo"


async def test_tools_show_schema_labels_and_annotations() -> None:
    (shown,) = (await ask(server(tool("close", ("destructive", "net:w"))), "tools/list"))["result"]["tools"]
    assert shown == {
        "name": "close", "description": "The close", "inputSchema": SCHEMA,
        "annotations": {"destructiveHint": True, "readOnlyHint": False}, "_meta": {"dev.mlld/labels": ["destructive", "net:w"]},
    }  # fmt: skip


async def test_a_long_list_comes_in_pages() -> None:
    many = server(*(tool(f"t{n}") for n in range(2 * PAGE + 1)))
    names: list[str] = []
    params: dict[str, str] = {}
    for size in (PAGE, PAGE, 1):
        page = (await ask(many, "tools/list", params))["result"]
        assert len(page["tools"]) == size
        names += [each["name"] for each in page["tools"]]
        params = {"cursor": page.get("nextCursor")}
    assert params == {"cursor": None}
    assert names == [f"t{n}" for n in range(2 * PAGE + 1)]
    for cursor in ("x", "", "MA==", "LTE=", "OTk5OTk=", 3):
        assert (await ask(many, "tools/list", {"cursor": cursor}))["error"]["code"] == -32602


async def test_a_call_answers_with_text_and_the_object_itself() -> None:
    assert (await call(server(), text="hi"))["result"] == {
        "content": [{"type": "text", "text": "hi"}],
        "isError": False,
    }
    assert (await call(server(tool("structured")), "structured", text="hi"))["result"]["structuredContent"] == {
        "said": "hi"
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "tool 'echo' requires text"),
        ({"text": 3}, "parameter 'text' of tool 'echo' must be a string"),
        ({"text": "a", "times": 1.5}, "parameter 'times' of tool 'echo' must be a whole number"),
        ({"text": "a", "times": True}, "parameter 'times' of tool 'echo' must be a whole number"),
        ({"text": "a", "tmes": 1}, "tool 'echo' has no parameter 'tmes': did you mean 'times'?"),
        ({"text": "a", "zzzz": 1}, "tool 'echo' has no parameter 'zzzz': it has text or times"),
    ],
)
async def test_bad_arguments_are_an_answer_that_a_model_can_use(arguments: dict[str, object], message: str) -> None:
    result = (await call(server(), **arguments))["result"]
    assert result == {"content": [{"type": "text", "text": message}], "isError": True}


async def test_failures_and_denials_are_answers() -> None:
    failing = server(
        tool("a", error=EvaluationError("no such ticket")), tool("b", error=Denied("x", rule="guard @g", reason="No!"))
    )
    assert (await call(failing, "a", text="x"))["result"]["content"][0]["text"] == "no such ticket"
    denied = (await call(failing, "b", text="x"))["result"]
    assert denied["content"][0]["text"] == "denied: No! (guard @g)"
    assert denied["isError"]


async def test_an_unknown_tool_is_no_tool() -> None:
    assert (await call(server(), "ecko"))["error"] == {
        "code": -32602,
        "message": "unknown tool 'ecko': did you mean 'echo'?",
    }
    for name in ("Echo", "ECHO", "echo ", "ech"):
        assert (await call(server(), name, text="x"))["error"]["code"] == -32602
    assert (await call(server(), "ns:echo", text="x"))["result"]["isError"] is False


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ([], -32600),
        ([{"jsonrpc": "2.0", "id": 1, "method": "ping"}], -32600),
        (3, -32600),
        (None, -32600),
        ({}, -32600),
        ({"jsonrpc": "1.0", "id": 1, "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": 1}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": 3}, -32600),
        ({"jsonrpc": "2.0", "id": {}, "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": None, "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": True, "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "nope"}, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call"}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 3}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": []}}, -32602),
    ],
)
async def test_what_is_no_request(message: object, code: int) -> None:
    reply = await server().handle(message)
    assert reply
    assert reply["error"]["code"] == code


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "method": "notifications/nobody/knows"},
        {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "x"}}},
        {"jsonrpc": "2.0", "method": "x", "params": 3},
        {"jsonrpc": "2.0", "id": 9, "result": {}},
        {"jsonrpc": "2.0", "id": 9, "error": {"code": 1, "message": "x"}},
    ],
)
async def test_what_wants_no_reply_gets_none(message: dict[str, object]) -> None:
    assert await server().handle(message) is None


# ── The stateless revision ──────────────────────────────────────────────────────────────────────────

MODERN = {
    "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
}


async def test_a_stateless_client_needs_no_handshake() -> None:
    fresh = server(ready=False)
    found = (await ask(fresh, "server/discover", MODERN))["result"]
    assert found["supportedVersions"][0] == "2026-07-28"
    assert found["resultType"] == "complete"
    listed = (await ask(fresh, "tools/list", MODERN))["result"]
    assert (listed["resultType"], listed["cacheScope"], listed["ttlMs"]) == ("complete", "private", 0)
    done = (await ask(fresh, "tools/call", {**MODERN, "name": "echo", "arguments": {"text": "x"}}))["result"]
    assert (done["resultType"], done["isError"]) == ("complete", False)
    assert (await ask(fresh, "ping", MODERN))["error"]["code"] == -32601
    bad = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2030-01-01"}}
    assert (await ask(fresh, "tools/list", bad))["error"]["data"] == {
        "supported": ["2026-07-28"],
        "requested": "2030-01-01",
    }


# ── Lines ───────────────────────────────────────────────────────────────────────────────────────────


class Wire:
    """Collects what a server sends."""

    def __init__(self, to: Server) -> None:
        self.to = to
        self.replies: dict[object, dict[str, Any]] = {}

    async def send(self, line: bytes) -> None:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        message = json.loads(line)
        assert message["id"] not in self.replies, "answered twice"
        self.replies[message["id"]] = message

    async def put(self, **message: object) -> None:
        await self.to.receive(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n", self.send)


async def test_calls_run_side_by_side_and_each_gets_its_own_answer() -> None:
    wire = Wire(server())
    for n in range(200):
        arguments = {"text": f"text {n}", "times": (n * 7) % 20}
        await wire.put(id=n, method="tools/call", params={"name": "echo", "arguments": arguments})
    await wire.to.drain()
    assert {n: r["result"]["content"][0]["text"] for n, r in wire.replies.items()} == {
        n: f"text {n}" for n in range(200)
    }


async def test_a_cancelled_call_is_not_answered() -> None:
    wire = Wire(server())
    await wire.put(id=1, method="tools/call", params={"name": "echo", "arguments": {"text": "a", "times": 5000}})
    await wire.put(id=2, method="tools/call", params={"name": "echo", "arguments": {"text": "b", "times": 1}})
    await asyncio.sleep(0)
    await wire.put(method="notifications/cancelled", params={"requestId": 1})
    await wire.to.drain()
    assert set(wire.replies) == {2}


async def test_an_id_in_use_is_refused_and_a_client_that_leaves_ends_its_calls() -> None:
    wire = Wire(server())
    params = {"name": "echo", "arguments": {"text": "a", "times": 60_000}}
    await wire.put(id=1, method="tools/call", params=params)
    await wire.put(id="1", method="tools/call", params=params)
    await wire.put(id=1, method="tools/call", params=params)
    assert wire.replies[1]["error"]["code"] == -32600
    await asyncio.wait_for(wire.to.close(), PATIENCE)
    assert set(wire.replies) == {1}


@pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b'{"a":NaN}', b"[" * 100_000, b"x" * (17 << 20)])
async def test_a_line_that_is_no_message_is_answered_and_the_session_goes_on(line: bytes) -> None:
    wire = Wire(server())
    await wire.to.receive(line, wire.send)
    assert wire.replies[None]["error"]["code"] in (-32700, -32600)
    await wire.put(id=1, method="ping")
    assert wire.replies[1]["result"] == {}
    await wire.to.receive(b"  \n", wire.send)
    assert len(wire.replies) == 2


async def test_text_that_is_no_unicode_does_not_break_the_wire() -> None:
    wire = Wire(server())
    await wire.put(id=1, method="tools/call", params={"name": "echo", "arguments": {"text": "a\ud800\u2028b"}})
    await wire.to.drain()
    assert wire.replies[1]["result"]["content"][0]["text"].startswith("a")
