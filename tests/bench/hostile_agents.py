"""Agents that misbehave towards an endpoint on a Unix socket, each without end until it is cancelled: for the soak.

Every attack is a coroutine function of the socket's path. What the endpoint answers is nobody's business here: the soak
looks at what all of it does to the endpoint, and to an agent that behaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.unit.sidecar.sidecar_process import TOKEN, Agent

HEAD = (
    "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:7000\r\nContent-Type: application/json\r\n"
    f"Accept: application/json, text/event-stream\r\nAuthorization: Bearer {TOKEN}\r\n"
)
PAUSE, PATIENCE = 0.05, 4.0
"""Seconds between two attacks of a kind, and for which an attacker keeps a connection."""


@asynccontextmanager
async def connection(path: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield reader, writer
    finally:
        writer.close()


def request(body: bytes, *lines: str, length: int | None = None) -> bytes:
    more = "".join(f"{line}\r\n" for line in lines)
    return f"{HEAD}{more}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def message(method: str, params: object = None, id: object = 1) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}).encode()


async def slow_heads(path: str) -> None:
    """Many connections that send a byte now and then."""
    async with contextlib.AsyncExitStack() as stack:
        writers = [(await stack.enter_async_context(connection(path)))[1] for _ in range(40)]
        for byte in HEAD[:60].encode():
            for writer in writers:
                writer.write(bytes([byte]))
            await asyncio.sleep(PATIENCE / 60)


async def abandoned_sessions(path: str) -> None:
    """Sessions that nobody ends, some of which own their servers' processes."""
    for offers in ({}, {"sampling": {}}, {"roots": {}, "elicitation": {}}):
        about = {"protocolVersion": "2025-06-18", "capabilities": offers, "clientInfo": {"name": "x", "version": "1"}}
        await Agent(path).ask("initialize", about)


async def large_bodies(path: str) -> None:
    """More than anybody may send, said at first or found out; and a length that never comes."""
    body = message("tools/call", {"name": "x", "arguments": {"a": "y" * (5 << 20)}})
    for data in (request(body), request(b"", length=100 << 20), request(body[: 1 << 20], length=2 << 20)):
        async with connection(path) as (reader, writer):
            writer.write(data)
            async with asyncio.timeout(1):
                await writer.drain()
                await reader.read(1 << 16)


async def unread_answers(path: str) -> None:
    """Asks for much over and over, and reads none of it."""
    agent = await Agent(path).hello()
    body = message("tools/call", {"name": "large", "arguments": {}})
    async with connection(path) as (_, writer):
        writer.write(request(body, f"Mcp-Session-Id: {agent.session}") * 8)
        await asyncio.sleep(PATIENCE)


async def unread_stream(path: str) -> None:
    """Opens the stream of a session, has servers talk into it, and reads none of it."""
    agent = await Agent(path).hello()
    get = HEAD.replace("POST", "GET") + f"Mcp-Session-Id: {agent.session}\r\n\r\n"
    async with connection(path) as (_, writer):
        writer.write(get.encode())
        for _ in range(10):
            await agent.call("flood")
        await asyncio.sleep(1)


async def broken_requests(path: str) -> None:
    """What is no HTTP, no JSON, no JSON-RPC, or from somewhere else."""
    good = message("ping")
    for data in (
        b"\x16\x03\x01 no http\r\n\r\n", HEAD.encode() + b"X: " + b"y" * 40_000, request(b"{"), request(b"\xff\xfe"),
        request(b"[" * 100_000), request(b'{"a":' * 5_000), request(b"[%s]" % b",".join([good] * 500)), request(b"7"),
        request(good, "Mcp-Session-Id: ../../etc"), request(good, "Mcp-Session-Id: " + "0" * 32),
        request(good, "Origin: http://rebound.example"), request(good, "Transfer-Encoding: chunked"),
        request(good, "Content-Length: 3"), request(good).replace(b"127.0.0.1", b"rebound.example"),
        request(message("tools/call", {"name": {"a": 1}})), request(message("no/such", [1])), request(good)[:-5],
    ):  # fmt: skip
        async with connection(path) as (reader, writer):
            writer.write(data)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await reader.read(1 << 16)


async def leaves_early(path: str) -> None:
    """Calls what takes long or is large, and is gone before the answer: half-closed, closed, or reset."""
    agent = await Agent(path).hello()
    for name in ("silent", "large", "flood", "huge"):
        async with connection(path) as (_, writer):
            writer.write(request(message("tools/call", {"name": name}), f"Mcp-Session-Id: {agent.session}"))
            await asyncio.sleep(random.random() / 10)
            if random.random() < 0.5:
                writer.write_eof()
                await asyncio.sleep(0.1)


async def cancels_and_answers(path: str) -> None:
    """Cancels what it did not ask, answers what nobody asked, and takes ids twice."""
    agent = await Agent(path).hello()
    for body in (
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}',
        b'{"jsonrpc":"2.0","id":"q","result":{}}', b'{"jsonrpc":"2.0","id":77,"error":{"code":1,"message":"x"}}',
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}',
        *(message("tools/call", {"name": "forge", "_meta": {"progressToken": 1}}, id=5) for _ in range(3)),
    ):  # fmt: skip
        await agent.http(body)


async def asks_every_tool(path: str) -> None:
    """What the hostile servers have to offer, tool after tool; names that come from the agent are never twice the same."""
    agent = await Agent(path).hello()
    names = [tool["name"] for tool in await agent.tools() if not tool["name"].startswith(("many", "shift", "good"))]
    for name in (*names, "shift_unknown", f"never_{random.random()}"):
        if name != "silent":
            await agent.call(name)
    await agent.ask("resources/read", {"uri": f"file:///{random.random()}"})
    await agent.http(b"")


async def half_open_channels(path: str) -> None:
    """Opens what has one stream for everything, over HTTP+SSE and in lines, and never initializes."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            for target, lines in (("/sse", ""), ("/mcp", "Connection: Upgrade\r\nUpgrade: mcp-stdio\r\n")):
                _, writer = await stack.enter_async_context(connection(path))
                writer.write((HEAD.replace("POST /mcp", f"GET {target}") + lines + "\r\n").encode())
        await asyncio.sleep(PATIENCE)


async def unread_lines(path: str) -> None:
    """Asks for much in lines, some of which are none or far too long, and reads nothing."""
    about = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    async with connection(path) as (_, writer):
        switch = "Connection: Upgrade\r\nUpgrade: mcp-stdio\r\n\r\n"
        writer.write((HEAD.replace("POST", "GET") + switch).encode() + message("initialize", about) + b"\n")
        writer.write(b"[" * 100_000 + b"\n\xff\n" + b"x" * (5 << 20) + b"\n")
        for number in range(40):
            writer.write(message("tools/call", {"name": "large", "arguments": {}}, id=number) + b"\n")
        await asyncio.sleep(PATIENCE)


async def full_batches(path: str) -> None:
    """As many calls as a batch may have, good ones and others, again and again."""
    agent = Agent(path)
    about = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    await agent.ask("initialize", about)
    names = ("large", "flood", "forge", "never")
    calls = [message("tools/call", {"name": names[n % 4]}, id=n % 60) for n in range(64)]
    async with connection(path) as (_, writer):
        writer.write(request(b"[%s]" % b",".join(calls), f"Mcp-Session-Id: {agent.session}"))
        await asyncio.sleep(1)


async def endless_answers(path: str) -> None:
    """Sessions that each own processes, of which every one begins an answer of megabytes and does not end it."""
    about = {
        "protocolVersion": "2025-06-18",
        "capabilities": {"roots": {}},
        "clientInfo": {"name": "x", "version": "1"},
    }
    agents = [Agent(path) for _ in range(6)]
    for agent in agents:
        await agent.ask("initialize", about)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(agent.call("endless") for agent in agents for _ in range(4)))


async def half_bodies(path: str) -> None:
    """Requests of megabytes that lack their end."""
    body = message("tools/call", {"name": "x", "arguments": {"a": "y" * (3 << 20)}})
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(40):
            _, writer = await stack.enter_async_context(connection(path))
            writer.write(request(body[:-1], length=len(body)))
        await asyncio.sleep(PATIENCE)


async def bodies_that_wait(path: str) -> None:
    """Requests of megabytes to a server that takes none."""
    agent = await Agent(path).hello()
    body = message("tools/call", {"name": "silent", "arguments": {"a": "y" * (3 << 20)}})
    async with contextlib.AsyncExitStack() as stack:
        for number in range(40):
            _, writer = await stack.enter_async_context(connection(path))
            writer.write(request(body.replace(b'"id": 1', b'"id": %d' % number), f"Mcp-Session-Id: {agent.session}"))
        await asyncio.sleep(PATIENCE)


ATTACKS: tuple[Callable[[str], Awaitable[None]], ...] = (
    slow_heads, abandoned_sessions, large_bodies, unread_answers, unread_stream, broken_requests, leaves_early,
    cancels_and_answers, asks_every_tool, half_open_channels, unread_lines, full_batches,
    endless_answers, half_bodies, bodies_that_wait,
)  # fmt: skip


async def repeat(attack: Callable[[str], Awaitable[None]], path: str, counts: Counter[str]) -> None:
    """The attack again and again; it dies of whatever the endpoint does to it, and begins anew."""
    while True:
        with contextlib.suppress(Exception):  # refused, cut off, timed out, an answer that is none: all of it is right
            async with asyncio.timeout(30):
                await attack(path)
        counts[attack.__name__] += 1
        await asyncio.sleep(PAUSE)
