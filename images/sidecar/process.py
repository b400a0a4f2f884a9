"""One running server process (or one session with a remote server): requests out, replies matched, time kept."""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from time import monotonic
from typing import Any, Protocol

from msgspec import Raw, Struct

from images.sidecar import jsonrpc
from images.sidecar.budget import NO_ROOM
from images.sidecar.jsonrpc import FromServer, RawMap
from images.sidecar.seams import Lifecycle

_TICK = 0.1
_QUEUE = 1024
_ID = re.compile(rb'"id"\s*:\s*(\d{1,15})')
_PROGRESS_EXTENDS = 10
"""A call that reports progress may take this many call time-outs altogether."""


class Transport(Protocol):
    """What carries messages to a server: a wire, or HTTP."""

    closed: bool

    def send(self, message: bytes) -> None: ...

    def close(self) -> None: ...


class Pending(Protocol):
    """Who waits for a reply. Exactly one of result, error, cut and failed is called."""

    def on_result(self, result: RawMap, size: int) -> None:
        """The parts are views: to be used or copied before this returns."""

    def on_error(self, error: Raw) -> None: ...

    def on_cut(self, head: bytes, size: int) -> None:
        """The reply was over the size limit."""

    def on_failed(self, code: int, message: str) -> None:
        """No reply: the server is gone, silent or busy."""

    def on_progress(self, fields: RawMap) -> None: ...

    def on_late(self) -> None:
        """It has taken more than a tenth of a second (told repeatedly)."""

    def on_paused(self) -> None:
        """The server wants to be asked again later for the rest."""


class Events(Protocol):
    """Who hears what a server says by itself."""

    def on_notification(self, process: Process, method: str, params: bytes) -> None: ...

    def on_request(self, process: Process, spelt_id: bytes, method: str, params: bytes) -> None: ...

    def on_exit(self, process: Process) -> None: ...

    def on_fault(self, process: Process, error: Exception) -> None:
        """A message of the server could not be worked on: the fault is ours, and ends with that message."""


class ServerError(Exception):
    """A request of ours to a server failed; the text is fit for an agent."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.data = code, data


class Reply:
    """A pending request of the sidecar itself, as a future with a copy of the result."""

    def __init__(self) -> None:
        self.future: asyncio.Future[dict[str, bytes]] = asyncio.get_running_loop().create_future()

    def on_result(self, result: RawMap, size: int) -> None:
        if any(jsonrpc.countless(bytes(value)) for value in result.values()):
            self._fail(ServerError(jsonrpc.INTERNAL_ERROR, "its answer has more values than anybody should look at"))
        if not self.future.done():
            self.future.set_result({key: bytes(value) for key, value in result.items()})

    def on_error(self, error: Raw) -> None:
        e = jsonrpc.error_of(error)
        self._fail(ServerError(e.code, e.message, Raw(bytes(e.data))))

    def on_cut(self, head: bytes, size: int) -> None:
        self._fail(ServerError(jsonrpc.INTERNAL_ERROR, f"its answer of {size} bytes is over the size limit"))

    def on_failed(self, code: int, message: str) -> None:
        self._fail(ServerError(code, message))

    def on_progress(self, fields: RawMap) -> None: ...

    def on_late(self) -> None: ...

    def on_paused(self) -> None: ...

    def _fail(self, error: ServerError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Ignored:
    """A pending request whose outcome nobody needs."""

    def on_result(self, result: RawMap, size: int) -> None: ...

    def on_error(self, error: Raw) -> None: ...

    def on_cut(self, head: bytes, size: int) -> None: ...

    def on_failed(self, code: int, message: str) -> None: ...

    def on_progress(self, fields: RawMap) -> None: ...

    def on_late(self) -> None: ...

    def on_paused(self) -> None: ...


class _Slot(Struct, eq=False):
    """A request that was sent or waits to be."""

    pending: Pending
    message: bytes
    """What is not sent yet."""
    began: float
    deadline: float
    last: float
    stands: bool = False
    """Whether it is meant to stay open, so that it takes no place and no time."""


class Process:
    """Requests in flight to one server. Implements `wire.Reader`."""

    def __init__(self, server: str, events: Events, lifecycle: Lifecycle) -> None:
        self.server = server
        self._loop = asyncio.get_running_loop()
        self.events, self._lifecycle = events, lifecycle
        self._transport: Transport | None = None
        self._slots: dict[int, _Slot] = {}
        self._waiting: deque[int] = deque()
        self._in_flight = 0
        self._next_id = 0
        self._timer: asyncio.TimerHandle | None = None
        self.modern = False
        """Speaks 2026-07-28 on this connection: no handshake, `_meta` in each request."""
        self.capabilities: dict[str, Any] = {}
        self.instructions = ""
        self.faults = 0
        """Messages that were no JSON-RPC, or answers to nothing."""
        self.labels = frozenset(("src:mcp", f"mcp:{server}"))
        """Of what it says by itself: it may hold anything that any of its calls was for."""
        self.used = monotonic()
        self.held = 0
        """Requests of the server that wait for the agent: time-outs stand still meanwhile."""

    def connect(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def closed(self) -> bool:
        return self._transport is None or self._transport.closed

    @property
    def takes_levels(self) -> bool:
        """Whether the server wants to be told a log level."""
        return "logging" in self.capabilities and not self.modern

    @property
    def busy(self) -> int:
        """Requests that are not answered yet, without those that are meant to stay open."""
        return sum(not slot.stands for slot in self._slots.values())

    # --- out

    def reserve(self) -> int:
        """The id of the next request, for a progress token inside it."""
        self._next_id += 1
        return self._next_id

    def request(self, number: int, method: str, params: bytes, pending: Pending, timeout: float | None = None) -> None:
        """Sends a request under a reserved id, now or when the server has a place for it."""
        transport = self._transport
        if transport is None or transport.closed:
            pending.on_failed(jsonrpc.SERVER_LOST, f"server {self.server} is not running")
            return
        if len(self._waiting) >= _QUEUE:
            pending.on_failed(jsonrpc.TIMED_OUT, f"server {self.server} is busy: {_QUEUE} requests wait for it already")
            return
        now = self.used = monotonic()
        span = self._lifecycle.call_timeout if timeout is None else timeout
        message = jsonrpc.request(number, method, params)
        slot = self._slots[number] = _Slot(pending, b"", now, now + span, now + span * _PROGRESS_EXTENDS)
        if self._in_flight < self._lifecycle.max_concurrent + self.held:
            self._in_flight += 1
            transport.send(message)
        else:
            slot.message = message
            self._waiting.append(number)
        if self._timer is None:
            self._timer = self._loop.call_later(_TICK, self._tick)

    def stand(self, method: str, params: bytes, pending: Pending, number: int | None = None) -> None:
        """Sends a request that may stay open as long as the process lives: it takes no place and has no time-out."""
        if self.closed:
            pending.on_failed(jsonrpc.SERVER_LOST, f"server {self.server} is not running")
        else:
            number = number or self.reserve()
            self._slots[number] = _Slot(pending, b"", monotonic(), math.inf, math.inf, stands=True)
            self.post(jsonrpc.request(number, method, params))

    async def ask(self, method: str, params: bytes = b"", timeout: float | None = None) -> dict[str, bytes]:
        """A request of the sidecar itself; raises ServerError."""
        reply = Reply()
        self.request(self.reserve(), method, params, reply, timeout)
        return await reply.future

    def notify(self, method: str, params: bytes = b"") -> None:
        self.post(jsonrpc.notification(method, params))

    def post(self, message: bytes) -> None:
        """Sends a message that has no reply: a notification, or the answer to a request of the server."""
        if self._transport is not None and not self._transport.closed:
            self._transport.send(message)

    def cancel(self, pending: Pending, reason: str) -> None:
        """Gives a request up and tells the server so. `pending` hears nothing more."""
        for number, slot in self._slots.items():
            if slot.pending is pending:
                self._abandon(number, reason)
                return

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _finished(self) -> None:
        self._in_flight -= 1
        self._next()

    def _next(self) -> None:
        """Sends what waited for a place. A request that waits for the agent takes none."""
        while self._waiting and self._in_flight < self._lifecycle.max_concurrent + self.held and not self.closed:
            slot = self._slots.get(self._waiting.popleft())
            if slot is not None:
                self._in_flight += 1
                message, slot.message = slot.message, b""
                self.post(message)

    def _abandon(self, number: int, reason: str) -> None:
        slot = self._slots.pop(number)
        if slot.message:
            return  # never sent
        params = jsonrpc.encode({"requestId": number, "reason": reason})
        self.notify("notifications/cancelled", params)
        if not slot.stands:
            self._finished()

    # --- time

    def _tick(self) -> None:
        self._timer = None
        now = monotonic()
        for number, slot in list(self._slots.items()):
            # What one request's end is told to may end others: a client that is gone takes all of its requests along.
            if slot.stands or number not in self._slots:
                continue
            if self.held:
                slot.deadline += _TICK
                slot.last += _TICK
            if now < min(slot.deadline, slot.last):
                if now - slot.began >= _TICK:
                    slot.pending.on_late()
                continue
            span = self._lifecycle.call_timeout
            what = "could not take the request" if slot.message else "did not answer"
            self._abandon(number, "timed out")
            slot.pending.on_failed(jsonrpc.TIMED_OUT, f"server {self.server} {what} within {span:g} s")
        if self.busy:
            self._timer = self._loop.call_later(_TICK, self._tick)

    # --- in

    def on_line(self, line: memoryview | bytes) -> None:
        try:
            self._heard(jsonrpc.split_reply(line), len(line))
        except jsonrpc.Malformed as e:
            self._malformed(bytes(line[:4096]), bytes(line[-256:]), str(e))
        except Exception as e:  # one message must not end what all others need
            self.events.on_fault(self, e)

    def _heard(self, message: FromServer, size: int) -> None:
        if message.method is not None:
            self._said(message)
            return
        slot = self._slots.get(message.id) if type(message.id) is int else None
        if slot is None or slot.message:
            self.faults += 1  # an answer to nothing, a second answer, or one that came after its time
            return
        del self._slots[message.id]  # type: ignore[arg-type]
        if not slot.stands:
            self._in_flight -= 1
            if self._waiting:
                self._next()
        if message.result is not None:
            slot.pending.on_result(message.result, size)
        else:
            slot.pending.on_error(message.error)

    def on_cut(self, head: bytes, tail: bytes, size: int) -> None:
        number = self._number(head, tail)
        if number is not None:
            self._take(number).on_cut(head, size)
        else:
            self.faults += 1

    def on_crowded(self, head: bytes) -> None:
        self.faults += 1
        number = self._number(head, b"")
        if number is not None:  # else it is found out at the end of the message, or when its time is over
            self._take(number).on_failed(jsonrpc.CROWDED, f"server {self.server} sends too much at once. {NO_ROOM}")

    def on_paused(self, number: int) -> None:
        slot = self._slots.get(number)
        if slot is not None:
            slot.pending.on_paused()

    def on_closed(self) -> None:
        slots, self._slots = self._slots, {}
        self._waiting.clear()
        self._in_flight = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for slot in slots.values():
            outcome = "" if slot.message else ": whether the call took effect is unknown"
            slot.pending.on_failed(jsonrpc.SERVER_LOST, f"server {self.server} ended before it answered{outcome}")
        self.events.on_exit(self)

    def _said(self, message: FromServer) -> None:
        """A notification or a request of the server."""
        method = message.method or ""
        if message.id is not None:
            if method == "ping":
                self.post(jsonrpc.success(jsonrpc.encode(message.id), b"{}"))
            else:
                self.events.on_request(self, jsonrpc.encode(message.id), method, bytes(message.params))
        elif method == "notifications/progress":
            self._progress(message.params)
        else:
            self.events.on_notification(self, method, bytes(message.params))

    def _progress(self, params: Raw) -> None:
        try:
            fields = jsonrpc.members(params)
            slot = self._slots.get(int(bytes(fields["progressToken"])))
        except (jsonrpc.Malformed, KeyError, ValueError):
            slot = None
        if slot is None:
            self.faults += 1
            return
        slot.deadline = monotonic() + self._lifecycle.call_timeout
        slot.pending.on_progress(fields)

    def _malformed(self, head: bytes, tail: bytes, why: str) -> None:
        self.faults += 1
        number = self._number(head, tail)
        if number is not None:
            reason = f"server {self.server} sent a malformed message: {why}"
            self._take(number).on_failed(jsonrpc.INTERNAL_ERROR, reason)

    def _take(self, number: int) -> Pending:
        slot = self._slots.pop(number)
        if not slot.stands:
            self._finished()
        return slot.pending

    def _number(self, head: bytes, tail: bytes) -> int | None:
        """Which request a line that cannot be parsed would have answered. A server can only guess its own wrong."""
        for part in (head[:200], tail):
            for found in _ID.finditer(part):
                slot = self._slots.get(int(found[1]))
                if slot is not None and not slot.message:
                    return int(found[1])
        return None
