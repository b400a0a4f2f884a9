"""How many bytes of others the sidecar holds at once, and who has to give some up.

Whoever keeps what came from outside (half a line of a server, half a request, what somebody does not read or may come back
for) says here how much, under an account: one for each server with all its processes, one for each session of agents, and
one for all agents that have none. Where that is too much together, the account that holds most loses its largest part, of
equal ones the latest. It holds more than an equal share of everything, or it would not be the one that holds most:
whatever one does, nobody pays for it who holds less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any

LIMIT = 64 << 20
"""A quarter of the memory that a sidecar's container has."""
NOTABLE = 64 << 10
"""Bytes of one message from which on it is worth an account."""
AGENTS = "agent"
NO_ROOM = "The sandbox holds too much that is not finished: ask for less at a time, or try again later"
_TOLD_SECONDS, _ACCOUNTS_TOLD = 1.0, 1000


def _nothing() -> None:
    """Gives nothing up."""


class Held:
    """What one holder keeps. `shed` is called when it has to give that up, and says so by holding less."""

    __slots__ = ("_budget", "account", "shed", "size")

    def __init__(self, budget: Budget, account: str, shed: Callable[[], None]) -> None:
        self._budget, self.account, self.shed = budget, account, shed
        self.size = 0

    def hold(self, size: int) -> bool:
        """Takes note that it keeps that many bytes now. False: it is the one that has to go, and is counted no more."""
        return size == self.size or self._budget.note(self, size)

    def release(self) -> None:
        """It keeps nothing any more, and never will again."""
        self.hold(0)
        # Its holder's own method, most often: a circle that would keep the holder, with what it still refers to, until a
        # collector runs, which counts objects and not their bytes.
        self.shed = _nothing


class Budget:
    """The sum of all that is held. `member` of its event `shed` is the server, or the agent, that had to give up."""

    def __init__(self, emit: Callable[[dict[str, Any]], None], limit: int = LIMIT) -> None:
        self._emit, self.limit = emit, limit
        self._holders: dict[Held, None] = {}
        """In the order in which they began to hold something."""
        self._relieving = False
        self._told: dict[str, float] = {}
        self._untold: Counter[str] = Counter()
        self.total = 0

    def open(self, account: str, shed: Callable[[], None]) -> Held:
        """A new holder, which keeps nothing yet."""
        return Held(self, account, shed)

    def note(self, held: Held, size: int) -> bool:
        """See `Held.hold`."""
        self._count(held, size)
        # What a holder does when it gives up is itself no reason to look again: whoever made it look goes on with that.
        if self.total <= self.limit or self._relieving:
            return True
        self._relieving = True
        try:
            return self._relieve(held)
        finally:
            self._relieving = False

    def _count(self, held: Held, size: int) -> None:
        self.total += size - held.size
        held.size = size
        if size:
            self._holders.setdefault(held)
        else:
            self._holders.pop(held, None)

    def _relieve(self, asking: Held) -> bool:
        stuck: set[Held] = set()  # in the middle of something: what it holds is about to go anyway
        while self.total > self.limit:
            accounts: Counter[str] = Counter()
            for held in self._holders:
                accounts[held.account] += held.size
            free = [held for held in reversed(self._holders) if held not in stuck]  # the latest: least is done for it
            if not free:
                break
            largest = max(free, key=lambda held: (accounts[held.account], held.size))
            before = largest.size
            if largest is asking:
                self._count(asking, 0)
            else:
                largest.shed()
                if largest.size >= before:
                    stuck.add(largest)
                    continue
            self._tell(largest.account, before - largest.size)
            if largest is asking:
                return False
        return True

    def _tell(self, account: str, size: int) -> None:
        """Whoever floods us does not get to flood the record as well."""
        now = monotonic()
        # Sessions come and go for as long as the run lasts.
        if max(len(self._told), len(self._untold)) > _ACCOUNTS_TOLD:
            self._told.clear()
            self._untold.clear()
        self._untold[account] += 1
        if now - self._told.get(account, -_TOLD_SECONDS) < _TOLD_SECONDS:
            return
        self._told[account] = now
        member, _, session = account.partition(" ")
        event = {"event": "shed", "member": member, "bytes": size, "times": self._untold.pop(account)}
        self._emit(event | ({"session": session} if session else {}))
