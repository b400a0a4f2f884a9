"""The stateless era (2026-07-28) towards the agent: each request says itself who asks, in which version, from what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
from msgspec import Raw

from images.sidecar import jsonrpc, mirror
from images.sidecar.budget import AGENTS, NOTABLE, Budget
from images.sidecar.cohort import Cohort
from images.sidecar.connection import Buffers
from images.sidecar.exchange import AnswerStream, Exchange, OpenStream, Way
from images.sidecar.handshake import CLIENT, LONGEST_CAPABILITIES, META, MODERN, UNSUPPORTED_VERSION
from images.sidecar.jsonrpc import OURS, Incoming, Malformed, RawMap
from images.sidecar.narrowing import Narrowing, Sight
from images.sidecar.parked import Parking, Question, Waiting
from images.sidecar.process import Process
from images.sidecar.relay import Relay
from images.sidecar.router import Router
from images.sidecar.seams import Kind
from images.sidecar.sessions import ASKED_FOR, LEVELS, VERSIONS
from images.sidecar.trace import of_headers

_STATUSES = {
    jsonrpc.PARSE_ERROR: 400, jsonrpc.INVALID_REQUEST: 400, jsonrpc.INVALID_PARAMS: 400, mirror.HEADER_MISMATCH: 400,
    -32021: 400, UNSUPPORTED_VERSION: 400, jsonrpc.METHOD_NOT_FOUND: 404,
}  # fmt: skip
_TTL_MS = 5_000
_CACHEABLE = frozenset(
    ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read", "server/discover")
)
MAX_LISTENERS, _MAX_WATCHED = 64, 256
MAX_CALLERS = 16
_SUBSCRIPTION = META + "subscriptionId"
_FLAGS: dict[Kind, tuple[str, str]] = {
    "tool": ("toolsListChanged", "notifications/tools/list_changed"),
    "prompt": ("promptsListChanged", "notifications/prompts/list_changed"),
    "resource": ("resourcesListChanged", "notifications/resources/list_changed"),
}


class StatelessExchange(Exchange):
    """An exchange whose answer says that it is complete and how long it holds; a client that leaves has cancelled."""

    unknown_resource: int = jsonrpc.INVALID_PARAMS
    headers: Mapping[bytes, bytes] | None = None
    """Those that must say what the body says; None where the transport has no headers."""
    _method: str = ""
    _opens: OpenStream | None = None
    _gone: Callable[[], None] | None = None

    @classmethod
    def of(
        cls, way: Way, spelt_id: bytes, method: str, opens: OpenStream | None, headers: Mapping[bytes, bytes] | None
    ) -> StatelessExchange:
        """The one of a request."""
        exchange = cls(way, spelt_id, None, statuses=_STATUSES, headers=headers)
        exchange._method, exchange._opens = method, opens
        if opens is not None:
            exchange._open_stream = exchange._stream
        if headers is not None:
            exchange.carrier = of_headers(headers)
        return exchange

    def _stream(self) -> AnswerStream:
        assert self._opens is not None
        stream = self._opens()
        stream.on_gone = self._left
        return stream

    def when_gone(self, told: Callable[[], None]) -> None:
        """Tells when the client leaves before the answer."""
        self._gone = told
        if self.stream is None:
            self._connection.on_gone = self._left

    def _left(self) -> None:
        if self._gone is not None and not self.answered:
            self._gone()

    def verify(self, schema: bytes, fields: RawMap) -> None:
        if self.headers is not None:
            mirror.check_params(self.headers, schema, bytes(fields.get("arguments", b"")))

    def failed(self, error: Raw) -> None:
        told = jsonrpc.error_of(error)
        if told.code == jsonrpc.RESOURCE_NOT_FOUND:  # what it was called in the older era
            self.error(jsonrpc.INVALID_PARAMS, told.message, told.data)
        else:
            super().failed(error)

    def result(self, parts: Buffers) -> None:
        first = bytes(parts[0])
        if first.startswith(b'{"resultType":'):
            super().result(parts)
            return
        cache = b'"ttlMs":%d,"cacheScope":"private",' % _TTL_MS if self._method in _CACHEABLE else b""
        rest = (first[1:], *parts[1:])
        if rest[0] == b"}":
            cache = cache.removesuffix(b",")
            super().result((b'{"resultType":"complete"%s%s' % (b"," if cache else b"", cache), *rest))
        else:
            super().result((b'{"resultType":"complete",' + cache, *rest))


class Caller:
    """All stateless agents with the same capabilities. Implements `cohort.Audience` and `router.Asker`."""

    modern = True

    def __init__(
        self, cohort: Cohort, capabilities: Mapping[str, object], parking: Parking, narrowing: Narrowing
    ) -> None:
        self.id = "stateless"
        self.cohort, self.capabilities, self._parking = cohort, capabilities, parking
        # Which agent asks is not known: what anybody on this link has seen may be in what is sent.
        self.sight = narrowing.sight(self.id, cohort.catalog, self._tell, whole_run=True)
        self.relays: dict[int, Relay] = {}
        self.used = asyncio.get_running_loop().time()
        cohort.audiences.add(self)

    def envelope(self) -> RawMap:
        return {}

    def began(self, relay: Relay) -> None:
        self.relays[relay.id] = relay
        if isinstance(relay.exchange, StatelessExchange):
            relay.exchange.when_gone(lambda: self._left(relay))

    def _left(self, relay: Relay) -> None:
        if relay.id in self.relays:
            relay.cancel("the agent closed the connection")

    def ended(self, relay: Relay) -> None:
        self.relays.pop(relay.id, None)
        self.used = asyncio.get_running_loop().time()
        self._parking.ended(relay)
        self.sight.saw(relay.delivered)

    def takes(self, relay: Relay, result: RawMap) -> bool:
        """A stateless server's result is spelt with its type first; one of the older era gets its type with the answer."""
        kind = result.pop("resultType", None)
        if kind is not None and relay.process is not None and relay.process.modern:
            rest = dict(result)
            result.clear()
            result["resultType"] = kind
            result.update(rest)
        return False

    # --- what servers say

    def on_changed(self, kind: Kind) -> None:
        """Nobody listens here: listeners are an audience of their own."""

    def _tell(self, kind: Kind) -> None:
        for audience in list(self.cohort.audiences):
            if isinstance(audience, Listener):
                audience.on_changed(kind)

    def close(self) -> None:
        """Nobody has asked as this caller for a while."""
        self.sight.close()
        self.cohort.close()

    def on_said(self, process: Process, method: str, params: bytes) -> None:
        if method == "notifications/cancelled":
            try:
                self._parking.withdraw(process, bytes(jsonrpc.members(params).get("requestId", b"")))
            except Malformed:
                return
        elif method == "notifications/message":
            for relay in self.relays.values():
                if relay.process is process and relay.exchange.can_stream and _wants(relay, params):
                    relay.exchange.send(jsonrpc.notification(method, params), droppable=True)
                    self.sight.saw(process.labels)
                    return

    def on_asked(self, process: Process, spelt_id: bytes, method: str, params: bytes) -> bool:
        needed = ASKED_FOR.get(method)
        if needed is None or needed not in self.capabilities or process.modern:
            return False
        # A server on a pipe does not say for which call it asks. One that waits for an answer already asks no more.
        calls = [relay for relay in self.relays.values() if relay.process is process]
        asking = [relay for relay in calls if not isinstance(relay.exchange, Waiting)] or calls
        if not asking:
            return False
        self.sight.saw(process.labels)
        reply = partial(self._reply, process, spelt_id, method, asking[-1])
        decline = partial(self.cohort.decline, process, spelt_id)
        return self._parking.ask(asking[-1], Question(process, spelt_id, method, params, reply, decline))

    def _reply(self, process: Process, spelt_id: bytes, method: str, relay: Relay, kind: bytes, value: bytes) -> None:
        """Hands the agent's answer on, unless what was seen since closes the question or the call that it is for."""
        server = process.server
        rule = self.sight.closed(method, server) or self.sight.closed(relay.method, server, relay.entry.name)
        if rule is not None:
            kind, value = b"error", jsonrpc.encode({"code": jsonrpc.INVALID_REQUEST, "message": f"Denied by {rule}"})
            told = {"session": self.id, "server": server, "method": method, "rule": rule}
            self.cohort.audit.emit({"event": "denied", **told, "reason": "of what was seen in the run by now"})
        self.cohort.reply(process, spelt_id, kind, value, self.sight.labels)


def _wants(relay: Relay, params: bytes) -> bool:
    """Whether the request asked to be told of log messages of this level."""
    try:
        level = jsonrpc.text(jsonrpc.members(relay.fields.get("_meta", b"")), META + "logLevel")
        return LEVELS.index(jsonrpc.text(jsonrpc.members(params), "level")) >= LEVELS.index(level)
    except (Malformed, ValueError):
        return False


class Listener:
    """One `subscriptions/listen`: the stream that tells a stateless agent what changed. Implements `cohort.Audience`."""

    def __init__(
        self,
        exchange: StatelessExchange,
        cohort: Cohort,
        sight: Sight,
        wanted: Mapping[str, object],
        uris: frozenset[str],
    ) -> None:
        self._exchange, self._cohort, self._sight = exchange, cohort, sight
        self._kinds = {kind for kind, (flag, _) in _FLAGS.items() if wanted.get(flag) is True}
        self.uris = uris
        self._meta = {_SUBSCRIPTION: Raw(exchange.id)}

    def begin(self) -> None:
        """Acknowledges what will be told, then tells it until the client leaves."""
        honoured: dict[str, object] = {_FLAGS[kind][0]: True for kind in _FLAGS if kind in self._kinds}
        if self.uris:
            honoured["resourceSubscriptions"] = sorted(self.uris)
        self._tell("notifications/subscriptions/acknowledged", {"notifications": Raw(jsonrpc.encode(honoured))})
        self._cohort.audiences.add(self)
        self._exchange.when_gone(self.close)

    def close(self) -> None:
        self._cohort.audiences.discard(self)

    def on_changed(self, kind: Kind) -> None:
        if kind in self._kinds:
            self._tell(_FLAGS[kind][1], {})

    def on_said(self, process: Process, method: str, params: bytes) -> None:
        if method == "notifications/resources/updated":
            try:
                fields = jsonrpc.members(params)
                if jsonrpc.text(fields, "uri") in self.uris:
                    self._tell(method, {"uri": fields["uri"]})
                    self._sight.saw(process.labels)
            except Malformed:
                return

    def on_asked(self, process: Process, spelt_id: bytes, method: str, params: bytes) -> bool:
        return False

    def _tell(self, method: str, params: dict[str, Raw]) -> None:
        body = jsonrpc.encode({**params, "_meta": self._meta})
        self._exchange.send(jsonrpc.notification(method, body), droppable=True)


class Stateless:
    """Answers the requests of stateless agents."""

    def __init__(
        self, router: Router, make_cohort: Callable[[bytes], Cohort], narrowing: Narrowing, budget: Budget
    ) -> None:
        self._router, self._make_cohort, self._narrowing = router, make_cohort, narrowing
        self._loop = asyncio.get_running_loop()
        self._parking = Parking(budget)
        self.callers: dict[bytes, Caller] = {}

    def meant(self, headers: Mapping[bytes, bytes], message: Incoming) -> bool:
        """Whether a request is of this era: it names a version that has no sessions, or carries one itself."""
        if b"mcp-session-id" in headers:
            return False
        version = headers.get(b"mcp-protocol-version")
        if version and version.decode("latin-1") not in VERSIONS:
            return True
        if message.method in ("server/discover", "subscriptions/listen"):
            return True
        return META.encode() + b"protocolVersion" in bytes(message.params)

    def dispatch(self, exchange: StatelessExchange, method: str, params: Raw) -> None:
        """Answers one request, now or later."""
        receipt = self._router.receive(exchange, "stateless", method, params)
        try:
            if receipt.bytes_in > NOTABLE:
                self._router.weigh(exchange, AGENTS, receipt.bytes_in)
            fields = jsonrpc.members(params)
            if "_meta" in fields:
                receipt.located(fields["_meta"])
            caller = self._caller(exchange.headers, method, fields)
            if self._parking.resume(exchange, method, fields):
                return
            if method == "server/discover":
                exchange.task = self._loop.create_task(self._discover(exchange, caller))
            elif method == "subscriptions/listen":
                self._listen(exchange, caller, fields)
            else:
                self._router.answer(caller, exchange, method, fields)
        except _Unsupported as e:
            exchange.error(e.code, str(e), {"supported": [MODERN], "requested": e.requested})
        except Malformed as e:
            exchange.error(e.code, str(e))

    def _caller(self, headers: Mapping[bytes, bytes] | None, method: str, fields: RawMap) -> Caller:
        """Who asks, by the envelope in the request's `_meta`."""
        meta = jsonrpc.members(fields.get("_meta", b""))
        missing = [key for key in ("protocolVersion", "clientCapabilities") if META + key not in meta]
        if missing:
            raise Malformed(jsonrpc.INVALID_PARAMS, f"params._meta lacks {', '.join(META + key for key in missing)}")
        version = jsonrpc.text(meta, META + "protocolVersion")
        if headers is not None:
            mirror.check_head(headers, method, version, fields)
        if version != MODERN:
            raise _Unsupported(version)
        if len(bytes(meta[META + "clientCapabilities"])) > LONGEST_CAPABILITIES:
            raise Malformed(jsonrpc.INVALID_PARAMS, f"{META}clientCapabilities is too large")
        try:
            capabilities = msgspec.json.decode(meta[META + "clientCapabilities"], type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Malformed(jsonrpc.INVALID_PARAMS, f"{META}clientCapabilities must be an object") from None
        key = jsonrpc.encode(capabilities)
        caller = self.callers.get(key)
        if caller is None:
            self._make_room()
            caller = Caller(self._make_cohort(key), capabilities, self._parking, self._narrowing)
            self.callers[key] = caller
        caller.used = self._loop.time()
        return caller

    def _make_room(self) -> None:
        """Ends the cohort that was idle longest when there are many; where all are at work no more are made, since each
        has server processes of its own. Raises Malformed."""
        if len(self.callers) < MAX_CALLERS:
            return
        idle = [(c.used, key) for key, c in self.callers.items() if not c.relays and len(c.cohort.audiences) == 1]
        if not idle:
            raise Malformed(
                jsonrpc.INVALID_REQUEST, f"Clients of {MAX_CALLERS} different capabilities are at work already"
            )
        self.callers.pop(min(idle)[1]).close()

    async def _discover(self, exchange: Exchange, caller: Caller) -> None:
        await caller.cohort.open()
        said = await caller.cohort.introduction()
        if exchange.receipt is not None:
            exchange.receipt.withheld = said.withheld
        exchange.result((jsonrpc.encode({
            "supportedVersions": [MODERN],
            "capabilities": caller.cohort.capabilities(),
            **({"instructions": said.text} if said.text else {}),
            "_meta": {META + "serverInfo": CLIENT, **({f"{OURS}withheld": said.withheld} if said.withheld else {})},
        }),))  # fmt: skip
        caller.sight.saw(said.labels)

    def _listen(self, exchange: StatelessExchange, caller: Caller, fields: RawMap) -> None:
        if not exchange.can_stream:
            raise Malformed(jsonrpc.INVALID_REQUEST, "Accept must include text/event-stream")
        asked = json.loads(bytes(fields.get("notifications", b"{}")))
        wanted: dict[str, object] = asked if isinstance(asked, dict) else {}
        uris = wanted.get("resourceSubscriptions")
        if uris and not (
            isinstance(uris, list) and len(uris) <= _MAX_WATCHED and all(isinstance(u, str) for u in uris)
        ):
            told = f"notifications.resourceSubscriptions must be a list of at most {_MAX_WATCHED} URIs"
            raise Malformed(jsonrpc.INVALID_PARAMS, told)
        self._router.later(
            exchange, self._listen_later(exchange, caller, wanted, uris if isinstance(uris, list) else [])
        )

    async def _listen_later(
        self, exchange: StatelessExchange, caller: Caller, wanted: Mapping[str, object], uris: list[str]
    ) -> None:
        """Listens to what of it the agent may: each server hears of its own resources only."""
        owners = {uri: entry for uri in uris if (entry := await self._router.watchable(caller, uri)) is not None}
        if sum(isinstance(audience, Listener) for audience in caller.cohort.audiences) >= MAX_LISTENERS:
            raise Malformed(jsonrpc.INVALID_REQUEST, f"{MAX_LISTENERS} listeners are there already")
        Listener(exchange, caller.cohort, caller.sight, wanted, frozenset(owners)).begin()
        for uri, entry in owners.items():
            entry.member.watch({uri})


class _Unsupported(Malformed):
    def __init__(self, requested: str) -> None:
        super().__init__(UNSUPPORTED_VERSION, f"Unsupported protocol version: {requested}")
        self.requested = requested
