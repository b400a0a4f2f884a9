"""W3C Trace Context (https://www.w3.org/TR/trace-context/): whose trace a request belongs to, and what goes on of it.

MCP carries it in a request's `_meta`, unprefixed (SEP-414), HTTP in headers of the same names. Nothing is exported here:
the ids go to the record, and whoever reads the record makes spans of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Raw

from images.sidecar import jsonrpc

PARENT, STATE = "traceparent", "tracestate"
_LONGEST_STATE = 512
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_STATE = re.compile(r"[ -~]*", re.ASCII)
_SAMPLED = 1
_IDS_AT_ONCE = 64


class Trace(msgspec.Struct, frozen=True):
    """A place in a trace: the span that asks."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    flags: int = 0
    state: str = ""
    """`tracestate`: what tracing systems tell each other; passed on, never read."""

    def parent(self, span_id: str, flags: int) -> str:
        """The `traceparent` of what is asked for next, with this span as its parent."""
        return f"00-{self.trace_id}-{span_id}-{self.flags | flags:02x}"


class RunTrace(msgspec.Struct, frozen=True):
    """Where the run stands in a trace: the parent of requests that name none."""

    trace: Trace
    known: bool = False
    """Whether anybody else knows of this trace: servers are told of it then, without an agent that does."""
    spans: bool = False
    """Whether each request becomes a span. Then it is the parent of what the server does; else whoever asked is, for a
    parent that nobody ever sees would cut the trace in two."""

    def onwards(self, asked: Trace, span_id: str) -> dict[str, str]:
        """What a server is told of a request that stands at `asked` and has that span."""
        if not self.known and asked is self.trace:
            return {}
        # An agent's "not sampled" never makes less of what the run keeps.
        parent = asked.parent(span_id, self.trace.flags) if self.spans else asked.parent(asked.span_id, 0)
        return {PARENT: parent} | ({STATE: asked.state} if asked.state else {})


def _spans() -> Iterator[str]:
    while True:
        many = os.urandom(8 * _IDS_AT_ONCE).hex()
        for at in range(0, len(many), 16):
            yield many[at : at + 16]


new_span_id = _spans().__next__
"""An id of 16 hexadecimal digits. One a request is not worth a system call."""


def nobodys() -> RunTrace:
    """A trace that the record alone knows."""
    return RunTrace(Trace(os.urandom(16).hex(), new_span_id()))


def parse(parent: str, state: str = "") -> Trace | None:
    """None for what is no `traceparent`: the trace begins anew then, as the specification wants (§3.2.2)."""
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    kept = state if len(state) <= _LONGEST_STATE and _STATE.fullmatch(state) else ""
    return Trace(trace_id, span_id, int(flags, 16) & _SAMPLED, kept)


def of_meta(meta: Mapping[str, Raw]) -> Trace | None:
    """The trace that a request's `_meta` names."""
    return parse(_text(meta, PARENT), _text(meta, STATE)) if PARENT in meta else None


def of_headers(headers: Mapping[bytes, bytes]) -> Trace | None:
    """The trace that an HTTP request names."""
    parent, state = headers.get(b"traceparent", b""), headers.get(b"tracestate", b"")
    return parse(parent.decode("latin-1"), state.decode("latin-1")) if parent else None


def _text(meta: Mapping[str, Raw], key: str) -> str:
    try:
        return jsonrpc.text(meta, key) if key in meta else ""
    except jsonrpc.Malformed:
        return ""
