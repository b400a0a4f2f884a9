"""The event loop of the sidecar: asyncio's own, whose selector calls what is ready instead of making a list of it.

asyncio turns each event into an entry of a list, that into an entry of a queue, and runs the queue; what a callback puts off
with `call_soon` takes another turn with another system call. Here callbacks run where the loop waits, so that what they put
off runs in the same turn: a call through the sidecar takes two turns of the loop and not four.
"""

from __future__ import annotations

import asyncio
from asyncio import Handle
from selectors import EVENT_READ, EVENT_WRITE, EpollSelector, SelectorKey

Ready = list[tuple[SelectorKey, int]]


class Turns(EpollSelector):
    """Runs the handles that an asyncio loop keeps as data of what it watches."""

    def select(self, timeout: float | None = None) -> Ready:
        """Waits, and runs what is ready: nothing is left for the loop."""
        for key, events in super().select(timeout):
            reader: Handle | None
            writer: Handle | None
            reader, writer = key.data
            # A callback that ran before may have cancelled one; what it watched may be closed or another by now.
            if reader is not None and events & EVENT_READ and not reader.cancelled():
                reader._run()
            if writer is not None and events & EVENT_WRITE and not writer.cancelled():
                writer._run()
        return []


def new_loop() -> asyncio.AbstractEventLoop:
    """For `asyncio.Runner`."""
    return asyncio.SelectorEventLoop(Turns())
