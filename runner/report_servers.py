"""The lives of a run's MCP servers, as its events tell them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.record import Event

_SAMPLES = 128  # of the latest calls, as the sidecar takes them for its own list


@dataclass(kw_only=True)
class ServerLife:
    """One server: `starting`, `ready`, `idle` (the next call starts it), `failed`."""

    name: str
    state: str = "idle"
    reason: str = ""
    retry_at: float | None = None  # seconds since the epoch: no start before that
    calls: int = 0
    restarts: int = 0
    _durations: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def take(self, event: Event) -> None:
        """A `server` event, or a `call` that reached it."""
        get: Any = event.get
        if event.get("event") == "call":
            if get("decision") != "deny":
                self.calls += 1
                self._durations.append(float(get("ms") or 0.0))
            return
        state = str(get("state"))
        # A process that is gone leaves its server ready while another one is there.
        self.state = "ready" if get("processes") else {"exited": "failed"}.get(state, state)
        self.restarts = int(get("restarts") or 0)
        self.reason, self.retry_at = "", None
        if self.state == "failed":
            self.reason = str(get("reason") or "")
            self.retry_at = float(get("at") or get("t") or 0.0) + float(get("retryMs") or 0) / 1000

    @property
    def p50(self) -> float | None:
        """Median of the latest calls in milliseconds."""
        return sorted(self._durations)[len(self._durations) // 2] if self._durations else None

    def json(self, now: float) -> Mapping[str, object]:
        wait = None if self.retry_at is None else max(0, round((self.retry_at - now) * 1000))
        return {
            "name": self.name,
            "state": self.state,
            "reason": self.reason or None,
            "retryMs": wait,
            "calls": self.calls,
            "restarts": self.restarts,
            "p50Ms": self.p50,
        }
