"""The machine's clock (`ports.Clock`)."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Time as this machine has it."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
