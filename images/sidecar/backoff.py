"""How long to wait with the next start after starts that failed, longer each time."""

from __future__ import annotations

from collections.abc import Callable

_FIRST, MOST_SECONDS = 0.2, 30.0
_STABLE_SECONDS = 30.0
"""What has lived for so long did not fail at its start."""


class BackOff:
    """Failures of one thing, in a row. Times are of the given clock."""

    def __init__(self, now: Callable[[], float], most: float = MOST_SECONDS) -> None:
        self._now, self._most = now, most
        self.failures = 0
        self.until = 0.0
        """Before that it is not started again."""

    def failed(self, alive: float) -> float:
        """It ended by itself after that many seconds. Until when the next start waits."""
        self.failures = 1 if alive > _STABLE_SECONDS else self.failures + 1
        self.until = self._now() + min(self._most, _FIRST * 2 ** (min(self.failures, 16) - 1))
        return self.until
