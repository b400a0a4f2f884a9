"""One connection through the egress gate: its two ends, its bytes, its clock, and how the record tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct

from images.sidecar.proxyhttp import PIECE


class GateLimits(Struct, frozen=True, kw_only=True):
    """Seconds, bytes and connections past which the gate gives up on a member's connection."""

    head: float = 15.0
    connect: float = 15.0
    idle: float = 300.0
    total: float = 3600.0
    bytes: int = 8 << 30
    connections: int = 128


class Exhausted(Exception):
    """The flow has used up what one connection may carry."""


class End(Struct, frozen=True):
    """One end of a flow."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass(kw_only=True)
class Flow:
    """The connection, as far as it is known."""

    id: int
    member: str
    limits: GateLimits
    host: str | None = None
    port: int | None = None
    rule: str | None = None
    address: str | None = None
    encrypted_hello: bool = False
    decided: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    _clock: asyncio.Timeout | None = field(default=None, repr=False)
    _deadline: float = field(default=0.0, repr=False)

    def opened(self, decision: Literal["allow", "deny"], **more: Any) -> dict[str, Any]:
        """The event of the decision, of which each connection has one."""
        self.decided = True
        return self._event("open", decision, **more)

    def closed(self, **more: Any) -> dict[str, Any]:
        """The event of the end of what was allowed, with the bytes that it carried."""
        return self._event("closed", "allow", **more)

    def _event(self, phase: str, decision: str, **more: Any) -> dict[str, Any]:
        event: dict[str, Any] = {
            "event": "egress",
            "id": self.id,
            "phase": phase,
            "member": self.member,
            "host": self.host,
            "port": self.port,
            "decision": decision,
            "rule": self.rule,
            "address": self.address,
            "bytesIn": self.bytes_in,
            "bytesOut": self.bytes_out,
        }
        return event | ({"encryptedHello": True} if self.encrypted_hello else {}) | more

    @asynccontextmanager
    async def clock(self) -> AsyncIterator[None]:
        """TimeoutError inside, once nothing moved for the idle time or the total time is over."""
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + self.limits.total
        async with asyncio.timeout_at(min(loop.time() + self.limits.idle, self._deadline)) as self._clock:
            yield

    def moved(self, *, out: int = 0, into: int = 0) -> None:
        """Counts bytes and winds the clock."""
        self.bytes_out += out
        self.bytes_in += into
        if self.bytes_out + self.bytes_in > self.limits.bytes:
            raise Exhausted(f"more than {self.limits.bytes} bytes through one connection")
        if self._clock is not None:
            self._clock.reschedule(min(asyncio.get_running_loop().time() + self.limits.idle, self._deadline))

    async def join(self, near: End, far: End) -> None:
        """Carries bytes both ways until both sides have ended, half-close by half-close."""
        await together(self._carry_out(near, far), self._carry_in(near, far))

    async def _carry_out(self, near: End, far: End) -> None:
        while piece := await near.reader.read(PIECE):
            self.moved(out=len(piece))
            far.writer.write(piece)
            await far.writer.drain()
        far.writer.write_eof()

    async def _carry_in(self, near: End, far: End) -> None:
        while piece := await far.reader.read(PIECE):
            self.moved(into=len(piece))
            near.writer.write(piece)
            await near.writer.drain()
        near.writer.write_eof()


async def together(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs the parts side by side; when one fails the others end, and its error is the error."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
