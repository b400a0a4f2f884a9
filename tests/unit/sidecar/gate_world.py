"""A small internet for the gate's tests: name server, web servers and routes, all on this machine's loopback.

The gate in it is the real one with its real address policy and resolver. Only the last step is ours: `connect` leads a
checked public address to a loopback listener, and says of every other address that it was reached, which no test wants.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images.sidecar.flow import GateLimits
from images.sidecar.gate import SOCKET, Gate
from images.sidecar.resolver import Resolver
from images.sidecar.rules import Address, EgressRules, HostRule
from tests.support.certificates import certificate
from tests.support.waiting import PATIENCE, until

PUBLIC = "93.184.215.14"
OTHER_PUBLIC = "93.184.215.15"
PUBLIC_V6 = "2606:2800:21f:cb07::1"

TYPES = {"A": 1, "CNAME": 5, "AAAA": 28}
Zone = dict[str, list[tuple[str, str]]]
GET = b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n"
POST = b"POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\n"


def encode_name(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def record(owner: str, kind: str, value: str) -> bytes:
    data = encode_name(value) if kind == "CNAME" else ipaddress.ip_address(value).packed
    return encode_name(owner) + struct.pack("!HHIH", TYPES[kind], 1, 60, len(data)) + data


def dns_reply(query: bytes, records: list[bytes], *, rcode: int = 0, flags: int = 0x8180) -> bytes:
    return query[:2] + struct.pack("!5H", flags | rcode, 1, len(records), 0, 0) + query[12:] + b"".join(records)


class NameServer(asyncio.DatagramProtocol):
    """Answers from `zone` (a CNAME brings what it leads to), or as `answer` says; counts what it was asked."""

    def __init__(self) -> None:
        self.zone: Zone = {}
        self.asked: list[tuple[str, str]] = []
        self.answer: Callable[[bytes, str, str], list[bytes] | bytes] | None = None
        self.forged_first: Callable[[bytes], list[bytes]] = lambda query: []
        self.truncate_udp = False

    def reply(self, query: bytes) -> bytes:
        labels, offset = [], 12
        while query[offset]:
            labels.append(query[offset + 1 : offset + 1 + query[offset]].decode())
            offset += 1 + query[offset]
        name = ".".join(labels)
        kind = {number: text for text, number in TYPES.items()}[struct.unpack_from("!H", query, offset + 1)[0]]
        self.asked.append((name, kind))
        if self.answer is not None:
            answer = self.answer(query, name, kind)
            return answer if isinstance(answer, bytes) else dns_reply(query, answer)
        if name not in self.zone:
            return dns_reply(query, [], rcode=3)
        records, owner = [], name
        while True:
            entries = self.zone.get(owner, [])
            records += [record(owner, k, v) for k, v in entries if k in (kind, "CNAME")]
            aliases = [v for k, v in entries if k == "CNAME"]
            if not aliases:
                return dns_reply(query, records)
            owner = aliases[0]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for forgery in self.forged_first(data):
            self.transport.sendto(forgery, addr)
        if self.truncate_udp:
            self.transport.sendto(dns_reply(data, [], flags=0x8380), addr)
        else:
            self.transport.sendto(self.reply(data), addr)

    async def over_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = self.reply(await reader.readexactly(size))
        writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()


class Web:
    """A host: records every byte that it gets, and answers each connection with `answer` once the head is in."""

    def __init__(self) -> None:
        self.received: list[bytearray] = []
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Web: yes\r\n\r\nhello"
        self.close_after = True
        self.serving: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self.serve(reader, writer))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = bytearray()
        self.received.append(got)
        answered = False
        try:
            while piece := await reader.read(65536):
                got += piece
                if not answered and b"\r\n\r\n" in got:
                    answered = True
                    writer.write(self.answer)
                    if self.close_after and b"chunked" not in got:
                        break
                if b"0\r\n\r\n" in got:
                    break
        except OSError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def contexts(directory: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's side that trust each other for these names."""
    authority = certificate(directory, *names)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "server.pem")
    return server, ssl.create_default_context(cadata=authority)


class Record:
    """A record that keeps everything."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def emit(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    async def drain(self) -> None:
        pass

    def decisions(self) -> list[tuple[str, str | None]]:
        return [(event["decision"], event["rule"]) for event in self.events if event.get("phase") == "open"]


@dataclass
class Answer:
    """What a member got back from the gate."""

    raw: bytes

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def rule(self) -> str | None:
        for line in self.raw.partition(b"\r\n\r\n")[0].split(b"\r\n"):
            if line.startswith(b"X-Mlld-Denied: "):
                return line[15:].decode()
        return None

    @property
    def body(self) -> str:
        return self.raw.partition(b"\r\n\r\n")[2].decode()


@dataclass
class World:
    """The gate and everything around it."""

    gate: Gate
    names: NameServer
    record: Record
    web: Web
    tls_web: Web
    directory: Path
    client_tls: ssl.SSLContext
    reached: list[tuple[str, int]] = field(default_factory=list)

    def path(self, member: str = "agent") -> str:
        return str(self.directory / member / SOCKET)

    async def recorded(self, events: int) -> None:
        """Waits until so many events are in the record."""
        await until(lambda: len(self.record.events) >= events)

    async def open(self, member: str = "agent") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path(member))

    async def say(self, *pieces: bytes, member: str = "agent", end: bool = False) -> Answer:
        """Sends raw bytes to the gate, piece by piece, and reads until it closes."""
        reader, writer = await self.open(member)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        if end:
            writer.write_eof()
        try:
            async with asyncio.timeout(PATIENCE):
                return Answer(await reader.read(-1))
        finally:
            writer.close()

    async def get(self, url: str, *, host: str | None = None, member: str = "agent") -> Answer:
        host = host or url.split("/")[2]
        return await self.say(f"GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), member=member)

    async def connect(self, target: str, *, member: str = "agent") -> tuple[Answer, Any]:
        """A CONNECT and, if it was granted, the tunnel's two ends."""
        reader, writer = await self.open(member)
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head:
                answer = Answer(head + await reader.read(-1))
                writer.close()
                return answer, None
        return Answer(head), (reader, writer)

    async def https(self, target: str, *, server_name: str | None = None, member: str = "agent") -> bytes:
        """A GET through a tunnel, with a real TLS client in it; what the host answered."""
        host = target.rpartition(":")[0]
        answer, tunnel = await self.connect(target, member=member)
        assert tunnel is not None, answer.raw
        reader, writer = tunnel
        context = self.client_tls
        if server_name is not None:
            context.check_hostname = False
        try:
            async with asyncio.timeout(PATIENCE):
                await writer.start_tls(context, server_hostname=server_name or host)
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                return bytes(await reader.read(-1))
        finally:
            writer.close()


def allow(*hosts: str, ports: tuple[int, ...] = (), deny: tuple[str, ...] = (), public: bool = False) -> EgressRules:
    return EgressRules(
        allow=tuple(HostRule.allow(host, ports=ports, source="index.mld:4:12") for host in hosts),
        deny=tuple(HostRule.deny(host, source="index.mld:5:3") for host in deny),
        public=public,
    )


@asynccontextmanager
async def world(directory: Path, *, limits: GateLimits | None = None, **rules: EgressRules) -> AsyncIterator[World]:
    """A world in which each keyword is a member with its rules; example.com is a public host with two web servers."""
    loop = asyncio.get_running_loop()
    names = NameServer()
    tcp = await asyncio.start_server(names.over_tcp, "127.0.0.1", 0)
    dns_port = tcp.sockets[0].getsockname()[1]
    udp, _ = await loop.create_datagram_endpoint(lambda: names, local_addr=("127.0.0.1", dns_port))
    server_tls, client_tls = contexts(directory, "example.com", "www.example.com", "xn--bcher-kva.example")
    web, tls_web = Web(), Web()
    plain = await asyncio.start_server(web.accept, "127.0.0.1", 0)
    secure = await asyncio.start_server(tls_web.accept, "127.0.0.1", 0, ssl=server_tls)
    routes = {80: plain.sockets[0].getsockname()[1], 443: secure.sockets[0].getsockname()[1], 8443: 0}
    reached: list[tuple[str, int]] = []

    async def connect(address: Address, port: int) -> socket.socket:
        reached.append((str(address), port))
        if str(address) not in (PUBLIC, PUBLIC_V6) or not routes.get(port):
            raise OSError(101, "no such route in this world")
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        await loop.sock_connect(sock, ("127.0.0.1", routes[port]))
        return sock

    record = Record()
    gate = Gate(
        rules=rules,
        resolver=Resolver(servers=(("127.0.0.1", dns_port),), timeout=20, rounds=1),
        record=record,
        connect=connect,
        limits=limits or GateLimits(),
    )
    for member in rules:
        (directory / member).mkdir()
    await gate.start({member: str(directory / member) for member in rules})
    made = World(gate, names, record, web, tls_web, directory, client_tls, reached)
    names.zone = {host: [("A", PUBLIC)] for host in ("example.com", "www.example.com", "xn--bcher-kva.example")}
    try:
        yield made
    finally:
        await gate.close()
        await asyncio.gather(*web.serving, *tls_web.serving, return_exceptions=True)
        udp.close()
        for server in (tcp, plain, secure):
            server.close()
            await server.wait_closed()


async def works(w: World) -> None:
    """The positive control: the same gate lets the granted request through."""
    assert (await w.get("http://example.com/")).status == 200
    w.reached.clear()
    w.web.received.clear()
