"""Waiting for what has to happen: for the condition, never for a time, and with a bound that only a failure reaches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 120.0
"""Seconds after which what has not happened will not: a machine that stalls for some of them is slow, not wrong."""


def wait_until(condition: Callable[[], Any], why: object = "") -> Any:
    """What the condition returned once it was true."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {why or condition}"
        time.sleep(0.005)
    return value


async def until(condition: Callable[[], Any], why: object = "") -> Any:
    """What the condition returned once it was true, while the loop goes on."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {why or condition}"
        await asyncio.sleep(0.005)
    return value
