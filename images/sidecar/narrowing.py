"""What agents have seen, as labels, and what that takes away from them.

A *sight* holds the labels of all that was handed to one agent: results and errors, what servers say and ask by
themselves, entries of lists that have labels of their own. It only grows. Where a rule of the policy closes an operation
to data with a label, it closes it to whoever has seen such data: names vanish from the lists of that agent, which is told
that they changed, and a call that comes after the data has left is refused like any other that breaks the rule.

Each session has a sight of its own. An agent of the stateless era has none to name: what it says of itself with one
request it may say otherwise with the next, so all such requests have one sight, and it is the run's. Whatever anybody was
shown over the agent's link is in it, and no header makes an agent forget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from images.sidecar.catalog import Catalog, Entry, Listing, paged
from images.sidecar.joint import outcome
from images.sidecar.seams import Guarding, Kind, Narrows

_USED_BY: dict[Kind, str] = {
    "tool": "tools/call", "prompt": "prompts/get", "resource": "resources/read", "template": "resources/read",
}  # fmt: skip
_TOLD_AS: dict[Kind, Kind] = {"tool": "tool", "prompt": "prompt", "resource": "resource", "template": "resource"}
MOST_LABELS = 1000
_MOST_NAMED = 100
_VIEWS = 16
_NOTHING: frozenset[str] = frozenset()


class View(NamedTuple):
    """A list as one agent gets it."""

    pages: Sequence[bytes]
    withdrawn: dict[str, str]
    """Names that are not in it, with the rule that says so."""


class Narrowing:
    """The sights of a run, and the rules that read them."""

    def __init__(self, guarding: Guarding, emit: Callable[[dict[str, Any]], None]) -> None:
        self.emit = emit
        self.rules: Narrows | None = None
        self.run = _NOTHING
        """Labels of all that was handed to anybody."""
        self._sights: set[Sight] = set()
        self._learning = asyncio.get_running_loop().create_task(self._learn(guarding))
        self._learning.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _learn(self, guarding: Guarding) -> None:
        self.rules = await guarding.narrows()
        for sight in list(self._sights):
            sight.renew()

    async def known(self) -> None:
        """Returns when it is known what labels take away; raises if that cannot be known."""
        if self.rules is None:
            await outcome(self._learning)

    def sight(self, name: str, catalog: Catalog, tell: Callable[[Kind], None], *, whole_run: bool) -> Sight:
        """The sight of one more agent. `tell` has it know that a list is another one now."""
        sight = Sight(self, name, catalog, tell, whole_run=whole_run)
        self._sights.add(sight)
        sight.renew()
        return sight

    def grown(self, seen: frozenset[str], labels: frozenset[str]) -> frozenset[str]:
        """What was seen, with more labels. Every resource that is read has one: of those beyond a number that nobody
        needs it is kept which server they came from, and whatever a rule is about."""
        if len(seen) > MOST_LABELS:
            telling = self.rules.telling(labels) if self.rules is not None else _NOTHING
            coarse = (":".join(label.split(":")[:2]) if label.startswith("mcp:") else label for label in labels)
            labels = frozenset(coarse) | telling
        return seen | labels

    def entered(self, sight: Sight, labels: frozenset[str]) -> None:
        """A sight has grown."""
        self.run = self.grown(self.run, labels)
        run_wide = self.rules is not None and self.rules.run_wide
        for each in list(self._sights):
            if each is sight or each.whole_run or run_wide:
                each.renew()

    def forget(self, sight: Sight) -> None:
        """Its agent is gone; what it saw stays in the run's."""
        self._sights.discard(sight)

    def close(self) -> None:
        self._learning.cancel()


class Sight:
    """What one agent has seen."""

    def __init__(
        self, narrowing: Narrowing, name: str, catalog: Catalog, tell: Callable[[Kind], None], *, whole_run: bool
    ) -> None:
        self._narrowing, self._name, self._catalog, self._tell = narrowing, name, catalog, tell
        self.whole_run = whole_run
        self._own = _NOTHING
        self._telling = _NOTHING

    @property
    def labels(self) -> frozenset[str]:
        """The labels that count for this agent."""
        rules = self._narrowing.rules
        return self._narrowing.run if self.whole_run or (rules is not None and rules.run_wide) else self._own

    def saw(self, labels: frozenset[str]) -> None:
        """Something with these labels was handed to the agent. Called in the same turn: nothing it sends after that is
        judged by what it had seen before."""
        if not self._own.issuperset(labels):
            self._own = self._narrowing.grown(self._own, labels)
            self._narrowing.entered(self, labels)

    def renew(self) -> None:
        """Finds out what the labels take away now, and says so to the agent and to the record."""
        rules = self._narrowing.rules
        if rules is None:
            return
        former, now = self._telling, rules.telling(self.labels)
        if now == former:
            return
        changed: dict[Kind, None] = {}
        named: list[dict[str, str]] = []
        for kind in _USED_BY:
            listing = self._catalog.known(kind)
            if listing is None:
                continue
            before, after = self._viewed(kind, listing, former), self._viewed(kind, listing, now)
            if before.withdrawn.keys() != after.withdrawn.keys():
                changed[_TOLD_AS[kind]] = None
                named += [
                    {"kind": kind, "name": name, "rule": rule}
                    for name, rule in after.withdrawn.items() if name not in before.withdrawn
                ]  # fmt: skip
        self._telling = now
        if named:
            event = {"event": "narrowed", "session": self._name, "labels": sorted(now - former)}
            self._narrowing.emit(event | {"withdrawn": named[:_MOST_NAMED], "total": len(named)})
        for kind in changed:
            self._tell(kind)

    def closed(self, method: str, server: str, name: str = "") -> str | None:
        """The rule which closes a request to this agent, whatever its params are; None if none does."""
        rules = self._narrowing.rules
        return rules.withdrawn(method, server, name, self._telling) if rules is not None and self._telling else None

    def closed_entry(self, kind: Kind, entry: Entry) -> str | None:
        """The rule which closes what a list names to this agent."""
        return self.closed(_USED_BY[kind], entry.member.name, entry.name)

    async def view(self, kind: Kind, listing: Listing) -> View:
        """A list as this agent gets it. Waits for the rules where something was seen already."""
        if self.labels:
            await self._narrowing.known()
        return self._viewed(kind, listing, self._telling)

    def _viewed(self, kind: Kind, listing: Listing, telling: frozenset[str]) -> View:
        rules = self._narrowing.rules
        if rules is None or not telling:
            return View(listing.pages, {})
        known = listing.views.get(telling)
        if known is None:
            withdrawn: dict[str, str] = {}
            kept: list[bytes] = []
            for (public, entry), item in zip(listing.index.items(), listing.items, strict=True):
                rule = rules.withdrawn(_USED_BY[kind], entry.member.name, entry.name, telling)
                if rule is None:
                    kept.append(item)
                else:
                    withdrawn[public] = rule
            alike = (view for view in listing.views.values() if view.withdrawn.keys() == withdrawn.keys())
            pages = listing.pages if not withdrawn else None
            known = View(pages or next((view.pages for view in alike), None) or paged(kind, kept), withdrawn)
            if len(listing.views) >= _VIEWS:
                listing.views.clear()
            listing.views[telling] = known
        return known

    def close(self) -> None:
        self._narrowing.forget(self)
