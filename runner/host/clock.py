"""The machine's clock (`ports.Clock`), which a test of a script may stop."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Mapping

from runner.errors import BadOption

VARIABLE = "MLLD_MOCK_TIME"


class SystemClock:
    """Time as this machine has it, or, if one is given, always the same moment of the calendar: seconds since 1970.

    A stopped clock is what scripts see of the date; pauses, limits and the records of runs go by the true one.
    """

    def __init__(self, stopped_at: float | None = None) -> None:
        self._stopped_at = stopped_at

    @classmethod
    def of(cls, env: Mapping[str, str]) -> SystemClock:
        """Stopped at `MLLD_MOCK_TIME`: seconds since 1970 or an ISO date. Errors: `BadOption` naming the variable."""
        given = env.get(VARIABLE)
        if not given:
            return cls()
        try:
            return cls(_seconds(given))
        except (ValueError, OverflowError):
            raise BadOption(
                f"the variable {VARIABLE} has a value that cannot be used: {given!r}",
                remedy=f"seconds since 1970 or an ISO date such as 2024-05-30T14:30:00Z, or unset {VARIABLE}",
            ) from None

    def now(self) -> float:
        return time.time() if self._stopped_at is None else self._stopped_at

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _seconds(given: str) -> float:
    """Errors: `ValueError`, `OverflowError` for a moment that is no date; a time without a zone is UTC."""
    if given.isdecimal():
        return datetime.datetime.fromtimestamp(int(given), datetime.UTC).timestamp()
    moment = datetime.datetime.fromisoformat(given)
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
