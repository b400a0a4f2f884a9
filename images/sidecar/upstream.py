"""One declared server: how a process of it is reached.

Through a link, the server's bridge dials our socket and keeps one connection spare; the first byte we write turns it
into a process. A `command` is a child of ours, for benchmarks and conformance runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from images.sidecar.backoff import BackOff
from images.sidecar.budget import Budget
from images.sidecar.child import Child, started
from images.sidecar.health import Health
from images.sidecar.jsonrpc import METHOD_NOT_FOUND, SERVER_LOST, failure
from images.sidecar.process import Events, Process, ServerError
from images.sidecar.remembered import Told
from images.sidecar.seams import Audit, Dial, Lifecycle, Limits, ServerSpec
from images.sidecar.wire import Wire

if TYPE_CHECKING:
    from images.sidecar.authorizer import Authorizer
    from images.sidecar.remote import Remote

    Authorize = Callable[[ServerSpec], Authorizer]
    """Makes what gets the tokens of a server that wants them."""

_SPARES = 64
NEWCOMER_SECONDS = 1.0
_GRACE = 2.0


class Hub:
    """Hears the one process that all stateless cohorts share, and tells each of them. Implements `process.Events`."""

    def __init__(self) -> None:
        self.members: set[Events] = set()

    def on_notification(self, process: Process, method: str, params: bytes) -> None:
        for events in list(self.members):
            events.on_notification(process, method, params)

    def on_request(self, process: Process, spelt_id: bytes, method: str, params: bytes) -> None:
        refusal = f"A stateless server asks in its results, not by {method}"
        process.post(failure(spelt_id, METHOD_NOT_FOUND, refusal))

    def on_exit(self, process: Process) -> None:
        for events in list(self.members):
            events.on_exit(process)

    def on_fault(self, process: Process, error: Exception) -> None:
        for events in list(self.members)[:1]:
            events.on_fault(process, error)


class Upstream:
    """Makes connected processes of one server."""

    def __init__(
        self,
        spec: ServerSpec,
        lifecycle: Lifecycle,
        limits: Limits,
        audit: Audit,
        budget: Budget,
        dial: Dial | None = None,
        authorize: Authorize | None = None,
    ) -> None:
        self.spec, self.name, self.budget = spec, spec.name, budget
        self.health = Health(spec.name, audit.emit)
        self._dial, self._authorize = dial, authorize
        self._authorizer: Authorizer | None = None
        self._lifecycle, self._limits = lifecycle, limits
        self._loop = asyncio.get_running_loop()
        self._listening: socket.socket | None = None
        self._spares: deque[socket.socket] = deque()
        self._waiters: deque[asyncio.Future[socket.socket]] = deque()
        # One whose lists are known from an earlier run starts when it is used, not before.
        self._warm = bool(spec.remembered)
        self.told = Told(spec.name, audit.emit) if spec.remembered is not None else None
        self.newcomers = BackOff(self._loop.time, NEWCOMER_SECONDS)
        """How long cohorts wait with their first start after others have failed: whoever comes again and again with new
        sessions does not have us start processes all the time, and whoever comes beside them waits no longer than this."""
        self._first: Child | None = None
        self._remotes: list[Remote] = []
        self._children: set[asyncio.Task[None]] = set()
        self._ending: set[socket.socket] = set()
        self.stateless: Process | None = None
        """The process that speaks 2026-07-28: it keeps nothing about its clients, so one serves all."""
        self.handshakes = False
        """Whether the server is known to be of the era of handshakes."""
        self.hub = Hub()
        self.lock = asyncio.Lock()

    @property
    def prefix(self) -> str:
        return self.spec.prefix or self.spec.name

    # --- life

    def listen(self) -> None:
        """Opens the link for the server's bridge. The first process starts before anybody asks for it."""
        if self.spec.command and not self._warm:
            with contextlib.suppress(OSError):  # told when it is needed
                self._first = started(self.spec.command) or Child(self.spec.command)
        if self.spec.link is None:
            return
        path = os.path.join(self.spec.link, "stdio.sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(path)
        os.chmod(path, 0o666)  # the bridge runs under its own uid; the volume decides who can get here
        self._listening.listen(_SPARES)
        self._listening.setblocking(False)
        self._loop.add_reader(self._listening, self._accept)

    async def hold_off(self, until: float) -> None:
        """Waits for that time, before which no start is to be made. Raises ServerError where that takes too long."""
        wait = until - self._loop.time()
        if wait > self._lifecycle.startup_timeout:
            raise ServerError(SERVER_LOST, f"server {self.name} keeps failing; the next attempt is in {wait:.0f} s")
        if wait > 0:
            await asyncio.sleep(wait)

    async def start(self, events: Events) -> Process:
        """A process that nobody spoke to yet. Raises ServerError when there is none in time."""
        process = Process(self.name, events, self._lifecycle)
        self.health.starting()
        try:
            await self._connect(process)
        except ServerError as e:
            self.health.failed(str(e), self._loop.time())
            raise
        except asyncio.CancelledError:
            self.health.abandoned()
            raise
        return process

    async def _connect(self, process: Process) -> None:
        if self.spec.url is not None:
            self._reach(process, self.spec.url)
        elif self.spec.command:
            self._spawn(process)
        else:
            sock = await self._spare()
            self._wire(process, sock.fileno(), sock.fileno(), lambda: self._hang_up(sock))

    async def close(self) -> None:
        """Stops listening, drops the spares, and waits for children to end."""
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
        for sock in (*self._spares, *self._ending):
            sock.close()
        self._spares.clear()
        for waiter in self._waiters:
            waiter.cancel()
        if self._first is not None:
            self._end(self._first)
        if self._children:
            await asyncio.wait(self._children)
        for remote in self._remotes:
            await remote.ended()
        if self._authorizer is not None:
            await self._authorizer.close()

    # --- remote servers

    def _reach(self, process: Process, url: str) -> None:
        if self._dial is None:
            raise ServerError(SERVER_LOST, f"server {self.name} is remote, and nothing here may leave the sandbox")
        from images.sidecar.remote import reach  # most runs have no remote server, and their start pays nothing for it

        if self.spec.oauth is not None and self._authorizer is None:
            if self._authorize is None:
                raise ServerError(SERVER_LOST, f"server {self.name} wants tokens, and nothing here gets any")
            self._authorizer = self._authorize(self.spec)
        try:
            remote = reach(
                process, self.spec, url, self._dial, self._limits.result_bytes, self._authorizer, self.budget
            )
        except ValueError as e:
            raise ServerError(SERVER_LOST, f"server {self.name}: {e}") from e
        self._remotes = [*(former for former in self._remotes if not former.closed), remote]
        process.connect(remote)

    # --- links

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            sock, _ = self._listening.accept()
        except OSError:
            return
        sock.setblocking(False)
        if not self._warm:
            # White space before a message is no message: it only makes the bridge start the first process now.
            self._warm = True
            with contextlib.suppress(OSError):
                sock.send(b" ")
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(sock)
                return
        self._spares.append(sock)
        if len(self._spares) > _SPARES:
            self._spares.popleft().close()

    async def _spare(self) -> socket.socket:
        while self._spares:
            sock = self._spares.popleft()
            with contextlib.suppress(BlockingIOError):
                if not sock.recv(1, socket.MSG_PEEK):
                    sock.close()  # its bridge is gone
                    continue
            return sock
        waiter: asyncio.Future[socket.socket] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            return await asyncio.wait_for(waiter, self._lifecycle.startup_timeout)
        except TimeoutError:
            raise ServerError(
                SERVER_LOST,
                f"server {self.name} did not connect within {self._lifecycle.startup_timeout:g} s: "
                "its container has not started, or all its processes are in use",
            ) from None

    def _hang_up(self, sock: socket.socket) -> None:
        """The server reads the end of its input, and may still finish what it writes."""
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        self._ending.add(sock)
        self._loop.call_later(_GRACE, self._let_go, sock)

    def _let_go(self, sock: socket.socket) -> None:
        self._ending.discard(sock)
        sock.close()

    # --- children

    def _spawn(self, process: Process) -> None:
        child, self._first = self._first, None
        try:
            child = child or Child(self.spec.command)
        except OSError as e:
            raise ServerError(SERVER_LOST, f"server {self.name} cannot be started: {e}") from e
        self._wire(process, child.output, child.input, lambda: self._end(child))

    def _end(self, child: Child) -> None:
        task = self._loop.create_task(child.end())
        self._children.add(task)
        task.add_done_callback(self._children.discard)

    def _wire(self, process: Process, rfd: int, wfd: int, close: Callable[[], None]) -> None:
        limit = self._limits.result_bytes
        process.connect(Wire(process, rfd, wfd, line_limit=limit, budget=self.budget, account=self.name, close=close))
