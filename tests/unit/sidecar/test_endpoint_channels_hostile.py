"""Hostile and careless clients of stdio and HTTP+SSE: each suffers what it does, and nobody else does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from images.sidecar import channel, oldsse
from images.sidecar.seams import Call, Verdict
from images.sidecar.sessions import MAX_SESSIONS
from tests.support.waiting import PATIENCE, until
from tests.unit.sidecar.channel_world import Dialled, OldSse, Stdio
from tests.unit.sidecar.endpoint_world import FakeServer, Line, Message, world

BOTH = pytest.mark.parametrize("transport", [Stdio, OldSse])

BODIES = {
    b"{": -32700, b"\xff": -32700, b"[]": -32600, b"3": -32600, b"{}": -32600,
    b'{"jsonrpc":"2.0","id":null,"method":"ping"}': -32600,
    b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}': -32600,
    b'{"jsonrpc":"2.0","id":{},"method":"ping"}': -32600,
    b'{"jsonrpc":"2.0","id":1,"method":7}': -32600,
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 50_000 + b"]" * 50_000 + b"}": -32700,
    b'{"jsonrpc":"2.0","method":"notifications/message","params":"' + b"x" * (5 << 20) + b'"}': -32600,
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda b: b[:60].decode("latin-1"))
async def test_a_malformed_line_gets_the_right_error(tmp_path: Path, body: bytes) -> None:
    async with world(tmp_path, FakeServer("good")) as w:
        client = await Stdio.dial(w.agent())
        await client.open()
        await client.put(body)
        assert "good" in (await client.call("echo"))["result"]["content"][0]["text"]
        assert [(m["id"], m["error"]["code"]) for m in client.told] == [(None, BODIES[body])]
        await client.close()


@pytest.mark.parametrize("body", BODIES, ids=lambda b: b[:60].decode("latin-1"))
async def test_a_malformed_post_gets_the_right_error(tmp_path: Path, body: bytes) -> None:
    async with world(tmp_path, FakeServer("good")) as w:
        client = await OldSse.dial(w.agent())
        await client.open()
        reply = await client.post(body)
        if len(body) > 4 << 20:
            assert reply.status == 413
        else:
            assert (reply.status, reply.error["code"]) == (400, BODIES[body])
        assert "good" in (await client.call("echo"))["result"]["content"][0]["text"]
        await client.close()


@BOTH
async def test_a_channel_is_initialized_once_and_first(tmp_path: Path, transport: Dialled) -> None:
    async with world(tmp_path, FakeServer("good")) as w:
        client = await transport.dial(w.agent())
        assert (await client.request("tools/list"))["error"]["message"] == "Send initialize first"
        await client.say({"jsonrpc": "2.0", "id": 1, "result": {}})
        await client.notify("notifications/cancelled", {"requestId": []})
        assert (await client.request("initialize", {"protocolVersion": 7}))["error"]["code"] == -32602
        await client.open()
        again = await client.request("initialize", {"protocolVersion": "2025-11-25"})
        assert again["error"]["code"] == -32600
        assert await client.tools() == ["echo"]
        await client.close()


@BOTH
async def test_an_id_in_flight_on_a_channel_cannot_be_taken_again(tmp_path: Path, transport: Dialled) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def slow(line: Line, message: Message) -> Message:
        begun.set()
        await release.wait()
        return {"content": [{"type": "text", "text": "mine"}]}

    async with world(tmp_path, FakeServer("good", handlers={"tools/call": slow})) as w:
        client = await transport.dial(w.agent())
        await client.open()
        call = client.begin("tools/call", {"name": "echo"}, id="same")
        await begun.wait()
        first = client._answers["same"]
        refused = await client.begin("tools/call", {"name": "echo"}, id="same")
        assert refused["error"]["code"] == -32600
        client._answers["same"] = first
        release.set()
        assert (await call)["result"]["content"][0]["text"] == "mine"
        await client.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_who_may_not_open_a_channel(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with world(tmp_path, FakeServer("good")) as w:
        agent = w.agent()
        client = await OldSse.dial(agent)
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        upgrade = {"Connection": "Upgrade", "Upgrade": "mcp-stdio"}
        assert (await agent.http("GET", headers=headers, target="/sse")).status == status
        assert (await agent.http("GET", headers=upgrade | headers)).status == status
        assert (await client.post(body, headers=headers)).status == status
        assert await client.put(body) == 202
        await client.close()


async def test_a_posting_place_cannot_be_guessed_or_used_otherwise(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("good")) as w:
        client = await OldSse.dial(w.agent())
        await client.open()
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        assert (await client.post(body, "/messages?sessionId=" + "0" * 32)).status == 404
        assert (await client.post(body, "/messages")).status == 400
        assert (await client.post(body, headers={"Content-Type": "text/plain"})).status == 415
        name = client.place.partition("=")[2]
        assert (await client.agent.http("POST", body, {"Mcp-Session-Id": name})).status == 404
        assert (await client.agent.http("DELETE", headers={"Mcp-Session-Id": name})).status == 404
        for method, target in (("POST", "/sse"), ("DELETE", "/sse"), ("GET", client.place), ("DELETE", client.place)):
            assert (await client.agent.http(method, body if method == "POST" else b"", target=target)).status == 405
        assert (await client.agent.http("GET", headers={"Accept": "application/json"}, target="/sse")).status == 406
        assert (await client.agent.http("GET", target="/ssex")).status == 404
        assert await client.tools() == ["echo"]
        await client.close()
        async with asyncio.timeout(PATIENCE):
            while (await client.post(body)).status != 404:
                await asyncio.sleep(0.01)


async def test_half_open_channels_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oldsse, "OPENING_SECONDS", 3600.0)
    async with world(tmp_path, FakeServer("good")) as w:
        kept = await OldSse.dial(w.agent())
        await kept.open()
        held = [await OldSse.dial(w.agent()) for _ in range(channel.MAX_CHANNELS - 1)]
        refused = await w.agent().http("GET", headers={"Accept": "text/event-stream"}, target="/sse")
        assert refused.status == 503
        upgrade = {"Connection": "Upgrade", "Upgrade": "mcp-stdio"}
        assert (await w.agent().http("GET", headers=upgrade)).status == 503
        assert await kept.tools() == ["echo"]
        agent = w.agent()
        await agent.open()
        assert await agent.tools() == ["echo"]
        await held.pop().close()
        await agent.settle()
        await (await Stdio.dial(w.agent())).close()
        for client in (kept, *held):
            await client.close()


async def test_half_open_channels_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, FakeServer("good")) as w:
        kept = await OldSse.dial(w.agent())
        await kept.open()
        monkeypatch.setattr(oldsse, "OPENING_SECONDS", 0.1)
        held = [await OldSse.dial(w.agent()) for _ in range(3)]
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(client.ended for client in held))
        assert (await held[0].post(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')).status == 404
        assert await kept.tools() == ["echo"]
        for client in (kept, *held):
            await client.close()


async def test_channels_cannot_take_every_session(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("good")) as w:
        agents = [w.agent() for _ in range(MAX_SESSIONS)]
        for agent in agents:
            await agent.open()
        client = await Stdio.dial(w.agent())
        await client.open()
        assert w.endpoint.sessions == MAX_SESSIONS
        assert (await agents[0].request("ping")).status == 404  # idle longest, so it had to go
        assert await client.tools() == ["echo"]
        w.endpoint.end_sessions()
        await asyncio.wait_for(client.ended, PATIENCE)
        await client.close()


async def test_who_does_not_read_its_lines_may_not_ask_for_more(tmp_path: Path) -> None:
    async def large(line: Line, message: Message) -> Message:
        return {"content": [{"type": "text", "text": "x" * (1 << 20)}]}

    big = FakeServer("big", ("big",), handlers={"tools/call": large})
    async with world(tmp_path, big, FakeServer("good")) as w:
        client = await Stdio.dial(w.agent())
        await client.open()
        client.writer.transport.pause_reading()
        body = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "big"}}
        for number in range(20_000):
            client.writer.write(json.dumps(body | {"id": f"n{number}", "pad": "x" * 1000}).encode() + b"\n")
        await until(lambda: big.calls("tools/call"))
        await asyncio.sleep(1.0)
        asked = len(big.calls("tools/call"))
        assert 0 < asked < 400
        assert w.endpoint.backlog <= 64 << 20
        agent = w.agent()
        await agent.open()
        assert "good" in (await agent.call("echo")).text
        client.writer.transport.abort()
        await client.close()


@BOTH
async def test_a_channel_waits_for_the_record(tmp_path: Path, transport: Dialled) -> None:
    server = FakeServer("a")
    async with world(tmp_path, server) as w:
        client = await transport.dial(w.agent())
        await client.open()
        await client.tools()
        w.gate.read.clear()
        call = client.begin("tools/call", {"name": "echo"})
        await asyncio.sleep(0.1)
        assert server.calls("tools/call") == []
        w.gate.read.set()
        assert "result" in await call
        await client.close()


async def test_a_request_that_asks_for_another_protocol_stays_one(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        agent = w.agent()
        await agent.open()
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        upgrade = {"Connection": "Upgrade", "Upgrade": "mcp-stdio"}
        assert (await agent.http("POST", body, upgrade)).result == {}
        for other in ({"Upgrade": "mcp-stdio"}, {"Connection": "Upgrade", "Upgrade": "websocket"}):
            reader, writer = await agent.send("GET", headers=other)
            assert (await agent.head(reader))[0] == 200  # the GET stream
            writer.close()
            await agent.settle()


@BOTH
async def test_cannot_reach_a_hidden_tool_over_a_channel(tmp_path: Path, transport: Dialled) -> None:
    server = FakeServer("a", ("shown", "hidden"))
    async with world(tmp_path, server) as w:
        w.gate.hidden.add(("a", "hidden"))
        client = await transport.dial(w.agent())
        await client.open("2025-03-26")
        assert await client.tools() == ["shown"]
        for name in ("hidden", "Hidden", "a__hidden", "never-was"):
            assert (await client.call(name))["result"]["content"][0]["text"] == f"Unknown tool: {name}"
        smuggled = {"jsonrpc": "2.0", "id": "b", "method": "tools/call", "params": {"name": "hidden"}}
        await client.say([smuggled, smuggled | {"id": "c", "params": {"name": "shown"}}])
        await until(lambda: len(client.told) >= 2)
        assert [call["params"]["name"] for call in server.calls("tools/call")] == ["shown"]
        assert [event["name"] for event in w.gate.of("denied")] == [
            "hidden",
            "Hidden",
            "a__hidden",
            "never-was",
            "hidden",
        ]
        await client.close()


@BOTH
async def test_a_result_that_is_no_text_cannot_break_a_channel(tmp_path: Path, transport: Dialled) -> None:
    async def blob(line: Line, message: Message) -> None:
        # Over the size up to which a server's line is checked as a whole.
        line.raw(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % message["id"])
        line.raw(b"\xff\xfe\r" + b"x" * 200_000 + b'"}]}}\n')

    async with world(tmp_path, FakeServer("bad", handlers={"tools/call": blob}), FakeServer("good", ("good",))) as w:
        client = await transport.dial(w.agent())
        await client.open()
        bad = await client.call("echo")
        assert "error" in bad or bad["result"]["content"][0]["text"].startswith("\ufffd\ufffd")
        assert "good" in (await client.call("good"))["result"]["content"][0]["text"]
        await client.close()


@BOTH
async def test_cannot_get_past_a_guard_over_a_channel(tmp_path: Path, transport: Dialled) -> None:
    server = FakeServer("a", ("yes", "no", "kept"))
    async with world(tmp_path, server) as w:

        async def request(call: Call) -> Verdict:
            return Verdict(kind="deny" if call.name == "no" else "allow", rule="guard @no", reason="not this one")

        async def result(call: Call, raw: bytes) -> Verdict:
            return Verdict(kind="deny" if call.name == "kept" else "allow", rule="guard @after", reason="secret inside")

        w.gate.active, w.gate.judge_request, w.gate.judge_result = True, request, result
        client = await transport.dial(w.agent())
        await client.open()
        answers = await asyncio.gather(*(client.call(name) for name in ("yes", "no", "kept") * 10))
        said = [answer["result"]["content"][0]["text"] for answer in answers]
        assert said[1::3] == ["Denied by guard @no: not this one"] * 10
        assert said[2::3] == ["Denied by guard @after: secret inside"] * 10
        assert all("arguments" in text for text in said[::3]), "and what is allowed comes through"
        assert {call["params"]["name"] for call in server.calls("tools/call")} == {"yes", "kept"}
        await client.close()


async def test_who_does_not_read_its_events_loses_its_session(tmp_path: Path) -> None:
    async def large(line: Line, message: Message) -> Message:
        return {"content": [{"type": "text", "text": "x" * (1 << 20)}]}

    big = FakeServer("big", ("big",), handlers={"tools/call": large})
    async with world(tmp_path, big, FakeServer("good")) as w:
        w.endpoint.budget.limit = 8 << 20
        client = await OldSse.dial(w.agent())
        await client.open()
        client.writer.transport.pause_reading()
        body = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "big"}}
        statuses = [await client.say(body | {"id": number}) for number in range(40)]
        await until(lambda: not w.endpoint.sessions)
        assert statuses[0] == 202
        assert await client.say(body | {"id": "late"}) == 404
        assert w.endpoint.backlog <= 8 << 20
        agent = w.agent()
        await agent.open()
        assert "good" in (await agent.call("echo")).text
        client.writer.transport.abort()
        await client.close()
