"""Requests through the egress gate that mean one thing to the gate and another to the host, each tried beside one that works.

The counterpart of `test_gate_escapes`, which tries addresses, ports and tunnels.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from images.sidecar.flow import GateLimits
from tests.unit.sidecar.gate_world import GET, POST, PUBLIC, allow, works, world


@pytest.mark.parametrize(
    "hosts",
    [
        b"Host: evil.example\r\n",
        b"Host: example.com:8080\r\n",
        b"Host: example.com\r\nHost: evil.example\r\n",
        b"Host: example.com\r\nhost: example.com\r\n",
        b"Host: evil.example@example.com\r\n",
        b"Host: example.com,evil.example\r\n",
        b"Host : example.com\r\n",
        b"Host:\r\n",
        b" Host: example.com\r\n",
        b"X: y\r\n Host: example.com\r\n",
        b"",
    ],
)
async def test_cannot_name_another_host_than_the_target(tmp_path: Path, hosts: bytes) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        await works(w)
        assert (await w.say(b"GET http://example.com/ HTTP/1.1\r\n" + hosts + b"\r\n")).status == 400
        assert (await w.say(b"CONNECT example.com:443 HTTP/1.1\r\n" + hosts + b"\r\n")).status == 400
        assert w.reached == []


async def test_cannot_reach_another_host_by_dropping_the_host_header(tmp_path: Path) -> None:
    """`Connection: host` would make a careless proxy drop the Host that it judged."""
    async with world(tmp_path, agent=allow("example.com")) as w:
        assert (await w.say(GET + b"Connection: host, x-forwarded-host\r\n\r\n")).status == 200
        (received,) = w.web.received
        assert received.count(b"Host: ") == 1
        assert b"Host: example.com\r\n" in received


@pytest.mark.parametrize(
    "target",
    [
        "http://example.com@evil.example/",
        "http://evil.example#@example.com/",
        "http://evil.example/http://example.com/",
        "http://example.com.evil.example/",
        "http://evil.example\\@example.com/",
        "http://example.com:80@evil.example/",
        "http://example.com%2eevil.example/",
        "http://examрle.com/",  # a Cyrillic er
        "//example.com/",
        "/",
        "*",
        "example.com:80",
        "https://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
    ],
)
async def test_cannot_confuse_the_target(tmp_path: Path, target: str) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        await works(w)
        answer = await w.say(f"GET {target} HTTP/1.1\r\nHost: example.com\r\n\r\n".encode())
        assert answer.status in (400, 403)
        assert w.reached == []


@pytest.mark.parametrize(
    "head",
    [
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        POST + b"Content-Length: 5, 6\r\n\r\n",
        POST + b"Content-Length: +5\r\n\r\n",
        POST + b"Content-Length: 0x5\r\n\r\n",
        POST + b"Content-Length: 5 5\r\n\r\n",
        POST + b"Content-Length: -5\r\n\r\n",
        POST + b"Content-Length:\r\n\r\n",
        POST + b"Content-Length : 5\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n",
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n",
        POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n",
        POST + b"Transfer-Encoding\x00: chunked\r\n\r\n",
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n",
        POST + b"X: a\rContent-Length: 5\r\n\r\n",
        POST + b"X: a\nContent-Length: 5\r\n\r\n",
        POST + b"X: a\0b\r\n\r\n",
        POST + b"X\r\n\r\n",
        POST + b": x\r\n\r\n",
        POST.replace(b" HTTP/1.1", b"  HTTP/1.1") + b"\r\n",
        POST.replace(b" HTTP/1.1", b" HTTP/1.1 ") + b"\r\n",
        POST.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n",
        POST.replace(b"HTTP/1.1", b"http/1.1") + b"\r\n",
        POST.replace(b"POST ", b"PO ST ") + b"\r\n",
        POST.replace(b"POST ", b"\r\nPOST ") + b"\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n",
    ],
)
async def test_cannot_send_a_request_that_can_be_read_in_two_ways(tmp_path: Path, head: bytes) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        await works(w)
        answer = await w.say(head, b"0\r\n\r\nGET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert (answer.status, answer.rule) == (400, "malformed")
        assert w.reached == []


@pytest.mark.parametrize(
    "first",
    [
        GET + b"\r\n",
        POST + b"Content-Length: 5\r\n\r\nhello",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        GET + b"Connection: keep-alive\r\nProxy-Connection: keep-alive\r\n\r\n",
        GET + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ],
)
@pytest.mark.parametrize("second", ["http://evil.example/", "http://example.com/second", "/second"])
async def test_cannot_smuggle_a_second_request(tmp_path: Path, first: bytes, second: str) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        w.web.close_after = False
        smuggled = f"GET {second} HTTP/1.1\r\nHost: example.com\r\n\r\n".encode()
        answer = await w.say(first + smuggled)
        assert answer.raw.count(b"HTTP/1.1 ") == 1
        assert answer.status == 200
        assert len(w.reached) == 1
        (received,) = w.web.received
        assert received.count(b" HTTP/1.1\r\n") == 1
        assert b"second" not in received
        assert b"evil" not in received
        assert b"pgrade" not in received


@pytest.mark.parametrize(
    "chunks",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5 \x0b\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-1\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello",
        b"5" + b";x" * 2000 + b"\r\nhello\r\n0\r\n\r\n",
    ],
)
async def test_cannot_desynchronise_with_chunks(tmp_path: Path, chunks: bytes) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        w.web.answer = b""  # answers nothing before the whole request is there
        w.web.close_after = False
        await w.say(
            POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"GET http://evil.example/ HTTP/1.1\r\n\r\n"
        )
        (received,) = w.web.received
        assert b"evil" not in received
        assert not received.endswith(b"0\r\n\r\n"), "half a request was made a whole one"


async def test_cannot_be_redirected_to_a_host_that_was_not_granted(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        w.web.answer = b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n"
        answer = await w.get("http://example.com/")
        assert answer.status == 302
        location = answer.raw.partition(b"Location: ")[2].partition(b"\r\n")[0].decode()
        assert (await w.get(location)).rule == "default-deny"
        assert w.reached == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
    ],
)
async def test_cannot_be_confused_by_the_answer_of_a_host(tmp_path: Path, answer: bytes) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        w.web.answer = answer
        got = await w.get("http://example.com/")
        assert (got.status, got.rule) == (502, "answer")
        assert [(event["phase"], event["decision"]) for event in w.record.events] == [
            ("open", "allow"),
            ("closed", "allow"),
        ]


async def test_cannot_hold_the_gate_with_slow_or_endless_heads(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com"), limits=GateLimits(head=0.3)) as w:
        slow = asyncio.ensure_future(w.say(b"GET http://example.com/ HTTP/1.1\r\n"))
        answer = await w.say(b"GET http://example.com/ HTTP/1.1\r\nX: " + b"x" * 100_000)
        assert answer.status == 400
        assert "longer than 32 KiB" in answer.body
        assert (await w.say(GET + b"X: y\r\n" * 200 + b"\r\n")).status == 400
        assert (await slow).status == 408
        await works(w)


async def test_cannot_make_the_gate_forget_its_record(tmp_path: Path) -> None:
    """While the record cannot be written, nothing is decided."""
    async with world(tmp_path, agent=allow("example.com")) as w:
        room = asyncio.Event()
        w.record.drain = room.wait
        asked = asyncio.ensure_future(w.get("http://example.com/"))
        await asyncio.sleep(0.1)
        assert w.reached == []
        room.set()
        assert (await asked).status == 200
