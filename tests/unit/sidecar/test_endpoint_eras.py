"""The stateless era of agents, and the bridge between the eras in both directions."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import mcp
import pytest
from mcp.client.streamable_http import streamable_http_client

from images.sidecar.seams import Lifecycle
from tests.support.waiting import until
from tests.unit.sidecar.endpoint_world import Agent, FakeServer, Line, Message, Reply, World, world

MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"


class Stateless(Agent):
    """An agent of the stateless era."""

    def __init__(self, port: int, capabilities: Message | None = None) -> None:
        super().__init__(port)
        self.meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": capabilities or {}}

    async def ask(self, method: str, params: Message | None = None, headers: dict[str, str] | None = None) -> Reply:
        params = params or {}
        named = params.get("name") or params.get("uri")
        sent = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method} | ({"Mcp-Name": named} if named else {})
        message = {"jsonrpc": "2.0", "id": "é", "method": method}
        body = message | {"params": {**params, "_meta": self.meta | params.get("_meta", {})}}
        return await self.post(body, sent | (headers or {}))


class ModernServer(FakeServer):
    """A server of the stateless era."""

    async def _server_discover(self, line: Line, message: Message) -> Message:
        return {"resultType": "complete", "supportedVersions": [MODERN], "capabilities": self.capabilities}

    async def _initialize(self, line: Line, message: Message) -> None:
        line.send({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})

    async def _subscriptions_listen(self, line: Line, message: Message) -> None:
        await asyncio.Event().wait()


async def test_discover_list_and_call_without_a_session(tmp_path: Path) -> None:
    server = FakeServer("old", ("one",), instructions="Use one.")
    async with world(tmp_path, server) as w:
        agent = Stateless(w.port)
        found = (await agent.ask("server/discover")).result
        assert found["supportedVersions"] == [MODERN]
        assert found["instructions"] == "Use one."
        assert {"resultType", "ttlMs", "cacheScope"} <= found.keys()
        listed = (await agent.ask("tools/list")).result
        assert [tool["name"] for tool in listed["tools"]] == ["one"]
        assert listed["resultType"] == "complete"
        reply = await agent.ask("tools/call", {"name": "one", "arguments": {"k": 1}})
        assert "mcp-session-id" not in reply.headers
        assert json.loads(reply.text)["arguments"] == {"k": 1}
        assert reply.result["resultType"] == "complete"
        sent = server.calls("tools/call")[0]["params"].get("_meta", {})
        assert not [key for key in sent if key.startswith(META)]  # an older server never sees the envelope


async def test_cannot_claim_another_era_inside_a_session(tmp_path: Path) -> None:
    """Its head says whose a request is; an envelope beside it changes nothing, here or at a server of either era."""
    old, new = FakeServer("old", ("one",)), ModernServer("new", ("two",))
    claimed = {
        "protocolVersion": "2099-01-01",
        "clientCapabilities": {"sampling": {}},
        "clientInfo": {},
        "logLevel": "debug",
    }
    async with world(tmp_path, old, new) as w:
        agent = w.agent()
        await agent.open()
        for _ in range(2):  # the second with a head that is known
            for name in ("one", "two"):
                meta = {META + key: value for key, value in claimed.items()} | {"mine": 1}
                assert "resultType" not in (await agent.call(name, meta=meta)).result
        assert [call["params"]["_meta"] for call in old.calls("tools/call")] == [{"mine": 1}] * 2
        for call in new.calls("tools/call"):
            said = call["params"]["_meta"]
            assert (said[META + "protocolVersion"], said[META + "clientCapabilities"], said["mine"]) == (MODERN, {}, 1)
            assert META + "logLevel" not in said
        refused = await agent.http(
            "POST", b'{"jsonrpc":"2.0","id":1,"method":"ping"}', {"MCP-Protocol-Version": MODERN}
        )
        assert (refused.status, b"Unsupported protocol version" in refused.body) == (400, True)


@pytest.mark.parametrize("mode", ["auto", MODERN])
async def test_the_official_client_is_served_without_a_session(tmp_path: Path, mode: str) -> None:
    async with (
        world(tmp_path, FakeServer("a", ("one",))) as w,
        httpx2.AsyncClient(headers={"Authorization": "Bearer token-of-this-run"}) as http,
        mcp.Client(streamable_http_client(f"http://127.0.0.1:{w.port}/mcp", http_client=http), mode=mode) as client,
    ):
        assert [tool.name for tool in (await client.list_tools()).tools] == ["one"]
        result = await client.call_tool("one", {"n": 1})
        assert json.loads(result.content[0].text)["arguments"] == {"n": 1}


@pytest.mark.parametrize(
    ("headers", "meta", "status", "code"),
    [
        ({"MCP-Protocol-Version": ""}, {}, 400, -32020),
        ({"MCP-Protocol-Version": "2025-11-25"}, {}, 400, -32020),
        ({"Mcp-Method": "tools/list"}, {}, 400, -32020),
        ({"Mcp-Method": ""}, {}, 400, -32020),
        ({"Mcp-Name": "two"}, {}, 400, -32020),
        ({"Mcp-Name": "=?base64?b25l?="}, {}, 200, 0),
        ({"Mcp-Name": "=?base64?b25?="}, {}, 400, -32020),
        ({"MCP-Protocol-Version": "2099-01-01"}, {META + "protocolVersion": "2099-01-01"}, 400, -32022),
        ({}, {META + "clientCapabilities": 3}, 400, -32602),
        ({}, {META + "protocolVersion": 3}, 400, -32602),
    ],
)
async def test_headers_and_body_must_say_the_same(
    tmp_path: Path, headers: dict[str, str], meta: Message, status: int, code: int
) -> None:
    async with world(tmp_path, FakeServer("a", ("one", "two"))) as w:
        reply = await Stateless(w.port).ask("tools/call", {"name": "one", "_meta": meta}, headers)
        assert reply.status == status, reply.body
        assert reply.message.get("error", {}).get("code", 0) == code
        assert reply.message["id"] == "é"


async def test_marked_arguments_must_be_mirrored(tmp_path: Path) -> None:
    async def marked(line: Line, message: Message) -> Message:
        region = {"type": "string", "x-mcp-header": "Region"}
        schema = {"type": "object", "properties": {"region": region, "n": {"type": "integer", "x-mcp-header": "N"}}}
        return {"tools": [{"name": "one", "inputSchema": schema}]}

    async with world(tmp_path, FakeServer("a", handlers={"tools/list": marked})) as w:
        agent = Stateless(w.port)

        async def call(arguments: Message, **headers: str) -> int:
            sent = {f"Mcp-Param-{name}": value for name, value in headers.items()}
            reply = await agent.ask("tools/call", {"name": "one", "arguments": arguments}, sent)
            return int(reply.message.get("error", {}).get("code", 0))

        assert await call({}) == 0
        assert await call({"region": "eu"}, Region="eu") == 0
        assert await call({"region": "e u\n"}, Region="=?base64?ZSB1Cg==?=") == 0
        assert await call({"n": 3}, N="3.0") == 0
        for arguments, headers in [
            ({"region": "eu"}, {}),
            ({}, {"Region": "eu"}),
            ({"region": "eu"}, {"Region": "us"}),
            ({"n": 3}, {"N": "4"}),
            ({"n": 3}, {"N": "3.5"}),
        ]:
            assert await call(arguments, **headers) == -32020


async def test_methods_of_the_other_era_do_not_exist(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        agent = Stateless(w.port)
        await agent.ask("server/discover")
        for method in ("ping", "initialize", "logging/setLevel", "resources/subscribe", "prompts/list", "x/y"):
            reply = await agent.ask(method)
            assert (reply.status, reply.error["code"]) == (404, -32601)


async def test_a_client_that_leaves_has_cancelled(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def never(line: Line, message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    server = FakeServer("a", handlers={"tools/call": never})
    async with world(tmp_path, server) as w:
        call = asyncio.create_task(Stateless(w.port).ask("tools/call", {"name": "echo"}))
        await begun.wait()
        call.cancel()
        await until(lambda: server.calls("notifications/cancelled"))


async def eliciting(line: Line, message: Message) -> Message:
    """Asks a name, twice if it gets none, as servers of the older era do: in the middle of a call."""
    answer = await line.ask("elicitation/create", {"message": "name?", "requestedSchema": {"type": "object"}})
    return {"content": [{"type": "text", "text": json.dumps(answer.get("result"))}]}


async def test_a_question_of_an_older_server_becomes_an_input_required_result(tmp_path: Path) -> None:
    server = FakeServer("old", handlers={"tools/call": eliciting})
    async with world(tmp_path, server) as w:
        agent = Stateless(w.port, {"elicitation": {}})
        first = (await agent.ask("tools/call", {"name": "echo", "arguments": {}})).result
        assert first["resultType"] == "input_required"
        ((key, question),) = first["inputRequests"].items()
        assert question["method"] == "elicitation/create"
        assert question["params"]["message"] == "name?"
        retry = {"name": "echo", "arguments": {}, "requestState": first["requestState"]}
        again = (await agent.ask("tools/call", retry)).result
        assert again["resultType"] == "input_required"  # no answer in it, so it is asked once more
        genuine = first["requestState"]
        for forged in (genuine[:-1] + ("1" if genuine[-1] == "0" else "0"), "mlld.1.0.0", "mlld."):
            reply = await agent.ask("tools/call", retry | {"requestState": forged})
            assert reply.error["code"] == -32602
        assert (await agent.ask("tools/call", retry | {"name": "other"})).error["code"] == -32602
        answers = {key: {"action": "accept", "content": {"name": "Ada"}}}
        final = (await agent.ask("tools/call", retry | {"inputResponses": answers})).result
        assert json.loads(final["content"][0]["text"])["content"] == {"name": "Ada"}
        assert len(server.calls("tools/call")) == 1
        assert (await agent.ask("tools/call", retry | {"inputResponses": answers})).error["code"] == -32602


async def test_an_older_server_cannot_ask_what_the_agent_does_not_offer(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("old", handlers={"tools/call": eliciting})) as w:
        reply = await Stateless(w.port).ask("tools/call", {"name": "echo"})
        assert reply.text == "null"


async def wanting(line: Line, message: Message) -> Message:
    """A stateless server's tool: wants a name first, and its own state back."""
    params = message["params"]
    if params.get("requestState") != "theirs":
        request = {"method": "elicitation/create", "params": {"message": "name?"}}
        return {"resultType": "input_required", "inputRequests": {"who": request}, "requestState": "theirs"}
    return {"resultType": "complete", "content": [{"type": "text", "text": json.dumps(params["inputResponses"])}]}


async def test_what_a_stateless_server_wants_is_asked_of_a_client_with_a_session(tmp_path: Path) -> None:
    server = ModernServer("new", handlers={"tools/call": wanting})
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open(capabilities={"elicitation": {}})
        body = json.dumps({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "echo"}}).encode()
        reader, writer = await agent.send("POST", body)
        await agent.head(reader)
        final: dict[str, Any] = {}
        async for chunk in agent.chunks(reader):
            for message in (json.loads(line[6:]) for line in chunk.decode().split("\n") if line.startswith("data: {")):
                if message.get("method") == "elicitation/create":
                    await agent.post({"jsonrpc": "2.0", "id": message["id"], "result": {"action": "decline"}})
                else:
                    final = message["result"]
        writer.close()
        assert json.loads(final["content"][0]["text"]) == {"who": {"action": "decline"}}
        assert "resultType" not in final
        meta = server.calls("tools/call")[0]["params"]["_meta"]
        assert meta[META + "clientCapabilities"] == {"elicitation": {}}


async def test_a_stateless_agent_and_a_stateless_server_speak_directly(tmp_path: Path) -> None:
    server = ModernServer("new", handlers={"tools/call": wanting})
    async with world(tmp_path, server) as w:
        agents = [Stateless(w.port, {"elicitation": {}}), Stateless(w.port)]
        for agent in agents:
            result = (await agent.ask("tools/call", {"name": "echo"})).result
            assert (result["resultType"], result["requestState"]) == ("input_required", "theirs")
        assert len(server.lines) == 1  # one process, whatever the agents can do


async def listen(w: World, agent: Stateless, wanted: Message) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "subscriptions/listen"}
    params = {"notifications": wanted, "_meta": agent.meta}
    message = {"jsonrpc": "2.0", "id": "sub", "method": "subscriptions/listen", "params": params}
    reader, writer = await agent.send("POST", json.dumps(message).encode(), headers)
    assert (await agent.head(reader))[0] == 200
    return reader, writer


@pytest.mark.parametrize("kind", [FakeServer, ModernServer])
async def test_listeners_hear_what_they_asked_for(tmp_path: Path, kind: type[FakeServer]) -> None:
    async def change(line: Line, message: Message) -> Message:
        line.notify("notifications/prompts/list_changed", {})
        line.notify("notifications/tools/list_changed", {})
        line.notify("notifications/tools/list_changed", {})
        return {"content": []}

    server = kind("a", capabilities={"tools": {}, "prompts": {}}, handlers={"tools/call": change})
    async with world(tmp_path, server) as w:
        agent = Stateless(w.port)
        await agent.ask("tools/list")
        reader, writer = await listen(w, agent, {"toolsListChanged": True})
        chunks = agent.chunks(reader)
        first = json.loads((await anext(chunks)).decode().partition("data: ")[2])
        assert first["method"] == "notifications/subscriptions/acknowledged"
        assert first["params"]["notifications"] == {"toolsListChanged": True}
        await agent.ask("tools/call", {"name": "echo"})
        told = json.loads((await anext(chunks)).decode().partition("data: ")[2])
        assert told["method"] == "notifications/tools/list_changed"
        assert told["params"]["_meta"] == {META + "subscriptionId": "sub"}
        with pytest.raises(TimeoutError):  # two changes at once are one, and prompts were not asked for
            await asyncio.wait_for(anext(chunks), 0.2)
        writer.close()


async def test_two_calls_that_ask_at_once_are_not_mixed_up(tmp_path: Path) -> None:
    async def ask_and_echo(line: Line, message: Message) -> Message:
        mine = message["params"]["arguments"]["mine"]
        answer = await line.ask("elicitation/create", {"message": mine, "requestedSchema": {"type": "object"}})
        return {"content": [{"type": "text", "text": f"{mine}: {answer['result']['content']['name']}"}]}

    async with world(tmp_path, FakeServer("old", handlers={"tools/call": ask_and_echo})) as w:
        agent = Stateless(w.port, {"elicitation": {}})
        waiting = {}
        for mine in ("one", "two", "three"):
            call = {"name": "echo", "arguments": {"mine": mine}}
            first = (await agent.ask("tools/call", call)).result
            ((key, question),) = first["inputRequests"].items()
            assert question["params"]["message"] == mine
            waiting[mine] = call | {
                "requestState": first["requestState"],
                "inputResponses": {key: {"action": "accept", "content": {"name": mine.upper()}}},
            }
        for mine in ("two", "three", "one"):
            assert (await agent.ask("tools/call", waiting[mine])).text == f"{mine}: {mine.upper()}"


async def test_answers_may_come_before_the_question(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("old", handlers={"tools/call": eliciting})) as w:
        agent = Stateless(w.port, {"elicitation": {}})
        given = {"ask-1": {"action": "accept", "content": {"name": "Ada"}}, "never-asked": {}}
        result = (await agent.ask("tools/call", {"name": "echo", "inputResponses": given})).result
        assert json.loads(result["content"][0]["text"])["content"] == {"name": "Ada"}
        for broken in (3, None, []):
            result = (await agent.ask("tools/call", {"name": "echo", "inputResponses": broken})).result
            assert result["resultType"] == "input_required"


async def test_calls_that_wait_for_the_agent_take_no_place(tmp_path: Path) -> None:
    async def ask_if_told(line: Line, message: Message) -> Message:
        if message["params"]["name"] == "ask":
            await line.ask("elicitation/create", {"message": "?", "requestedSchema": {}})
        return {"content": [{"type": "text", "text": "served"}]}

    one = Lifecycle(max_concurrent=1, call_timeout=20.0)
    server = FakeServer("old", ("ask", "go"), handlers={"tools/call": ask_if_told})
    async with world(tmp_path, server, lifecycle=one) as w:
        agent = Stateless(w.port, {"elicitation": {}})
        for _ in range(3):
            assert (await agent.ask("tools/call", {"name": "ask"})).result["resultType"] == "input_required"
        assert (await agent.ask("tools/call", {"name": "go"})).text == "served"
