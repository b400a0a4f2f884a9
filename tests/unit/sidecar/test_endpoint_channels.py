"""Transports with one stream for everything, stdio and HTTP+SSE of 2024-11-05: whatever MCP says goes both ways."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import mcp
import pytest
from mcp.client.sse import sse_client

from images.sidecar import channel
from tests.support.waiting import PATIENCE, until
from tests.unit.sidecar.channel_world import Dialled, OldSse, Stdio
from tests.unit.sidecar.endpoint_world import TOKEN, FakeServer, Line, Message, world

META = "io.modelcontextprotocol/"
MODERN = {META + "protocolVersion": "2026-07-28", META + "clientCapabilities": {}}
BOTH = pytest.mark.parametrize("transport", [Stdio, OldSse])


@BOTH
async def test_a_channel_carries_a_session(tmp_path: Path, transport: Dialled) -> None:
    server = FakeServer("a", ("one", "same"))
    async with world(tmp_path, server, FakeServer("b", ("two", "same"))) as w:
        client = await transport.dial(w.agent())
        opened = await client.open("2024-11-05")
        assert opened["protocolVersion"] == "2024-11-05"
        assert sorted(await client.tools()) == ["a__same", "b__same", "one", "two"]
        answers = await asyncio.gather(*(client.call("one", {"n": n}) for n in range(20)))
        said = [json.loads(a["result"]["content"][0]["text"])["arguments"]["n"] for a in answers]
        assert said == list(range(20))
        assert answers[0]["result"]["_meta"]["dev.mlld/labels"] == ["src:mcp", "mcp:a:one"]
        assert (await client.request("ping"))["result"] == {}
        assert (await client.request("nope"))["error"]["code"] == -32601
        assert [event["name"] for event in w.gate.of("call")] == ["one"] * 20
        assert w.gate.of("session")[0]["transport"] == ("stdio" if transport is Stdio else "sse")
        await client.close()
        await until(lambda: not w.endpoint.sessions)


@BOTH
async def test_questions_of_servers_reach_a_channel(tmp_path: Path, transport: Dialled) -> None:
    async def ask(line: Line, message: Message) -> Message:
        sampled = await line.ask("sampling/createMessage", {"messages": []})
        form = await line.ask("elicitation/create", {"message": "sure?", "requestedSchema": {"type": "object"}})
        return {"content": [{"type": "text", "text": json.dumps([sampled["result"], form["error"]["code"]])}]}

    async with world(tmp_path, FakeServer("a", handlers={"tools/call": ask})) as w:
        client = await transport.dial(w.agent())
        await client.open(capabilities={"sampling": {}, "elicitation": {}})
        call = client.begin("tools/call", {"name": "echo"})
        question = await client.asked.get()
        assert question["method"] == "sampling/createMessage"
        await client.say({"jsonrpc": "2.0", "id": question["id"], "result": {"model": "m"}})
        question = await client.asked.get()
        assert question["method"] == "elicitation/create"
        await client.say({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "no"}})
        assert json.loads((await call)["result"]["content"][0]["text"]) == [{"model": "m"}, -1]
        await client.close()


@BOTH
async def test_progress_and_news_reach_a_channel(tmp_path: Path, transport: Dialled) -> None:
    async def progressing(line: Line, message: Message) -> Message:
        token = message["params"]["_meta"]["progressToken"]
        line.notify("notifications/progress", {"progressToken": token, "progress": 1})
        line.notify("notifications/message", {"level": "error", "data": "hm"})
        return {"content": []}

    server = FakeServer("a", capabilities={"tools": {"listChanged": True}, "logging": {}})
    server.handlers["tools/call"] = progressing
    async with world(tmp_path, server) as w:
        client = await transport.dial(w.agent())
        await client.open()
        assert await client.tools() == ["echo"]
        await client.call("echo", _meta={"progressToken": "mine"})
        assert (await client.hears("notifications/progress"))["params"] == {"progressToken": "mine", "progress": 1}
        assert (await client.hears("notifications/message"))["params"]["data"] == "hm"
        server.tools = ("echo", "new")
        server.lines[0].notify("notifications/tools/list_changed", {})
        await client.hears("notifications/tools/list_changed")
        assert await client.tools() == ["echo", "new"]
        await client.close()


@BOTH
async def test_a_cancelled_request_of_a_channel_is_not_answered(tmp_path: Path, transport: Dialled) -> None:
    begun = asyncio.Event()

    async def never(line: Line, message: Message) -> Message | None:
        if message["params"]["arguments"]:
            return {"content": []}
        begun.set()
        await asyncio.Event().wait()
        return None

    server = FakeServer("a", handlers={"tools/call": never})
    async with world(tmp_path, server) as w:
        client = await transport.dial(w.agent())
        await client.open()
        call = client.begin("tools/call", {"name": "echo", "arguments": {}}, id="mine")
        await begun.wait()
        refused = client.begin("tools/list", id="other")
        await client.notify("notifications/cancelled", {"requestId": "mine", "reason": "enough"})
        await refused
        assert "result" in await client.call("echo", {"n": 1})
        assert not call.done()
        told = server.calls("notifications/cancelled")[0]["params"]
        assert told == {"requestId": server.calls("tools/call")[0]["id"], "reason": "enough"}
        call.cancel()
        await client.close()


@BOTH
async def test_a_megabyte_goes_both_ways_on_a_channel(tmp_path: Path, transport: Dialled) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        client = await transport.dial(w.agent())
        await client.open()
        text = "é\n\u2028" * 100_000
        answer = await client.call("echo", {"text": text})
        assert json.loads(answer["result"]["content"][0]["text"])["arguments"]["text"] == text
        await client.close()


@BOTH
async def test_who_leaves_a_channel_has_cancelled(
    tmp_path: Path, transport: Dialled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "DRAIN_SECONDS", 0.3)  # who closes both ways at once looks like one who only listens
    begun = asyncio.Event()

    async def never(line: Line, message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    server = FakeServer("a", handlers={"tools/call": never})
    async with world(tmp_path, server) as w:
        client = await transport.dial(w.agent())
        await client.open(capabilities={"roots": {}})
        call = client.begin("tools/call", {"name": "echo"})
        await begun.wait()
        client.writer.transport.abort()
        await until(lambda: not (w.endpoint.sessions or w.endpoint.cohorts()))
        assert [event["isError"] for event in w.gate.of("call")] == [True]
        call.cancel()
        await client.close()


async def test_lines_that_end_are_answered_first(tmp_path: Path) -> None:
    async def slow(line: Line, message: Message) -> Message:
        await asyncio.sleep(0.2)
        return {"content": []}

    async with world(tmp_path, FakeServer("a", handlers={"tools/call": slow})) as w:
        client = await Stdio.dial(w.agent())
        await client.open()
        calls = [client.begin("tools/call", {"name": "echo"}) for _ in range(3)]
        await asyncio.sleep(0.05)
        client.writer.write(b'{"jsonrpc":"2.0","id":"last","method":"ping"}')  # a last line without an end
        client.writer.write_eof()
        assert all("result" in answer for answer in await asyncio.gather(*calls))
        await asyncio.wait_for(client.ended, PATIENCE)
        assert w.endpoint.sessions == 0
        assert [message["id"] for message in client.told] == ["last"]
        assert [call["isError"] for call in w.gate.of("call")] == [False] * 3, "each is on record once, as it ended"
        await client.close()


async def test_nobody_is_waited_for_who_says_nothing_more(tmp_path: Path) -> None:
    async def ask(line: Line, message: Message) -> Message:
        return {"content": [{"type": "text", "text": json.dumps(await line.ask("roots/list", {}))}]}

    async with world(tmp_path, FakeServer("a", handlers={"tools/call": ask})) as w:
        client = await Stdio.dial(w.agent())
        await client.open(capabilities={"roots": {}})
        call = client.begin("tools/call", {"name": "echo"})
        await client.asked.get()
        client.writer.write_eof()
        assert "says nothing more" in (await call)["result"]["content"][0]["text"]
        await asyncio.wait_for(client.ended, PATIENCE)
        await client.close()


async def test_the_stateless_era_over_lines(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def call(line: Line, message: Message) -> Message | None:
        if message["params"]["name"] == "slow":
            begun.set()
            await asyncio.Event().wait()
        if message["params"]["name"] == "asks":
            answer = await line.ask("sampling/createMessage", {"messages": []})
            return {"content": [{"type": "text", "text": answer["result"]["model"]}]}
        return {"content": [{"type": "text", "text": "done"}]}

    server = FakeServer("a", ("quick", "slow", "asks"), handlers={"tools/call": call})
    async with world(tmp_path, server) as w:
        client = await Stdio.dial(w.agent())
        found = await client.request("server/discover", {"_meta": MODERN})
        assert found["result"]["supportedVersions"] == ["2026-07-28"]
        listed = (await client.request("tools/list", {"_meta": MODERN}))["result"]
        assert (listed["resultType"], len(listed["tools"])) == ("complete", 3)
        done = (await client.call("quick", _meta=MODERN))["result"]
        assert (done["resultType"], done["content"][0]["text"]) == ("complete", "done")
        wrong = await client.call("quick", _meta=MODERN | {META + "protocolVersion": "2027-01-01"})
        assert wrong["error"]["code"] == -32022
        offering = MODERN | {META + "clientCapabilities": {"sampling": {}}}
        asked = (await client.call("asks", _meta=offering))["result"]
        key = next(iter(asked["inputRequests"]))
        assert (asked["resultType"], asked["inputRequests"][key]["method"]) == (
            "input_required",
            "sampling/createMessage",
        )
        back = {"requestState": asked["requestState"], "inputResponses": {key: {"model": "m"}}}
        assert (await client.call("asks", _meta=offering, **back))["result"]["content"][0]["text"] == "m"
        slow = client.begin("tools/call", {"name": "slow", "_meta": MODERN}, id="slow")
        await begun.wait()
        await client.notify("notifications/cancelled", {"requestId": "slow"})
        await until(lambda: server.calls("notifications/cancelled"))
        assert not slow.done()
        slow.cancel()
        await client.close()


async def test_listening_over_lines_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    server = FakeServer("a", capabilities={"tools": {"listChanged": True}})
    async with world(tmp_path, server) as w:
        client = await Stdio.dial(w.agent())
        await client.request("tools/list", {"_meta": MODERN})
        params = {"notifications": {"toolsListChanged": True}, "_meta": MODERN}
        listen = client.begin("subscriptions/listen", params, id="ear")
        acknowledged = await client.hears("notifications/subscriptions/acknowledged")
        assert acknowledged["params"]["_meta"][META + "subscriptionId"] == "ear"
        server.tools = ("echo", "new")
        server.lines[0].notify("notifications/tools/list_changed", {})
        told = await client.hears("notifications/tools/list_changed")
        assert told["params"]["_meta"][META + "subscriptionId"] == "ear"
        audiences = w.endpoint.cohorts()[0].audiences
        assert len(audiences) == 2
        await client.notify("notifications/cancelled", {"requestId": "ear"})
        await client.request("tools/list", {"_meta": MODERN})
        assert len(audiences) == 1
        listen.cancel()
        again = client.begin("subscriptions/listen", params, id="ear")
        await client.request("tools/list", {"_meta": MODERN})
        assert len(audiences) == 2
        client.writer.write_eof()  # nobody listens for ever to who says nothing more
        await asyncio.wait_for(client.ended, PATIENCE)
        assert len(audiences) == 1
        again.cancel()
        await client.close()


async def test_the_official_client_is_served_over_the_older_transport(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a", ("one",))) as w:
        place = f"http://127.0.0.1:{w.port}/sse"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with mcp.Client(sse_client(place, headers=headers), mode="legacy") as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["one"]
            result = await client.call_tool("one", {"n": 1})
            assert json.loads(result.content[0].text)["arguments"] == {"n": 1}


async def test_the_stateless_era_does_not_exist_over_the_older_transport(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        client = await OldSse.dial(w.agent())
        refused = await client.request("tools/list", {"_meta": MODERN})
        assert (refused["error"]["code"], refused["error"]["message"]) == (-32600, "Send initialize first")
        await client.close()
