"""What servers ask of the agent (sampling, elicitation, roots): judged like everything else, the question and the answer."""

from __future__ import annotations

import json
from typing import Any

from images.sidecar import jsonrpc
from images.sidecar.process import ServerError
from images.sidecar.seams import Audit, Call, Guarding, Verdict


class Asking:
    """Guards over the requests of servers. When no guard is active nothing is parsed."""

    def __init__(self, guarding: Guarding, audit: Audit) -> None:
        self._guarding, self._audit = guarding, audit

    @property
    def active(self) -> bool:
        return self._guarding.active

    async def question(self, server: str, method: str, params: bytes) -> bytes:
        """The params as the agent gets them. Raises ServerError, for the server, if it may not ask that."""
        try:
            asked = json.loads(params or b"{}")
        except (ValueError, RecursionError):
            raise ServerError(jsonrpc.INVALID_PARAMS, "the params are not JSON") from None
        call = _call(server, method, asked if isinstance(asked, dict) else {})
        verdict = self._heeded(call, await self._guarding.request(call))
        return jsonrpc.encode(verdict.value) if verdict.kind == "transform" else params

    async def answer(self, server: str, method: str, result: bytes) -> bytes:
        """The agent's answer as the server gets it. Raises ServerError if it must not have it."""
        call = _call(server, method, {})
        verdict = self._heeded(call, await self._guarding.result(call, result))
        return jsonrpc.encode(verdict.value) if verdict.kind == "transform" else result

    def _heeded(self, call: Call, verdict: Verdict) -> Verdict:
        if verdict.kind != "deny":
            return verdict
        told = {"server": call.server, "method": call.method, "rule": verdict.rule, "reason": verdict.reason}
        self._audit.emit({"event": "denied", **told})
        raise ServerError(jsonrpc.INVALID_REQUEST, f"Denied by {verdict.rule or 'policy'}: {verdict.reason}")


def _call(server: str, method: str, params: dict[str, Any]) -> Call:
    # What a server says is its own; which session it concerns is known only once the agent is found that it goes to.
    return Call(id=0, session="", server=server, method=method, name="", params=params, labels=frozenset({"src:mcp"}))
