"""Batches: taken where the revision has them, bounded, and each message as if it had come alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from images.sidecar.jsonrpc import MAX_BATCH
from images.sidecar.seams import Verdict
from tests.support.waiting import until
from tests.unit.sidecar.channel_world import Dialled, OldSse, Stdio
from tests.unit.sidecar.endpoint_world import FakeServer, Line, Message, world

BOTH = pytest.mark.parametrize("transport", [Stdio, OldSse])
WITH = pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26"])
WITHOUT = pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
CANCELLED = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "none"}}


def ask(number: Any, method: str = "ping", **params: Any) -> Message:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def call(number: Any, name: str, **arguments: Any) -> Message:
    return ask(number, "tools/call", name=name, arguments=arguments)


@WITH
async def test_a_batch_is_answered_message_by_message(tmp_path: Path, version: str) -> None:
    async with world(tmp_path, FakeServer("a", ("one",)), FakeServer("b", ("two",))) as w:
        agent = w.agent()
        await agent.open(version)
        messages = [call("x", "one", n=1), CANCELLED, call("y", "two", n=2), ask(3), ask(4, "nope"), 7, {}, [ask(5)]]
        reply = await agent.post(messages)
        assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
        by_id = {m["id"]: m for m in reply.messages if m["id"] is not None}
        said = {key: json.loads(by_id[key]["result"]["content"][0]["text"]) for key in "xy"}
        assert [(s["server"], s["arguments"]) for s in said.values()] == [("a", {"n": 1}), ("b", {"n": 2})]
        assert (by_id[3]["result"], by_id[4]["error"]["code"]) == ({}, -32601)
        assert [m["error"]["code"] for m in reply.messages if m["id"] is None] == [-32600] * 3
        assert len(reply.messages) == 7
        assert (await agent.post([CANCELLED, {"jsonrpc": "2.0", "id": 1, "result": {}}])).status == 202


@WITHOUT
async def test_a_batch_is_refused_where_the_revision_has_none(tmp_path: Path, version: str) -> None:
    server = FakeServer("a", ("one",))
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open(version)
        for batch in ([call(1, "one")], [CANCELLED], []):
            reply = await agent.post(batch)
            assert (reply.status, reply.error["code"]) == (400, -32600)
        lines = await Stdio.dial(w.agent())
        await lines.open(version)
        await lines.say([call(1, "one")])
        await lines.request("ping")
        assert [m["error"]["code"] for m in lines.told] == [-32600]
        assert server.calls("tools/call") == []
        await lines.close()


async def test_a_batch_needs_a_session(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        agent = w.agent()
        batch = [ask(1, "initialize", protocolVersion="2025-03-26", capabilities={}), ask(2)]
        assert (await agent.post(batch)).status == 400
        stateless = ask(1, "tools/list", _meta={"io.modelcontextprotocol/protocolVersion": "2026-07-28"})
        assert (await agent.post([stateless], {"MCP-Protocol-Version": "2026-07-28"})).error["code"] == -32600
        assert w.endpoint.sessions == 0
        await agent.open("2025-03-26")
        reply = await agent.post(batch)
        assert [m.get("error", {}).get("code") for m in reply.messages] == [-32600, None]
        assert w.endpoint.sessions == 1
        assert (await agent.post([ask(1)], {"Mcp-Session-Id": "0" * 32})).status == 404


BAD = {
    b"[]": (400, -32600),
    b"[" * 100_000 + b"]" * 100_000: (400, -32700),
    b'[{"jsonrpc":"2.0","id":1,"method":"ping"},': (400, -32700),
    b'[{"jsonrpc":"2.0","id":1,"method":"ping"}] x': (400, -32700),
    b'[{"jsonrpc":"2.0","id":1,"method":"ping","params":"\xff"}]': (400, -32700),
    json.dumps([ask(n) for n in range(MAX_BATCH + 1)]).encode(): (400, -32600),
}


@pytest.mark.parametrize("body", BAD, ids=lambda b: b[:50].decode("latin-1"))
async def test_a_bad_batch_gets_the_right_error(tmp_path: Path, body: bytes) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        agent = w.agent()
        await agent.open("2025-03-26")
        reply = await agent.http("POST", body)
        assert (reply.status, reply.error["code"]) == BAD[body]
        plain = await agent.http("POST", json.dumps([ask(1)]).encode(), {"Accept": "application/json"})
        assert plain.status == 406
        full = await agent.post([ask(n) for n in range(MAX_BATCH)])
        assert sorted(m["id"] for m in full.messages) == list(range(MAX_BATCH))


async def test_verdicts_in_a_batch_stay_with_their_calls(tmp_path: Path) -> None:
    server = FakeServer("a", ("yes", "no"))
    async with world(tmp_path, server) as w:

        async def judge(call: Any) -> Verdict:
            await asyncio.sleep(0.001)
            kind = "deny" if call.name == "no" else "allow"
            return Verdict(kind=kind, rule="guard @no", reason="not this one")

        w.gate.active, w.gate.judge_request = True, judge
        agent = w.agent()
        await agent.open("2025-03-26")
        batch = [call(n, "no" if n % 3 else "yes", n=n) for n in range(MAX_BATCH)]
        answers = {m["id"]: m["result"] for m in (await agent.post(batch)).messages}
        assert {n for n, result in answers.items() if not result.get("isError")} == set(range(0, MAX_BATCH, 3))
        assert {c["params"]["arguments"]["n"] for c in server.calls("tools/call")} == set(range(0, MAX_BATCH, 3))


async def test_an_id_cannot_be_there_twice_in_a_batch(tmp_path: Path) -> None:
    async def slow(line: Line, message: Message) -> Message:
        await asyncio.sleep(0.05)
        return {"content": []}

    server = FakeServer("a", handlers={"tools/call": slow})
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open("2025-03-26")
        reply = await agent.post([call("same", "echo"), call("same", "echo")])
        assert sorted("error" in m for m in reply.messages) == [False, True]
        assert len(server.calls("tools/call")) == 1


async def test_what_comes_before_the_answers_of_a_batch_shares_their_stream(tmp_path: Path) -> None:
    async def asks(line: Line, message: Message) -> Message:
        token = message["params"]["_meta"]["progressToken"]
        line.notify("notifications/progress", {"progressToken": token, "progress": 1})
        answer = await line.ask("roots/list", {})
        return {"content": [{"type": "text", "text": json.dumps(answer["result"])}]}

    async with world(tmp_path, FakeServer("a", handlers={"tools/call": asks})) as w:
        agent = w.agent()
        await agent.open("2025-03-26", {"roots": {}})
        message = call("x", "echo")
        message["params"]["_meta"] = {"progressToken": "mine"}
        reader, writer = await agent.send("POST", json.dumps([ask(1), message]).encode())
        await agent.head(reader)
        seen: list[Message] = []
        async for chunk in agent.chunks(reader):
            seen += [json.loads(line[6:]) for line in chunk.decode().split("\n") if line.startswith("data: ")]
            if seen and seen[-1].get("method") == "roots/list":
                answer = {"jsonrpc": "2.0", "id": seen[-1]["id"], "result": {"roots": []}}
                assert (await agent.post([answer, CANCELLED])).status == 202
        assert [m.get("method") for m in seen] == [None, "notifications/progress", "roots/list", None]
        assert seen[1]["params"]["progressToken"] == "mine"
        assert seen[3]["result"]["content"][0]["text"] == '{"roots": []}'
        writer.close()


@BOTH
@WITH
async def test_a_batch_goes_over_a_channel(tmp_path: Path, transport: Dialled, version: str) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        client = await transport.dial(w.agent())
        assert await client.say([ask("early")]) in (0, 400)
        await client.open(version)
        before = len(client.told)
        await client.say([ask("p"), CANCELLED, call("c", "echo", n=1), {"id": 1}])
        await until(lambda: len(client.told) >= before + 3)
        by_id = {m["id"]: m for m in client.told[before:]}
        assert (by_id["p"]["result"], by_id[None]["error"]["code"]) == ({}, -32600)
        assert json.loads(by_id["c"]["result"]["content"][0]["text"])["arguments"] == {"n": 1}
        await client.close()
