"""One request of an agent, for the record: told exactly once, whatever becomes of it.

A request that goes to a server is told as `call`, by its relay. Everything else is told with its answer: `request` for
what is answered here (lists, pings, faults of the protocol), `denied` for a name that does not exist for the agent.
"""

from __future__ import annotations

import time
from time import monotonic
from typing import Any

from msgspec import Raw, Struct, field

from images.sidecar import jsonrpc
from images.sidecar.seams import Audit
from images.sidecar.trace import Trace, new_span_id, of_meta

_REFUSED = frozenset((jsonrpc.PARSE_ERROR, jsonrpc.INVALID_REQUEST, jsonrpc.METHOD_NOT_FOUND, jsonrpc.INVALID_PARAMS))
LONGEST_METHOD = 128
_LONGEST_NAME, _LONGEST_ERROR = 256, 512


class Receipt(Struct, eq=False):
    """What the record gets to know of a request beside its outcome. The request's span is ours: its id is made here."""

    _audit: Audit
    id: int
    session: str
    method: str
    """At most `LONGEST_METHOD` characters of it."""
    bytes_in: int
    trace: Trace
    """Where the request stands: the agent's span, or the run's."""
    span_id: str = field(default_factory=new_span_id)
    withheld: int = 0
    """How much a rule or a guard took out of the answer."""
    _began: float = field(default_factory=monotonic)
    _denied: dict[str, Any] | None = None

    def located(self, meta: Raw) -> None:
        """The `_meta` may say where the request stands, more precisely than its connection. Raises Malformed."""
        if (named := of_meta(jsonrpc.members(meta))) is not None:
            self.trace = named

    def denied(self, name: str, rule: str, reason: str, server: str = "") -> None:
        """The name does not exist for the agent; the record gets to know why."""
        self._denied = {"server": server, "name": name[:_LONGEST_NAME], "rule": rule, "reason": reason}

    def answered(self, size: int, error: bytes = b"") -> None:
        """Tells the request with its answer of `size` bytes, which is `error` if that is not empty."""
        told: dict[str, Any] = {}
        if error:
            fault = jsonrpc.error_of(jsonrpc.members(error).get("error", Raw(b"{}")))
            told = {"error": fault.code, "result": fault.message[:_LONGEST_ERROR]}
        if self._denied is not None:
            self.tell("denied", size, "deny", None, True, self._denied | told)
        elif told.get("error") in _REFUSED:
            self.tell("request", size, "deny", "protocol", True, told)
        else:
            self.tell("request", size, "allow", None, bool(error), told)

    def tell(
        self, event: str, size: int, decision: str, rule: str | None, is_error: bool, more: dict[str, Any]
    ) -> float:
        """Writes the event; the milliseconds since the request came."""
        if self.withheld:
            more["withheld"] = self.withheld
        took = monotonic() - self._began
        # Cut to microseconds with whole numbers: `round` writes and reads a number's digits.
        trace, milliseconds = self.trace, int(took * 1e6) / 1e3
        self._audit.emit({
            "event": event, "id": self.id, "session": self.session, "method": self.method,
            "decision": decision, "rule": rule, "labels": [], "bytesIn": self.bytes_in, "bytesOut": size,
            "start": int((time.time() - took) * 1e6) / 1e6, "ms": milliseconds, "isError": is_error,
            "trace": trace.trace_id, "span": self.span_id, "parent": trace.span_id, **more,
        })  # fmt: skip
        return milliseconds
