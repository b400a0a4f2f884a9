"""Remote servers: over streamable HTTP in both eras, over HTTP+SSE, and what a bad one can do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from images.sidecar import httpclient
from images.sidecar.remote import shown
from images.sidecar.seams import Limits, ServerSpec
from tests.unit.sidecar.endpoint_world import TOKEN, FakeServer, Line, Message, dial, world
from tests.unit.sidecar.test_endpoint_eras import Stateless, eliciting


def spec(port: int, transport: Any = "http", path: str = "/mcp") -> ServerSpec:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return ServerSpec(name="far", transport=transport, url=f"http://127.0.0.1:{port}{path}", headers=headers)


async def progressing(line: Line, message: Message) -> Message:
    token = message["params"]["_meta"]["progressToken"]
    line.notify("notifications/progress", {"progressToken": token, "progress": 1})
    return {"content": [{"type": "text", "text": "done"}]}


@pytest.fixture
def far(tmp_path: Path) -> Path:
    (tmp_path / "far").mkdir()
    return tmp_path / "far"


async def test_a_remote_server_is_one_among_others(tmp_path: Path, far: Path) -> None:
    async with (
        world(far, FakeServer("back", ("there",))) as back,
        world(tmp_path, FakeServer("near", ("here",)), remote=(spec(back.port),)) as w,
    ):
        agent = w.agent()
        await agent.open()
        assert sorted(await agent.tools()) == ["here", "there"]
        reply = await agent.call("there", {"k": "é"})
        assert json.loads(reply.text) == {"server": "back", "tool": "there", "arguments": {"k": "é"}}
        assert reply.result["_meta"]["dev.mlld/labels"] == ["src:mcp", "mcp:far:there"]


async def test_progress_and_questions_come_through_http(tmp_path: Path, far: Path) -> None:
    server = FakeServer("back", ("go",), handlers={"tools/call": progressing})
    async with world(far, server) as back, world(tmp_path, remote=(spec(back.port),)) as w:
        agent = w.agent()
        await agent.open(capabilities={"elicitation": {}})
        reply = await agent.call("go", meta={"progressToken": 5})
        assert reply.messages[0]["params"] == {"progressToken": 5, "progress": 1}
        assert reply.text == "done"
        server.handlers["tools/call"] = eliciting
        body = json.dumps({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "go"}}).encode()
        reader, writer = await agent.send("POST", body)
        await agent.head(reader)
        texts = []
        async for chunk in agent.chunks(reader):
            for message in (json.loads(line[6:]) for line in chunk.decode().split("\n") if line.startswith("data: {")):
                if message.get("method") == "elicitation/create":
                    await agent.post({"jsonrpc": "2.0", "id": message["id"], "result": {"action": "cancel"}})
                elif "result" in message:
                    texts.append(message["result"]["content"][0]["text"])
        writer.close()
        assert texts == ['{"action": "cancel"}']


async def test_the_stateless_era_all_the_way(tmp_path: Path, far: Path) -> None:
    async def marked(line: Line, message: Message) -> Message:
        schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
        return {"tools": [{"name": "one", "inputSchema": schema}]}

    server = FakeServer("back", ("one",), handlers={"tools/list": marked})
    async with world(far, server) as back, world(tmp_path, remote=(spec(back.port),)) as w:
        agent = Stateless(w.port)
        assert (await agent.ask("tools/list")).result["tools"][0]["name"] == "one"
        headers = {"Mcp-Param-Region": shown("é")}
        reply = await agent.ask("tools/call", {"name": "one", "arguments": {"region": "é"}}, headers)
        assert json.loads(reply.text)["arguments"] == {"region": "é"}  # the far end checked the mirrored header, too
        assert len(back.endpoint.cohorts()) == 1


async def test_a_session_that_is_lost_there_begins_anew(tmp_path: Path, far: Path) -> None:
    async with world(far, FakeServer("back", ("there",))) as back, world(tmp_path, remote=(spec(back.port),)) as w:
        agent = w.agent()
        await agent.open()
        assert await agent.tools() == ["there"]
        back.endpoint.end_sessions()
        assert "whether the call took effect is unknown" in (await agent.call("there")).error["message"]
        assert (await agent.call("there")).result


async def test_cannot_leave_without_a_grant(tmp_path: Path) -> None:
    denied = ServerSpec(name="far", transport="http", url="http://192.0.2.1/mcp")
    async with world(tmp_path, FakeServer("near", ("here",)), remote=(denied,)) as w:
        agent = w.agent()
        await agent.open()
        listed = (await agent.request("tools/list")).result
        assert [tool["name"] for tool in listed["tools"]] == ["here"]
        assert "192.0.2.1 was refused" in listed["_meta"]["dev.mlld/servers"]["far"]["reason"]


def test_certificate_authorities_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    httpclient._trust.cache_clear()
    monkeypatch.setattr(
        ssl, "create_default_context", lambda: made.append("read") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
    for url in ("https://one.example.com/mcp", "https://two.example.com/mcp", "http://three.example.com/mcp"):
        httpclient.HttpClient("far", url, {}, dial, 1024)
    httpclient._trust.cache_clear()
    assert made == ["read"]


Answering = Callable[[dict[str, Any], asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def scripted(answering: Answering) -> AsyncIterator[int]:
    """An HTTP server that a test writes out byte by byte; gives its port."""

    serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving[asyncio.get_running_loop().create_task(serve(reader, writer))] = writer

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, target, _ = head[0].split()
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            message = json.loads(body) if body else {}
            request = {"verb": method, "target": target, "headers": headers, "message": message}
            await answering(request, reader, writer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1")
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await asyncio.sleep(0.02)  # who connected at the last moment is accepted, to be closed with the others
        server.close()
        for task, writer in serving.items():
            task.cancel()
            writer.close()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.gather(*(writer.wait_closed() for writer in serving.values()), return_exceptions=True)


def whole(body: bytes, kind: str = "application/json", status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def opening(message: Message) -> Message | None:
    """What a server answers before the first call."""
    answers: dict[str, Message] = {
        "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {}},
        "tools/list": {"tools": [{"name": "go", "inputSchema": {"type": "object"}}]},
    }
    result = answers.get(message.get("method", ""))
    return {"jsonrpc": "2.0", "id": message["id"], "result": result} if result else None


BAD: dict[str, tuple[bytes, str]] = {
    "no HTTP": (b"hello\r\n\r\n", "it sent no HTTP answer"),
    "nothing": (b"", "it sent no HTTP answer"),
    "a redirect": (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "HTTP 302"),
    "too early an end": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
        "too early",
    ),
    "too much": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n",
        "over the limit",
    ),
    "no JSON": (whole(b"<html>"), "Parse error"),
    "a login page": (whole(b"<html>", "text/html", "401 Unauthorized"), "it wants another credential than it got"),
    "a bad chunk": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "too early",
    ),
    "an error without an id": (
        whole(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"go away"}}', status="400 Bad Request"),
        "go away",
    ),
    "an event without end": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: " + b"x" * 300_000,
        "over the limit",
    ),
    "a stream without an answer": (whole(b": nothing\n\n", "text/event-stream"), "ended before the answer"),
}


@pytest.mark.parametrize("what", BAD)
async def test_whatever_a_remote_server_sends_is_an_error_of_that_call(tmp_path: Path, what: str) -> None:
    bad, expected = BAD[what]

    async def answer(request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered = opening(request["message"])
        if answered is not None:
            writer.write(whole(json.dumps(answered).encode()))
        elif request["message"].get("method") == "tools/call":
            writer.write(bad)
        else:
            writer.write(whole(b"", status="202 Accepted" if request["verb"] == "POST" else "405 No"))

    async with (
        scripted(answer) as port,
        world(tmp_path, FakeServer("near", ("here",)), remote=(spec(port),), limits=Limits(result_bytes=200_000)) as w,
    ):
        agent = w.agent()
        await agent.open()
        assert sorted(await agent.tools()) == ["go", "here"]
        assert expected in (await agent.call("go")).error["message"]
        assert json.loads((await agent.call("here")).text)["server"] == "near"


@pytest.mark.parametrize("place", ["/post?s=1", "http://127.0.0.1:1/elsewhere"])
async def test_the_older_transport_posts_at_its_own_origin_only(tmp_path: Path, place: str) -> None:
    stream: list[asyncio.StreamWriter] = []
    posted: list[str] = []

    async def answer(request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request["verb"] == "GET":
            stream.append(writer)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            writer.write(f"event: endpoint\ndata: {place}\n\n".encode())
            await reader.read()
            return
        posted.append(request["target"])
        message = request["message"]
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        answered = opening(message)
        if answered is None and "id" in message:
            answered = {"jsonrpc": "2.0", "id": message["id"], "result": {"content": [{"type": "text", "text": "old"}]}}
        if answered is not None:
            stream[-1].write(f"event: message\ndata: {json.dumps(answered)}\n\n".encode())

    async with scripted(answer) as port, world(tmp_path, remote=(spec(port, "sse", "/sse"),)) as w:
        agent = w.agent()
        await agent.open()
        if place.startswith("/"):
            assert await agent.tools() == ["go"]
            assert (await agent.call("go")).text == "old"
            assert set(posted) == {place}
        else:
            assert (
                "another origin"
                in (await agent.request("tools/list")).result["_meta"]["dev.mlld/servers"]["far"]["reason"]
            )
            assert posted == []


async def test_a_stream_that_a_server_closes_is_gone_on_with_and_the_agent_let_go(tmp_path: Path) -> None:
    resumed: list[str] = []

    async def answer(request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message, last = request["message"], request["headers"].get("last-event-id")
        answered = opening(message)
        if answered is not None:
            writer.write(whole(json.dumps(answered).encode(), extra="Mcp-Session-Id: s\r\n"))
        elif message.get("method") == "tools/call":
            writer.write(whole(b"id: first\nretry: 10\ndata: \n\n", "text/event-stream"))
        elif last:
            resumed.append(last)
            result = {"jsonrpc": "2.0", "id": 3, "result": {"content": [{"type": "text", "text": "later"}]}}
            await asyncio.sleep(0.05)
            writer.write(whole(f"id: second\ndata: {json.dumps(result)}\n\n".encode(), "text/event-stream"))
        else:
            writer.write(whole(b"", status="202 Accepted" if request["verb"] == "POST" else "405 No"))

    async with scripted(answer) as port, world(tmp_path, remote=(spec(port),)) as w:
        agent = w.agent()
        await agent.open()
        first = await agent.call("go")
        assert [event.get("data") for event in first.events] == [""]  # let go before the answer, as it was done to us
        again = await agent.http("GET", headers={"Accept": "text/event-stream", "Last-Event-ID": first.events[0]["id"]})
        assert again.text == "later"
        assert resumed == ["first"]


@pytest.mark.parametrize("url", ["ftp://a/", "http://", "http://a:99999/", "nonsense"])
async def test_a_url_that_is_none_is_that_servers_trouble(tmp_path: Path, url: str) -> None:
    bad = ServerSpec(name="far", transport="http", url=url)
    async with world(tmp_path, FakeServer("near", ("here",)), remote=(bad,)) as w:
        agent = w.agent()
        await agent.open()
        listed = (await agent.request("tools/list")).result
        assert [tool["name"] for tool in listed["tools"]] == ["here"]
        assert "far" in listed["_meta"]["dev.mlld/servers"]
