"""Hostile agents (P11): each suffers what it does, and nobody else does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from images.sidecar import connection, listener
from images.sidecar.budget import Budget
from images.sidecar.http import Head
from images.sidecar.listener import Listener
from images.sidecar.seams import Lifecycle
from images.sidecar.sessions import MAX_OWNERS, MAX_SESSIONS
from images.sidecar.stateless import MAX_CALLERS, MAX_LISTENERS
from tests.support.waiting import PATIENCE, until
from tests.unit.sidecar.endpoint_world import Agent, FakeServer, Line, Message, Reply, World, world

META = "io.modelcontextprotocol/"

GOOD = ("good",)


async def good_still_works(w: World, agent: Agent) -> None:
    """The positive control: the neighbour of a bad server answers."""
    async with asyncio.timeout(PATIENCE):
        assert json.loads((await agent.call("good")).text)["server"] == "good"


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
    b"": (400, -32700), b"{": (400, -32700), b"\xff": (400, -32700),
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\xc3"}}': (400, -32700), b"[]": (400, -32600), b"3": (400, -32600),
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


async def test_sessions_that_own_processes_are_fewer(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        plain = w.agent()
        await plain.open()
        owners = [w.agent() for _ in range(MAX_OWNERS + 3)]
        for owner in owners:
            await owner.open(capabilities={"roots": {}})
        assert w.endpoint.sessions == 1 + MAX_OWNERS
        assert [(await owner.request("ping")).status for owner in owners[2:5]] == [404, 200, 200]
        await good_still_works(w, plain)  # of those who own nothing none had to go


async def test_sessions_that_own_processes_give_them_back(tmp_path: Path) -> None:
    server = FakeServer("good", GOOD)
    async with world(tmp_path, server) as w:
        for _ in range(5):
            agent = w.agent()
            await agent.open(capabilities={"roots": {}})
            assert await agent.tools() == ["good"]
            assert (await agent.http("DELETE")).status == 200
            assert (await agent.request("ping")).status == 404
        await until(lambda: all(line.reader.at_eof() for line in server.lines))
        assert len(w.endpoint.cohorts()) == 0


async def test_who_is_slow_to_send_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(connection, "BODY_SECONDS", 0.1)
    monkeypatch.setattr(listener, "SWEEP_SECONDS", 0.05)
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        for start in (b"POST /mcp HT", b"POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"):
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            writer.write(start)
            async with asyncio.timeout(PATIENCE):
                assert await reader.read() == b""
            writer.close()


async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        held = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(listener.MAX_CONNECTIONS)]
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        assert (await reader.read()).startswith(b"HTTP/1.1 503")
        for _, other in held:
            other.close()
        writer.close()
        agent = w.agent()
        async with asyncio.timeout(PATIENCE):
            while (await agent.http("PUT")).status == 503:
                await asyncio.sleep(0.01)
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
            writer.transport.pause_reading()
            writers.append(writer)
        await until(lambda: len(w.gate.of("call")) >= 30)
        assert w.endpoint.backlog <= 64 << 20
        await good_still_works(w, agent)
        for writer in writers:
            writer.close()


async def test_room_for_large_answers_is_for_a_few(tmp_path: Path) -> None:
    """What the kernel holds of answers that nobody reads is bounded too."""
    answer = b"x" * (1 << 20)
    budget = Budget(lambda event: None)
    agents = Listener(lambda to, head, body: to.answer(200, (answer,)), body_limit=1 << 10, budget=budget)
    path = str(tmp_path / "s")
    agents.listen_unix(path)
    clients = [await asyncio.open_unix_connection(path, limit=1 << 10) for _ in range(connection.MAX_ROOMY + 4)]
    for _, writer in clients:
        writer.write(b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
    await until(lambda: agents.queued >= 4 * (len(answer) // 2))  # those without room have the most of it here
    assert agents.roomy == connection.MAX_ROOMY
    for reader, writer in clients:  # and the answer is the same with room and without
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(answer)) == answer
        writer.close()
    await until(lambda: not agents.roomy)
    agents.close()
    assert not budget.total


async def test_cannot_take_a_request_for_the_one_before_it(tmp_path: Path) -> None:
    """A head that comes again is not read again. Whatever differs from it in a single byte, or in its body, is."""
    seen: list[tuple[bytes, bytes]] = []

    def answer(to: connection.Connection, head: Head, body: bytes) -> None:
        seen.append((head.get(b"a"), body))
        to.answer(200, (b"{}",))

    agents = Listener(answer, body_limit=1 << 10, budget=Budget(lambda event: None))
    path = str(tmp_path / "s")
    agents.listen_unix(path)
    reader, writer = await asyncio.open_unix_connection(path)

    async def say(*pieces: bytes, answers: int = 1) -> list[tuple[bytes, bytes]]:
        seen.clear()
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)  # so that each is read by itself
        for _ in range(answers):
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(b"{}")
        return list(seen)

    head = b"POST /mcp HTTP/1.1\r\nHost: h\r\nA: 1\r\nContent-Length: 3\r\n\r\n"
    for _ in range(3):
        assert await say(head + b"abc") == [(b"1", b"abc")]
    assert await say(head.replace(b"A: 1", b"A: 2") + b"abc") == [(b"2", b"abc")]
    assert await say(head + b"abc") == [(b"1", b"abc")]
    assert await say(head + b"a", b"bc") == [(b"1", b"abc")]
    assert await say(head + b"abc" + head + b"def", answers=2) == [(b"1", b"abc"), (b"1", b"def")]
    assert await say(head[:-2] + b"B: 2\r\n\r\nabc") == [(b"1", b"abc")]
    assert await say(head + b"abc") == [(b"1", b"abc")]
    seen.clear()
    writer.write(b"\r\n\r\nabc")  # the end of a head is none
    assert b" 400 " in await reader.read()
    assert not seen
    writer.close()
    await writer.wait_closed()
    agents.close()


async def test_an_id_in_flight_cannot_be_taken_again(tmp_path: Path) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait(line: Line, message: Message) -> Message:
        begun.set()
        await release.wait()
        return {"content": [{"type": "text", "text": "mine"}]}

    async with world(tmp_path, FakeServer("good", GOOD, handlers={"tools/call": wait})) as w:
        agent = w.agent()
        await agent.open()
        first = asyncio.create_task(agent.request("tools/call", {"name": "good"}, id="same"))
        await begun.wait()
        assert (await agent.request("tools/call", {"name": "good"}, id="same")).error["code"] == -32600
        release.set()
        assert (await first).text == "mine"


async def test_one_session_cannot_cancel_or_answer_for_another(tmp_path: Path) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait(line: Line, message: Message) -> Message:
        begun.set()
        await release.wait()
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
        release.set()
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


# ------------------------------------------------------------------------------------------------------ half-open streams


async def test_open_streams_hold_their_sessions_and_no_more(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        agents, writers = [w.agent() for _ in range(MAX_SESSIONS)], []
        for agent in agents:
            await agent.open()
            reader, writer = await agent.send("GET", headers={"Accept": "text/event-stream"})
            assert (await agent.head(reader))[0] == 200
            writers.append(writer)
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        assert (await w.agent().request("initialize", params)).status == 503
        await good_still_works(w, agents[0])
        writers[1].write_eof()  # half of it is gone, and so all of it
        async with asyncio.timeout(PATIENCE):
            while (late := await w.agent().request("initialize", params)).status == 503:
                await asyncio.sleep(0.01)
        assert late.status == 200
        assert (await agents[1].request("ping")).status == 404
        await good_still_works(w, agents[0])
        for writer in writers:
            writer.close()


async def test_a_request_that_is_cut_off_is_none(tmp_path: Path) -> None:
    server = FakeServer("good", GOOD)
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open()
        body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"good"}}'
        for cut in (b"", body[:1], body[:-1]):
            reader, writer = await agent.send("POST", cut, {"Content-Length": str(len(body))})
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            writer.close()
        assert server.calls("tools/call") == []
        await good_still_works(w, agent)


async def test_listeners_and_kinds_of_stateless_clients_are_bounded(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("good", GOOD)) as w:
        held = []

        async def listen(capabilities: Message) -> Reply:
            meta = {META + "protocolVersion": "2026-07-28", META + "clientCapabilities": capabilities}
            params = {"notifications": {"toolsListChanged": True}, "_meta": meta}
            message = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
            headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen"}
            reader, writer = await w.agent().send("POST", json.dumps(message).encode(), headers)
            status, got = await Agent.head(reader)
            if status == 200:
                held.append(writer)
                return Reply(status, got, [], b"", [])
            body = await reader.readexactly(int(got["content-length"]))
            writer.close()
            return Reply(status, got, [json.loads(body)], body, [])

        for _ in range(MAX_LISTENERS):
            assert (await listen({})).status == 200
        assert (await listen({})).error["code"] == -32600
        for number in range(1, MAX_CALLERS):
            assert (await listen({"experimental": {str(number): {}}})).status == 200
        refused = await listen({"experimental": {"more": {}}})
        assert (refused.status, refused.error["code"]) == (400, -32600)
        assert len(w.endpoint.stateless.callers) == MAX_CALLERS
        agent = w.agent()
        await agent.open()
        await good_still_works(w, agent)
        held.pop().close()
        async with asyncio.timeout(PATIENCE):
            while (await listen({"experimental": {"more": {}}})).status != 200:
                await asyncio.sleep(0.01)
        assert len(w.endpoint.stateless.callers) == MAX_CALLERS
        for writer in held:
            writer.close()


async def test_requests_that_end_together_take_no_others_timeout_along(tmp_path: Path) -> None:
    async def never(line: Line, message: Message) -> None:
        await asyncio.Event().wait()

    server = FakeServer("a", handlers={"tools/call": never})
    async with world(tmp_path, server, lifecycle=Lifecycle(call_timeout=0.5)) as w:
        leaving, staying = w.agent(), w.agent()
        for agent in (leaving, staying):
            await agent.open()
            await agent.tools()
        emit = w.gate.emit

        def ending(event: Message) -> None:
            """The first call that times out has its whole session end."""
            emit(event)
            session = w.endpoint.reception.sessions.get(str(event.get("session")).encode())
            if event["event"] == "call" and session is not None and len(w.gate.of("call")) == 1:
                w.endpoint.reception.end(session)

        w.gate.emit = ending
        calls = [asyncio.create_task(agent.call("echo")) for agent in (leaving, leaving, staying)]
        replies = await asyncio.wait_for(asyncio.gather(*calls), PATIENCE)
        assert [reply.error["code"] for reply in replies] == [-32001, -32800, -32001]
