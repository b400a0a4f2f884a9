"""One server as one cohort of sessions sees it: its process (started, stopped, woken), and its lists."""

from __future__ import annotations

import asyncio
from itertools import accumulate
from typing import Any

import msgspec
from msgspec import Raw

from images.sidecar import jsonrpc
from images.sidecar.backoff import BackOff
from images.sidecar.handshake import envelope, greet
from images.sidecar.joint import outcome
from images.sidecar.process import Events, Ignored, Process, ServerError
from images.sidecar.remembered import Offers, situation
from images.sidecar.seams import Kind, Lifecycle
from images.sidecar.upstream import Upstream

LISTS: dict[Kind, tuple[str, str, str]] = {
    "tool": ("tools/list", "tools", "tools"),
    "prompt": ("prompts/list", "prompts", "prompts"),
    "resource": ("resources/list", "resources", "resources"),
    "template": ("resources/templates/list", "resourceTemplates", "resources"),
}
"""Kind → method, key of the result, capability that says a server has it."""

MAX_ITEMS = 2_000
_MAX_PAGES, _MAX_BYTES, _MAX_ITEM = 64, 4 << 20, 256 << 10
_COPIES = 3
"""How often an item is here: as it came, as it is shown, and in its page."""
_LEAST = 256 << 10
_CHANGED: dict[Kind, str] = {
    "tool": "notifications/tools/list_changed", "prompt": "notifications/prompts/list_changed",
    "resource": "notifications/resources/list_changed", "template": "notifications/resources/list_changed",
}  # fmt: skip

_LISTENED = {"tools": "toolsListChanged", "prompts": "promptsListChanged", "resources": "resourcesListChanged"}

_items = msgspec.json.Decoder(list[Raw])


class Member:
    """A server's place in a cohort. A stopped process is started again at first use; its lists outlive it."""

    def __init__(self, upstream: Upstream, lifecycle: Lifecycle, capabilities: bytes, *, modern: bool) -> None:
        self.upstream, self.name = upstream, upstream.name
        self._lifecycle, self._capabilities, self._modern = lifecycle, capabilities, modern
        self._loop = asyncio.get_running_loop()
        self._starting: asyncio.Task[Process] | None = None
        self._started = 0.0
        self._back_off = BackOff(self._loop.time)
        self._lists: dict[Kind, asyncio.Task[list[bytes]]] = {}
        self._sizes: dict[Kind, int] = {}
        self._held = upstream.budget.open(upstream.name, self._shed)
        self._events: Events | None = None
        """Who hears when a list had to be given up."""
        self._situation = situation(capabilities, modern=modern)
        known: Offers | None = (upstream.spec.remembered or {}).get(self._situation)
        self.remembered: dict[Kind, list[bytes]] = dict(known.lists) if known else {}
        """Lists of an earlier run, in place of those that the server has not been asked for yet."""
        self.unconfirmed = known is not None
        """Whether something of what it shows comes from an earlier run: before it is used the server is asked."""
        self.confirming = asyncio.Lock()
        self.process: Process | None = None
        self.capabilities: dict[str, Any] | None = dict(known.capabilities) if known else None
        """What the server said it can do; None as long as it never started."""
        self.instructions = known.instructions if known else ""
        self.introduced = False
        """Whether it was the server itself that said so, in this run."""
        self.trouble = ""
        """Why the server cannot be used, or not fully, at present."""
        self.level = ""
        """The log level which the cohort wants."""
        self.watched: set[str] = set()
        """Resources which sessions of the cohort subscribed to: subscribed again when the process is woken."""

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
        return await outcome(self._starting)

    def _start_done(self, task: asyncio.Task[Process]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # told to whoever waits; nobody may

    async def _start(self, events: Events) -> Process:
        try:
            # Whose starts fail waits for itself alone: its session may be the reason.
            known = self._started or self._back_off.failures
            await self.upstream.hold_off(self._back_off.until if known else self.upstream.newcomers.until)
            process = await (self._start_modern(events) if self._modern else self._start_own(events))
        except ServerError as e:
            self.trouble = str(e)
            raise
        self._started = self._loop.time()
        self.trouble = ""
        self.process = process
        self.capabilities, self.instructions = process.capabilities, process.instructions
        self.introduced = True
        return process

    async def _start_own(self, events: Events) -> Process:
        """A process for this cohort alone."""
        process = await self.upstream.start(events)
        await self._greet(process, modern=False)
        self._restore(process)
        return process

    async def _start_modern(self, events: Events) -> Process:
        """The stateless process that all cohorts share; a process of its own if the server is of the older era."""
        async with self.upstream.lock:
            hub = self.upstream.hub
            process = self.upstream.stateless
            if self.upstream.handshakes:
                return await self._start_own(events)
            if process is None or process.closed:
                process = await self.upstream.start(hub)
                await self._greet(process, modern=True)
            if not process.modern:
                self.upstream.handshakes = True
                process.events = events
            else:
                self.upstream.stateless = process
                hub.members.add(events)
            self._restore(process)
            return process

    async def _greet(self, process: Process, *, modern: bool) -> None:
        health, began = self.upstream.health, self._loop.time()
        try:
            await greet(process, self._capabilities, self._lifecycle.startup_timeout, modern=modern)
        except ServerError as e:
            process.close()
            error = ServerError(jsonrpc.SERVER_LOST, f"server {self.name} did not start: {e}")
            health.failed(str(error), self._failed(0.0))
            raise error from e
        except asyncio.CancelledError:
            health.abandoned()
            raise
        health.started(process, self._loop.time() - began)

    def _failed(self, alive: float) -> float:
        """A process ended by itself after that many seconds. Until when the next start waits."""
        self.upstream.newcomers.failed(alive)
        return self._back_off.failed(alive)

    def _restore(self, process: Process) -> None:
        """Tells a woken process what its predecessor knew."""
        if self.level and process.takes_levels:
            self._tell(process, "logging/setLevel", {"level": self.level})
        if process.modern:
            self._listen(process, self.watched)
            return
        for uri in self.watched:
            self._tell(process, "resources/subscribe", {"uri": uri})

    def _tell(self, process: Process, method: str, params: dict[str, Any]) -> None:
        process.request(process.reserve(), method, jsonrpc.encode(params), Ignored())

    def watch(self, uris: set[str]) -> None:
        """Has the server tell of these resources as well."""
        fresh = uris - self.watched
        self.watched |= fresh
        process = self.ready()
        if process is None:
            return
        if process.modern:
            if fresh:
                self._listen(process, fresh)
            return
        for uri in sorted(fresh):
            self._tell(process, "resources/subscribe", {"uri": uri})

    def _listen(self, process: Process, uris: set[str]) -> None:
        """A stateless server says what changes only on a request that asks for it and stays open."""
        wanted: dict[str, Any] = {flag: True for group, flag in _LISTENED.items() if group in process.capabilities}
        if uris and "resources" in process.capabilities:
            wanted["resourceSubscriptions"] = sorted(uris)
        if wanted:
            params = b'{"notifications":%s,"_meta":%s}' % (jsonrpc.encode(wanted), envelope(self._capabilities))
            process.stand("subscriptions/listen", params, Ignored())

    def exited(self, process: Process) -> None:
        """A process is gone: if it was ours and nobody stopped it, the next start waits a little."""
        if process is self.process:
            self.process = None
            now = self._loop.time()
            wait = now if process is self.upstream.stateless else self._failed(now - self._started)
            self.trouble = f"server {self.name} ended by itself; it is started again at the next call"
            self.upstream.health.exited(process, self.trouble, wait)

    def stop(self, events: Events) -> None:
        """Ends the process on purpose; one that is shared ends with its last cohort."""
        process, self.process = self.process, None
        if self._starting is not None:
            self._starting.cancel()
        hub = self.upstream.hub
        hub.members.discard(events)
        if process is not None and (process is not self.upstream.stateless or not hub.members):
            self.upstream.health.stopped(process)
            process.close()

    def close(self, events: Events) -> None:
        """Ends the process and forgets its lists."""
        self.stop(events)
        self._held.hold(0)

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
        self.remembered.pop(kind, None)

    def _shed(self) -> None:
        """Gives up its longest list; what is left of it when it is asked for again is what there is room for then."""
        process = self.ready()
        kind = max(self._sizes, key=lambda kind: self._sizes[kind], default=None)
        if kind is None or process is None or self._events is None:
            return
        self._keep(kind, 0)
        self._events.on_notification(process, _CHANGED[kind], b"")

    def _keep(self, kind: Kind, size: int) -> bool:
        """Says how much the lists are; False if there is no room for this one."""
        self._sizes[kind] = size * _COPIES
        if self._held.hold(sum(self._sizes.values())):
            return True
        self._sizes[kind] = min(size, _LEAST) * _COPIES
        self._held.hold(sum(self._sizes.values()))
        return False

    async def confirm(self, events: Events) -> None:
        """Has the server tell by itself what an earlier run has told so far. Raises ServerError."""
        await self.wake(events)
        await asyncio.gather(*(self._asked(kind, events) for kind in self.remembered))
        self.remembered = {}

    async def items(self, kind: Kind, events: Events) -> list[bytes]:
        """The raw items of a list, asked for once. Raises ServerError."""
        return self.remembered[kind] if kind in self.remembered else await self._asked(kind, events)

    async def _asked(self, kind: Kind, events: Events) -> list[bytes]:
        task = self._lists.get(kind)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._lists[kind] = self._loop.create_task(self._fetch(kind, events))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await outcome(task)

    async def _fetch(self, kind: Kind, events: Events) -> list[bytes]:
        """All pages, as far as a server that never ends can make us read."""
        process = await self.wake(events)
        self._events = events
        method, key, _ = LISTS[kind]
        if not self.has(kind):
            return []
        items: list[bytes] = []
        size, cursor, whole = 0, b"", True
        seen: set[bytes] = set()
        for _ in range(_MAX_PAGES):
            fields = [b'"cursor":' + cursor] if cursor else []
            if process.modern:
                fields.append(b'"_meta":' + envelope(self._capabilities))
            result = await process.ask(method, b"{%s}" % b",".join(fields), self._lifecycle.startup_timeout)
            try:
                page = [bytes(item) for item in _items.decode(result.get(key, b"[]"))]
            except msgspec.DecodeError as e:
                raise ServerError(jsonrpc.INTERNAL_ERROR, f"server {self.name}: {method} is not a list") from e
            short = [item for item in page if len(item) <= _MAX_ITEM]
            whole &= len(short) == len(page)
            items += short
            size += sum(map(len, short))
            cursor = result.get("nextCursor", b"")
            last = cursor in (b"", b"null", b'""')
            if last and whole and len(items) <= MAX_ITEMS and size <= _MAX_BYTES and self._keep(kind, size):
                self._tell_list(kind, items)
                return items
            if last or cursor in seen or len(items) >= MAX_ITEMS or size > _MAX_BYTES:
                break
            seen.add(cursor)
        most = _MAX_BYTES if self._keep(kind, min(size, _MAX_BYTES)) else _LEAST
        lengths = accumulate(map(len, items))
        kept = [item for item, end in zip(items[:MAX_ITEMS], lengths, strict=False) if end <= most]
        self.trouble = f"server {self.name}: {method} is too long or does not end: only {len(kept)} of it are used"
        return kept

    def _tell_list(self, kind: Kind, items: list[bytes]) -> None:
        """Has a complete list remembered, if it is not what is remembered already."""
        told = self.upstream.told
        known: Offers | None = (self.upstream.spec.remembered or {}).get(self._situation)
        if told is not None and (
            known is None
            or (known.lists.get(kind), known.capabilities, known.instructions)
            != (items, self.capabilities, self.instructions)
        ):
            told.tell(self._situation, kind, items, self.capabilities or {}, self.instructions)
