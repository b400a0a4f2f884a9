"""Where sessions of agents begin and end, over whichever transport they come, and the cohort of servers that each gets."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

from msgspec import Raw

from images.sidecar import jsonrpc
from images.sidecar.asking import Asking
from images.sidecar.budget import Budget
from images.sidecar.cohort import Cohort
from images.sidecar.exchange import Exchange
from images.sidecar.handshake import CLIENT, LEGACY, LONGEST_CAPABILITIES
from images.sidecar.jsonrpc import OURS, Incoming, Malformed
from images.sidecar.narrowing import Narrowing
from images.sidecar.receipt import Receipt
from images.sidecar.router import Router
from images.sidecar.seams import Admission, Audit, Lifecycle
from images.sidecar.sessions import VERSIONS, Session, Sessions, offers
from images.sidecar.stream import MessageStream
from images.sidecar.upstream import Upstream

_SESSION_IDLE_SECONDS = 1800.0
_SHARED_COHORTS = 4
Transport = Literal["http", "stdio", "sse"]


class Reception:
    """Opens and ends sessions."""

    def __init__(
        self,
        upstreams: list[Upstream],
        lifecycle: Lifecycle,
        admission: Admission,
        audit: Audit,
        asking: Asking,
        router: Router,
        narrowing: Narrowing,
        budget: Budget,
    ) -> None:
        self._upstreams, self._lifecycle, self._admission = upstreams, lifecycle, admission
        self._audit, self._asking, self._narrowing = audit, asking, narrowing
        self._budget = budget
        self._loop = asyncio.get_running_loop()
        self.router = router
        self.sessions = Sessions()
        self._shared: dict[bytes, Cohort] = {}
        self._own: dict[Session, Cohort] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def open(
        self, exchange: Exchange, message: Incoming, transport: Transport, main: MessageStream | None = None
    ) -> Session | None:
        """A session for an `initialize`, which is answered when the servers are known; None if that was refused.

        `main` carries everything to this client, where its transport has one stream for all.
        """
        receipt = self.router.receive(exchange, "", "initialize", message.params)
        try:
            fields = jsonrpc.members(message.params)
            asked = jsonrpc.text(fields, "protocolVersion")
            spelt = bytes(fields.get("capabilities", Raw(b"{}")))
            if len(spelt) > LONGEST_CAPABILITIES:
                raise Malformed(jsonrpc.INVALID_PARAMS, "Invalid params: `capabilities` is too large")
            capabilities = json.loads(spelt)
        except (Malformed, ValueError, RecursionError) as e:
            exchange.error(jsonrpc.INVALID_PARAMS, str(e))
            return None
        if not isinstance(capabilities, dict):
            exchange.error(jsonrpc.INVALID_PARAMS, "Invalid params: `capabilities` must be an object")
            return None
        if not self.sessions.has_room(owner=offers(capabilities)):
            reason = "As many sessions as may be are at work already"
            exchange.reply(jsonrpc.failure(exchange.id, jsonrpc.INVALID_REQUEST, reason), 503)
            return None
        version = asked if asked in VERSIONS else LEGACY
        cohort, own = self._cohort(capabilities)
        session = Session(version, capabilities, cohort, self._narrowing, self._budget, main)
        receipt.session = session.id
        if own:
            self._own[session] = cohort
        displaced = self.sessions.add(session)
        if displaced is not None:
            self.end(displaced)
        told = {"session": session.id, "state": "opened", "version": version, "transport": transport}
        self._audit.emit({"event": "session", **told})
        task = exchange.task = self._loop.create_task(self._welcome(exchange, receipt, session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return session

    async def _welcome(self, exchange: Exchange, receipt: Receipt, session: Session) -> None:
        cohort = session.cohort
        await cohort.open()
        said = await cohort.introduction()
        receipt.withheld = said.withheld
        exchange.result((jsonrpc.encode({
            "protocolVersion": session.version, "capabilities": cohort.capabilities(), "serverInfo": CLIENT,
            **({"instructions": said.text} if said.text else {}),
            **({"_meta": {f"{OURS}withheld": said.withheld}} if said.withheld else {}),
        }),))  # fmt: skip
        session.sight.saw(said.labels)

    def end(self, session: Session) -> None:
        """Ends a session, and the processes that were its alone."""
        self.sessions.remove(session)
        session.close()
        cohort = self._own.pop(session, None)
        if cohort is not None:
            cohort.close()
        self._audit.emit({"event": "session", "session": session.id, "state": "closed"})

    def end_all(self) -> None:
        """Ends every session."""
        for session in self.sessions.all():
            self.end(session)

    def sweep(self, now: float) -> None:
        """Ends what nobody has used for long, and shows the others that they are not forgotten."""
        for cohort in self._shared.values():
            cohort.idle(now)
        for session in self.sessions.all():
            if not session.active and now - session.used > _SESSION_IDLE_SECONDS:
                self.end(session)
            else:
                session.beat()

    def close(self) -> None:
        """Ends everything that is open."""
        self.end_all()
        for cohort in self.cohorts():
            cohort.close()
        for task in self._tasks:
            task.cancel()

    def cohorts(self) -> list[Cohort]:
        """The cohorts of all sessions."""
        return [*self._shared.values(), *self._own.values()]

    def _cohort(self, capabilities: dict[str, object]) -> tuple[Cohort, bool]:
        """The cohort for a client with these capabilities, and whether it is its alone."""
        key = jsonrpc.encode(capabilities)
        if offers(capabilities):
            return self.make_cohort(key, modern=False), True
        cohort = self._shared.get(key)
        if cohort is None:
            if len(self._shared) >= _SHARED_COHORTS:
                # Capabilities that ask for nothing make no difference to a server: beyond a few, all share one.
                key = b"{}"
            cohort = self._shared.get(key) or self.make_cohort(key, modern=False)
            self._shared[key] = cohort
        return cohort, False

    def make_cohort(self, capabilities: bytes, *, modern: bool) -> Cohort:
        """A cohort whose clients have these capabilities."""
        return Cohort(
            self._upstreams, self._admission, self._audit, self._lifecycle, capabilities, self._asking, modern=modern
        )
