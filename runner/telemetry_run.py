"""A run's events as spans and measurements, with the names of OpenTelemetry's conventions for MCP and GenAI.

No argument, result, URI or text of a server ever becomes an attribute. Names that somebody inside the fence has chosen
are told apart only as far as a backend can bear: beyond some, and for names that no server offers, all are `_OTHER`.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from runner.record import Event
from runner.trace import Trace

Attribute = str | int | float | bool | list[str]
OTHER = "_OTHER"
NAMES_PER_SERVER = 200
_LONGEST, _MOST_LABELS, _MOST_SESSIONS = 200, 32, 1_000
_METHODS = frozenset((
    "completion/complete", "initialize", "logging/setLevel", "ping", "prompts/get", "prompts/list", "resources/list",
    "resources/read", "resources/subscribe", "resources/templates/list", "resources/unsubscribe", "server/discover",
    "subscriptions/listen", "tasks/cancel", "tasks/get", "tasks/list", "tasks/result", "tools/call", "tools/list",
))  # fmt: skip
_ASKED = frozenset(("sampling/createMessage", "elicitation/create", "roots/list"))
_TARGETS = {"tools/call": "gen_ai.tool.name", "prompts/get": "gen_ai.prompt.name"}

CALLS, IO, DENIALS = "mlld.mcp.calls", "mlld.mcp.io", "mlld.denials"
RESTARTS, ACTIVE = "mlld.mcp.server.restarts", "mlld.mcp.servers.active"
DURATION, RUNS = "mcp.server.operation.duration", "mlld.run.duration"


@dataclass(frozen=True, kw_only=True)
class Span:
    """A finished span. Times in seconds since the epoch, ids in hexadecimal digits."""

    name: str
    start: float
    end: float
    trace_id: str
    span_id: str
    parent_id: str
    kind: Literal["internal", "server"] = "internal"
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    error: str = ""  # `error.type`; empty: it went well
    link: tuple[str, str] | None = None  # trace and span of what it also belongs to


class Outlet(Protocol):
    """Where spans and measurements go."""

    def span(self, span: Span) -> None: ...

    def measure(self, instrument: str, value: float, attributes: Mapping[str, Attribute]) -> None: ...


class RunTelemetry:
    """Hears the events of one run, in their order."""

    def __init__(self, outlet: Outlet, trace: Trace | None, began: float) -> None:
        self._outlet, self._began = outlet, began
        self._trace = trace if trace is not None and trace.spans else None
        self._names: dict[str, set[str]] = defaultdict(set)
        self._active: set[str] = set()
        self._restarts: dict[str, int] = defaultdict(int)
        self._run: dict[str, Attribute] = {}
        self._error = ""
        self._ready = began
        self._versions: dict[str, str] = {}  # protocol revision of the sessions that are open

    def __call__(self, event: Event) -> None:
        hears = getattr(self, f"_on_{event.get('event')}", None)
        if hears is not None:
            hears(dict(event))

    # ------------------------------------------------------------------------------------------------- life of the run

    def _on_run(self, event: dict[str, Any]) -> None:
        self._run = {"mlld.run.name": _text(event.get("name")), "mlld.environment.name": _text(event.get("env"))}
        if event.get("agent"):
            self._run["gen_ai.agent.name"] = _text(event["agent"])
        self._part("plan", self._began, event["t"])
        if seconds := event.get("images"):
            self._part("images", self._began, self._began + seconds)

    def _on_plan(self, event: dict[str, Any]) -> None:
        plan = event["plan"]
        profile = plan.get("profile", {}).get("name")
        self._run |= {"mlld.plan.digest": _text(event.get("digest")), "mlld.provider.name": _text(plan.get("provider"))}
        if profile:
            self._run["mlld.profile.name"] = _text(profile)

    def _on_ready(self, event: dict[str, Any]) -> None:
        self._ready = event["t"]
        began = self._ready - event["ms"] / 1000
        applied, tested = began + event["applied"] / 1000, began + event["tested"] / 1000
        self._part("start", began, self._ready, {"mlld.mcp.tools": event["tools"]})
        self._part("apply", began, applied)
        self._part("self-test", applied, tested)

    def _on_answer(self, event: dict[str, Any]) -> None:
        agent = {key: value for key, value in self._run.items() if key == "gen_ai.agent.name"}
        name = " ".join(["invoke_agent", *map(str, agent.values())])
        attributes = {"gen_ai.operation.name": "invoke_agent", "mlld.taint": _labels(event.get("taint")), **agent}
        self._part(name, self._ready, event["t"], attributes, error="exit" if event.get("exit") else "")

    def _on_failed(self, event: dict[str, Any]) -> None:
        self._error = _text(event.get("code"))

    def _on_closed(self, event: dict[str, Any]) -> None:
        for server in sorted(self._active):
            self._outlet.measure(ACTIVE, -1, {"mlld.mcp.server.name": server})
        self._active.clear()
        code = event.get("exit")
        error = self._error or ("exit" if code else "")
        environment = {"mlld.environment.name": self._run.get("mlld.environment.name", "")}
        failed: dict[str, Attribute] = {"error.type": error} if error else {}
        self._outlet.measure(RUNS, event["t"] - self._began, environment | failed)
        if self._trace is None:
            return
        attributes = self._run | ({} if code is None else {"process.exit.code": code})
        self._outlet.span(
            Span(
                name="sandbox run",
                start=self._began,
                end=event["t"],
                trace_id=self._trace.trace_id,
                span_id=self._trace.span_id,
                parent_id=self._trace.parent_id,
                attributes=attributes,
                error=error,
            )
        )

    def _part(
        self,
        name: str,
        start: float,
        end: float,
        attributes: Mapping[str, Attribute] | None = None,
        error: str = "",
    ) -> None:
        """A part of the run, with a span of its own below the run's."""
        if self._trace is not None:
            self._outlet.span(
                Span(
                    name=name,
                    start=start,
                    end=max(start, end),
                    trace_id=self._trace.trace_id,
                    span_id=secrets.token_hex(8),
                    parent_id=self._trace.span_id,
                    attributes=attributes or {},
                    error=error,
                )
            )

    # -------------------------------------------------------------------------------------------------------- servers

    def _on_server(self, event: dict[str, Any]) -> None:
        server, state, processes = _text(event["server"]), event.get("state"), event.get("processes", 0)
        attributes = {"mlld.mcp.server.name": server}
        if state == "ready" and (seconds := event.get("seconds")) is not None:
            self._part("server start", event["at"] - seconds, event["at"], attributes)
        if bool(processes) != (server in self._active):
            self._outlet.measure(ACTIVE, 1 if processes else -1, attributes)
            (self._active.add if processes else self._active.discard)(server)
        if (more := event.get("restarts", 0) - self._restarts[server]) > 0:
            self._restarts[server] += more
            self._outlet.measure(RESTARTS, more, attributes)

    # ------------------------------------------------------------------------------------------------------- requests

    def _on_session(self, event: dict[str, Any]) -> None:
        session = _text(event.get("session"))
        if event.get("state") == "opened" and len(self._versions) < _MOST_SESSIONS:
            self._versions[session] = _text(event.get("version"))
        elif event.get("state") == "closed":
            self._versions.pop(session, None)

    def _on_call(self, event: dict[str, Any]) -> None:
        self._request(event, self._name(_text(event.get("server")), _text(event.get("name"))))

    def _on_request(self, event: dict[str, Any]) -> None:
        self._request(event, "")

    def _on_denied(self, event: dict[str, Any]) -> None:
        if "method" in event and "span" in event:
            # Somebody inside may have made the name up, for as many values as a backend takes.
            self._request(event, OTHER)
        else:
            self._denied(event, "list" if event.get("rule") == "pin" else "question")

    def _on_asked(self, event: dict[str, Any]) -> None:
        method = event["method"] if event["method"] in _ASKED else OTHER
        named = {"mcp.method.name": method, "mlld.mcp.server.name": _text(event["server"])}
        self._outlet.measure(CALLS, 1, {**named, "mlld.decision": event["decision"]})

    def _on_egress(self, event: dict[str, Any]) -> None:
        if event.get("decision") == "deny":
            self._outlet.measure(DENIALS, 1, {"mlld.denial.kind": "egress", "mlld.member.name": _text(event["member"])})

    def _request(self, event: dict[str, Any], target: str) -> None:
        method = event["method"] if event["method"] in _METHODS else OTHER
        attributes: dict[str, Attribute] = {"mcp.method.name": method}
        if server := _text(event.get("server")):
            attributes["mlld.mcp.server.name"] = server
        if method in _TARGETS and target:
            attributes[_TARGETS[method]] = target
        if method == "tools/call":
            attributes["gen_ai.operation.name"] = "execute_tool"
        error = _error(event)
        failed: dict[str, Attribute] = {"error.type": error} if error else {}
        decided: dict[str, Attribute] = {"mlld.decision": event["decision"]}
        self._outlet.measure(CALLS, 1, attributes | decided)
        self._outlet.measure(DURATION, event["ms"] / 1000, attributes | failed)
        for direction, key in (("receive", "bytesIn"), ("transmit", "bytesOut")):
            self._outlet.measure(IO, event[key], attributes | {"network.io.direction": direction})
        if event["decision"] == "deny":
            self._denied(event, event["event"])
        if self._trace is None:
            return
        if rule := event.get("rule"):
            decided["mlld.rule"] = _text(rule)
        if event.get("error") is not None:
            decided["rpc.response.status_code"] = str(event["error"])
        if version := self._versions.get(_text(event.get("session"))):
            decided["mcp.protocol.version"] = version
        name = " ".join(filter(None, (method, target if method in _TARGETS else "")))
        foreign = event["trace"] != self._trace.trace_id
        self._outlet.span(
            Span(
                name=name,
                kind="server",
                start=event["start"],
                end=event["start"] + event["ms"] / 1000,
                trace_id=event["trace"],
                span_id=event["span"],
                parent_id=event["parent"],
                attributes={
                    **attributes,
                    **decided,
                    "mcp.session.id": _text(event.get("session")),
                    "mlld.labels": _labels(event.get("labels")),
                    "mlld.request.size": event["bytesIn"],
                    "mlld.response.size": event["bytesOut"],
                },
                error=error,
                # An agent may work in a trace of its own: what it does there stays linked to the run that let it.
                link=(self._trace.trace_id, self._trace.span_id) if foreign else None,
            )
        )

    def _denied(self, event: dict[str, Any], kind: str) -> None:
        server = _text(event.get("server"))
        named = {"mlld.mcp.server.name": server} if server else {}
        self._outlet.measure(DENIALS, 1, {"mlld.denial.kind": kind, **named})

    def _name(self, server: str, name: str) -> str:
        """A name that a server offers, as long as it does not offer too many."""
        known = self._names[server]
        if name not in known and len(known) >= NAMES_PER_SERVER:
            return OTHER
        known.add(name)
        return name


def _error(event: Mapping[str, Any]) -> str:
    """`error.type`: the code of the protocol's error, or what else kept the request from success."""
    if event["decision"] == "deny" and event["event"] != "request":
        return "denied"
    if not event.get("isError"):
        return ""
    return str(event["error"]) if event.get("error") is not None else "tool_error"


def _labels(value: object) -> list[str]:
    return [_text(label) for label in value[:_MOST_LABELS]] if isinstance(value, (list, tuple)) else []


def _text(value: object) -> str:
    return "" if value is None else str(value)[:_LONGEST]
