"""The gate's own resolver: what a name leads to, asked of one configured server, with nothing kept.

No search list, no hosts file, no library that would read them: a granted name means that name in the public DNS. A and
AAAA are asked together, from fresh random ports with random ids, over UDP and then TCP where an answer was cut.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from msgspec import Struct

from images.sidecar import dns
from images.sidecar.rules import Address

DNS_PORT = 53
# A blind forger gets this many guesses at a 16-bit id on a 16-bit port before the answer is asked for over TCP.
MOST_FORGERIES = 8


class ResolveError(Exception):
    """The name leads nowhere; the text says why."""


class Resolver(Struct, frozen=True, kw_only=True):
    """Asks the servers in order, each with a time-out."""

    servers: tuple[tuple[str, int], ...]
    timeout: float = 3.0
    rounds: int = 2

    async def resolve(self, name: str) -> tuple[Address, ...]:
        """All addresses of the name, IPv4 first: never an empty tuple."""
        if not self.servers:
            raise ResolveError("the sidecar knows no name server")
        outcomes = await asyncio.gather(self._ask(name, dns.A), self._ask(name, dns.AAAA), return_exceptions=True)
        addresses: list[Address] = []
        errors: list[ResolveError] = []
        for outcome in outcomes:
            if isinstance(outcome, ResolveError):
                errors.append(outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                addresses.extend(outcome)
        if addresses:
            return tuple(addresses)
        raise errors[0] if errors else ResolveError("the name has no address")

    async def _ask(self, name: str, kind: int) -> tuple[Address, ...]:
        problem = "no name server answered"
        for _ in range(self.rounds):
            for server in self.servers:
                question = dns.Question(id=int.from_bytes(os.urandom(2)), name=name, type=kind)
                try:
                    async with asyncio.timeout(self.timeout):
                        answer = await _over_udp(server, question)
                        if answer.truncated:
                            answer = await _over_tcp(server, question)
                    if answer.truncated:
                        raise dns.Malformed("the answer is cut, even over TCP")
                    return answer.addresses
                except dns.Refused as error:
                    raise ResolveError(str(error)) from None
                except (OSError, TimeoutError, dns.Malformed, asyncio.IncompleteReadError) as error:
                    problem = str(error) or problem
        raise ResolveError(problem)


async def _over_udp(server: tuple[str, int], question: dns.Question) -> dns.Answer:
    loop = asyncio.get_running_loop()
    # A connected socket: the kernel drops datagrams of anybody but the server; the port is a fresh random one.
    transport, waiter = await loop.create_datagram_endpoint(lambda: _Waiter(question), remote_addr=server)
    try:
        transport.sendto(question.encode())
        return await waiter.answer
    finally:
        transport.close()


async def _over_tcp(server: tuple[str, int], question: dns.Question) -> dns.Answer:
    reader, writer = await asyncio.open_connection(*server)
    try:
        query = question.encode()
        writer.write(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await reader.readexactly(2), "big")
        return dns.decode(await reader.readexactly(size), question)
    finally:
        writer.transport.abort()


class _Waiter(asyncio.DatagramProtocol):
    """Waits for the datagram that answers the question; others are forgeries, and few are looked at."""

    def __init__(self, question: dns.Question) -> None:
        self._question = question
        self._forgeries = 0
        self.answer: asyncio.Future[dns.Answer] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self.answer.done():
            return
        try:
            self.answer.set_result(dns.decode(data, self._question))
        except dns.Refused as error:
            self.answer.set_exception(error)
        except dns.Malformed:
            self._forgeries += 1
            if self._forgeries >= MOST_FORGERIES:
                self.answer.set_result(dns.Answer(truncated=True))

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


def configured_servers(text: str) -> Sequence[tuple[str, int]]:
    """The name servers of a resolv.conf, at most three, as the C library reads it."""
    found = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_]:
                try:
                    found.append((str(ip_address(address)), DNS_PORT))
                except ValueError:
                    continue
    return found[:3]


def resolver_for(configured: tuple[str, int] | None, resolv_conf: Path = Path("/etc/resolv.conf")) -> Resolver:
    """The resolver of the configuration, else of the container."""
    if configured is not None:
        return Resolver(servers=(configured,))
    try:
        text = resolv_conf.read_text()
    except OSError:
        text = ""
    return Resolver(servers=tuple(configured_servers(text)))
