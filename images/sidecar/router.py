"""Which request of an agent means what: lists come from the catalog, uses go to the server that owns the name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import count
from typing import Any, Protocol

from msgspec import Raw, Struct
from msgspec.structs import replace

from images.sidecar import jsonrpc
from images.sidecar.budget import AGENTS, NO_ROOM, NOTABLE
from images.sidecar.catalog import Entry, Listing
from images.sidecar.cohort import Cohort
from images.sidecar.eager import start
from images.sidecar.exchange import Exchange
from images.sidecar.jsonrpc import OURS, Incoming, Malformed, RawMap
from images.sidecar.member import LISTS
from images.sidecar.process import Process, ServerError
from images.sidecar.receipt import LONGEST_METHOD, Receipt
from images.sidecar.relay import Caller, Judges, Relay
from images.sidecar.seams import Admission, Call, Hidden, Kind, Verdict
from images.sidecar.sessions import LEVELS, Session

_KIND_OF_LIST: dict[str, Kind] = {method: kind for kind, (method, _, _) in LISTS.items()}
_USES: dict[str, tuple[Kind, str]] = {
    "tools/call": ("tool", "name"),
    "prompts/get": ("prompt", "name"),
    "resources/read": ("resource", "uri"),
}
_OFFERED_AS = {method: capability for method, _, capability in LISTS.values()} | {
    "tools/call": "tools",
    "prompts/get": "prompts",
    "resources/read": "resources",
    "completion/complete": "completions",
}
"""Method → the capability without which it does not exist."""


class Use(Struct, frozen=True):
    """A request for one named thing, and where in its params the name is written."""

    method: str
    kind: Kind
    name: str
    key: str


class Asker(Caller, Protocol):
    """A caller with a cohort: whoever sends requests."""

    cohort: Cohort


class Router:
    """Answers the requests of sessions."""

    def __init__(self, admission: Admission, judges: Judges) -> None:
        self._admission, self._judges = admission, judges
        self._received = count(1)
        self._of_sessions: dict[str, Callable[[Session, Exchange, RawMap], None]] = {
            "ping": lambda _, exchange, __: exchange.result((b"{}",)),
            "resources/subscribe": self._watch,
            "resources/unsubscribe": self._unwatch,
            "logging/setLevel": self._set_level,
            "tasks/get": lambda s, x, f: self._use_task(s, x, "tasks/get", f),
            "tasks/result": lambda s, x, f: self._use_task(s, x, "tasks/result", f),
            "tasks/cancel": lambda s, x, f: self._use_task(s, x, "tasks/cancel", f),
            "tasks/list": lambda s, x, _: self.later(x, self._list_tasks(s, x)),
        }

    def receive(self, exchange: Exchange, session: str, method: str, params: Raw) -> Receipt:
        """Opens the account of a request: from here on the record hears of it, whatever becomes of it."""
        judges = self._judges
        trace, size = exchange.carrier or judges.trace.trace, len(memoryview(params))
        receipt = exchange.receipt = Receipt(
            judges.audit, next(self._received), session, method[:LONGEST_METHOD], size, trace
        )
        return receipt

    def weigh(self, exchange: Exchange, account: str, size: int) -> None:
        """A large request is kept, and spelt once more for its server, until it is answered. Raises Malformed."""
        exchange.held = self._judges.budget.open(account, exchange.shed)
        if not exchange.held.hold(2 * size):
            raise Malformed(jsonrpc.CROWDED, NO_ROOM)

    def dispatch(self, session: Session, exchange: Exchange, method: str, params: Raw) -> None:
        """Answers one request, now or later."""
        receipt = self.receive(exchange, session.id, method, params)
        try:
            if receipt.bytes_in > NOTABLE:
                self.weigh(exchange, f"{AGENTS} {session.id}", receipt.bytes_in)
            fields = jsonrpc.members(params)
            if "_meta" in fields:
                receipt.located(fields["_meta"])
            session.check(exchange)
            if (own := self._of_sessions.get(method)) is not None:
                own(session, exchange, fields)
            else:
                self.answer(session, exchange, method, fields)
        except Malformed as e:
            exchange.error(e.code, str(e))

    def notified(self, session: Session, message: Incoming) -> None:
        """Acts on a notification, or on nothing: there is no answer that could say what is wrong with it."""
        try:
            if message.method == "notifications/cancelled":
                session.cancel(message.params)
            elif message.method == "notifications/progress":
                session.progressed(message.params)
            elif message.method == "notifications/roots/list_changed" and "roots" in session.capabilities:
                for member in session.cohort.members.values():
                    process = member.ready()
                    if process is not None:
                        process.notify("notifications/roots/list_changed")
        except Malformed:
            pass

    def answer(self, caller: Asker, exchange: Exchange, method: str, fields: RawMap) -> None:
        """Answers a request that both eras know. Raises Malformed."""
        offered = _OFFERED_AS.get(method)
        if offered is None or not caller.cohort.offers(offered):
            raise Malformed(jsonrpc.METHOD_NOT_FOUND, f"Method not found: {method}")
        if (use := _USES.get(method)) is not None:
            kind, key = use
            self._use(caller, exchange, Use(method, kind, jsonrpc.text(fields, key), key), fields)
        elif method in _KIND_OF_LIST:
            self._list(caller, exchange, _KIND_OF_LIST[method], fields)
        else:
            self._complete(caller, exchange, fields)

    def later(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """Works on a request beside everything else; whatever goes wrong is the answer to this request alone."""

        async def guarded() -> None:
            try:
                await work
            except (ServerError, Malformed) as e:
                exchange.error(e.code, str(e), getattr(e, "data", None))
            except Exception as e:
                exchange.error(jsonrpc.INTERNAL_ERROR, f"The sandbox failed: {type(e).__name__}")
                self._judges.audit.emit({"event": "error", "where": "router", "reason": repr(e)})

        exchange.task = start(guarded())

    # --- lists

    def _list(self, caller: Asker, exchange: Exchange, kind: Kind, fields: RawMap) -> None:
        cursor = jsonrpc.text(fields, "cursor") if "cursor" in fields and bytes(fields["cursor"]) != b"null" else "0"
        if not cursor.isdecimal() or len(cursor) > 6:
            raise Malformed(jsonrpc.INVALID_PARAMS, "Invalid cursor")
        self.later(exchange, self._answer_list(caller, exchange, kind, int(cursor)))

    async def _answer_list(self, caller: Asker, exchange: Exchange, kind: Kind, page: int) -> None:
        listing = await caller.cohort.catalog.listing(kind)
        pages, withdrawn = await caller.sight.view(kind, listing)
        if page >= len(pages):
            raise Malformed(jsonrpc.INVALID_PARAMS, "Invalid cursor")
        parts = [b"{", pages[page]]
        if page + 1 < len(pages):
            parts.append(b',"nextCursor":"%d"' % (page + 1))
        shown = {
            name: member.upstream.health.shown(listing.notes.get(name, ""))
            for name, member in caller.cohort.members.items()
            if kind == "tool" or name in listing.notes
        }
        withheld = listing.withheld + len(withdrawn)
        meta: dict[str, Any] = {f"{OURS}servers": shown} if shown else {}
        if withheld:
            meta[f"{OURS}withheld"] = withheld
        if meta:
            parts.append(b',"_meta":%s' % jsonrpc.encode(meta))
        if exchange.receipt is not None:
            exchange.receipt.withheld = withheld
        exchange.result((*parts, b"}"))
        caller.sight.saw(listing.labels)

    # --- uses

    def _use(self, caller: Asker, exchange: Exchange, use: Use, fields: RawMap) -> None:
        """At once if the list is known, the server runs and no guard wants to think; else beside everything else."""
        listing = caller.cohort.catalog.known(use.kind)
        entry = listing.index.get(use.name) if listing is not None else None
        process = entry.member.ready() if entry is not None else None
        if entry is None or process is None or entry.member.unconfirmed:
            self.later(exchange, self._use_later(caller, exchange, use, fields))
        elif self._admitted(entry, use):
            if entry.schema:
                exchange.verify(entry.schema, fields)
            relay = Relay.of(self._judges, exchange, entry, use.method, caller)
            if entry.name != use.name:
                fields = self._spelt(entry, use, fields)
            if self._judges.guarding.active:
                self.later(exchange, self._judged(relay, process, fields))
            else:
                relay.send(process, fields)
        else:
            self.later(exchange, self._unknown(caller, exchange, use))

    async def _use_later(self, caller: Asker, exchange: Exchange, use: Use, fields: RawMap) -> None:
        entry = await self._confirmed(caller, exchange, use)
        if exchange.answered:
            return
        if entry is None or not self._admitted(entry, use):
            await self._unknown(caller, exchange, use)
            return
        if entry.schema:
            exchange.verify(entry.schema, fields)
        relay = self._relay(caller, exchange, use, entry)
        try:
            process = await entry.member.wake(caller.cohort)
        except ServerError as e:
            relay.on_failed(e.code, str(e))
            return
        await self._judged(relay, process, self._spelt(entry, use, fields))

    async def _judged_fields(self, relay: Relay, fields: RawMap) -> RawMap | None:
        """The params as guards leave them; None if they refused, and the agent has been told."""
        return await relay.judge(fields) if self._judges.guarding.active else fields

    async def _confirmed(self, caller: Asker, exchange: Exchange, use: Use) -> Entry | None:
        """Where a thing is, by what its server says in this run. What an earlier run remembered is only ever shown: a
        request for something that is not what was shown is not passed on, since its sender meant another thing."""
        catalog = caller.cohort.catalog
        find = catalog.find_resource if use.kind == "resource" else partial(catalog.find, use.kind)
        entry = await find(use.name)
        if entry is None or not entry.member.unconfirmed or not self._admitted(entry, use):
            return entry
        shown = (await catalog.listing(use.kind)).shown(use.name)
        try:
            await caller.cohort.confirm(entry.member)
        except ServerError as e:
            self._relay(caller, exchange, use, entry).on_failed(e.code, str(e))
            return None
        entry = await find(use.name)
        if entry is not None and (await catalog.listing(use.kind)).shown(use.name) != shown:
            text = f"{use.name} is not what the list said, which came from an earlier run. The list is correct now: read it"
            self._relay(caller, exchange, use, entry).deny(Verdict(kind="deny", rule="remembered", reason=text))
        return entry

    async def _judged(self, relay: Relay, process: Process, fields: RawMap) -> None:
        judged = await relay.judge(fields) if self._judges.guarding.active else fields
        if judged is not None:
            relay.send(process, judged)

    def _relay(self, caller: Asker, exchange: Exchange, use: Use, entry: Entry) -> Relay:
        return Relay.of(self._judges, exchange, entry, use.method, caller)

    def _admitted(self, entry: Entry, use: Use) -> bool:
        return not isinstance(self._admission.admit(entry.member.name, use.kind, entry.name), Hidden)

    def _spelt(self, entry: Entry, use: Use, fields: RawMap) -> RawMap:
        """The params as the server spells the name."""
        if entry.name != use.name:
            fields[use.key] = Raw(jsonrpc.encode(entry.name))
        return fields

    async def _unknown(self, caller: Asker, exchange: Exchange, use: Use) -> None:
        """A hidden name and one that never was get the same answer. For a tool it is a tool's error, which a model sees
        and can act on; a protocol's error ends in many clients before that."""
        listing = await caller.cohort.catalog.listing(use.kind)
        self._tell_denied(exchange, listing, use)
        notes = f" ({'; '.join(listing.notes.values())})" if listing.notes else ""
        if use.kind == "tool":
            content = [{"type": "text", "text": f"Unknown tool: {use.name}{notes}"}]
            exchange.result((jsonrpc.encode({"content": content, "isError": True}),))
            return
        if use.kind == "resource":
            raise ServerError(exchange.unknown_resource, f"Resource not found: {use.name}{notes}", {"uri": use.name})
        raise ServerError(jsonrpc.INVALID_PARAMS, f"Unknown {use.kind}: {use.name}{notes}")

    def _tell_denied(self, exchange: Exchange, listing: Listing, use: Use) -> None:
        """The record gets to know what the agent does not: whether the name was hidden from it, by whom and why."""
        if exchange.receipt is None:
            return
        if (entry := listing.index.get(use.name)) is not None:
            verdict = self._admission.admit(entry.member.name, use.kind, entry.name)
            server, reason = entry.member.name, verdict.reason if isinstance(verdict, Hidden) else ""
        else:
            server, reason = listing.hidden.get(use.name, ("", ""))
        if server:
            exchange.receipt.denied(use.name, "hidden", reason, server)
        else:
            exchange.receipt.denied(use.name, "unknown", f"no server offers a {use.kind} of that name")

    # --- tasks

    def _use_task(self, session: Session, exchange: Exchange, method: str, fields: RawMap) -> None:
        """A task is where its tool is, as long as the tool exists for the agent."""
        ours = jsonrpc.text(fields, "taskId")
        entry = session.tasks.find(fields)
        process = entry.member.ready()
        if process is None or not self._admitted(entry, Use(method, "tool", entry.name, "taskId")):
            raise Malformed(jsonrpc.INVALID_PARAMS, f"Unknown task: {ours}")
        relay = Relay.of(self._judges, exchange, entry, method, session)
        self.later(exchange, self._judged(relay, process, fields))

    async def _list_tasks(self, session: Session, exchange: Exchange) -> None:
        """The tasks that this session began, of every server that can list its own."""
        found: list[tuple[Entry, bytes]] = []
        for server in sorted(session.tasks.servers()):
            process = session.cohort.members[server].ready()
            if process is not None:
                answer = await process.ask("tasks/list", b"{}")
                found += session.tasks.listed(server, answer.get("tasks", b"[]"))
        shown = [(entry, task) for entry, task in found if await self._may_see(session, entry, task)]
        parts = [b'{"tasks":[%s]' % b",".join(task for _, task in shown)]
        if withheld := len(found) - len(shown):
            parts.append(b',"_meta":{"%swithheld":%d}' % (OURS.encode(), withheld))
            if exchange.receipt is not None:
                exchange.receipt.withheld = withheld
        exchange.result((*parts, b"}"))
        for entry, _ in shown:
            session.sight.saw(entry.taint)

    async def _may_see(self, session: Session, entry: Entry, task: bytes) -> bool:
        """Whether guards let the state of a task through: its text is the server's."""
        asking, labels = session.cohort.asking, session.sight.labels | entry.taint
        if not asking.active:
            return True
        return (await asking.entry(entry.member.name, "tasks/list", entry.name, task, labels)).kind == "allow"

    # --- subscriptions, completion, levels

    def _watch(self, session: Session, exchange: Exchange, fields: RawMap) -> None:
        uri = jsonrpc.text(fields, "uri")
        self.later(exchange, self._watch_later(session, exchange, uri, fields, watch=True))

    def _unwatch(self, session: Session, exchange: Exchange, fields: RawMap) -> None:
        uri = jsonrpc.text(fields, "uri")
        self.later(exchange, self._watch_later(session, exchange, uri, fields, watch=False))

    async def _watch_later(
        self, session: Session, exchange: Exchange, uri: str, fields: RawMap, *, watch: bool
    ) -> None:
        """A server hears of a resource's first subscriber and of its last."""
        use = Use(f"resources/{'subscribe' if watch else 'unsubscribe'}", "resource", uri, "uri")
        entry = await self._confirmed(session, exchange, use)
        if exchange.answered:
            return
        if entry is None or not self._admitted(entry, use):
            await self._unknown(session, exchange, use)
            return
        relay = self._relay(session, exchange, use, entry)
        if not watch and uri not in session.watched:
            relay.settle()  # nothing ends, so no server needs to hear of the name
            return
        if watch and (rule := session.sight.closed_entry("resource", entry)):
            relay.refuse(rule)
            return
        judged = await self._judged_fields(relay, fields)
        if judged is None:
            return
        (session.watched.add if watch else session.watched.discard)(uri)
        others = any(isinstance(a, Session) and uri in a.watched for a in session.cohort.audiences if a is not session)
        member = entry.member
        try:
            process = await member.wake(session.cohort)
        except ServerError as e:
            relay.on_failed(e.code, str(e))
            return
        (member.watched.add if watch or others else member.watched.discard)(uri)
        if others:
            relay.settle()
        else:
            relay.send(process, judged)

    async def watchable(self, caller: Asker, uri: str) -> Entry | None:
        """Where a resource is that a stateless agent wants to be told of; None if it may not read or watch it."""
        use = Use("resources/subscribe", "resource", uri, "uri")
        entry = await caller.cohort.catalog.find_resource(uri)
        if entry is None or not self._admitted(entry, use) or caller.sight.closed_entry("resource", entry):
            return None
        if self._judges.guarding.active:
            verdict = await self._judges.guarding.request(
                Call(
                    id=0, session=caller.id, server=entry.member.name, method=use.method, name=uri,
                    params={"uri": uri}, labels=caller.sight.labels,
                )
            )  # fmt: skip
            if verdict.kind != "allow":
                return None
        return entry

    def _complete(self, caller: Asker, exchange: Exchange, fields: RawMap) -> None:
        ref = jsonrpc.members(fields.get("ref", b""))
        self.later(exchange, self._complete_later(caller, exchange, fields, ref))

    async def _complete_later(self, caller: Asker, exchange: Exchange, fields: RawMap, ref: RawMap) -> None:
        if jsonrpc.text(ref, "type") == "ref/prompt":
            use = Use("completion/complete", "prompt", jsonrpc.text(ref, "name"), "ref")
            entry = await self._confirmed(caller, exchange, use)
        else:
            use = Use("completion/complete", "template", jsonrpc.text(ref, "uri"), "ref")
            entry = await self._confirmed(caller, exchange, use) or await self._confirmed(
                caller, exchange, replace(use, kind="resource")
            )
        if exchange.answered:
            return
        if entry is None or not self._admitted(entry, use):
            await self._unknown(caller, exchange, use)
            return
        if use.kind == "prompt":
            fields["ref"] = Raw(jsonrpc.encode(ref | {"name": Raw(jsonrpc.encode(entry.name))}))
        relay = self._relay(caller, exchange, use, entry)
        if rule := caller.sight.closed_entry(use.kind, entry):
            relay.refuse(rule)
            return
        try:
            process = await entry.member.wake(caller.cohort)
        except ServerError as e:
            relay.on_failed(e.code, str(e))
            return
        await self._judged(relay, process, fields)

    def _set_level(self, session: Session, exchange: Exchange, fields: RawMap) -> None:
        level = jsonrpc.text(fields, "level")
        if level not in LEVELS:
            raise Malformed(jsonrpc.INVALID_PARAMS, f"Unknown level {level}: one of {', '.join(LEVELS)}")
        session.level = level
        self.later(exchange, self._set_level_later(session, exchange))

    async def _set_level_later(self, session: Session, exchange: Exchange) -> None:
        """Servers are told the lowest level that any session of the cohort wants; each session gets its own."""
        wanted = [a.level for a in session.cohort.audiences if isinstance(a, Session) and a.level]
        lowest = min(wanted, key=LEVELS.index)
        asked = []
        for member in session.cohort.members.values():
            process = member.ready()
            if member.level != lowest and process is not None and process.takes_levels:
                asked.append(process.ask("logging/setLevel", jsonrpc.encode({"level": lowest})))
            member.level = lowest
        failed = [e for e in await asyncio.gather(*asked, return_exceptions=True) if isinstance(e, BaseException)]
        if asked and len(failed) == len(asked):
            raise failed[0]
        exchange.result((b"{}",))
