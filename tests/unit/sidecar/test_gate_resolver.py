"""The gate's resolver against name servers that lie, stutter, cut and do not answer."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from images.sidecar import dns
from images.sidecar.resolver import ResolveError, Resolver, configured_servers, resolver_for
from tests.unit.sidecar.gate_world import PUBLIC, PUBLIC_V6, NameServer, dns_reply, encode_name, record


@asynccontextmanager
async def name_server() -> AsyncIterator[tuple[NameServer, Resolver]]:
    names = NameServer()
    tcp = await asyncio.start_server(names.over_tcp, "127.0.0.1", 0)
    port = tcp.sockets[0].getsockname()[1]
    udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: names, local_addr=("127.0.0.1", port))
    try:
        yield names, Resolver(servers=(("127.0.0.1", port),), timeout=20, rounds=1)
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()


async def test_both_families_are_found() -> None:
    async with name_server() as (names, resolver):
        names.zone = {"example.com": [("AAAA", PUBLIC_V6), ("A", PUBLIC)]}
        assert await resolver.resolve("example.com") == (ip_address(PUBLIC), ip_address(PUBLIC_V6))


async def test_aliases_are_followed_inside_the_answer() -> None:
    async with name_server() as (names, resolver):
        names.zone = {
            "example.com": [("CNAME", "a.example.net")],
            "a.example.net": [("CNAME", "b.example.net")],
            "b.example.net": [("A", PUBLIC)],
        }
        assert await resolver.resolve("example.com") == (ip_address(PUBLIC),)


async def test_one_family_that_fails_does_not_lose_the_other() -> None:
    async with name_server() as (names, resolver):
        names.answer = lambda query, name, kind: (
            [record(name, "A", PUBLIC)] if kind == "A" else dns_reply(query, [], rcode=2)
        )
        assert await resolver.resolve("example.com") == (ip_address(PUBLIC),)


async def test_a_cut_answer_is_asked_for_again_over_tcp() -> None:
    async with name_server() as (names, resolver):
        names.zone = {"example.com": [("A", PUBLIC)]}
        names.truncate_udp = True
        assert await resolver.resolve("example.com") == (ip_address(PUBLIC),)


async def test_the_next_server_is_asked_when_one_is_silent() -> None:
    async with name_server() as (names, resolver):
        names.zone = {"example.com": [("A", PUBLIC)]}
        deaf, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        silent = deaf.get_extra_info("sockname")
        found = await Resolver(servers=(silent, *resolver.servers), timeout=0.2, rounds=50).resolve("example.com")
        deaf.close()
        assert found == (ip_address(PUBLIC),)


@pytest.mark.parametrize(
    ("rcode", "message"), [(3, "there is no such name"), (2, r"the name server failed \(code 2\)"), (5, r"code 5")]
)
async def test_a_refusal_is_told(rcode: int, message: str) -> None:
    async with name_server() as (names, resolver):
        names.answer = lambda query, name, kind: dns_reply(query, [], rcode=rcode)
        with pytest.raises(ResolveError, match=message):
            await resolver.resolve("example.com")


async def test_a_name_without_addresses_is_an_error() -> None:
    async with name_server() as (names, resolver):
        names.zone = {"example.com": []}
        with pytest.raises(ResolveError, match="the name has no address"):
            await resolver.resolve("example.com")


async def test_silence_is_an_error_after_the_timeout() -> None:
    async with name_server() as (names, resolver):
        names.reply = lambda query: b""
        with pytest.raises(ResolveError, match="no name server answered"):
            await Resolver(servers=resolver.servers, timeout=0.2, rounds=1).resolve("example.com")


async def test_without_a_name_server_nothing_resolves() -> None:
    with pytest.raises(ResolveError, match="knows no name server"):
        await Resolver(servers=()).resolve("example.com")


def flipped(answer: bytes) -> bytes:
    return bytes([answer[0] ^ 1]) + answer[1:]


async def test_cannot_forge_an_answer_with_another_id() -> None:
    async with name_server() as (names, resolver):
        names.zone = {"example.com": [("A", PUBLIC)]}
        names.forged_first = lambda query: [flipped(dns_reply(query, [record("example.com", "A", "6.6.6.6")]))] * 3
        assert await resolver.resolve("example.com") == (ip_address(PUBLIC),)


async def test_cannot_forge_an_answer_to_another_question() -> None:
    async with name_server() as (names, resolver):
        names.zone = {"example.com": [("A", PUBLIC)]}

        def forgeries(query: bytes) -> list[bytes]:
            tail = query[-4:]
            other = query[:12] + encode_name("evil.example") + tail
            text = query[:12] + query[12:-4] + struct.pack("!HH", 16, 1)
            records = [record("example.com", "A", "6.6.6.6")]
            not_a_reply = dns_reply(query, records, flags=0x0100)
            return [dns_reply(other, records), dns_reply(text, records), not_a_reply]

        names.forged_first = forgeries
        assert await resolver.resolve("example.com") == (ip_address(PUBLIC),)


async def test_cannot_flood_with_guesses() -> None:
    """After a few forgeries the answer is asked for over TCP, where there is nothing to guess."""
    async with name_server() as (names, resolver):
        names.zone = {"example.com": [("A", PUBLIC)]}
        names.forged_first = lambda query: [flipped(dns_reply(query, []))] * 50
        assert await resolver.resolve("example.com") == (ip_address(PUBLIC),)


async def test_cannot_add_addresses_of_another_name() -> None:
    async with name_server() as (names, resolver):
        names.answer = lambda query, name, kind: (
            [record("evil.example", "A", "6.6.6.6"), record(name, "A", PUBLIC)] if kind == "A" else []
        )
        assert await resolver.resolve("example.com") == (ip_address(PUBLIC),)


async def test_two_questions_differ_in_id_and_port() -> None:
    seen: set[tuple[bytes, int]] = set()
    async with name_server() as (names, resolver):
        names.zone = {"example.com": [("A", PUBLIC)]}
        received = names.datagram_received

        def spy(data: bytes, addr: tuple[str, int]) -> None:
            seen.add((data[:2], addr[1]))
            received(data, addr)

        names.datagram_received = spy
        for _ in range(8):
            await resolver.resolve("example.com")
    assert len({ident for ident, _ in seen}) > 12
    assert len({port for _, port in seen}) > 12


QUESTION = dns.Question(id=7, name="example.com", type=dns.A)
QUERY = QUESTION.encode()
GOOD = dns_reply(QUERY, [record("example.com", "A", PUBLIC)])


def test_a_good_message_is_read() -> None:
    assert dns.decode(GOOD, QUESTION).addresses == (ip_address(PUBLIC),)
    compressed = dns_reply(QUERY, [b"\xc0\x0c" + record("", "A", PUBLIC)[2:]])
    assert dns.decode(compressed, QUESTION).addresses == (ip_address(PUBLIC),)


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_cannot_end_a_message_in_the_middle(length: int) -> None:
    with pytest.raises(dns.Malformed):
        dns.decode(GOOD[:length], QUESTION)


def loop_of_aliases() -> bytes:
    return dns_reply(QUERY, [record("example.com", "CNAME", "b.example"), record("b.example", "CNAME", "example.com")])


@pytest.mark.parametrize(
    "message",
    [
        loop_of_aliases(),
        dns_reply(QUERY, [record("example.com", "CNAME", "b.example"), record("example.com", "CNAME", "c.example")]),
        dns_reply(QUERY, [b"\xc0\xff" + record("", "A", PUBLIC)[2:]]),  # a pointer forwards
        dns_reply(QUERY, [b"\xc0\x1d" + record("", "A", PUBLIC)[2:]]),  # a pointer to itself
        dns_reply(QUERY, [b"\x80" + record("", "A", PUBLIC)[1:]]),  # an unknown kind of label
        dns_reply(QUERY, [(b"\x3f" + b"a" * 63) * 4 + record("", "A", PUBLIC)]),  # 256 octets of name
        dns_reply(QUERY, [b"\x0bexample.com" + record("", "A", PUBLIC)[1:]]),  # one label with a dot in it
        dns_reply(QUERY, [record("example.com", "A", PUBLIC)[:-6] + b"\0\x03\1\2\3"]),  # three octets of address
        dns_reply(QUERY, [record("example.com", "A", PUBLIC)] * 33),
        dns_reply(QUERY, [record("x.example", "A", PUBLIC)] * 257),
        GOOD[:4] + b"\0\2" + GOOD[6:],  # two questions
        GOOD[:2] + b"\x91" + GOOD[3:],  # another operation
    ],
)
def test_cannot_mislead_with_a_malformed_message(message: bytes) -> None:
    with pytest.raises(dns.Malformed):
        dns.decode(message, QUESTION)


def test_the_servers_of_resolv_conf(tmp_path: Path) -> None:
    text = (
        "# nameserver 9.9.9.9\nsearch x.example\nnameserver 10.0.0.2 # ours\nnameserver bad\nnameserver fe80::1%eth0\n"
    )
    assert configured_servers(text) == [("10.0.0.2", 53), ("fe80::1%eth0", 53)]
    assert len(configured_servers("nameserver 1.1.1.1\n" * 9)) == 3
    conf = tmp_path / "resolv.conf"
    assert resolver_for(None, conf).servers == ()
    conf.write_text(text)
    assert resolver_for(None, conf).servers[0] == ("10.0.0.2", 53)
    assert resolver_for(("192.0.2.1", 5353), conf).servers == (("192.0.2.1", 5353),)
