"""One server as one cohort of sessions sees it: its process (started, stopped, woken), and its lists."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
from msgspec import Raw

from images.sidecar import jsonrpc
from images.sidecar.process import Events, Process, ServerError
from images.sidecar.seams import Kind, Lifecycle
from images.sidecar.upstream import Upstream

LEGACY = "2025-11-25"
MODERN = "2026-07-28"
CLIENT = {"name": "mlld-sandbox", "version": "1"}
META = "io.modelcontextprotocol/"

LISTS: dict[Kind, tuple[str, str, str]] = {
    "tool": ("tools/list", "tools", "tools"),
    "prompt": ("prompts/list", "prompts", "prompts"),
    "resource": ("resources/list", "resources", "resources"),
    "template": ("resources/templates/list", "resourceTemplates", "resources"),
}
"""Kind → method, key of the result, capability that says a server has it."""

_DISCOVER_SECONDS = 3.0
"""An older server may not even answer what it does not know."""
_MAX_PAGES, _MAX_ITEMS, _MAX_BYTES = 64, 2_000, 16 << 20

_items = msgspec.json.Decoder(list[Raw])


class Member:
    """A server's place in a cohort. A stopped process is started again at first use; its lists outlive it."""

    def __init__(self, upstream: Upstream, lifecycle: Lifecycle, capabilities: bytes, *, modern: bool) -> None:
        self.upstream = upstream
        self._lifecycle, self._capabilities, self._modern = lifecycle, capabilities, modern
        self._loop = asyncio.get_running_loop()
        self._events: Events | None = None
        self._starting: asyncio.Task[Process] | None = None
        self._started = 0.0
        self._lists: dict[Kind, asyncio.Task[list[bytes]]] = {}
        self.process: Process | None = None
        self.capabilities: dict[str, Any] | None = None
        """What the server said it can do; None as long as it never started."""
        self.instructions = ""
        self.trouble = ""
        """Why the server cannot be used, or not fully, at present."""
        self.level = ""
        """The log level which the cohort wants."""
        self.watched: set[str] = set()
        """Resources which sessions of the cohort subscribed to: subscribed again when the process is woken."""

    @property
    def name(self) -> str:
        return self.upstream.name

    def ready(self) -> Process | None:
        """The process, if it is there right now."""
        process = self.process
        return process if process is not None and not process.closed else None

    async def wake(self, events: Events) -> Process:
        """The process, started if need be. Raises ServerError."""
        process = self.ready()
        if process is not None:
            return process
        if self._starting is None:
            self._starting = self._loop.create_task(self._start(events))
            self._starting.add_done_callback(self._start_done)
        return await asyncio.shield(self._starting)

    def _start_done(self, task: asyncio.Task[Process]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # told to whoever waits; nobody may

    async def _start(self, events: Events) -> Process:
        began = self._loop.time()
        try:
            process = await self.upstream.start(events)
        except ServerError as e:
            self.trouble = str(e)
            raise
        try:
            if not (self._modern and await self._discover(process)):
                if process.closed:
                    process = await self.upstream.start(events)
                await self._initialize(process)
        except ServerError as e:
            process.close()
            self.upstream.failed(0.0)
            self.trouble = f"server {self.name} did not start: {e}"
            raise ServerError(jsonrpc.SERVER_LOST, self.trouble) from e
        self._started = self._loop.time()
        self.trouble = ""
        self.process, self._events = process, events
        self.capabilities, self.instructions = process.capabilities, process.instructions
        self._restore(process)
        self.start_seconds = self._started - began
        return process

    async def _discover(self, process: Process) -> bool:
        """Opens the connection in the stateless era; False if the server does not know it."""
        wait = min(_DISCOVER_SECONDS, self._lifecycle.startup_timeout)
        try:
            result = await process.ask("server/discover", b'{"_meta":%s}' % self.meta(), wait)
        except ServerError:
            return False
        versions = json.loads(result.get("supportedVersions", b"[]"))
        if MODERN not in versions:
            return False
        process.modern = True
        self._learn(process, result)
        return True

    async def _initialize(self, process: Process) -> None:
        params = b'{"protocolVersion":"%s","capabilities":%s,"clientInfo":%s}' % (
            LEGACY.encode(),
            self._capabilities,
            jsonrpc.encode(CLIENT),
        )
        result = await process.ask("initialize", params, self._lifecycle.startup_timeout)
        self._learn(process, result)
        process.notify("notifications/initialized")

    def _learn(self, process: Process, result: dict[str, bytes]) -> None:
        try:
            capabilities = json.loads(result.get("capabilities", b"{}"))
            instructions = json.loads(result.get("instructions", b'""'))
        except (ValueError, RecursionError):
            capabilities = None
            instructions = ""
        if not isinstance(capabilities, dict):
            raise ServerError(jsonrpc.INTERNAL_ERROR, "its capabilities are not an object")
        process.capabilities = capabilities
        process.instructions = instructions if isinstance(instructions, str) else ""

    def _restore(self, process: Process) -> None:
        """Tells a woken process what its predecessor knew."""
        if self.level and process.takes_levels:
            self._tell(process, "logging/setLevel", {"level": self.level})
        for uri in () if process.modern else self.watched:
            self._tell(process, "resources/subscribe", {"uri": uri})

    def _tell(self, process: Process, method: str, params: dict[str, Any]) -> None:
        task = self._loop.create_task(process.ask(method, jsonrpc.encode(params)))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def meta(self) -> bytes:
        """The `_meta` of a request that the sidecar itself makes in the stateless era."""
        return b'{"%sprotocolVersion":"%s","%sclientCapabilities":%s,"%sclientInfo":%s}' % (
            META.encode(), MODERN.encode(), META.encode(), self._capabilities, META.encode(), jsonrpc.encode(CLIENT),
        )  # fmt: skip

    def exited(self, process: Process) -> None:
        """A process is gone: if it was ours and nobody stopped it, the next start waits a little."""
        if process is self.process:
            self.process = None
            self.upstream.failed(self._loop.time() - self._started)
            self.trouble = f"server {self.name} ended by itself; it is started again at the next call"

    def stop(self) -> None:
        """Ends the process on purpose."""
        process, self.process = self.process, None
        if self._starting is not None:
            self._starting.cancel()
        if process is not None:
            process.close()

    def idle(self, now: float) -> bool:
        """Whether the process has had nothing to do for the idle time."""
        process = self.ready()
        return (
            process is not None and not process.busy and not self.watched
            and now - process.used > self._lifecycle.idle_timeout
        )  # fmt: skip

    # --- lists

    def has(self, kind: Kind) -> bool:
        """Whether the server offers such things (unknown counts as yes)."""
        return self.capabilities is None or LISTS[kind][2] in self.capabilities

    def changed(self, kind: Kind) -> None:
        """The server says that a list is another one now."""
        self._lists.pop(kind, None)

    async def items(self, kind: Kind, events: Events) -> list[bytes]:
        """The raw items of a list, asked for once. Raises ServerError."""
        task = self._lists.get(kind)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._lists[kind] = self._loop.create_task(self._fetch(kind, events))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _fetch(self, kind: Kind, events: Events) -> list[bytes]:
        """All pages, as far as a server that never ends can make us read."""
        process = await self.wake(events)
        method, key, _ = LISTS[kind]
        if not self.has(kind):
            return []
        items: list[bytes] = []
        size, cursor = 0, b""
        seen: set[bytes] = set()
        for _ in range(_MAX_PAGES):
            fields = [b'"cursor":' + cursor] if cursor else []
            if process.modern:
                fields.append(b'"_meta":' + self.meta())
            result = await process.ask(method, b"{%s}" % b",".join(fields), self._lifecycle.startup_timeout)
            try:
                page = [bytes(item) for item in _items.decode(result.get(key, b"[]"))]
            except msgspec.DecodeError as e:
                raise ServerError(jsonrpc.INTERNAL_ERROR, f"server {self.name}: {method} is not a list") from e
            items += page
            size += sum(map(len, page))
            cursor = result.get("nextCursor", b"")
            if cursor in (b"", b"null", b'""') and len(items) <= _MAX_ITEMS:
                return items
            if not cursor or cursor in seen or len(items) >= _MAX_ITEMS or size > _MAX_BYTES:
                break
            seen.add(cursor)
        kept = items[:_MAX_ITEMS]
        self.trouble = f"server {self.name}: {method} is too long or does not end: only its first {len(kept)} are used"
        return kept
