"""One server's life as people see it, over all of its processes: in `tools/list`, and as `server` events in the record."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from images.sidecar.process import Process

State = Literal["idle", "starting", "ready", "failed"]
_SAMPLES = 128


class Health:
    """`idle`: no process, and none is needed until the next call; `failed`: the last start or process ended badly."""

    def __init__(self, server: str, tell: Callable[[dict[str, Any]], None]) -> None:
        self.server = server
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._processes: set[Process] = set()
        self._starting = 0
        self._down = False
        """Whether a process that was there is gone: the next start is a restart then."""
        self._fault = ""
        self._retry_at = 0.0
        self._durations: deque[float] = deque(maxlen=_SAMPLES)
        self.calls = 0
        self.restarts = 0

    @property
    def state(self) -> State:
        if self._processes:
            return "ready"
        if self._starting:
            return "starting"
        return "failed" if self._fault else "idle"

    @property
    def p50(self) -> float | None:
        """The median of the latest calls in milliseconds, with everything the sandbox adds."""
        return round(sorted(self._durations)[len(self._durations) // 2], 3) if self._durations else None

    def starting(self) -> None:
        self._starting += 1
        if not self._processes:
            self._told("starting")

    def started(self, process: Process, seconds: float) -> None:
        self._starting -= 1
        self.restarts += self._down
        self._down, self._fault = False, ""
        self._processes.add(process)
        self._told("ready", seconds=round(seconds, 6))

    def failed(self, reason: str, retry_at: float) -> None:
        """A start came to nothing; `retry_at` in the loop's time."""
        self._starting -= 1
        self._fault, self._retry_at = reason, retry_at
        self._told("failed", reason=reason, retryMs=self._retry_ms)

    def abandoned(self) -> None:
        """Nobody waits for a start any more."""
        self._starting -= 1

    def exited(self, process: Process, reason: str, retry_at: float) -> None:
        """A process ended by itself. Told once, however many cohorts share it."""
        if process in self._processes:
            self._processes.discard(process)
            self._down = True
            self._fault, self._retry_at = reason, retry_at
            self._told("exited", reason=reason, retryMs=self._retry_ms, faults=process.faults)

    def stopped(self, process: Process) -> None:
        """A process was ended on purpose."""
        if process in self._processes:
            self._processes.discard(process)
            self._down = not self._processes
            self._told(self.state, faults=process.faults)

    def called(self, milliseconds: float) -> None:
        """A call has ended, well or not."""
        self.calls += 1
        self._durations.append(milliseconds)

    def shown(self, note: str = "") -> dict[str, Any]:
        """As the agent sees it. `note`: what is wrong beside it, in words."""
        trouble = note or self._fault
        waits = {"retryMs": self._retry_ms} if self.state == "failed" else {}
        return {
            "state": self.state, **({"reason": trouble} if trouble else {}), **waits,
            "calls": self.calls, "restarts": self.restarts, "p50Ms": self.p50,
        }  # fmt: skip

    @property
    def _retry_ms(self) -> int:
        """How long until the next start may be; it is made when it is needed."""
        return max(0, round((self._retry_at - self._loop.time()) * 1000))

    def _told(self, state: State | Literal["exited"], **more: Any) -> None:
        processes = {"processes": len(self._processes), "restarts": self.restarts}
        self._tell({"event": "server", "server": self.server, "state": state, **processes, **more})
