"""The socket that agents connect to, and what all of their connections share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from time import monotonic

from images.sidecar.budget import AGENTS, Budget
from images.sidecar.connection import Connection, OnRequest
from images.sidecar.http import Head, response_head

MAX_CONNECTIONS = 256
SWEEP_SECONDS = 2.0


class Listener:
    """Accepts agents' connections on one address, and ends those that take too long."""

    def __init__(
        self,
        on_request: OnRequest,
        *,
        body_limit: int,
        budget: Budget,
        account: Callable[[Head], str] = lambda head: AGENTS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.on_request, self.body_limit, self.budget, self.account = on_request, body_limit, budget, account
        self.queued = self.roomy = 0
        self._max = max_connections
        self._connections: set[Connection] = set()
        self._sockets: list[socket.socket] = []
        self._timer: asyncio.TimerHandle | None = None

    def listen_unix(self, path: str) -> None:
        """Listens on a socket file, replacing one that a dead predecessor left."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        os.chmod(path, 0o666)  # the other side runs under its own uid; the volume decides who can get here
        self._listen(sock)

    def listen_tcp(self, port: int = 0) -> int:
        """Listens on loopback (benchmarks, conformance runs, tests); the port."""
        sock = socket.create_server(("127.0.0.1", port), backlog=256)
        self._listen(sock)
        return int(sock.getsockname()[1])

    def _listen(self, sock: socket.socket) -> None:
        sock.listen(256)
        sock.setblocking(False)
        self._sockets.append(sock)
        self._watch(sock)

    def _watch(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(32):
            try:
                sock, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor is free: polling again at once would spin
                loop = asyncio.get_running_loop()
                loop.remove_reader(listening)
                loop.call_later(1.0, self._watch, listening)
                return
            if len(self._connections) >= self._max:
                with contextlib.suppress(OSError):
                    sock.setblocking(False)
                    sock.send(response_head(503, 0, b"", b"Retry-After: 1\r\nConnection: close\r\n"))
                sock.close()
                continue
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.add(Connection(sock, self))
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = monotonic()
        for connection in [c for c in self._connections if c.overdue(now)]:
            connection.close()
        self._timer = loop.call_later(SWEEP_SECONDS, self._sweep) if self._connections else None

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def close(self) -> None:
        """Stops listening and ends every connection."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
            sock.close()
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._connections):
            connection.close()
