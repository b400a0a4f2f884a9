"""A cohort: the sessions that share server processes, and what those processes say by themselves.

Sessions whose client offers the servers nothing (no sampling, elicitation or roots) cannot be told apart by a server,
so they share one process of each. A client that does offer something gets processes of its own: what a server then asks
is asked of that client and of nobody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable
from time import monotonic
from typing import Any, NamedTuple, Protocol

from msgspec import Raw

from images.sidecar import jsonrpc
from images.sidecar.asking import Asking, Refused
from images.sidecar.catalog import Catalog
from images.sidecar.introduction import Introduction, introduction
from images.sidecar.member import Member
from images.sidecar.process import Process, ServerError
from images.sidecar.seams import Admission, Audit, Kind, Lifecycle
from images.sidecar.upstream import Upstream

_CHANGED: dict[str, tuple[Kind, ...]] = {
    "notifications/tools/list_changed": ("tool",),
    "notifications/prompts/list_changed": ("prompt",),
    "notifications/resources/list_changed": ("resource", "template"),
}
_MOST_UNJUDGED, _LARGEST_UNJUDGED = 256, 1 << 20
_LONGEST_METHOD = 128
OFFERS = frozenset(("sampling", "elicitation", "roots"))
"""Client capabilities that let a server ask the client for something."""


class Audience(Protocol):
    """A session, or a listening stream: who hears what servers say."""

    def on_changed(self, kind: Kind) -> None: ...

    def on_said(self, process: Process, method: str, params: bytes) -> None: ...

    def on_asked(self, process: Process, spelt_id: bytes, method: str, params: bytes) -> bool:
        """Takes a server's request to the agent; False if it cannot."""
        ...


class Asked(NamedTuple):
    """A request of a server that has no answer yet."""

    method: str
    size: int
    began: float

    @classmethod
    def now(cls, method: str, params: bytes) -> Asked:
        return cls(method[:_LONGEST_METHOD], len(params), monotonic())


class Cohort:
    """Members and catalog of some sessions. Implements `process.Events`."""

    def __init__(
        self,
        upstreams: Iterable[Upstream],
        admission: Admission,
        audit: Audit,
        lifecycle: Lifecycle,
        capabilities: bytes,
        asking: Asking,
        *,
        modern: bool,
    ) -> None:
        self.audit, self.asking, self._admission = audit, asking, admission
        self._asked: dict[tuple[Process, bytes], Asked] = {}
        self._questions: dict[tuple[Process, bytes], str] = {}
        self._said_by: dict[Process, deque[tuple[str, bytes]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.members = {u.name: Member(u, lifecycle, capabilities, modern=modern) for u in upstreams}
        self.catalog = Catalog(list(self.members.values()), admission, asking, self, self._replaced, modern=modern)
        self.audiences: set[Audience] = set()

    @property
    def waiting(self) -> int:
        """How many requests of servers have no answer yet."""
        return len(self._asked)

    async def open(self) -> None:
        """Starts every server of which nothing is known, at the same time; those that fail carry their trouble."""
        unknown = [m for m in self.members.values() if m.ready() is None and not m.unconfirmed]
        await asyncio.gather(*(self._try(member) for member in unknown))

    async def confirm(self, member: Member) -> None:
        """Has a server say itself what was remembered of it, before it is used. Raises ServerError."""
        async with member.confirming:
            if member.unconfirmed:
                await member.confirm(self)
                await self.catalog.renew()
                member.unconfirmed = False

    async def _try(self, member: Member) -> None:
        try:
            await member.wake(self)
        except ServerError:
            return  # the record has it, and the lists will say it
        if member.has("tool"):
            # The agent's next request will be for the tools: the servers can tell them meanwhile.
            task = asyncio.ensure_future(member.items("tool", self))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def offers(self, capability: str) -> bool:
        """Whether any server can do it, or could for all we know."""
        if capability == "tools":
            return True
        known = (member.capabilities for member in self.members.values())
        return any(c is None or capability in c for c in known)

    def capabilities(self) -> dict[str, Any]:
        """The union of what the servers can do; of a server that never started, everything is assumed."""
        known = [member.capabilities for member in self.members.values()]
        union: dict[str, Any] = {"tools": {"listChanged": True}}
        if self.offers("prompts"):
            union["prompts"] = {"listChanged": True}
        if self.offers("resources"):
            subscribe = any(c is None or _flag(c, "resources", "subscribe") for c in known)
            union["resources"] = {"listChanged": True, **({"subscribe": True} if subscribe else {})}
        for name in ("logging", "completions"):
            if self.offers(name):
                union[name] = {}
        tasks = [c["tasks"] for c in known if c and isinstance(c.get("tasks"), dict)]
        if tasks:
            union["tasks"] = {key: value for offered in tasks for key, value in offered.items()}
        return union

    async def introduction(self) -> Introduction:
        """What the servers tell agents about themselves."""
        return await introduction(self.members.values(), self._admission, self.asking, self.audit)

    def idle(self, now: float) -> None:
        """Stops the processes that nobody has used for a while."""
        for member in self.members.values():
            if member.idle(now):
                member.stop(self)

    def close(self) -> None:
        for member in self.members.values():
            member.close(self)

    # --- what servers say

    def on_notification(self, process: Process, method: str, params: bytes) -> None:
        kinds = _CHANGED.get(method)
        if kinds is None:
            if method == "notifications/message" and self.asking.active:
                self._judge_later(process, method, params)
            else:
                self._said(process, method, params)
            return
        member = self.members[process.server]
        for kind in kinds:
            self.catalog.changed(member, kind)
            if self.catalog.known(kind) is None and kind != "template":
                self._replaced(kind)

    def _said(self, process: Process, method: str, params: bytes) -> None:
        for audience in list(self.audiences):
            audience.on_said(process, method, params)

    def _judge_later(self, process: Process, method: str, params: bytes) -> None:
        """In the order in which the server says it. Of a server that says more than guards can judge, the rest is lost."""
        waiting = self._said_by.setdefault(process, deque())
        if len(waiting) < _MOST_UNJUDGED and sum(len(said) for _, said in waiting) + len(params) <= _LARGEST_UNJUDGED:
            waiting.append((method, params))
            if len(waiting) == 1:
                self._later(self._judge_said(process, waiting))

    async def _judge_said(self, process: Process, waiting: deque[tuple[str, bytes]]) -> None:
        while waiting:
            method, params = waiting[0]
            judged = await self.asking.said(process, method, params)
            if judged is not None:
                self._said(process, method, judged)
            waiting.popleft()
        del self._said_by[process]

    def on_request(self, process: Process, spelt_id: bytes, method: str, params: bytes) -> None:
        self._asked[process, spelt_id] = Asked.now(method, params)
        if self.asking.active:
            self._later(self._judge_question(process, spelt_id, method, params))
        else:
            self._hand_on(process, spelt_id, method, params)

    async def _judge_question(self, process: Process, spelt_id: bytes, method: str, params: bytes) -> None:
        try:
            judged = await self.asking.question(process.server, method, params)
        except ServerError as e:
            self._refuse(process, spelt_id, e)
            return
        self._questions[process, spelt_id] = method
        self._hand_on(process, spelt_id, method, judged)

    def _hand_on(self, process: Process, spelt_id: bytes, method: str, params: bytes) -> None:
        if not any(audience.on_asked(process, spelt_id, method, params) for audience in list(self.audiences)):
            self._questions.pop((process, spelt_id), None)
            self.decline(process, spelt_id, jsonrpc.METHOD_NOT_FOUND, f"The client does not offer {method}")

    def reply(self, process: Process, spelt_id: bytes, kind: bytes, value: bytes, seen: frozenset[str]) -> None:
        """The `result` or `error` for what a server asked, of an agent that has seen such labels."""
        method = self._questions.pop((process, spelt_id), None)
        if method is not None:
            self._later(self._judge_answer(process, spelt_id, method, kind, value, seen))
        else:
            answer = b'{"jsonrpc":"2.0","id":%s,"%s":%s}' % (spelt_id, kind, value)
            self._settle(process, spelt_id, answer, _failure(value) if kind == b"error" else None)

    async def _judge_answer(
        self, process: Process, spelt_id: bytes, method: str, kind: bytes, value: bytes, seen: frozenset[str]
    ) -> None:
        if kind == b"error":
            error = await self.asking.error(process.server, method, value, seen)
            answer = b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (spelt_id, error)
            self._settle(process, spelt_id, answer, _failure(error))
            return
        try:
            judged = await self.asking.answer(process.server, method, value, seen)
        except ServerError as e:
            self._refuse(process, spelt_id, e)
        else:
            self._settle(process, spelt_id, jsonrpc.success(spelt_id, judged))

    def decline(self, process: Process, spelt_id: bytes, code: int, reason: str) -> None:
        """No agent answers what a server asked."""
        self._refuse(process, spelt_id, ServerError(code, reason))

    def _refuse(self, process: Process, spelt_id: bytes, error: ServerError) -> None:
        self._settle(process, spelt_id, jsonrpc.failure(spelt_id, error.code, str(error)), error)

    def _settle(self, process: Process, spelt_id: bytes, answer: bytes, error: ServerError | None = None) -> None:
        """Answers what a server asked, and tells the record that it did."""
        process.post(answer)
        asked = self._asked.pop((process, spelt_id), None)
        if asked is not None:
            self.tell(process, asked, len(answer), error)

    def tell(self, process: Process, asked: Asked, size: int, error: ServerError | None = None) -> None:
        """Tells the record what a server asked, and how it was answered."""
        rule = error.rule if isinstance(error, Refused) else None
        refused = error is not None and (rule is not None or error.code == jsonrpc.METHOD_NOT_FOUND)
        told = {} if error is None else {"error": error.code}
        self.audit.emit({
            "event": "asked", "server": process.server, "method": asked.method,
            "decision": "deny" if refused else "allow", "rule": rule or ("not offered" if refused else None),
            "labels": sorted(process.labels), "bytesIn": asked.size, "bytesOut": size,
            "ms": round((monotonic() - asked.began) * 1000, 3), "isError": error is not None, **told,
        })  # fmt: skip

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def on_exit(self, process: Process) -> None:
        member = self.members[process.server]
        for key in [key for key in self._asked if key[0] is process]:
            self._questions.pop(key, None)
            del self._asked[key]
        member.exited(process)

    def on_fault(self, process: Process, error: Exception) -> None:
        self.audit.emit({"event": "error", "where": f"server {process.server}", "reason": repr(error)})

    def _replaced(self, kind: Kind) -> None:
        for audience in list(self.audiences):
            audience.on_changed(kind)


def _failure(error: bytes) -> ServerError:
    """The error by which an agent answers."""
    told = jsonrpc.error_of(Raw(error))
    return ServerError(told.code, told.message)


def _flag(capabilities: dict[str, Any], group: str, name: str) -> bool:
    value = capabilities.get(group)
    return isinstance(value, dict) and value.get(name) is True
