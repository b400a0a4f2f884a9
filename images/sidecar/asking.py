"""What servers ask of the agent (sampling, elicitation, roots) and tell it by themselves (log messages, states of tasks,
entries of lists): judged like everything else, the question and the answer."""

from __future__ import annotations

import json
from typing import Any

from images.sidecar import jsonrpc
from images.sidecar.process import Process, ServerError
from images.sidecar.seams import Audit, Call, Guarding, Verdict

FROM_SERVER = frozenset(("src:mcp",))


class Refused(ServerError):
    """What a server asked, or what it would have been answered, was denied by this rule."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(jsonrpc.INVALID_REQUEST, f"Denied by {rule}: {reason}")
        self.rule = rule


class Asking:
    """Guards over the requests of servers. When no guard is active nothing is parsed."""

    def __init__(self, guarding: Guarding, audit: Audit) -> None:
        self._guarding, self._audit = guarding, audit

    @property
    def active(self) -> bool:
        return self._guarding.active

    async def question(self, server: str, method: str, params: bytes) -> bytes:
        """The params as the agent gets them. Raises ServerError, for the server, if it may not ask that."""
        if jsonrpc.countless(params):
            raise ServerError(jsonrpc.INVALID_PARAMS, "the params have more values than guards can look at")
        try:
            asked = json.loads(params or b"{}")
        except (ValueError, RecursionError):
            raise ServerError(jsonrpc.INVALID_PARAMS, "the params are not JSON") from None
        call = _call(server, method, asked if isinstance(asked, dict) else {})
        verdict = self._heeded(call, await self._guarding.request(call))
        return jsonrpc.encode(verdict.value) if verdict.kind == "transform" else params

    async def answer(self, server: str, method: str, result: bytes, seen: frozenset[str]) -> bytes:
        """The answer of an agent that has seen such labels, as the server gets it. Raises ServerError if it must not."""
        call = _call(server, method, {}, labels=FROM_SERVER | seen)
        verdict = self._heeded(call, await self._guarding.result(call, result))
        return jsonrpc.encode(verdict.value) if verdict.kind == "transform" else result

    async def error(self, server: str, method: str, error: bytes, seen: frozenset[str]) -> bytes:
        """The error by which the agent answers, as the server gets it: its text is the agent's."""
        shown = jsonrpc.encode({"content": [{"type": "text", "text": error.decode(errors="replace")}]})
        verdict = await self._guarding.result(_call(server, method, {}, labels=FROM_SERVER | seen), shown)
        if verdict.kind == "allow":
            return error
        return jsonrpc.encode({"code": jsonrpc.INVALID_REQUEST, "message": "The client refused"})

    async def said(self, process: Process, method: str, params: bytes) -> bytes | None:
        """The params of a notification as the agent gets them; None if it must not have it."""
        call = _call(process.server, method, {}, labels=process.labels)
        try:
            verdict = self._heeded(call, await self._guarding.result(call, params or b"{}"))
        except ServerError:
            return None
        return jsonrpc.encode(verdict.value) if verdict.kind == "transform" else params

    async def entry(self, server: str, method: str, name: str, item: bytes, labels: frozenset[str]) -> Verdict:
        """What guards say of an entry of a list."""
        return await self._guarding.result(_call(server, method, {}, name=name, labels=labels), item)

    def _heeded(self, call: Call, verdict: Verdict) -> Verdict:
        if verdict.kind != "deny":
            return verdict
        told = {"server": call.server, "method": call.method, "rule": verdict.rule, "reason": verdict.reason}
        self._audit.emit({"event": "denied", **told})
        raise Refused(verdict.rule or "policy", verdict.reason)


def _call(
    server: str, method: str, params: dict[str, Any], *, name: str = "", labels: frozenset[str] = FROM_SERVER
) -> Call:
    # What a server says is its own; which session it concerns is known only once the agent is found that it goes to.
    return Call(id=0, session="", server=server, method=method, name=name, params=params, labels=labels)
