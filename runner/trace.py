"""The place of a run in a trace, as W3C Trace Context has it (https://www.w3.org/TR/trace-context/).

`TRACEPARENT` in the environment of `mlld` makes the run a part of that trace, for example of a CI job's.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII
)
_LONGEST_STATE = 512
_SAMPLED = 1


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Ids in hexadecimal digits: 32 of the trace, 16 of a span."""

    trace_id: str
    span_id: str  # of the run, or of whoever started it if the run has no span of its own
    parent_id: str = ""  # of the run's span; empty for the first of its trace
    state: str = ""  # `tracestate`: passed on, never read
    flags: int = _SAMPLED
    spans: bool = False  # whether the run has a span of its own, and each call one below it

    @property
    def traceparent(self) -> str:
        """What a program of the run takes as its parent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def environment(self) -> dict[str, str]:
        """Variables that hand the trace on to a program."""
        return {"TRACEPARENT": self.traceparent} | ({"TRACESTATE": self.state} if self.state else {})


def trace_of(env: Mapping[str, str], *, exported: bool) -> Trace | None:
    """The trace of a new run; None when nobody keeps one. `exported`: spans of ours go somewhere. A parent that is not
    sampled has decided for all of its trace, so that no span of ours lacks its parent."""
    found = _PARENT.fullmatch(env.get("TRACEPARENT", ""))
    if found is None:
        return Trace(trace_id=secrets.token_hex(16), span_id=secrets.token_hex(8), spans=True) if exported else None
    trace_id, span_id, flags = found[1], found[2], int(found[3], 16) & _SAMPLED
    given = env.get("TRACESTATE", "")
    state = given if given.isascii() and given.isprintable() and len(given) <= _LONGEST_STATE else ""
    if exported and flags:
        own_span = secrets.token_hex(8)
        return Trace(trace_id=trace_id, span_id=own_span, parent_id=span_id, state=state, flags=flags, spans=True)
    return Trace(trace_id=trace_id, span_id=span_id, state=state, flags=flags)
