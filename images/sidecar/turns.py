"""The event loop of the sidecar: asyncio's own, whose selector calls what is ready instead of making a list of it.

asyncio turns each event into an entry of a list, that into an entry of a queue, and runs the queue; what a callback puts off
with `call_soon` takes another turn with another system call. Here callbacks run where the loop waits, so that what they put
off runs in the same turn: a call through the sidecar takes two turns of the loop and not four.
"""

from __future__ import annotations

import asyncio
import os
import select
from asyncio import Handle
from selectors import EpollSelector, SelectorKey
from typing import Any, Protocol


class HasFileno(Protocol):
    def fileno(self) -> int: ...


Watched = int | HasFileno
Ready = list[tuple[SelectorKey, int]]

# An error or a hang-up is for whoever is there, to be met by what it does next.
_TO_READ, _TO_WRITE = ~select.EPOLLOUT, ~select.EPOLLIN


class Turns(EpollSelector):
    """Runs the handles that an asyncio loop keeps as data of what it watches."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[int, SelectorKey] = {}
        """What is watched, by descriptor: `EpollSelector` finds it for us in twice the time of the callback's own start."""
        self._events = select.epoll.fromfd(os.dup(self.fileno()))

    def register(self, fileobj: Watched, events: int, data: Any = None) -> SelectorKey:
        key = super().register(fileobj, events, data)
        self._keys[key.fd] = key
        return key

    def modify(self, fileobj: Watched, events: int, data: Any = None) -> SelectorKey:
        key = super().modify(fileobj, events, data)
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Watched) -> SelectorKey:
        key = super().unregister(fileobj)
        self._keys.pop(key.fd, None)
        return key

    def close(self) -> None:
        self._events.close()
        super().close()

    def select(self, timeout: float | None = None) -> Ready:
        """Waits, and runs what is ready: nothing is left for the loop."""
        try:
            found = self._events.poll(timeout, len(self._keys) or 1)
        except InterruptedError:
            return []
        # Looked up before anything runs: a callback may close what another watched, and its number be another's by then.
        keys = self._keys
        for key, event in [(keys[fd], event) for fd, event in found if fd in keys]:
            reader: Handle | None
            writer: Handle | None
            reader, writer = key.data
            # A callback that ran before may have cancelled one.
            if reader is not None and event & _TO_READ and not reader.cancelled():
                reader._run()
            if writer is not None and event & _TO_WRITE and not writer.cancelled():
                writer._run()
        return []


def new_loop() -> asyncio.AbstractEventLoop:
    """For `asyncio.Runner`."""
    return asyncio.SelectorEventLoop(Turns())
