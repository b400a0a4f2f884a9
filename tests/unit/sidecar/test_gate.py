"""The egress gate: what a member that was granted hosts gets, and what the record says of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from images.sidecar.flow import GateLimits
from tests.support.waiting import PATIENCE
from tests.unit.sidecar.gate_world import OTHER_PUBLIC, PUBLIC, PUBLIC_V6, allow, world


async def test_a_granted_host_is_reached_over_tls(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        assert (await w.https("example.com:443")).endswith(b"hello")
        assert w.reached == [(PUBLIC, 443)]
        await w.recorded(2)
        opened, closed = w.record.events
        assert (opened["phase"], opened["decision"], opened["rule"]) == (
            "open",
            "allow",
            "allow example.com (index.mld:4:12)",
        )
        assert (opened["member"], opened["host"], opened["port"], opened["address"]) == (
            "agent",
            "example.com",
            443,
            PUBLIC,
        )
        assert closed["phase"] == "closed"
        assert closed["bytesIn"] > 500
        assert closed["bytesOut"] > 200


async def test_a_granted_host_is_reached_over_plain_http(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        answer = await w.get("http://example.com/a?b=c")
        assert (answer.status, answer.body) == (200, "hello")
        assert b"X-Web: yes" in answer.raw
        (received,) = w.web.received
        assert received.startswith(b"GET /a?b=c HTTP/1.1\r\nHost: example.com\r\n")
        assert b"Connection: close" in received
        assert received.count(b"Host:") == 1


@pytest.mark.parametrize("spelling", ["EXAMPLE.com", "example.com.", "eXample.COM."])
async def test_spellings_of_a_granted_host_are_one_host(tmp_path: Path, spelling: str) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        answer = await w.get(f"http://{spelling}/")
        assert answer.status == 200
        assert w.names.asked[0] == ("example.com", "A")
        assert w.web.received[0].startswith(b"GET / HTTP/1.1\r\nHost: example.com\r\n")


async def test_a_rule_in_unicode_grants_the_punycode_host(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("bücher.example")) as w:
        assert (await w.https("XN--Bcher-kva.example:443", server_name="xn--bcher-kva.example")).endswith(b"hello")


async def test_a_wildcard_grants_names_below_and_not_the_name_itself(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("*.example.com")) as w:
        assert (await w.get("http://www.example.com/")).status == 200
        assert (await w.get("http://example.com/")).rule == "default-deny"
        assert (await w.get("http://notexample.com/")).rule == "default-deny"


async def test_public_grants_public_hosts_and_addresses(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow(public=True)) as w:
        assert (await w.get("http://example.com/")).status == 200
        assert (await w.get(f"http://{PUBLIC}/")).status == 200
        assert (await w.get(f"http://[{PUBLIC_V6}]/")).status == 200
        assert [address for address, _ in w.reached] == [PUBLIC, PUBLIC, PUBLIC_V6]


async def test_the_next_address_is_tried_when_one_does_not_answer(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        w.names.zone["example.com"] = [("A", OTHER_PUBLIC), ("A", PUBLIC)]
        assert (await w.get("http://example.com/")).status == 200
        assert w.reached == [(OTHER_PUBLIC, 80), (PUBLIC, 80)]


async def test_a_body_is_sent_on_whole(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        w.web.close_after = False
        body = b"x" * 200_000
        head = b"POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\n"
        answer = await w.say(head + b"Content-Length: 200000\r\n\r\n", body)
        assert answer.status == 200
        answer = await w.say(
            head + b"Transfer-Encoding: chunked\r\n\r\n", b"5;x=y\r\nabcde\r\n", b"0\r\nTrailer: t\r\n\r\n"
        )
        assert answer.status == 200
        assert w.web.received[1].endswith(b"\r\n\r\n5\r\nabcde\r\n0\r\n\r\n")


async def test_a_chunked_answer_stays_chunked_and_whole(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        w.web.answer = head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        answer = await w.get("http://example.com/")
        assert answer.raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert answer.raw.endswith(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        old = await w.say(b"GET http://example.com/ HTTP/1.0\r\nHost: example.com\r\n\r\n")
        assert old.raw.endswith(b"\r\n\r\nabcde")
        assert b"chunked" not in old.raw


async def test_the_answer_to_head_has_a_length_and_no_body(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        w.web.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
        answer = await w.say(b"HEAD http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n")
        assert b"Content-Length: 99" in answer.raw
        assert answer.body == ""


async def test_the_tunnel_carries_half_closes(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        _, (_, writer) = await w.connect("example.com:443")
        await writer.start_tls(w.client_tls, server_hostname="example.com")
        writer.close()
        await writer.wait_closed()
        await w.recorded(2)
        assert [event["phase"] for event in w.record.events] == ["open", "closed"]


async def test_refusals_say_what_to_do_next(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com", deny=("www.example.com",))) as w:
        answer = await w.get("http://docs.example/")
        assert (answer.status, answer.rule) == (403, "default-deny")
        assert answer.body == (
            "Denied by the sandbox (default-deny): docs.example:80 was not granted to this sandbox: work without it, "
            'or ask the user to add "docs.example" to `net.allow` of the environment.\n'
        )
        denied = await w.get("http://www.example.com/")
        assert denied.rule == "deny www.example.com (index.mld:5:3)"
        assert w.record.decisions() == [("deny", "default-deny"), ("deny", "deny www.example.com (index.mld:5:3)")]
        assert w.reached == []


async def test_a_name_that_leads_nowhere_is_told_apart_from_a_denial(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("gone.example", "example.com")) as w:
        answer = await w.get("http://gone.example/")
        assert (answer.status, answer.rule) == (502, "resolve")
        assert "there is no such name" in answer.body
        w.names.zone["example.com"] = [("A", OTHER_PUBLIC)]
        answer = await w.get("http://example.com/")
        assert (answer.status, answer.rule) == (502, "connect")


async def test_a_connection_ends_after_its_idle_time(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com"), limits=GateLimits(idle=0.2)) as w:
        _, (reader, writer) = await w.connect("example.com:443")
        await writer.start_tls(w.client_tls, server_hostname="example.com")
        async with asyncio.timeout(PATIENCE):
            assert await reader.read(-1) == b""
        writer.close()
        assert w.record.events[-1]["error"] == "it took too long"


async def test_a_connection_ends_after_its_total_time_however_busy(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com"), limits=GateLimits(total=0.3, idle=60)) as w:
        reader, writer = await w.open()
        writer.write(b"POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\nContent-Length: 100000\r\n\r\n")
        w.web.close_after = False
        w.web.answer = b""
        ended = asyncio.ensure_future(reader.read(-1))
        async with asyncio.timeout(PATIENCE):
            while not ended.done():
                writer.write(b"x")
                await asyncio.sleep(0.02)
        writer.close()
        assert w.record.events[-1]["error"] == "it took too long"


async def test_a_connection_ends_after_its_bytes(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com"), limits=GateLimits(bytes=1000)) as w:
        w.web.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
        answer = await w.get("http://example.com/")
        assert len(answer.body) < 5000
        await w.recorded(2)
        assert "more than 1000 bytes" in w.record.events[-1]["error"]


async def test_connections_of_one_member_are_bounded_and_do_not_touch_another(tmp_path: Path) -> None:
    limits = GateLimits(connections=3)
    async with world(tmp_path, agent=allow("example.com"), git=allow("example.com"), limits=limits) as w:
        idle = [await w.open() for _ in range(3)]
        answer = await w.get("http://example.com/")
        assert (answer.status, answer.rule) == (503, "connections")
        assert (await w.get("http://example.com/", member="git")).status == 200
        for _, writer in idle:
            writer.close()
        async with asyncio.timeout(PATIENCE):
            while (answer := await w.get("http://example.com/")).status == 503:
                await asyncio.sleep(0.01)
        assert answer.status == 200


async def test_each_connection_has_one_decision(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com"), limits=GateLimits(idle=0.2)) as w:
        await w.get("http://example.com/")
        await w.get("http://evil.example/")
        _, writer = await w.open()
        writer.close()  # said nothing: nothing was decided
        _, (_, writer) = await w.connect("example.com:443")
        writer.transport.abort()  # gone before TLS
        await w.recorded(4)
        phases = [(event["phase"], event["decision"]) for event in w.record.events]
        assert phases == [("open", "allow"), ("closed", "allow"), ("open", "deny"), ("open", "deny")]


async def test_dialling_follows_the_rules_of_the_server(tmp_path: Path) -> None:
    async with world(tmp_path, remote=allow("example.com")) as w:
        with await w.gate.dial("remote", "example.com", 443) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"
        with pytest.raises(PermissionError, match=r"docs\.example:443 was not granted"):
            await w.gate.dial("remote", "docs.example", 443)
        with pytest.raises(PermissionError, match="was not granted"):
            await w.gate.dial("unknown", "example.com", 443)


async def test_a_member_without_a_grant_has_no_socket(tmp_path: Path) -> None:
    async with world(tmp_path, git=allow("example.com")) as w:
        assert Path(w.path("git")).exists()
        assert not Path(w.path("agent")).exists()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        await w.gate.start({"agent": str(tmp_path / "agent")})
        assert (await w.get("http://example.com/")).status == 200
