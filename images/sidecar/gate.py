"""The egress gate: the only way from a member of the run to the network.

Each member that was granted hosts has a socket of its own in its link, and the socket is the member's identity. A
request is a `CONNECT host:port`, which becomes a tunnel for TLS to that host, or a plain `GET http://host/…`, which is
sent on. On its way it passes, in this order: the member's rules, the resolver, the address policy over *every* address,
the rules again for the addresses, a connection to exactly the address that was checked, and for a tunnel the server
name in the TLS hello. One request per connection: what follows it is never read as another one.

What it cannot see: what is said inside a tunnel. A host that was granted can be sent anything, and a shared front end
can be asked, inside TLS, for another of its sites.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from images.sidecar import clienthello, proxyhttp
from images.sidecar.addresses import AddressPolicy
from images.sidecar.flow import End, Exhausted, Flow, GateLimits
from images.sidecar.proxyhttp import BadMessage, Connect, Forward
from images.sidecar.resolver import ResolveError, Resolver
from images.sidecar.rules import Address, BadHost, Denied, EgressRules, parse_host

SOCKET = "egress.sock"
LINGER = 2.0
MOST_HELLO_PIECES = 1024

_ENDINGS = (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, BadMessage, Exhausted)
# TLS record: alert, fatal, unrecognized_name.
_UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"


class Record(Protocol):
    """Where decisions are written, and which makes the gate wait when nobody reads."""

    def emit(self, event: dict[str, Any]) -> None: ...
    async def drain(self) -> None: ...


class Refusal(Exception):
    """The gate does not do it: the status of the answer, the rule, and the sentence for the member."""

    def __init__(self, status: int, rule: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.rule = rule
        self.sentence = sentence

    @classmethod
    def of(cls, denied: Denied) -> Refusal:
        return cls(403, denied.rule, denied.sentence)

    def encode(self) -> bytes:
        """The answer, in words that reach a model: many clients show only the reason or only the body."""
        reason = {400: "Bad Request", 403: "Denied by the sandbox", 408: "Request Timeout", 502: "Bad Gateway"}
        rule = self.rule.encode("ascii", "backslashreplace").decode("ascii")
        body = f"Denied by the sandbox ({self.rule}): {self.sentence}\n".encode()
        return (
            f"HTTP/1.1 {self.status} {reason.get(self.status, 'Service Unavailable')}\r\nX-Mlld-Denied: {rule}\r\n"
            f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode("ascii") + body


async def connect_to(address: Address, port: int) -> socket.socket:
    """A connection to this address and no other."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


@dataclass(kw_only=True)
class Gate:
    """The gates of all members of one run."""

    rules: Mapping[str, EgressRules]
    resolver: Resolver
    record: Record
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
    connect: Callable[[Address, int], Awaitable[socket.socket]] = connect_to
    limits: GateLimits = field(default_factory=GateLimits)

    def __post_init__(self) -> None:
        self._ids = itertools.count(1)
        self._servers: list[asyncio.Server] = []
        self._connections: dict[str, set[asyncio.Task[None]]] = {member: set() for member in self.rules}

    async def start(self, links: Mapping[str, str]) -> None:
        """Listens in the link of each member that was granted something; a member without a link only dials."""
        for member in self.rules:
            if member in links:
                path = Path(links[member]) / SOCKET
                path.unlink(missing_ok=True)
                accept = partial(self._accept, member)
                self._servers.append(await asyncio.start_unix_server(accept, path, limit=proxyhttp.LARGEST_HEAD))
                # The member has another uid; nobody else mounts the directory.
                path.chmod(0o666)

    async def close(self) -> None:
        """Stops listening and ends all connections."""
        for server in self._servers:
            server.close()
        tasks = [task for tasks in self._connections.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def dial(self, member: str, host: str, port: int) -> socket.socket:
        """A connection for one of the sidecar's own clients, under the rules of the server that it stands for."""
        flow = self._flow(member)
        try:
            try:
                name = parse_host(host)
            except BadHost as error:
                raise Refusal(400, "malformed", str(error)) from None
            sock = await self._reach(flow, name, port)
        except Refusal as refusal:
            self._denied(flow, refusal)
            raise PermissionError(refusal.sentence) from None
        self.record.emit(flow.opened("allow"))
        return sock

    def _accept(self, member: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(member, reader, writer))
        self._connections[member].add(task)
        task.add_done_callback(self._connections[member].discard)

    async def _serve(self, member: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flow = self._flow(member)
        try:
            # Nothing is decided that cannot be recorded.
            await self.record.drain()
            if len(self._connections[member]) > (most := self.limits.connections):
                raise Refusal(503, "connections", f"{most} connections are open: close some, then try again.")
            await self._exchange(flow, reader, writer)
        except Refusal as refusal:
            if flow.decided:  # it was allowed, and came to nothing
                self.record.emit(flow.closed(error=refusal.sentence))
            else:
                self._denied(flow, refusal)
            await _answer(reader, writer, refusal.encode())
        except _ENDINGS as error:
            if flow.decided:
                self.record.emit(flow.closed(error=_reason(error)))
            elif flow.host is not None:
                self._denied(flow, Refusal(400, "broken", f"{_reason(error)} before a decision"))
        except Exception as error:
            # A defect of ours closes this connection only, and is told.
            self.record.emit({"event": "error", "where": "gate", "member": member, "error": repr(error)})
        finally:
            await _close(writer)

    def _flow(self, member: str) -> Flow:
        return Flow(id=next(self._ids), member=member, limits=self.limits)

    def _denied(self, flow: Flow, refusal: Refusal) -> None:
        flow.rule = refusal.rule
        self.record.emit(flow.opened("deny", reason=refusal.sentence))

    async def _exchange(self, flow: Flow, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self.limits.head):
                head = await proxyhttp.read_head(reader)
            if head is None:
                return
            request = proxyhttp.parse_request(head)
        except TimeoutError:
            raise Refusal(408, "slow", "the request did not arrive in time: send it at once.") from None
        except BadMessage as error:
            raise Refusal(400, "malformed", f"{error}.") from None
        sock = await self._reach(flow, request.host, request.port)
        near = End(reader, writer)
        far = End(*await asyncio.open_connection(sock=sock, limit=proxyhttp.LARGEST_HEAD))
        try:
            async with flow.clock():
                match request:
                    case Connect():
                        await self._tunnel(flow, request, near, far)
                    case Forward():
                        await self._forward(flow, request, near, far)
        finally:
            far.writer.transport.abort()

    async def _reach(self, flow: Flow, host: str | Address, port: int) -> socket.socket:
        """A connection to the host, if the member may have it."""
        flow.host, flow.port = str(host), port
        rules = self.rules.get(flow.member, EgressRules())
        decision = rules.judge(host, port)
        if isinstance(decision, Denied):
            raise Refusal.of(decision)
        if isinstance(host, str):
            try:
                addresses = await self.resolver.resolve(host)
            except ResolveError as error:
                raise Refusal(502, "resolve", f"{host} leads nowhere ({error}): check the name.") from None
        else:
            addresses = (host,)
        for address in addresses:
            # Every one, not only the one to be used: a name with a private answer is a rebinding under way.
            if (reason := self.addresses.refusal(address)) is not None:
                raise Refusal(
                    403,
                    f"address: {reason}",
                    f"{host} leads to {address} ({reason}), and no grant reaches such addresses.",
                )
            if (denied := rules.judge_address(host, address, port)) is not None:
                raise Refusal.of(denied)
        problem = ""
        try:
            async with asyncio.timeout(self.limits.connect):
                for address in addresses:
                    try:
                        sock = await self.connect(address, port)
                    except OSError as error:
                        problem = os.strerror(error.errno) if error.errno else str(error)
                        continue
                    flow.rule, flow.address = decision.rule, str(address)
                    return sock
        except TimeoutError:
            problem = "no answer in time"
        raise Refusal(
            502, "connect", f"{host}:{port} cannot be reached ({problem}): it is granted, so try again later."
        )

    async def _tunnel(self, flow: Flow, request: Connect, near: End, far: End) -> None:
        near.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            async with asyncio.timeout(self.limits.head):
                received, hello = await _read_hello(near.reader)
        except (clienthello.NotTls, TimeoutError) as error:
            sentence = f"a tunnel carries TLS only ({_reason(error)}): use http://{request.host}/ for plain HTTP."
            raise Refusal(403, "not-tls", sentence) from None
        flow.encrypted_hello = hello.encrypted
        if not _is_for(hello, request.host):
            asked = hello.server_name or "no name"
            self._denied(flow, Refusal(403, "sni", f"TLS asks for {asked}, and the tunnel is for {request.host}."))
            near.writer.write(_UNRECOGNIZED_NAME)
            return
        self.record.emit(flow.opened("allow"))
        flow.moved(out=len(received))
        far.writer.write(received)
        await flow.join(near, far)
        self.record.emit(flow.closed())

    async def _forward(self, flow: Flow, request: Forward, near: End, far: End) -> None:
        self.record.emit(flow.opened("allow"))
        far.writer.write(request.encode())
        upload = asyncio.ensure_future(_send_body(flow, request, near, far))
        try:
            await _return_response(flow, request, near, far)
        finally:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
        self.record.emit(flow.closed())


async def _read_hello(reader: asyncio.StreamReader) -> tuple[bytes, clienthello.ClientHello]:
    """The first bytes of a TLS client and what they ask for."""
    received = b""
    # Each piece is read from the start again: a client that sends single bytes must not keep everybody waiting.
    for _ in range(MOST_HELLO_PIECES):
        piece = await reader.read(proxyhttp.PIECE)
        if not piece:
            raise clienthello.NotTls("the tunnel was closed before TLS began")
        received += piece
        if (hello := clienthello.parse(received)) is not None:
            return received, hello
    raise clienthello.NotTls("the client hello comes in too many pieces")


async def _send_body(flow: Flow, request: Forward, near: End, far: End) -> None:
    chunks = request.framing == "chunked"
    try:
        async for piece in proxyhttp.read_body(near.reader, request.framing):
            flow.moved(out=len(piece))
            far.writer.write(proxyhttp.pack(piece, chunks=chunks))
            await far.writer.drain()
        if chunks:
            far.writer.write(proxyhttp.LAST_CHUNK)
    except Exception:
        # Half a request must not be taken for a whole one.
        far.writer.transport.abort()
        raise


async def _return_response(flow: Flow, request: Forward, near: End, far: End) -> None:
    while True:
        try:
            head = await proxyhttp.read_head(far.reader)
            if head is None:
                raise BadMessage("the host closed the connection without an answer")
            response = proxyhttp.parse_response(head, method=request.method)
        except BadMessage as error:
            raise Refusal(502, "answer", f"{request.host} gave no proper answer ({error}): try again later.") from None
        chunks = response.framing == "chunked" and not request.old
        near.writer.write(response.encode(chunks=not request.old))
        if not response.interim:
            break
    async for piece in proxyhttp.read_body(far.reader, response.framing):
        flow.moved(into=len(piece))
        near.writer.write(proxyhttp.pack(piece, chunks=chunks))
        await near.writer.drain()
    if chunks:
        near.writer.write(proxyhttp.LAST_CHUNK)


def _is_for(hello: clienthello.ClientHello, host: str | Address) -> bool:
    """Whether TLS asks for the tunnel's host. An address has no server name (RFC 6066)."""
    if hello.server_name is None:
        return not isinstance(host, str)
    try:
        return parse_host(hello.server_name) == host
    except BadHost:
        return False


def _reason(error: BaseException) -> str:
    return str(error) or ("it took too long" if isinstance(error, TimeoutError) else type(error).__name__)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Ends a connection; what a client does not read within moments it will not get."""
    writer.close()
    try:
        async with asyncio.timeout(LINGER):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()
    except BaseException:
        writer.transport.abort()
        raise


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
    """Says no, and reads on a little: a close with unread bytes is a reset, which may overtake the answer."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(LINGER):
            writer.write(answer)
            writer.write_eof()
            while await reader.read(proxyhttp.PIECE):
                pass
