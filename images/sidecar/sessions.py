"""Sessions of agents (the handshake era): what is in flight, what is subscribed, what servers ask of the client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from time import monotonic

import msgspec
from msgspec import Raw

from images.sidecar import jsonrpc
from images.sidecar.budget import AGENTS, Budget
from images.sidecar.catalog import Entry
from images.sidecar.cohort import OFFERS, Asked, Cohort
from images.sidecar.exchange import Exchange
from images.sidecar.handshake import CLIENT, LEGACY, META, MODERN
from images.sidecar.jsonrpc import Incoming, Malformed, RawMap
from images.sidecar.narrowing import Narrowing
from images.sidecar.process import Process, ServerError
from images.sidecar.relay import Relay
from images.sidecar.seams import Kind
from images.sidecar.stream import EventStream, MessageStream
from images.sidecar.tasks import Tasks

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", LEGACY)
MAX_SESSIONS, MAX_OWNERS = 64, 16
"""Sessions at once, and those among them that have processes and lists of their own."""
_PRIMED_SINCE = "2025-11-25"
_STREAMS_KEPT = 8
_IN_FLIGHT = 256
_ASKS = 32
_ASK_SECONDS = 600.0
_ROUNDS = 16
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_CHANGED: dict[Kind, str] = {
    "tool": "notifications/tools/list_changed",
    "prompt": "notifications/prompts/list_changed",
    "resource": "notifications/resources/list_changed",
}
ASKED_FOR = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
"""Requests of servers, and the client capability that each needs."""


Answer = Callable[[bytes, bytes], None]
"""Takes `result` or `error`, and its JSON."""


class Ask(msgspec.Struct, eq=False):
    """A request to the client that waits for its answer."""

    process: Process
    method: str
    answer: Answer
    timer: asyncio.TimerHandle
    spelt_id: bytes = b""
    """The server's id, if it was a request of its own."""
    token: Raw | None = None


class Session:
    """One client's session. Implements `cohort.Audience` and `router.Asker`."""

    modern = False

    def __init__(
        self,
        version: str,
        capabilities: dict[str, object],
        cohort: Cohort,
        narrowing: Narrowing,
        budget: Budget,
        main: MessageStream | None = None,
    ) -> None:
        self.id = os.urandom(16).hex()
        self.account = f"{AGENTS} {self.id}"
        """Under which it holds what is not finished (`budget.Budget`)."""
        self._keep = partial(budget.open, self.account)
        self.version, self.capabilities, self.cohort = version, capabilities, cohort
        self.primed = version >= _PRIMED_SINCE
        """Whether the client knows streams that begin with an empty event."""
        self._loop = asyncio.get_running_loop()
        self.get = EventStream("0", self._keep)
        """What a client over streamable HTTP attaches to with GET."""
        self.main: MessageStream = main or self.get
        """Carries what belongs to no request."""
        self._streams: dict[str, EventStream] = {"0": self.get}
        self._stream_count = 0
        self.relays: dict[bytes, Relay] = {}
        self._asks: dict[int, Ask] = {}
        self._ask_count = 0
        self.tasks = Tasks()
        self._in_order = asyncio.Lock()
        self._judging: set[asyncio.Task[None]] = set()
        self.level = ""
        self.watched: set[str] = set()
        self.sight = narrowing.sight(self.id, cohort.catalog, self.on_changed, whole_run=False)
        self.used = monotonic()
        self.closed = False
        cohort.audiences.add(self)

    @property
    def active(self) -> bool:
        """Whether something of it is going on."""
        return bool(self.relays) or self.main.attached

    # --- streams

    def open_stream(self) -> EventStream:
        """The stream of one request's answer."""
        self._stream_count += 1
        stream = EventStream(str(self._stream_count), self._keep)
        finished = [key for key, old in self._streams.items() if old.finished]
        for key in finished[: max(0, len(finished) - _STREAMS_KEPT)]:
            self._streams.pop(key).forget()
        self._streams[stream.key] = stream
        return stream

    def stream(self, key: str) -> EventStream | None:
        """A stream that a client comes back for."""
        return self._streams.get(key)

    def beat(self) -> None:
        """Keeps silent streams open."""
        for stream in self._streams.values():
            stream.beat()

    # --- requests in flight

    def check(self, exchange: Exchange) -> None:
        """Whether one more request may begin; raises Malformed."""
        if exchange.id in self.relays:
            raise Malformed(jsonrpc.INVALID_REQUEST, "A request with this id is in flight already")
        if len(self.relays) >= _IN_FLIGHT:
            raise Malformed(jsonrpc.INVALID_REQUEST, f"{_IN_FLIGHT} requests of this session are in flight already")

    def began(self, relay: Relay) -> None:
        self.relays[relay.exchange.id] = relay

    def ended(self, relay: Relay) -> None:
        self.relays.pop(relay.exchange.id, None)
        self.used = monotonic()
        self.sight.saw(relay.delivered)

    def envelope(self) -> RawMap:
        """What a stateless server wants to know of this client with each request."""
        level = {META + "logLevel": Raw(jsonrpc.encode(self.level))} if self.level else {}
        return {
            META + "protocolVersion": Raw(jsonrpc.encode(MODERN)),
            META + "clientCapabilities": Raw(jsonrpc.encode(self.capabilities)),
            META + "clientInfo": Raw(jsonrpc.encode(CLIENT)),
            **level,
        }

    def takes(self, relay: Relay, result: RawMap) -> bool:
        """A stateless server may want something before it answers: this client is asked, then the request repeated."""
        if "task" in relay.fields and "task" in result:
            result["task"] = self.tasks.began(relay.entry, result["task"])
        elif relay.method.startswith("tasks/"):
            self.tasks.known(relay.entry.member.name, result)
        if relay.process is None or not relay.process.modern:
            return False
        kind = result.pop("resultType", None)
        if kind is None or bytes(kind) != b'"input_required"':
            for key in ("ttlMs", "cacheScope"):
                result.pop(key, None)
            return False
        rounds = Rounds(self, relay, {key: Raw(bytes(value)) for key, value in result.items()})
        relay.exchange.task = self._loop.create_task(rounds.run())
        return True

    def cancel(self, params: Raw) -> None:
        """The client gave a request up."""
        fields = jsonrpc.members(params)
        relay = self.relays.get(bytes(fields.get("requestId", Raw(b""))))
        if relay is not None:
            # The reason is text of the agent's on its way to a server, and nobody has judged it.
            judged = self.cohort.asking.active or self._closed_at(relay.entry.member.name)
            reason = Raw(b'""') if judged else fields.get("reason", Raw(b'""'))
            relay.cancel(msgspec.json.decode(reason, type=str) if bytes(reason)[:1] == b'"' else "")

    # --- what servers say

    def on_changed(self, kind: Kind) -> None:
        method = _CHANGED.get(kind)
        if method is not None:
            self._tell(jsonrpc.notification(method))

    def on_said(self, process: Process, method: str, params: bytes) -> None:
        if method == "notifications/message":
            if self._wants(params):
                self._near(process, jsonrpc.notification(method, params))
                self.sight.saw(process.labels)
        elif method == "notifications/resources/updated":
            try:
                uri = jsonrpc.text(jsonrpc.members(params), "uri")
            except jsonrpc.Malformed:
                return
            if uri in self.watched:
                self._tell(jsonrpc.notification(method, params))
                self.sight.saw(process.labels)
        elif method == "notifications/cancelled":
            self._withdraw(process, params)
        elif method == "notifications/tasks/status":
            self._task_changed(process, method, params)
        elif method == "notifications/elicitation/complete":
            self._near(process, jsonrpc.notification(method, params))
            self.sight.saw(process.labels)

    def _task_changed(self, process: Process, method: str, params: bytes) -> None:
        try:
            fields = jsonrpc.members(params)
            if not self.tasks.known(process.server, fields):
                return
            entry = self.tasks.entry(jsonrpc.text(fields, "taskId"))
        except Malformed:
            return
        message = jsonrpc.encode(fields)
        if self.cohort.asking.active:
            task = self._loop.create_task(self._judge_state(entry, method, message))
            self._judging.add(task)
            task.add_done_callback(self._judging.discard)
        else:
            self._tell_state(entry, method, message)

    async def _judge_state(self, entry: Entry, method: str, params: bytes) -> None:
        """The state of a task is told in the server's words, by the guards of its tool, in the server's order."""
        async with self._in_order:
            labels = self.sight.labels | entry.taint
            verdict = await self.cohort.asking.entry(entry.member.name, method, entry.name, params, labels)
            if verdict.kind == "allow":
                self._tell_state(entry, method, params)

    def _tell_state(self, entry: Entry, method: str, params: bytes) -> None:
        self._tell(jsonrpc.notification(method, params))
        self.sight.saw(entry.taint)

    def _wants(self, params: bytes) -> bool:
        try:
            level = jsonrpc.text(jsonrpc.members(params), "level")
            return not self.level or LEVELS.index(level) >= LEVELS.index(self.level)
        except (jsonrpc.Malformed, ValueError):
            return False

    def _tell(self, message: bytes) -> None:
        self.main.send(message, droppable=True)

    def _near(self, process: Process, message: bytes) -> None:
        """Says something that belongs to a call, on that call's answer; a server on a pipe does not say to which."""
        relay = self._asking(process)
        if relay is None or not relay.exchange.send(message, droppable=True):
            if relay is None and any(other.process is process for other in self.relays.values()):
                return
            self._tell(message)

    def _asking(self, process: Process) -> Relay | None:
        """The oldest call in flight at that process whose answer can carry something before it."""
        for relay in self.relays.values():
            if relay.process is process and relay.exchange.can_stream:
                return relay
        return None

    # --- what servers ask

    def on_asked(self, process: Process, spelt_id: bytes, method: str, params: bytes) -> bool:
        needed = ASKED_FOR.get(method)
        if needed is None or needed not in self.capabilities or len(self._asks) >= _ASKS:
            return False
        try:
            fields = jsonrpc.members(params)
            if not self.tasks.known(process.server, fields | {}):
                return False
            self.tasks.known(process.server, fields)
            meta = jsonrpc.members(fields.get("_meta", b""))
        except jsonrpc.Malformed:
            return False
        number = self._ask_count + 1
        token = meta.get("progressToken")
        if token is not None:
            meta["progressToken"] = Raw(b"%d" % number)
            fields["_meta"] = Raw(jsonrpc.encode(meta))

        def answer(kind: bytes, value: bytes) -> None:
            self.cohort.reply(process, spelt_id, kind, value, self.sight.labels)

        ask = self._ask(process, method, jsonrpc.encode(fields) if params else b"", answer)
        ask.spelt_id, ask.token = spelt_id, token
        return True

    def _ask(self, process: Process, method: str, params: bytes, answer: Answer) -> Ask:
        """Asks the client, on the answer of a call that this server works on if there is one."""
        self._ask_count += 1
        number = self._ask_count
        timer = self._loop.call_later(_ASK_SECONDS, self._expired, number)
        ask = self._asks[number] = Ask(process, method, answer, timer)
        process.held += 1
        message = jsonrpc.request(number, method, params)
        relay = self._asking(process)
        if relay is None or not relay.exchange.send(message):
            self.main.send(message)
        self.sight.saw(process.labels)
        return ask

    async def ask(self, process: Process, method: str, params: bytes) -> bytes:
        """The client's answer to a question that a stateless server put into its result. Raises ServerError."""
        asked = Asked.now(method, params)
        try:
            value = await self._answer_of(process, method, params)
        except ServerError as e:
            self.cohort.tell(process, asked, 0, e)
            raise
        self.cohort.tell(process, asked, len(value))
        return value

    async def _answer_of(self, process: Process, method: str, params: bytes) -> bytes:
        if ASKED_FOR.get(method, "-") not in self.capabilities or len(self._asks) >= _ASKS:
            raise ServerError(jsonrpc.METHOD_NOT_FOUND, f"The client does not offer {method}")
        asking = self.cohort.asking
        if asking.active:
            params = await asking.question(process.server, method, params)
        future: asyncio.Future[tuple[bytes, bytes]] = self._loop.create_future()

        def answer(kind: bytes, value: bytes) -> None:
            if not future.done():
                future.set_result((kind, value))

        self._ask(process, method, params, answer)
        kind, value = await future
        if kind == b"error":
            error = jsonrpc.error_of(Raw(value))
            raise ServerError(error.code, error.message, error.data)
        return await asking.answer(process.server, method, value, self.sight.labels) if asking.active else value

    def answered(self, message: Incoming) -> None:
        """The client's answer to a request of a server."""
        spelt = bytes(message.id)
        ask = self._take(int(spelt)) if spelt.isdigit() and len(spelt) < 12 else None
        if ask is None:
            return
        rule = self._closed_at(ask.process.server, ask.method)
        if rule is not None:
            ask.answer(b"error", jsonrpc.encode({"code": jsonrpc.INVALID_REQUEST, "message": f"Denied by {rule}"}))
            told = {"session": self.id, "server": ask.process.server, "method": ask.method, "rule": rule}
            self.cohort.audit.emit({"event": "denied", **told, "reason": "of what the session has seen by now"})
            return
        kind, value = (b"result", message.result) if bytes(message.result) else (b"error", message.error)
        ask.answer(kind, bytes(value))

    def _closed_at(self, server: str, method: str = "") -> str | None:
        """The rule that closes a server to more text of this client: what it asked for, or a call that it works on. An
        answer would bring to the call what the client has seen since it was admitted."""
        asked = self.sight.closed(method, server) if method else None
        at_work = (r.entry for r in self.relays.values() if r.entry.member.name == server)
        return asked or next(filter(None, (self.sight.closed("tools/call", server, e.name) for e in at_work)), None)

    def progressed(self, params: Raw) -> None:
        """The client's progress with a request of a server."""
        fields: RawMap = jsonrpc.members(params)
        spelt = bytes(fields.get("progressToken", Raw(b"")))
        ask = self._asks.get(int(spelt)) if spelt.isdigit() and len(spelt) < 12 else None
        if ask is not None and ask.token is not None and not self._closed_at(ask.process.server, ask.method):
            fields["progressToken"] = ask.token
            if self.cohort.asking.active:
                fields.pop("message", None)  # text that nobody has judged
            ask.process.notify("notifications/progress", jsonrpc.encode(fields))

    def _withdraw(self, process: Process, params: bytes) -> None:
        """A server gives up what it asked."""
        try:
            fields = jsonrpc.members(params)
        except jsonrpc.Malformed:
            return
        spelt = bytes(fields.get("requestId", Raw(b"")))
        for number, ask in list(self._asks.items()):
            if ask.process is process and spelt and ask.spelt_id == spelt:
                self._take(number)
                fields["requestId"] = Raw(b"%d" % number)
                self._near(process, jsonrpc.notification("notifications/cancelled", jsonrpc.encode(fields)))

    def _expired(self, number: int) -> None:
        self._refuse(number, f"the client did not answer within {_ASK_SECONDS:g} s")

    def _refuse(self, number: int, reason: str) -> None:
        ask = self._take(number)
        if ask is not None:
            ask.answer(b"error", jsonrpc.encode({"code": jsonrpc.TIMED_OUT, "message": reason}))

    def _take(self, number: int) -> Ask | None:
        ask = self._asks.pop(number, None)
        if ask is not None:
            ask.timer.cancel()
            ask.process.held -= 1
        return ask

    # --- end

    def close(self) -> None:
        """The client is gone for good: what it asked is cancelled, what it was asked is refused."""
        self.closed = True
        self.cohort.audiences.discard(self)
        self.sight.close()
        for relay in list(self.relays.values()):
            relay.cancel("the session ended")
        self.refuse_all("the session ended")
        for stream in (*self._streams.values(), self.main):
            stream.finish()
        for stream in self._streams.values():
            stream.forget()

    def refuse_all(self, reason: str) -> None:
        """Answers whatever servers have asked, in place of a client that will not."""
        for number in list(self._asks):
            self._refuse(number, reason)


class Rounds:
    """A request of a session to a stateless server, whose result says what it wants to know first."""

    def __init__(self, session: Session, relay: Relay, result: RawMap) -> None:
        self._session, self._relay, self._result = session, relay, result

    async def run(self) -> None:
        """One round: asks the client everything, then sends the request again with the answers."""
        relay, process = self._relay, self._relay.process
        assert process is not None
        try:
            relay.round += 1
            if relay.round > _ROUNDS:
                raise ServerError(jsonrpc.INTERNAL_ERROR, f"the server asked for input more than {_ROUNDS} times")
            wanted = jsonrpc.members(self._result.get("inputRequests", b"{}"))
            if len(wanted) > _ASKS:
                raise ServerError(jsonrpc.INTERNAL_ERROR, f"the server asked for {len(wanted)} inputs at once")
            asked = [jsonrpc.members(request) for request in wanted.values()]
            answers = await asyncio.gather(
                *(self._session.ask(process, jsonrpc.text(a, "method"), bytes(a.get("params", b""))) for a in asked)
            )
        except (ServerError, Malformed) as e:
            relay.on_failed(e.code, str(e))
            return
        answered = dict(zip(wanted, map(Raw, answers), strict=True))
        state = {"requestState": self._result["requestState"]} if "requestState" in self._result else {}
        fields = {k: v for k, v in relay.fields.items() if k not in ("inputResponses", "requestState")}
        relay.send(process, fields | {"inputResponses": Raw(jsonrpc.encode(answered))} | state)


def offers(capabilities: dict[str, object]) -> bool:
    """Whether a client with these capabilities can be asked for something by a server."""
    return not OFFERS.isdisjoint(capabilities)


class Sessions:
    """All sessions, bounded: a new one takes the place of the one that was idle longest, else it is refused. Those whose
    clients offer something, and so have processes of their own, have a narrower bound among themselves."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, spelt: bytes) -> Session | None:
        return self._sessions.get(spelt)

    def has_room(self, *, owner: bool) -> bool:
        return not self._full(owner) or any(not s.active for s in self._rivals(owner))

    def add(self, session: Session) -> Session | None:
        """Adds a session; the one that had to go for it, if any."""
        owner = offers(session.capabilities)
        former = None
        if self._full(owner):
            idle = [s for s in self._rivals(owner) if not s.active]
            former = min(idle, key=lambda s: s.used, default=None)
            if former is not None:
                del self._sessions[former.id.encode()]
        self._sessions[session.id.encode()] = session
        return former

    def _full(self, owner: bool) -> bool:
        return len(self._sessions) >= MAX_SESSIONS or len(self._rivals(owner)) >= (
            MAX_OWNERS if owner else MAX_SESSIONS
        )

    def _rivals(self, owner: bool) -> list[Session]:
        """Those of which one has to go for such a session."""
        return [s for s in self._sessions.values() if not owner or offers(s.capabilities)]

    def remove(self, session: Session) -> None:
        self._sessions.pop(session.id.encode(), None)

    def all(self) -> list[Session]:
        return list(self._sessions.values())
