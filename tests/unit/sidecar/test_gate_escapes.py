"""Ways out through the egress gate, each tried from a member that was granted `example.com`, beside what does work.

Every test ends with what really happened: the connections that left the gate (`reached`) and the bytes that arrived.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from pathlib import Path

import pytest

from images.sidecar.addresses import AddressPolicy
from images.sidecar.flow import GateLimits
from tests.support.waiting import PATIENCE
from tests.unit.sidecar.gate_world import GET, PUBLIC, PUBLIC_V6, allow, record, works, world


@pytest.mark.parametrize(
    "target",
    [
        "1.1.1.1:443",
        f"{PUBLIC}:443",  # even the address of the granted host
        f"[{PUBLIC_V6}]:443",
        "169.254.169.254:80",
        "127.0.0.1:443",
        "[::1]:443",
        "[::ffff:127.0.0.1]:443",
        "0.0.0.0:443",
    ],
)
async def test_cannot_connect_to_an_address(tmp_path: Path, target: str) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        await works(w)
        answer, _ = await w.connect(target)
        assert (answer.status, answer.rule) == (403, "default-deny")
        assert w.reached == []


@pytest.mark.parametrize(
    "host", ["2130706433", "127.1", "0x7f.0.0.1", "0177.0.0.1", "0x7f000001", "1.2.3.4.5", "::1", "[fe80::1%25lo]"]
)
async def test_cannot_spell_an_address_as_a_name(tmp_path: Path, host: str) -> None:
    async with world(tmp_path, agent=allow(public=True)) as w:
        await works(w)
        answer, _ = await w.connect(f"{host}:443")
        assert answer.status == 400
        assert w.reached == []
        assert w.names.asked == [("example.com", "A"), ("example.com", "AAAA")]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.1.2.3", "private"),
        ("172.17.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.100.100.200", "metadata"),
        ("127.0.0.1", "loopback"),
        ("169.254.1.1", "link-local"),
        ("169.254.169.254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("240.0.0.1", "reserved"),
        ("192.0.0.1", "reserved"),
        ("198.18.0.1", "benchmark"),
        ("203.0.113.1", "documentation"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::ffff:10.0.0.1", "IPv4-mapped"),
        ("::ffff:0:10.0.0.1", "IPv4-translated"),
        ("::10.0.0.1", "IPv4-compatible"),
        ("64:ff9b::a00:1", "NAT64"),
        ("64:ff9b:1::a00:1", "NAT64"),
        ("2002:a00:1::1", "6to4"),
        ("2001:0:a00:1::", "Teredo"),
        ("2001:db8::1", "documentation"),
        ("fd00:ec2::254", "metadata"),
        ("fd12::1", "private"),
        ("fe80::1", "link-local"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("4000::1", "reserved"),
    ],
)
async def test_cannot_reach_inwards_through_a_granted_name(tmp_path: Path, address: str, reason: str) -> None:
    async with world(tmp_path, agent=allow("example.com", public=True)) as w:
        await works(w)
        w.names.zone["example.com"] = [("AAAA" if ":" in address else "A", address)]
        answer = await w.get("http://example.com/")
        assert (answer.status, answer.rule) == (403, f"address: {reason}")
        assert w.reached == []
        literal = f"[{address}]" if ":" in address else address
        answer, _ = await w.connect(f"{literal}:443")
        assert answer.rule == f"address: {reason}"
        assert w.reached == []


@pytest.mark.parametrize("inward", [("A", "10.0.0.1"), ("AAAA", "fd00::1")])
@pytest.mark.parametrize("first", [True, False])
async def test_cannot_hide_a_private_answer_among_public_ones(
    tmp_path: Path, inward: tuple[str, str], first: bool
) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        await works(w)
        public = ("A", PUBLIC)
        w.names.zone["example.com"] = [inward, public] if first else [public, inward]
        answer = await w.get("http://example.com/")
        assert answer.rule == "address: private"
        assert w.reached == []


async def test_cannot_rebind_between_two_requests(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        assert (await w.get("http://example.com/")).status == 200
        w.names.zone["example.com"] = [("A", "127.0.0.1")]
        assert (await w.get("http://example.com/")).rule == "address: loopback"
        assert w.reached == [(PUBLIC, 80)]


async def test_cannot_rebind_between_check_and_connection(tmp_path: Path) -> None:
    """The name is resolved once for a request, and what was checked is what is connected to."""
    async with world(tmp_path, agent=allow("example.com")) as w:
        asked = 0

        def first_public_then_private(query: bytes, name: str, kind: str) -> list[bytes]:
            nonlocal asked
            if kind != "A":
                return []
            asked += 1
            return [record(name, "A", PUBLIC if asked == 1 else "10.0.0.1")]

        w.names.answer = first_public_then_private
        assert (await w.get("http://example.com/")).status == 200
        assert asked == 1
        assert w.reached == [(PUBLIC, 80)]


async def test_cannot_reach_inwards_through_an_alias(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        w.names.zone["example.com"] = [("CNAME", "www.example.com")]
        await works(w)
        w.names.zone["www.example.com"] = [("A", "192.168.0.1")]
        assert (await w.get("http://example.com/")).rule == "address: private"
        assert w.reached == []


async def test_cannot_reach_the_addresses_of_the_host(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        await works(w)
        w.gate.addresses = AddressPolicy(host=(ip_network(PUBLIC),))
        assert (await w.get("http://example.com/")).rule == "address: the host's own"
        assert w.reached == []


async def test_cannot_reach_a_denied_address_by_a_granted_name(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com"), git=allow("example.com", deny=(PUBLIC,))) as w:
        await works(w)
        assert (await w.get("http://example.com/", member="git")).rule == f"deny {PUBLIC} (index.mld:5:3)"
        assert w.reached == []


@pytest.mark.parametrize("port", [22, 25, 8080, 8443, 65535])
async def test_cannot_use_a_port_that_was_not_granted(tmp_path: Path, port: int) -> None:
    async with world(tmp_path, agent=allow("example.com"), other=allow("example.com", ports=(8443,))) as w:
        await works(w)
        answer, _ = await w.connect(f"example.com:{port}")
        assert (answer.status, answer.rule) == (403, "port")
        assert "is granted on port 80, 443" in answer.body
        answer, _ = await w.connect("example.com:443", member="other")
        assert answer.rule == "port"
        assert w.reached == []


@pytest.mark.parametrize(
    "port", ["0", "65536", "99999999999999999999", "-1", "+443", " 443", "４４３", "", "443x", "0x1bb"]
)
async def test_cannot_confuse_the_port(tmp_path: Path, port: str) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        await works(w)
        answer = await w.say(f"CONNECT example.com:{port} HTTP/1.1\r\nHost: example.com\r\n\r\n".encode())
        assert answer.status == 400
        assert w.reached == []


async def test_cannot_use_the_grant_of_another_member(tmp_path: Path) -> None:
    async with world(tmp_path, git=allow("example.com"), other=allow("www.example.com")) as w:
        assert (await w.get("http://example.com/", member="git")).status == 200
        w.reached.clear()
        for claim in (
            b"",
            b"Proxy-Authorization: Basic Z2l0Og==\r\n",
            b"X-Mlld-Member: git\r\n",
            b"Forwarded: for=git\r\n",
        ):
            assert (await w.say(GET + claim + b"\r\n", member="other")).rule == "default-deny"
        assert w.reached == []


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",  # a handshake, but not a hello
        b"\x16\x02\x01\x00\x05\x01\x00\x00\x01\x00",  # SSL 2
        b"\x17\x03\x03\x00\x05hello",  # TLS, but in the middle
        b"\x16\x03\x01\xff\xff\x01",  # a record longer than there can be
        b"\x16\x03\x01\x00\x00",  # an empty record
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",  # a hello of 16 MiB
    ],
)
async def test_cannot_speak_anything_but_tls_in_a_tunnel(tmp_path: Path, said: bytes) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        assert (await w.https("example.com:443")).endswith(b"hello")
        _, (reader, writer) = await w.connect("example.com:443")
        writer.write(said)
        async with asyncio.timeout(PATIENCE):
            got = await reader.read(-1)
        writer.close()
        assert got.startswith(b"HTTP/1.1 403 ")
        assert b"X-Mlld-Denied: not-tls\r\n" in got
        assert len(w.tls_web.received) == 1  # the control's; the second connection never became a TLS session
        assert w.record.decisions()[-1] == ("deny", "not-tls")


async def test_cannot_keep_a_tunnel_open_without_tls(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com"), limits=GateLimits(head=0.2)) as w:
        _, (reader, writer) = await w.connect("example.com:443")
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(PATIENCE):
            assert b"X-Mlld-Denied: not-tls" in await reader.read(-1)
        writer.close()


@pytest.mark.parametrize("name", ["evil.example", "www.example.com", "example.com.evil.example", "example.co", None])
async def test_cannot_ask_in_tls_for_another_host(tmp_path: Path, name: str | None) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        assert (await w.https("example.com:443")).endswith(b"hello")
        _, (reader, writer) = await w.connect("example.com:443")
        writer.write(client_hello(name))
        async with asyncio.timeout(PATIENCE):
            assert await reader.read(-1) == b"\x15\x03\x03\x00\x02\x02\x70"  # unrecognized_name
        writer.close()
        assert w.record.decisions()[-1] == ("deny", "sni")
        assert len(w.tls_web.received) == 1


async def test_cannot_name_two_servers_in_one_hello(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        for hello in (
            client_hello(None, server_name("example.com"), server_name("evil.example")),
            client_hello(None, server_name("example.com", "evil.example")),
        ):
            _, (reader, writer) = await w.connect("example.com:443")
            writer.write(hello)
            async with asyncio.timeout(PATIENCE):
                assert b"X-Mlld-Denied: not-tls" in await reader.read(-1)
            writer.close()
        assert {decision for decision, _ in w.record.decisions()} == {"deny"}


async def test_cannot_slip_another_name_past_in_fragments(tmp_path: Path) -> None:
    """A hello in many records and many packets is read as the whole that the host will read."""
    async with world(tmp_path, agent=allow("example.com")) as w:
        allowed = ("allow", "allow example.com (index.mld:4:12)")
        for name, decision in (("example.com", allowed), ("evil.example", ("deny", "sni"))):
            _, (_, writer) = await w.connect("example.com:443")
            message = client_hello(name)[5:]
            for byte in message:
                writer.write(b"\x16\x03\x01\x00\x01" + bytes([byte]))
                await asyncio.sleep(0)
            before = len(w.record.events)
            await w.recorded(before + 1)
            writer.close()
            assert w.record.decisions()[-1] == decision


async def test_cannot_hold_the_gate_with_a_hello_in_crumbs(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        for crumbs in (b"\x16\x03\x01\x00\x01" + b"\x01", b"\x16\x03\x01\x00\x01" + b"\x00"):
            _, (reader, writer) = await w.connect("example.com:443")
            writer.write(b"\x16\x03\x01\x00\x04\x01\x00\xff\xff" + crumbs * 3000)
            async with asyncio.timeout(PATIENCE):
                assert b"too many records" in await reader.read(-1)
            writer.close()
        assert w.record.decisions() == [("deny", "not-tls")] * 2


async def test_an_encrypted_hello_is_noted(tmp_path: Path) -> None:
    async with world(tmp_path, agent=allow("example.com")) as w:
        _, (_, writer) = await w.connect("example.com:443")
        writer.write(client_hello("example.com", b"\xfe\x0d\x00\x02\x00\x00"))
        await w.recorded(1)
        writer.close()
        assert w.record.events[0]["encryptedHello"] is True


def server_name(*names: str) -> bytes:
    entries = b"".join(b"\0" + len(name).to_bytes(2, "big") + name.encode() for name in names)
    data = len(entries).to_bytes(2, "big") + entries
    return b"\0\0" + len(data).to_bytes(2, "big") + data


def client_hello(name: str | None, *extensions: bytes) -> bytes:
    """A hello in one record, as small as it can be."""
    everything = (server_name(name) if name else b"") + b"".join(extensions)
    body = (
        b"\x03\x03"
        + bytes(32)
        + b"\0"
        + b"\0\x02\x13\x01"
        + b"\x01\0"
        + len(everything).to_bytes(2, "big")
        + everything
    )
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message
