"""Hostile servers (P10) and hostile agents (P11): each suffers what it does, and nobody else does."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from images.sidecar import connection
from images.sidecar.catalog import fits, literals
from images.sidecar.member import MAX_ITEMS
from images.sidecar.seams import Lifecycle, Limits
from images.sidecar.sessions import MAX_SESSIONS
from tests.unit.sidecar.endpoint_world import Agent, FakeServer, Line, Message, World, world

GOOD = ("good",)


async def good_still_works(w: World, agent: Agent) -> None:
    """The positive control: the neighbour of a bad server answers, and soon."""
    async with asyncio.timeout(3):
        assert json.loads((await agent.call("good")).text)["server"] == "good"


# --- hostile servers


async def twice(line: Line, message: Message) -> Message:
    line.result(message, {"content": [{"type": "text", "text": "first"}]})
    return {"content": [{"type": "text", "text": "second"}]}


async def wrong_id(line: Line, message: Message) -> Message:
    for bogus in (message["id"] + 1, str(message["id"]), 0, -1, 10**30):
        line.send({"id": bogus, "result": {"content": [{"type": "text", "text": "forged"}]}})
    return {"content": [{"type": "text", "text": "first"}]}


async def noise(line: Line, message: Message) -> Message:
    line.raw(b"Server listening on stdio\n\n[]\n3\n{}\n" + b'{"jsonrpc":"2.0"}\n')
    return {"content": [{"type": "text", "text": "first"}]}


@pytest.mark.parametrize("bad", [twice, wrong_id, noise], ids=lambda f: f.__name__)
async def test_cannot_confuse_answers(tmp_path: Path, bad: Callable[[Line, Message], Awaitable[Message]]) -> None:
    evil = FakeServer("evil", ("evil",), handlers={"tools/call": bad})
    async with world(tmp_path, evil, FakeServer("good", GOOD)) as w:
        agent = w.agent()
        await agent.open()
        for _ in range(3):
            assert (await agent.call("evil")).text == "first"
        await good_still_works(w, agent)


def head(message: Message) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"result":' % message["id"]


MALFORMED: dict[str, Callable[[Message], bytes]] = {
    "bad UTF-8": lambda m: head(m) + b'{"content":[{"type":"text","text":"\xff\xfe"}]}}',
    "a control character": lambda m: head(m) + b'{"content":[{"type":"text","text":"\x01"}]}}',
    "an array": lambda m: head(m) + b"[1]}",
    "too deep": lambda m: head(m) + b'{"content":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "half": lambda m: head(m) + b'{"content":[',
    "id last": lambda m: b'{"result":{"content":[\xff]},"jsonrpc":"2.0","id":%d}' % m["id"],
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_answer_is_an_error_at_once(tmp_path: Path, what: str) -> None:
    async def send(line: Line, message: Message) -> None:
        line.raw(MALFORMED[what](message) + b"\n")

    evil = FakeServer("evil", ("evil",), handlers={"tools/call": send})
    async with world(tmp_path, evil, FakeServer("good", GOOD), lifecycle=Lifecycle(call_timeout=30)) as w:
        agent = w.agent()
        await agent.open()
        async with asyncio.timeout(2):
            assert "malformed" in (await agent.call("evil")).error["message"]
        await good_still_works(w, agent)


async def test_cannot_list_for_ever(tmp_path: Path) -> None:
    async def pages(line: Line, message: Message) -> Message:
        number = int(message["params"].get("cursor", "0"))
        tools = [{"name": f"t{number}_{i}", "inputSchema": {}} for i in range(10)]
        return {"tools": tools, "nextCursor": str(number + 1)}

    async def circle(line: Line, message: Message) -> Message:
        return {"tools": [{"name": "round", "inputSchema": {}}], "nextCursor": "again"}

    evil = FakeServer("evil", handlers={"tools/list": pages})
    round_ = FakeServer("round", handlers={"tools/list": circle})
    async with world(tmp_path, evil, round_, FakeServer("good", GOOD)) as w:
        agent = w.agent()
        await agent.open()
        listed = (await agent.request("tools/list")).result
        assert "does not end" in listed["_meta"]["dev.mlld/servers"]["evil"]
        assert "does not end" in listed["_meta"]["dev.mlld/servers"]["round"]
        assert len(evil.calls("tools/list")) <= 64
        assert len(round_.calls("tools/list")) == 2
        await good_still_works(w, agent)


async def test_ten_thousand_tools_are_bounded_and_paged(tmp_path: Path) -> None:
    evil = FakeServer("evil", tuple(f"t{i}" for i in range(10_000)))
    async with world(tmp_path, evil, FakeServer("good", GOOD)) as w:
        agent = w.agent()
        await agent.open()
        names: list[str] = []
        cursor = None
        while True:
            result = (await agent.request("tools/list", {"cursor": cursor} if cursor else {})).result
            names += [tool["name"] for tool in result["tools"]]
            assert len(result["tools"]) <= 1_000
            cursor = result.get("nextCursor")
            if cursor is None:
                break
        assert len(names) == MAX_ITEMS + 1
        assert "good" in names
        for forged in ("x", "-1", "99", "1e3"):
            assert (await agent.request("tools/list", {"cursor": forged})).error["code"] == -32602


async def test_a_hundred_megabytes_cost_no_memory(tmp_path: Path) -> None:
    async def flood(line: Line, message: Message) -> None:
        line.raw(head(message) + b'{"content":[{"type":"text","text":"')
        for _ in range(100):
            line.raw(b"x" * (1 << 20))
            await line.writer.drain()
        line.raw(b'"}]}}\n')

    evil = FakeServer("evil", ("evil",), handlers={"tools/call": flood})
    limits = Limits(result_bytes=1 << 20)
    async with world(tmp_path, evil, FakeServer("good", GOOD), limits=limits, lifecycle=Lifecycle()) as w:
        agent = w.agent()
        await agent.open()
        await agent.call("good")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call = asyncio.create_task(agent.call("evil"))
        await good_still_works(w, agent)
        result = (await call).result
        assert "104857" in result["content"][1]["text"]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 << 10


async def test_names_cannot_draw_on_a_terminal(tmp_path: Path) -> None:
    names = ("\x1b[2Jgone", "new\nline", "nul\0", "", "x" * 300, "bidi\u202etxt", "fine-é.1")
    async with world(tmp_path, FakeServer("evil", names)) as w:
        agent = w.agent()
        await agent.open()
        assert await agent.tools() == ["fine-é.1"]


async def test_items_that_are_none_are_left_out(tmp_path: Path) -> None:
    async def odd(line: Line, message: Message) -> Message:
        return {"tools": [3, None, [], {"name": 7}, {"title": "x"}, {"name": "ok", "inputSchema": {}}]}

    async with world(tmp_path, FakeServer("evil", handlers={"tools/list": odd})) as w:
        agent = w.agent()
        await agent.open()
        assert await agent.tools() == ["ok"]


@pytest.mark.parametrize("result", ['{"tools":{}}', '{"tools":null}', "{}", '{"tools":"x"}'])
async def test_a_list_that_is_none_is_that_servers_trouble(tmp_path: Path, result: str) -> None:
    async def odd(line: Line, message: Message) -> Message:
        return dict(json.loads(result))

    async with world(tmp_path, FakeServer("evil", handlers={"tools/list": odd}), FakeServer("good", GOOD)) as w:
        agent = w.agent()
        await agent.open()
        assert await agent.tools() == ["good"]


async def test_a_server_that_dies_at_every_start_is_not_started_all_the_time(tmp_path: Path) -> None:
    evil = FakeServer("evil", refuse_start=True)
    async with world(tmp_path, evil, FakeServer("good", GOOD), lifecycle=Lifecycle(startup_timeout=0.3)) as w:
        agent = w.agent()
        await agent.open()
        for _ in range(20):
            result = (await agent.request("tools/list")).result
            assert "evil did not start" in result["_meta"]["dev.mlld/servers"]["evil"]
            await good_still_works(w, agent)
        assert len(evil.lines) <= 4


async def test_a_server_cannot_ask_what_nobody_offered_nor_without_end(tmp_path: Path) -> None:
    async def pester(line: Line, message: Message) -> Message:
        answers = [line.ask("sampling/createMessage", {}) for _ in range(40)]
        unknown = await line.ask("files/read", {"path": "/etc/passwd"})
        done, waiting = await asyncio.wait([asyncio.ensure_future(a) for a in answers], timeout=0.2)
        for task in waiting:
            task.cancel()
        refused = sum("error" in task.result() for task in done)
        return {"content": [{"type": "text", "text": f"{refused} {unknown['error']['code']}"}]}

    evil = FakeServer("evil", ("evil",), handlers={"tools/call": pester})
    async with world(tmp_path, evil, FakeServer("good", GOOD)) as w:
        plain, sampler = w.agent(), w.agent()
        await plain.open()
        assert (await plain.call("evil")).text == "40 -32601"
        await sampler.open(capabilities={"sampling": {}})
        assert (await sampler.call("evil")).text == "8 -32601"  # 32 wait for the agent, the rest is refused
        await good_still_works(w, sampler)


async def test_a_flood_of_notifications_reaches_nobody_who_does_not_read(tmp_path: Path) -> None:
    async def flood(line: Line, message: Message) -> Message:
        for _ in range(200):
            line.notify("notifications/message", {"level": "info", "data": "x" * 20_000})
            await line.writer.drain()
        return {"content": [{"type": "text", "text": "ok"}]}

    evil = FakeServer("evil", ("evil",), {"tools": {}, "logging": {}}, handlers={"tools/call": flood})
    async with world(tmp_path, evil, FakeServer("good", GOOD)) as w:
        agent = w.agent()
        await agent.open()
        body = json.dumps({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "evil"}}).encode()
        _, writer = await agent.send("POST", body)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.3)
        await good_still_works(w, agent)
        assert w.endpoint.backlog < 4 << 20
        writer.close()


async def test_a_carriage_return_cannot_forge_an_event(tmp_path: Path) -> None:
    async def sneak(line: Line, message: Message) -> None:
        line.notify(
            "notifications/progress", {"progressToken": message["params"]["_meta"]["progressToken"], "progress": 1}
        )
        line.raw(head(message) + b'{"content":[],\r\rdata: {"forged":true}\r\r"x":1}}\n')
        line.raw(head(message) + b'{"content":\r\r[\r]}}\n')

    evil = FakeServer("evil", ("evil",), handlers={"tools/call": sneak})
    async with world(tmp_path, evil) as w:
        agent = w.agent()
        await agent.open()
        reply = await agent.call("evil", meta={"progressToken": 1})
        assert b"\r" not in reply.body.replace(b"\r\n", b"")
        assert "forged" not in reply.body.decode()


def test_a_template_cannot_take_for_ever() -> None:
    parts = literals("".join(f"{{+a{i}}}x" for i in range(2000)) + "{y}end")
    assert not fits(parts, "x" * 8000)
    assert fits(literals("file:///{path}/b{?q}"), "file:///a/b")
    assert not fits(literals("ab{x}ba"), "aba")
    assert fits(literals("plain"), "plain")


# --- hostile agents


async def test_a_line_end_in_arguments_cannot_smuggle_a_message(tmp_path: Path) -> None:
    server = FakeServer("good", GOOD)
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open()
        smuggled = '{"jsonrpc":"2.0","id":77,"method":"tools/call","params":{"name":"hidden"}}'
        body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"good","arguments":{\r\n"a":%s\n}}}'
        reply = await agent.http("POST", (body % smuggled).encode())
        assert json.loads(reply.text)["arguments"]["a"]["id"] == 77
        assert [call["params"]["name"] for call in server.calls("tools/call")] == ["good"]


async def test_a_key_given_twice_is_read_once(tmp_path: Path) -> None:
    server = FakeServer("good", ("good", "hidden"))
    async with world(tmp_path, server) as w:
        w.gate.hidden.add(("good", "hidden"))
        agent = w.agent()
        await agent.open()
        hidden, good = '"name":"hidden"', '"name":"good"'
        for names in (f"{hidden},{good}", f"{good},{hidden}", good + ',"n\\u0061me":"hidden"'):
            body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{' + names + "}}"
            await agent.http("POST", body.encode())
        assert [call["params"] for call in server.calls("tools/call")] == [{"name": "good"}]


BODIES = {
    b"": (400, -32700), b"{": (400, -32700), b"\xff": (400, -32700), b"[]": (400, -32600), b"3": (400, -32600),
    b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]': (400, -32600), b"{}": (400, -32600),
    b'{"jsonrpc":"2.0","id":null,"method":"ping"}': (400, -32600),
    b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}': (400, -32600),
    b'{"jsonrpc":"2.0","id":{},"method":"ping"}': (400, -32600),
    b'{"jsonrpc":"2.0","id":1,"method":7}': (400, -32600),
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}': (200, -32602),
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}': (200, -32602),
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}': (200, -32602),
    b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"x"}}': (200, -32601),
    b'{"jsonrpc":"2.0","id":1,"method":"nope"}': (200, -32601),
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 50_000 + b"]" * 50_000 + b"}": (400, -32700),
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda b: b[:60].decode("latin-1"))
async def test_a_malformed_request_gets_the_right_error(tmp_path: Path, body: bytes) -> None:
    status, code = BODIES[body]
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        agent = w.agent()
        await agent.open()
        reply = await agent.http("POST", body)
        assert (reply.status, reply.error["code"]) == (status, code)
        await good_still_works(w, agent)


RAW = {
    "both lengths": ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
    "two lengths": ("Content-Length: 3\r\nContent-Length: 4\r\n", 400),
    "a signed length": ("Content-Length: +3\r\n", 400),
    "a list of lengths": ("Content-Length: 3, 3\r\n", 400),
    "another coding": ("Transfer-Encoding: gzip, chunked\r\n", 501),
    "a folded header": ("X-A: b\r\n c\r\n", 400),
    "a space before the colon": ("X-A : b\r\n", 400),
    "a bare line feed": ("X-A: b\nX-C: d\r\n", 400),
    "a NUL": ("X-A: b\0\r\n", 400),
    "two hosts": ("Host: evil.example\r\n", 400),
    "a long head": ("X-A: " + "b" * 20_000 + "\r\n", 431),
    "many headers": ("".join(f"X-{i}: b\r\n" for i in range(100)), 431),
    "an expectation": ("Expect: miracles\r\n", 417),
    "a huge body": ("Content-Length: 104857600\r\n", 413),
}


@pytest.mark.parametrize("what", RAW)
async def test_what_two_readers_could_read_differently_is_refused(tmp_path: Path, what: str) -> None:
    lines, status = RAW[what]
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        agent = w.agent()
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(
            f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{w.port}\r\n{lines}\r\n".encode() + b"GET / HTTP/1.1\r\n\r\n"
        )
        got, headers = await agent.head(reader)
        assert (got, headers["connection"]) == (status, "close")
        rest = await reader.read()
        assert b"HTTP/1.1" not in rest  # what came behind it was not read as a request
        writer.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer token-of-this-ru"}, 401),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1:1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Mcp-Session-Id": "0" * 32}, 404),
        ({"Mcp-Session-Id": ""}, 400),
        ({"MCP-Protocol-Version": "1999-01-01"}, 400),
        ({"Content-Type": "text/plain"}, 415),
        ({}, 200),
    ],
)
async def test_who_may_not_speak_here(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        agent = w.agent()
        await agent.open()
        verbs = ("POST", "GET", "DELETE") if status in (401, 403) else ("POST",)
        for verb in verbs:
            reply = await agent.http(verb, b'{"jsonrpc":"2.0","id":1,"method":"ping"}', headers)
            assert reply.status == status


async def test_a_thousand_sessions_are_bounded(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        first = w.agent()
        await first.open()
        for _ in range(MAX_SESSIONS + 50):
            await w.agent().open()
        assert w.endpoint.sessions == MAX_SESSIONS
        assert (await first.request("ping")).status == 404  # idle longest, so it had to go
        await first.open()
        await good_still_works(w, first)


async def test_sessions_that_own_processes_give_them_back(tmp_path: Path) -> None:
    server = FakeServer("good", GOOD)
    async with world(tmp_path, server) as w:
        for _ in range(5):
            agent = w.agent()
            await agent.open(capabilities={"roots": {}})
            assert await agent.tools() == ["good"]
            assert (await agent.http("DELETE")).status == 200
            assert (await agent.request("ping")).status == 404
        async with asyncio.timeout(2):
            while any(not line.reader.at_eof() for line in server.lines):
                await asyncio.sleep(0.01)
        assert len(w.endpoint.cohorts()) == 0


async def test_who_is_slow_to_send_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(connection, "BODY_SECONDS", 0.1)
    monkeypatch.setattr(connection, "SWEEP_SECONDS", 0.05)
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        for start in (b"POST /mcp HT", b"POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"):
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            writer.write(start)
            async with asyncio.timeout(2):
                assert await reader.read() == b""
            writer.close()


async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        held = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(connection.MAX_CONNECTIONS)]
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        assert (await reader.read()).startswith(b"HTTP/1.1 503")
        for _, other in held:
            other.close()
        writer.close()
        await asyncio.sleep(0.1)
        agent = w.agent()
        await agent.open()
        await good_still_works(w, agent)


async def test_who_does_not_read_loses_only_its_connection(tmp_path: Path) -> None:
    async def large(line: Line, message: Message) -> Message:
        return {"content": [{"type": "text", "text": "x" * (4 << 20)}]}

    big = FakeServer("big", ("big",), handlers={"tools/call": large})
    async with world(tmp_path, big, FakeServer("good", GOOD)) as w:
        agent = w.agent()
        await agent.open()
        writers = []
        for number in range(30):
            message = {"jsonrpc": "2.0", "id": f"n{number}", "method": "tools/call", "params": {"name": "big"}}
            _, writer = await agent.send("POST", json.dumps(message).encode())
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writers.append(writer)
        async with asyncio.timeout(10):
            while len(w.gate.of("call")) < 30:
                await asyncio.sleep(0.02)
        assert w.endpoint.backlog <= 64 << 20
        await good_still_works(w, agent)
        for writer in writers:
            writer.close()


async def test_an_id_in_flight_cannot_be_taken_again(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def wait(line: Line, message: Message) -> Message:
        begun.set()
        await asyncio.sleep(0.2)
        return {"content": [{"type": "text", "text": "mine"}]}

    async with world(tmp_path, FakeServer("good", GOOD, handlers={"tools/call": wait})) as w:
        agent = w.agent()
        await agent.open()
        first = asyncio.create_task(agent.request("tools/call", {"name": "good"}, id="same"))
        await begun.wait()
        assert (await agent.request("tools/call", {"name": "good"}, id="same")).error["code"] == -32600
        assert (await first).text == "mine"


async def test_one_session_cannot_cancel_or_answer_for_another(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def wait(line: Line, message: Message) -> Message:
        begun.set()
        await asyncio.sleep(0.2)
        return {"content": [{"type": "text", "text": "mine"}]}

    async with world(tmp_path, FakeServer("good", GOOD, handlers={"tools/call": wait})) as w:
        agent, other = w.agent(), w.agent()
        await agent.open()
        await other.open()
        call = asyncio.create_task(agent.request("tools/call", {"name": "good"}, id="x"))
        await begun.wait()
        await other.notify("notifications/cancelled", {"requestId": "x"})
        for bogus in ("1", 1, "x", "a" * 1000):
            assert (await other.post({"jsonrpc": "2.0", "id": bogus, "result": {}})).status == 202
        assert (await call).text == "mine"


async def test_chunked_bodies_and_pipelining_are_read_right(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        agent = w.agent()
        await agent.open()
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        chunked = b"5;x=y\r\n" + body[:5] + b"\r\n" + b"%x\r\n" % (len(body) - 5) + body[5:] + b"\r\n0\r\n\r\n"
        reply = await agent.http("POST", chunked, {"Transfer-Encoding": "chunked"})
        assert reply.result == {}
        reader, writer = await agent.send("POST", body)
        for number in range(2, 50):
            other = body.replace(b":1,", b":%d," % number)
            lines = "".join(f"{k}: {v}\r\n" for k, v in agent.headers.items())
            lines += f"Content-Type: application/json\r\nContent-Length: {len(other)}\r\n"
            writer.write(f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + other)
        for number in range(1, 50):
            _, got = await agent.head(reader)
            assert json.loads(await reader.readexactly(int(got["content-length"])))["id"] == number
        for bad in (b"g\r\n", b"5\r\nabcdeXX", b"0\r\nTrailer: x\r\n\r\n", b"fffffff\r\n"):
            reply = await agent.http("POST", bad, {"Transfer-Encoding": "chunked"})
            assert reply.status in (400, 413)
        writer.close()
