"""The lease of a run that nobody started by hand: compose, where no runner holds our standard input.

Each member's link has a second socket, `lease.sock`, on which its bridge keeps one connection. The agent's is the
owner's: when its program is done its bridge ends, the connection with it, then we, and with us every other member's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

SOCKET = "lease.sock"
OWNER = "agent"


class Holding:
    """The leases of all members; `over` is called once the owner's has ended."""

    def __init__(self, over: Callable[[], None]) -> None:
        self._over = over
        self._servers: list[asyncio.Server] = []
        self._held: set[asyncio.StreamWriter] = set()

    async def start(self, links: Mapping[str, str]) -> None:
        """Listens in the link of each member."""
        for member, link in links.items():
            path = Path(link) / SOCKET
            path.unlink(missing_ok=True)
            held = self._hold_owner if member == OWNER else self._hold
            self._servers.append(await asyncio.start_unix_server(held, path))
            path.chmod(0o666)  # the member has another uid; nobody else mounts the directory

    async def close(self) -> None:
        """Ends all leases, and thereby the members."""
        for server in self._servers:
            server.close()
        for writer in self._held:
            writer.close()

    async def _hold_owner(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._hold(reader, writer)
        self._over()

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._held.add(writer)
        try:
            while await reader.read(4096):
                pass  # heartbeats, if any, say nothing
        except OSError:
            pass  # a reset is an end like any other
        finally:
            self._held.discard(writer)
            writer.close()
