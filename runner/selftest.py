"""The fence self-test: every seat proves at its start that what must be absent is absent, and that its link works.

The bridge looks from inside (images/bridge/canary.c), the sidecar tells what network it has; this judges. Silence is
no proof: a fact that a seat does not tell counts as wrong, and so does a fact told after the seat has been judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.errors import FenceBroken
from runner.plan import SIDECAR, SandboxPlan

# From the seats of agent and servers.
ABSENT = frozenset({
    "interfaces", "routes-v4", "routes-v6", "udp-metadata", "tcp-metadata", "udp-internet", "tcp-internet",
    "udp-internet-v6", "tcp-internet-v6", "vsock", "udp-dns-127.0.0.11", "tcp-dns-127.0.0.11", "capabilities",
    "no-new-privileges", "user", "root",
})  # fmt: skip
_SIDECAR = frozenset({"sidecar-network"})


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing that a seat saw."""

    member: str
    name: str
    ok: bool
    saw: str


@dataclass(kw_only=True)
class SelfTest:
    """What the seats of one run have proved so far."""

    plan: SandboxPlan
    facts: dict[tuple[str, str], Fact] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)

    def expected(self, member: str) -> frozenset[str]:
        """The facts that a seat has to tell."""
        if member == SIDECAR:
            return _SIDECAR
        sockets = next(link.sockets for link in self.plan.links if link.member == member)
        return ABSENT | {f"link-{socket}" for socket in sockets} | {f"read-only-{socket}" for socket in sockets}

    def take(self, member: str, event: Mapping[str, Any]) -> Fact | None:
        """Takes an event of a seat; the fact in it, if it is one that still counts."""
        if member in self._done:
            return None  # whoever lives there by now may say what it likes
        match event.get("event"):
            case "canary":
                fact = Fact(
                    member=member,
                    name=str(event.get("name")),
                    ok=event.get("ok") is True,
                    saw=str(event.get("saw")),
                )
                # A second opinion may only be worse.
                known = self.facts.get((member, fact.name))
                if known is None or known.ok:
                    self.facts[member, fact.name] = fact
                return fact
            case "canary-done":
                self._done.add(member)
            case "ready" if member == SIDECAR:
                self._done.add(member)
        return None

    @property
    def complete(self) -> bool:
        """Whether every seat has finished telling."""
        if self.plan.provider == "local":
            return True  # there is no fence to prove
        return self._done >= {container.member for container in self.plan.containers}

    def wrong(self, member: str) -> list[str]:
        """What a seat saw that must not be, and what it did not tell, in words."""
        told = {name: fact for (seat, name), fact in self.facts.items() if seat == member}
        seen = [f"{fact.name}: saw {fact.saw}" for fact in told.values() if not fact.ok]
        return seen + [f"{name}: not told" for name in sorted(self.expected(member) - set(told))]

    def judge(self) -> None:
        """Errors: `FenceBroken` for the first seat whose fence is not proved."""
        for container in self.plan.containers:
            if wrong := self.wrong(container.member):
                raise FenceBroken(container.member, wrong)
