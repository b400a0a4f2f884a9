"""The MCP endpoint: who may speak to it, in which session, and what each HTTP request is for."""

from __future__ import annotations

import asyncio
import hmac
import json
from time import monotonic

from msgspec import Raw

from images.sidecar import jsonrpc
from images.sidecar.asking import Asking
from images.sidecar.cohort import Cohort
from images.sidecar.connection import Connection, Listener
from images.sidecar.exchange import Exchange
from images.sidecar.handshake import CLIENT, LEGACY, MODERN
from images.sidecar.http import Head
from images.sidecar.jsonrpc import Incoming, Malformed
from images.sidecar.relay import Judges
from images.sidecar.router import Router
from images.sidecar.seams import Admission, Audit, Dial, EndpointSpec, Guarding
from images.sidecar.sessions import MAX_SESSIONS, VERSIONS, Session, Sessions, offers
from images.sidecar.stateless import Stateless
from images.sidecar.stream import split_event_id
from images.sidecar.trace import fresh, of_headers
from images.sidecar.upstream import Upstream

_VERSIONS = frozenset(version.encode() for version in VERSIONS)
_SWEEP_SECONDS = 5.0
_SESSION_IDLE_SECONDS = 1800.0


class Endpoint:
    """Everything between the agent's socket and the servers' links. Use: `listen…`, then serve until `close`."""

    def __init__(
        self, spec: EndpointSpec, admission: Admission, guarding: Guarding, audit: Audit, dial: Dial | None = None
    ) -> None:
        self._spec, self._admission, self._audit = spec, admission, audit
        self._loop = asyncio.get_running_loop()
        self.upstreams = [Upstream(server, spec.lifecycle, spec.limits, audit, dial) for server in spec.servers]
        trace = spec.trace or fresh()
        judges = Judges(guarding=guarding, audit=audit, result_limit=spec.limits.result_bytes, trace=trace)
        self._router = Router(admission, judges)
        self._asking = Asking(guarding, audit)
        self._sessions = Sessions()
        self._stateless = Stateless(self._router, lambda key: self._make_cohort(key, modern=True))
        self._shared: dict[bytes, Cohort] = {}
        self._own: dict[Session, Cohort] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = Listener(self._on_request, body_limit=spec.limits.body_bytes)
        self._welcome_head: Head | None = None
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
        self.end_sessions()
        for cohort in self.cohorts():
            cohort.close()
        for task in self._tasks:
            task.cancel()
        self._listener.close()
        await asyncio.gather(*(upstream.close() for upstream in self.upstreams))

    def cohorts(self) -> list[Cohort]:
        """Every cohort there is."""
        return [*self._shared.values(), *self._own.values(), *(c.cohort for c in self._stateless.callers.values())]

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    @property
    def backlog(self) -> int:
        """Bytes that agents have not taken yet."""
        return self._listener.queued

    def end_sessions(self) -> None:
        """Ends every session; agents begin anew."""
        for session in self._sessions.all():
            self._end(session)

    # --- requests

    def _on_request(self, connection: Connection, head: Head, body: bytes) -> None:
        if self._audit.behind:
            # Nothing is done that cannot be recorded: the request waits, and with it all that its connection still has.
            task = self._loop.create_task(self._when_recorded(connection, head, body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._take(connection, head, body)

    async def _when_recorded(self, connection: Connection, head: Head, body: bytes) -> None:
        try:
            await self._audit.drain()
        except Exception:  # whatever keeps the record from being kept ends the sidecar, and says so there
            connection.close()
        if not connection.closed:
            self._take(connection, head, body)

    def _take(self, connection: Connection, head: Head, body: bytes) -> None:
        try:
            self._serve(connection, head, body)
        except Exception as e:  # one request must not end what all others need
            self._audit.emit({"event": "error", "where": "endpoint", "reason": repr(e)})
            connection.close()

    def _serve(self, connection: Connection, head: Head, body: bytes) -> None:
        if head is not self._welcome_head and (refusal := self._refusal(head)) is not None:
            status, reason = refusal
            extra = b'WWW-Authenticate: Bearer realm="mlld"\r\n' if status == 401 else b""
            connection.answer(status, (jsonrpc.failure(b"", jsonrpc.INVALID_REQUEST, reason),), extra=extra)
            return
        self._welcome_head = head  # a client sends the same again and again, and it is the same object then
        if head.method == b"POST":
            self._post(connection, head, body)
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
        if head.target.partition(b"?")[0] != b"/mcp":
            return 404, "Nothing here: the endpoint is /mcp"
        return None

    def _post(self, connection: Connection, head: Head, body: bytes) -> None:
        if not head.json_body:
            self._reject(connection, 415, "Content-Type must be application/json")
            return
        try:
            message = jsonrpc.split_request(body)
        except Malformed as e:
            self._reject(connection, 400, str(e), e.code)
            return
        if message.method is not None and self._stateless.meant(head, message):
            if bytes(message.id):
                self._stateless.dispatch(connection, head, message)
            else:
                connection.answer(202, (), b"")  # this era has no notifications that mean anything here
            return
        if message.method == "initialize" and bytes(message.id):
            self._initialize(connection, head, message)
            return
        session = self._session(connection, head)
        if session is None:
            return
        session.used = monotonic()
        if message.method is None:
            session.answered(message)
            connection.answer(202, (), b"")
        elif not bytes(message.id):
            self._notified(session, message)
            connection.answer(202, (), b"")
        else:
            opens = session.open_stream if head.takes_stream else None
            exchange = Exchange(connection, bytes(message.id), opens, prime=session.primed)
            exchange.carrier = of_headers(head.headers)
            if head.prefers_stream:
                exchange.commit()
            self._router.dispatch(session, exchange, message.method, message.params)

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
        session = self._sessions.get(spelt)
        if session is None:
            self._reject(connection, 404, "No such session: send initialize again")
        return session

    def _reject(self, connection: Connection, status: int, reason: str, code: int = jsonrpc.INVALID_REQUEST) -> None:
        connection.answer(status, (jsonrpc.failure(b"", code, reason),))

    def _notified(self, session: Session, message: Incoming) -> None:
        try:
            if message.method == "notifications/cancelled":
                session.cancel(message.params)
            elif message.method == "notifications/progress":
                session.progressed(message.params)
            elif message.method == "notifications/roots/list_changed":
                for member in session.cohort.members.values():
                    process = member.ready()
                    if process is not None and "roots" in session.capabilities:
                        process.notify("notifications/roots/list_changed")
        except Malformed:
            pass  # a notification has no answer that could say so

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
            if session.main.attached:
                self._reject(connection, 409, "This session has its GET stream already")
            else:
                session.main.attach(connection, prime=session.primed)
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
            self._end(session)
            connection.answer(200, (), b"")

    # --- sessions

    def _initialize(self, connection: Connection, head: Head, message: Incoming) -> None:
        exchange = Exchange(connection, bytes(message.id), None)
        exchange.carrier = of_headers(head.headers)
        receipt = self._router.receive(exchange, "", "initialize", message.params)
        try:
            fields = jsonrpc.members(message.params)
            asked = jsonrpc.text(fields, "protocolVersion")
            capabilities = json.loads(bytes(fields.get("capabilities", Raw(b"{}"))))
        except (Malformed, ValueError, RecursionError) as e:
            exchange.error(jsonrpc.INVALID_PARAMS, str(e))
            return
        if not isinstance(capabilities, dict):
            exchange.error(jsonrpc.INVALID_PARAMS, "Invalid params: `capabilities` must be an object")
            return
        if not self._sessions.has_room():
            full = f"{MAX_SESSIONS} sessions are at work already"
            exchange.reply(jsonrpc.failure(exchange.id, jsonrpc.INVALID_REQUEST, full), 503)
            return
        version = asked if asked in VERSIONS else LEGACY
        cohort, own = self._cohort(capabilities)
        session = Session(version, capabilities, cohort)
        receipt.session = session.id
        if own:
            self._own[session] = cohort
        displaced = self._sessions.add(session)
        if displaced is not None:
            self._end(displaced)
        self._audit.emit({"event": "session", "session": session.id, "state": "opened", "version": version})
        exchange.with_headers(b"Mcp-Session-Id: %s\r\n" % session.id.encode())
        task = exchange.task = self._loop.create_task(self._welcome(exchange, session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _welcome(self, exchange: Exchange, session: Session) -> None:
        cohort = session.cohort
        await cohort.open()
        result = {"protocolVersion": session.version, "capabilities": cohort.capabilities(), "serverInfo": CLIENT}
        if instructions := cohort.instructions():
            result["instructions"] = instructions
        exchange.result((jsonrpc.encode(result),))

    def _cohort(self, capabilities: dict[str, object]) -> tuple[Cohort, bool]:
        """The cohort for a client with these capabilities, and whether it is its alone."""
        key = jsonrpc.encode(capabilities)
        if offers(capabilities):
            return self._make_cohort(key, modern=False), True
        cohort = self._shared.get(key)
        if cohort is None:
            if len(self._shared) >= 4:
                # Capabilities that ask for nothing make no difference to a server: beyond a few, all share one.
                key = b"{}"
            cohort = self._shared.get(key) or self._make_cohort(key, modern=False)
            self._shared[key] = cohort
        return cohort, False

    def _make_cohort(self, capabilities: bytes, *, modern: bool) -> Cohort:
        lifecycle, asking = self._spec.lifecycle, self._asking
        return Cohort(self.upstreams, self._admission, self._audit, lifecycle, capabilities, asking, modern=modern)

    def _end(self, session: Session) -> None:
        self._sessions.remove(session)
        session.close()
        cohort = self._own.pop(session, None)
        if cohort is not None:
            cohort.close()
        self._audit.emit({"event": "session", "session": session.id, "state": "closed"})

    def _sweep(self) -> None:
        now, owned = self._loop.time(), set(self._own.values())
        for cohort in self.cohorts():
            if cohort not in owned:
                cohort.idle(now)
        for session in self._sessions.all():
            if not session.active and now - session.used > _SESSION_IDLE_SECONDS:
                self._end(session)
            else:
                session.beat()
        self._timer = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
