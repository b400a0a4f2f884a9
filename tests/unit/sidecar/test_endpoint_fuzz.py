"""Clients that send anything at all, over every transport: always the right kind of answer, never the end of anything.

The endpoint runs in a thread with its own loop; the clients are blocking sockets, so that an example is a round trip and
no more. After every example a client that was there before still gets its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from images.sidecar import connection
from images.sidecar.channel import MAX_CHANNELS
from images.sidecar.sessions import MAX_SESSIONS
from images.sidecar.stateless import MAX_CALLERS
from tests.support.waiting import PATIENCE
from tests.unit.sidecar.endpoint_world import TOKEN, FakeServer, Line, Message, World, world

META = "io.modelcontextprotocol/"
bounded = settings(max_examples=250, suppress_health_check=list(HealthCheck))
CODES = {
    -32700, -32600, -32601, -32602, -32603, -32001, -32002, -32003, -32020, -32021, -32022, -32042, -32800,
}  # fmt: skip
STATUSES = {101, 200, 202, 400, 401, 403, 404, 405, 406, 409, 413, 415, 417, 431, 501, 503}

# ------------------------------------------------------------------------------------------------------------ messages

texts = st.text(max_size=20) | st.sampled_from(
    ["echo", "hidden", "a__echo", "file:///x", "\ud800", "\0", "é" * 300, ""]
)
numbers = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([2**53 + 1, 10**400])
leaves = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
methods = texts | st.sampled_from([
    "initialize", "server/discover", "ping", "tools/list", "tools/call", "prompts/list", "prompts/get", "resources/list",
    "resources/read", "resources/subscribe", "resources/unsubscribe", "resources/templates/list", "completion/complete",
    "logging/setLevel", "tasks/get", "tasks/list", "tasks/cancel", "tasks/result", "subscriptions/listen",
    "notifications/initialized", "notifications/cancelled", "notifications/progress", "notifications/roots/list_changed",
])  # fmt: skip
meta = st.fixed_dictionaries({}, optional={
    "progressToken": values, META + "protocolVersion": st.just("2026-07-28") | values,
    META + "clientCapabilities": st.just({}) | st.just({"sampling": {}}) | values,
    META + "logLevel": st.just("debug") | values, "dev.mlld/labels": values, "traceparent": values,
})  # fmt: skip
params = values | st.fixed_dictionaries({}, optional={
    "name": st.just("echo") | values, "uri": values, "arguments": values, "cursor": values, "level": values,
    "requestId": values, "progressToken": values, "taskId": values, "protocolVersion": st.just("2025-03-26") | values,
    "capabilities": st.just({}) | values, "ref": values, "argument": values, "notifications": values, "task": values,
    "requestState": st.just("mlld.1.aa.bb") | values, "inputResponses": values, "_meta": meta | values,
})  # fmt: skip
messages = st.fixed_dictionaries({}, optional={
    "jsonrpc": st.just("2.0") | values, "id": st.integers(0, 9) | values, "method": methods | values, "params": params,
    "result": values, "error": values,
})  # fmt: skip
deep = st.sampled_from([
    b'{"jsonrpc":"2.0","id":1,"method":"%s","params":{"name":"echo","%s":' % (method, key) + b"[" * n + b"]" * n + b"}}"
    for n in (200, 480, 950, 1020, 5000)
    for method, key in ((b"tools/call", b"arguments"), (b"subscriptions/listen", b"notifications"), (b"x", b"_meta"),
                        (b"initialize", b"capabilities"))
])  # fmt: skip


def spelt(value: Any) -> bytes:
    """As JSON, with NaN and lone surrogates as a careless program writes them."""
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")


whole = (messages | st.lists(messages, max_size=5) | values).map(spelt) | deep


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A message with some bytes cut, put in or changed."""
    body = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=4))
    return bytes(body)


bodies = whole | broken() | st.binary(max_size=60)
headers = st.lists(
    st.sampled_from([
        b"Mcp-Session-Id: nobody", b"MCP-Protocol-Version: 2026-07-28", b"MCP-Protocol-Version: 1", b"Mcp-Method: tools/call",
        b"Mcp-Name: echo", b"Mcp-Name: =?base64?//?=", b"Last-Event-ID: 0_1", b"Last-Event-ID: x", b"Expect: 100-continue",
        b"Accept: application/json", b"Accept: text/event-stream", b"Connection: close", b"Connection: Upgrade",
        b"Upgrade: mcp-stdio", b"Upgrade: websocket", b"Content-Type: text/plain", b"Transfer-Encoding: chunked",
        b"Content-Length: 0", b"Origin: null", b"Cookie: a=b", b"Mcp-Param-X: 1",
    ]) | st.binary(min_size=1, max_size=30).filter(lambda line: not {10, 13} & {*line}),
    max_size=4,
)  # fmt: skip

# ----------------------------------------------------------------------------------------------------------- the world


class Running:
    """The endpoint in its thread, and a client that must never notice anything."""

    def __init__(self, w: World) -> None:
        self.world = w
        self.good = self.dial()
        self.count = 0
        self.session = self.request(self.good, spelt(opening("2025-03-26")), [])[1]["mcp-session-id"]

    def dial(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.world.port), timeout=PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def head(self, method: bytes, target: bytes, body: bytes | None, more: list[bytes]) -> bytes:
        lines = [b"%s %s HTTP/1.1" % (method, target), b"Host: 127.0.0.1:%d" % self.world.port]
        lines += [b"Authorization: Bearer " + TOKEN.encode()]
        named = {line.partition(b":")[0].lower() for line in more}
        if b"accept" not in named:
            lines.append(b"Accept: application/json, text/event-stream")
        if body is not None and b"content-type" not in named:
            lines.append(b"Content-Type: application/json")
        if body is not None and not named & {b"content-length", b"transfer-encoding"}:
            lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join([*lines, *more]) + b"\r\n\r\n"

    def request(self, sock: socket.socket, body: bytes, more: list[bytes]) -> tuple[int, dict[str, str], bytes]:
        """A POST, and its whole answer."""
        sock.sendall(self.head(b"POST", b"/mcp", body, more) + body)
        return answered(sock)

    def in_session(self) -> list[bytes]:
        return [b"Mcp-Session-Id: " + self.session.encode(), b"MCP-Protocol-Version: 2025-03-26"]

    def check(self) -> None:
        """The client from before is served, nothing has piled up, nothing has failed inside."""
        self.count += 1
        body = spelt({"jsonrpc": "2.0", "id": f"good {self.count}", "method": "tools/call", "params": {"name": "echo"}})
        # Without a stream: that is what an answer becomes on a machine that stalls.
        status, _, answer = self.request(self.good, body, [*self.in_session(), b"Accept: application/json"])
        assert (status, json.loads(answer)["id"]) == (200, f"good {self.count}")
        assert "result" in json.loads(answer)
        endpoint = self.world.endpoint
        failed = [e for e in self.world.gate.of("error") if e["where"] in ("endpoint", "router", "lines")]
        assert failed == []
        self.world.gate.events.clear()
        assert endpoint.sessions <= MAX_SESSIONS
        assert len(endpoint.stateless.callers) <= MAX_CALLERS
        assert len(endpoint._channels._channels) <= MAX_CHANNELS
        assert len(connection._heads) <= 256


def opening(version: str) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }  # fmt: skip


def answered(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer; the body of a stream as far as it came in a moment."""
    data = b""
    while b"\r\n\r\n" not in data:
        got = sock.recv(65536)
        if not got:
            return 0, {}, data
        data += got
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    got_headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    length = int(got_headers.get("content-length", "0"))
    while len(body) < length and (got := sock.recv(65536)):
        body += got
    if "transfer-encoding" in got_headers:
        sock.settimeout(0.05)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while not body.endswith(b"0\r\n\r\n") and (got := sock.recv(65536)):
                body += got
    return int(first.split()[1]), got_headers, body[:length] if length else body


def in_events(body: bytes) -> list[bytes]:
    """The data of the events in a chunked body, the last of which may be cut."""
    whole = re.sub(rb"(?:^|\r\n)[0-9a-f]+\r\n", b"", body)
    return [line[6:] for line in whole.split(b"\n")[:-1] if line.startswith(b"data: ") and len(line) > 6]


def check_message(data: bytes, body: bytes) -> None:
    """An answer is JSON-RPC, and a body that is not even JSON is said to be none."""
    message = json.loads(data)
    assert message["jsonrpc"] == "2.0"
    if "error" in message:
        assert message["error"]["code"] in CODES
        assert isinstance(message["error"]["message"], str)
    try:
        json.loads(body.decode(), parse_constant=lambda name: json.loads("x"))
    except (ValueError, RecursionError):
        assert message.get("error", {}).get("code") in (-32700, -32600)


async def done(line: Line, message: Message) -> Message:
    """Gives nothing back of what it got: what the server cannot spell is not what is looked at here."""
    return {"content": []}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    ready, over = threading.Event(), threading.Event()
    worlds: list[World] = []

    async def main() -> None:
        resources = {"tools": {}, "resources": {"subscribe": True}, "prompts": {}, "completions": {}, "logging": {}}
        server = FakeServer("a", ("echo", "hidden"), capabilities=resources, handlers={"tools/call": done})
        async with world(tmp_path_factory.mktemp("fuzz"), server) as w:
            w.gate.hidden.add(("a", "hidden"))
            worlds.append(w)
            ready.set()
            await asyncio.to_thread(over.wait)
        assert not [call for call in server.calls("tools/call") if call["params"].get("name") == "hidden"]

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(PATIENCE)
    client = Running(worlds[0])
    yield client
    client.good.close()
    over.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


# -------------------------------------------------------------------------------------------------------------- attacks


@bounded
@given(body=bodies, mine=st.booleans(), more=headers)
def test_cannot_break_streamable_http(running: Running, body: bytes, mine: bool, more: list[bytes]) -> None:
    with running.dial() as sock:
        sock.sendall(running.head(b"POST", b"/mcp", body, [*(running.in_session() if mine else []), *more]) + body)
        sock.shutdown(socket.SHUT_WR) if len(body) % 7 == 0 else None
        with contextlib.suppress(TimeoutError, ConnectionError):
            sock.settimeout(0.5)
            status, got, answer = answered(sock)
            assert status in STATUSES | {0, 100}
            if got.get("content-type") == "application/json" and answer:
                check_message(answer, body)
            elif got.get("content-type") == "text/event-stream":
                for data in in_events(answer):
                    assert json.loads(data)["jsonrpc"] == "2.0"
    running.check()


@bounded
@given(body=bodies, version=st.sampled_from(["2025-03-26", "2025-11-25"]), greeted=st.booleans())
def test_cannot_break_lines(running: Running, body: bytes, version: str, greeted: bool) -> None:
    upgrade = [b"Connection: Upgrade", b"Upgrade: mcp-stdio"]
    with running.dial() as sock:
        sock.sendall(running.head(b"GET", b"/mcp", None, upgrade) + (spelt(opening(version)) + b"\n") * greeted)
        sock.sendall(body + b'\n{"jsonrpc":"2.0","id":"last","method":"nope"}\n')
        if len(body) % 2:
            sock.shutdown(socket.SHUT_WR)
        sock.settimeout(PATIENCE)
        data = b""
        while b'"id":"last"' not in data and (got := sock.recv(65536)):
            data += got
        said = [json.loads(line) for line in data.partition(b"\r\n\r\n")[2].split(b"\n")[:-1]]
        assert {message["jsonrpc"] for message in said} == {"2.0"}
        last = next(message for message in said if message.get("id") == "last")
        assert last["error"]["code"] in (-32601, -32600), "what came before took nothing from the last"
    running.check()


@bounded
@given(body=bodies, greeted=st.booleans())
def test_cannot_break_http_sse(running: Running, body: bytes, greeted: bool) -> None:
    with running.dial() as events, running.dial() as sock:
        events.sendall(running.head(b"GET", b"/sse", None, []))
        data = b""
        while b"sessionId=" not in data or not data.endswith(b"\r\n"):
            data += events.recv(65536)
        found = re.search(rb"data: (\S+)", data)
        assert found
        if greeted:
            hello = spelt(opening("2024-11-05"))
            sock.sendall(running.head(b"POST", found[1], hello, []) + hello)
            assert answered(sock)[0] == 202
        sock.sendall(running.head(b"POST", found[1], body, []) + body)
        status, _, answer = answered(sock)
        assert status in (202, 400)
        if status == 400:
            check_message(answer, body)
    running.check()


@bounded
@given(
    data=st.binary(max_size=200),
    start=st.sampled_from([b"", b"POST /mcp HTTP/1.1\r\n", b"GET /sse HTTP/1.1\r\nHost: "]),
)
def test_cannot_break_the_framing(running: Running, data: bytes, start: bytes) -> None:
    with running.dial() as sock:
        sock.sendall(start + data)
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert answered(sock)[0] in STATUSES | {0}
    running.check()
