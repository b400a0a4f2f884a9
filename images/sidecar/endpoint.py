"""The MCP endpoint: who may speak to it, in which session, and what each HTTP request is for."""

from __future__ import annotations

import asyncio
import hmac
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Raw

from images.sidecar import batch, jsonrpc, lines, oldsse
from images.sidecar.asking import Asking
from images.sidecar.budget import AGENTS, Budget
from images.sidecar.channel import BATCHED, Channels
from images.sidecar.cohort import Cohort
from images.sidecar.connection import Connection
from images.sidecar.exchange import Exchange
from images.sidecar.handshake import MODERN
from images.sidecar.http import Head
from images.sidecar.jsonrpc import Batched, Malformed
from images.sidecar.lines import LineReader, LineStream
from images.sidecar.listener import Listener
from images.sidecar.narrowing import Narrowing
from images.sidecar.oldsse import OldSse
from images.sidecar.reception import Reception
from images.sidecar.relay import Judges
from images.sidecar.router import Router
from images.sidecar.seams import Admission, Audit, Dial, EndpointSpec, Guarding
from images.sidecar.sessions import VERSIONS, Session
from images.sidecar.stateless import Stateless, StatelessExchange
from images.sidecar.stream import EventStream, split_event_id
from images.sidecar.trace import Trace, nobodys, of_headers
from images.sidecar.upstream import Upstream

if TYPE_CHECKING:
    from images.sidecar.upstream import Authorize

_VERSIONS = frozenset(version.encode() for version in VERSIONS)
_PATHS = frozenset((b"/mcp", oldsse.STREAM, oldsse.MESSAGES))
_SWEEP_SECONDS = 5.0
_MOST_SEATS = 256


class _Seat(NamedTuple):
    """What a head says of whoever sends it: a POST with JSON, by the token, to the endpoint, in a session."""

    session: Session
    carrier: Trace | None
    """The trace that the connection's requests belong to."""


class Endpoint:
    """Everything between the agent's socket and the servers' links. Use: `listen…`, then serve until `close`."""

    def __init__(
        self,
        spec: EndpointSpec,
        admission: Admission,
        guarding: Guarding,
        audit: Audit,
        dial: Dial | None = None,
        authorize: Authorize | None = None,
    ) -> None:
        self._spec, self._admission, self._audit = spec, admission, audit
        self._loop = asyncio.get_running_loop()
        self.budget = Budget(audit.emit)
        self.upstreams = [
            Upstream(server, spec.lifecycle, spec.limits, audit, self.budget, dial, authorize)
            for server in spec.servers
        ]
        trace = spec.trace or nobodys()
        judges = Judges(
            guarding=guarding, audit=audit, budget=self.budget, result_limit=spec.limits.result_bytes, trace=trace
        )
        router = Router(admission, judges)
        self._narrowing = Narrowing(guarding, audit.emit)
        asking = Asking(guarding, audit)
        self.reception = Reception(
            self.upstreams, spec.lifecycle, admission, audit, asking, router, self._narrowing, self.budget
        )
        self.stateless = Stateless(
            router, partial(self.reception.make_cohort, modern=True), self._narrowing, self.budget
        )
        self._channels = Channels(self)
        self._old_sse = OldSse(self._channels)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = Listener(
            self._on_request, body_limit=spec.limits.body_bytes, budget=self.budget, account=self._account
        )
        self._seats: dict[Head, _Seat] = {}
        """Heads that were let in. A client sends the same again and again, and it is the same object then."""
        self._authorization = b"Bearer " + spec.token.encode() if spec.token else b""
        self._hosts = {host.encode() for host in spec.hosts}
        self._origins = {b"http://" + host for host in self._hosts}
        for upstream in self.upstreams:
            upstream.listen()
        self._timer = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def listen_unix(self, path: str) -> None:
        """Serves the agent on its link."""
        self._listener.listen_unix(path)

    def listen_tcp(self, port: int = 0) -> int:
        """Serves on loopback (benchmarks, conformance runs, tests) and lets in clients that name it; the port."""
        port = self._listener.listen_tcp(port)
        for name in (b"127.0.0.1", b"localhost"):
            self._hosts.add(b"%s:%d" % (name, port))
            self._origins.add(b"http://%s:%d" % (name, port))
        return port

    async def close(self) -> None:
        """Ends sessions, processes and sockets."""
        self._timer.cancel()
        self._narrowing.close()
        self.reception.close()
        for caller in self.stateless.callers.values():
            caller.cohort.close()
        for task in self._tasks:
            task.cancel()
        self._listener.close()
        await asyncio.gather(*(upstream.close() for upstream in self.upstreams))

    def cohorts(self) -> list[Cohort]:
        """Every cohort there is."""
        return [*self.reception.cohorts(), *(caller.cohort for caller in self.stateless.callers.values())]

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self.reception.sessions)

    @property
    def backlog(self) -> int:
        """Bytes that agents have not taken yet."""
        return self._listener.queued

    def end_sessions(self) -> None:
        """Ends every session; agents begin anew."""
        self.reception.end_all()

    # --- requests

    def _account(self, head: Head) -> str:
        session = self.reception.sessions.get(head.get(b"mcp-session-id"))
        return AGENTS if session is None else session.account

    def _on_request(self, connection: Connection, head: Head, body: bytes) -> None:
        if self._audit.behind:
            # Nothing is done that cannot be recorded: the request waits, and with it all that its connection still has.
            task = self._loop.create_task(self._when_recorded(connection, head, body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        seat = self._seats.get(head)
        try:
            if seat is not None and not seat.session.closed:
                self._ask(connection, head, body, seat)
            else:
                self._serve(connection, head, body)
        except Exception as e:
            self._lost(connection, e)

    async def _when_recorded(self, connection: Connection, head: Head, body: bytes) -> None:
        try:
            await self._audit.drain()
        except Exception:  # whatever keeps the record from being kept ends the sidecar, and says so there
            connection.close()
        if not connection.closed:
            self._on_request(connection, head, body)

    def _lost(self, connection: Connection, error: Exception) -> None:
        """One request must not end what all others need."""
        self._audit.emit({"event": "error", "where": "endpoint", "reason": repr(error)})
        connection.close()

    def _serve(self, connection: Connection, head: Head, body: bytes) -> None:
        """A request with a head that nobody has been let in with yet."""
        if (refusal := self._refusal(head)) is not None:
            status, reason = refusal
            extra = b'WWW-Authenticate: Bearer realm="mlld"\r\n' if status == 401 else b""
            self._reject(connection, status, reason, extra=extra)
            return
        if head.target.startswith((oldsse.STREAM, oldsse.MESSAGES)):
            self._old_sse.serve(connection, head, body)
            return
        if head.method == b"POST":
            self._post(connection, head, body)
        elif head.wants(lines.PROTOCOL):
            self._switch(connection)
        elif head.get(b"mcp-protocol-version") == MODERN.encode():
            connection.answer(405, (), b"", b"Allow: POST\r\n")
        elif head.method == b"GET":
            self._get(connection, head)
        elif head.method == b"DELETE":
            self._delete(connection, head)
        else:
            connection.answer(405, (), b"", b"Allow: GET, POST, DELETE\r\n")

    def _refusal(self, head: Head) -> tuple[int, str] | None:
        """Why a request is not even looked at. Host and Origin first: that is how a page that rebinds DNS is known."""
        if head.get(b"host").lower() not in self._hosts:
            return 403, "Host is not allowed here"
        if b"origin" in head.headers and head.get(b"origin").lower() not in self._origins:
            return 403, "Origin is not allowed here"
        if self._authorization and not hmac.compare_digest(head.get(b"authorization"), self._authorization):
            return 401, "The bearer token of this run is missing or wrong"
        if head.target.partition(b"?")[0] not in _PATHS:
            return 404, "Nothing here: the endpoint is /mcp"
        return None

    def _post(self, connection: Connection, head: Head, body: bytes) -> None:
        if head.json_body:
            self._ask(connection, head, body, None)
        else:
            self._reject(connection, 415, "Content-Type must be application/json")

    def _ask(self, connection: Connection, head: Head, body: bytes, seat: _Seat | None) -> None:
        """One message, or a batch, with a head that may speak here; `seat`: whose it is, if that is known already."""
        try:
            message = jsonrpc.split_request(body)
        except Batched as e:
            self._batch(connection, head, body, e)
            return
        except Malformed as e:
            self._reject(connection, 400, str(e), e.code)
            return
        method, spelt = message.method, bytes(message.id)
        if seat is None and method is not None and self.stateless.meant(head.headers, message):
            if spelt:
                opens = _events if head.takes_stream else None
                asked = StatelessExchange.of(connection, spelt, method, opens, head.headers)
                self.stateless.dispatch(asked, method, message.params)
            else:
                connection.answer(202, (), b"")  # this era has no notifications that mean anything here
            return
        if method == "initialize" and spelt:
            exchange = Exchange(connection, spelt, None)
            exchange.carrier = of_headers(head.headers)
            opened = self.reception.open(exchange, message, "http")
            if opened is not None:
                exchange.with_headers(b"Mcp-Session-Id: %s\r\n" % opened.id.encode())
            return
        if seat is None and (seat := self._seat(connection, head)) is None:
            return
        session = seat.session
        session.used = monotonic()
        if method is None:
            session.answered(message)
            connection.answer(202, (), b"")
        elif not spelt:
            self.reception.router.notified(session, message)
            connection.answer(202, (), b"")
        else:
            opens = session.open_stream if head.takes_stream else None
            exchange = Exchange(connection, spelt, opens, seat.carrier, session.primed)
            if head.prefers_stream:
                exchange.commit()
            self.reception.router.dispatch(session, exchange, method, message.params)

    def _seat(self, connection: Connection, head: Head) -> _Seat | None:
        """Whose a head is, kept for the next request with it; None if it was refused."""
        session = self._session(connection, head)
        if session is None:
            return None
        if len(self._seats) >= _MOST_SEATS:
            self._seats.clear()
        seat = self._seats[head] = _Seat(session, of_headers(head.headers))
        return seat

    def _batch(self, connection: Connection, head: Head, body: bytes, refusal: Batched) -> None:
        named = b"mcp-session-id" in head.headers
        session = self._session(connection, head) if named else None
        if named and session is None:
            return
        if session is None or session.version not in BATCHED:
            self._reject(connection, 400, str(refusal), refusal.code)
        elif not head.takes_stream:
            self._reject(connection, 406, "Accept must include text/event-stream: that is how a batch is answered")
        else:
            session.used = monotonic()
            try:
                messages = jsonrpc.split_batch(body)
                batch.serve(connection, self.reception.router, session, messages, of_headers(head.headers))
            except Malformed as e:
                self._reject(connection, 400, str(e), e.code)

    def _switch(self, connection: Connection) -> None:
        """Goes on in lines instead of requests, for `mlld sandbox connect`."""
        if self._channels.full():
            self._reject(connection, 503, "Too many clients are connected already")
            return
        _, channel = self._channels.add(LineStream(connection), "stdio")
        connection.switch(lines.PROTOCOL, LineReader(connection, channel, self._audit, self._spec.limits.body_bytes))

    def _session(self, connection: Connection, head: Head) -> Session | None:
        """The session that a request names; None if it was refused."""
        version = head.get(b"mcp-protocol-version")
        if version and version not in _VERSIONS:
            known = ", ".join(VERSIONS)
            self._reject(connection, 400, f"Unsupported protocol version {version.decode('latin-1')}: one of {known}")
            return None
        spelt = head.get(b"mcp-session-id")
        if not spelt:
            self._reject(connection, 400, "Mcp-Session-Id is missing: send initialize first")
            return None
        session = self.reception.sessions.get(spelt)
        if session is None:
            self._reject(connection, 404, "No such session: send initialize again")
        return session

    def _reject(
        self,
        connection: Connection,
        status: int,
        reason: str,
        code: int = jsonrpc.INVALID_REQUEST,
        *,
        extra: bytes = b"",
    ) -> None:
        """Refuses what is no request of a session; the record hears of it like of any other."""
        exchange = Exchange(connection, b"", None)
        receipt = self.reception.router.receive(exchange, "", "", Raw(b""))
        if status in (401, 403):
            receipt.denied("", "endpoint", reason)
        exchange.with_headers(extra)
        exchange.reply(jsonrpc.failure(b"", code, reason), status)

    def _get(self, connection: Connection, head: Head) -> None:
        if b"text/event-stream" not in head.get(b"accept"):
            self._reject(connection, 406, "Accept must include text/event-stream")
            return
        session = self._session(connection, head)
        if session is None:
            return
        session.used = self._loop.time()
        last = head.get(b"last-event-id")
        if not last:
            if session.get.attached:
                self._reject(connection, 409, "This session has its GET stream already")
            else:
                session.get.attach(connection, prime=session.primed)
            return
        place = split_event_id(last)
        stream = session.stream(place[0]) if place is not None else None
        if place is None or stream is None:
            self._reject(connection, 404, "These events are not kept any more")
        else:
            stream.attach(connection, after=place[1])

    def _delete(self, connection: Connection, head: Head) -> None:
        session = self._session(connection, head)
        if session is not None:
            self.reception.end(session)
            connection.answer(200, (), b"")

    def _sweep(self) -> None:
        now = self._loop.time()
        self._seats = {head: seat for head, seat in self._seats.items() if not seat.session.closed}
        for caller in self.stateless.callers.values():
            caller.cohort.idle(now)
        self.reception.sweep(now)
        self._timer = self._loop.call_later(_SWEEP_SECONDS, self._sweep)


def _events() -> EventStream:
    """The stream of an answer in the stateless era: it ends with its connection."""
    return EventStream("")
