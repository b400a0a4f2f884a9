"""Telemetry: off unless asked for, complete when it is, never in the way, and never telling what is nobody's business."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import telemetry, telemetry_export
from runner.errors import BadOption, TelemetryMissing
from runner.record import Event, RunRecord
from runner.telemetry import Signals, Telemetry, open_telemetry, signals
from runner.telemetry_run import NAMES_PER_SERVER, OTHER
from runner.trace import Trace, trace_of
from tests.support.otlp import Collector, attributes, collector
from tests.support.projects import ROOT, Project
from tests.support.waiting import PATIENCE

BOTH = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
TRACE = Trace(trace_id="a" * 32, span_id="b" * 16, parent_id="c" * 16, spans=True)
SECRET = "text-that-only-the-agent-and-its-tool-know"
BEGAN = 1_700_000_000.0


# ------------------------------------------------------------------------------------------------------------- on or off


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({}, Signals()),
        (BOTH, Signals(traces=True, metrics=True)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x/v1/traces"}, Signals(traces=True)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x/v1/metrics"}, Signals(metrics=True)),
        (BOTH | {"OTEL_TRACES_EXPORTER": "none"}, Signals(metrics=True)),
        (BOTH | {"OTEL_METRICS_EXPORTER": "none"}, Signals(traces=True)),
        (BOTH | {"OTEL_SDK_DISABLED": "true"}, Signals()),
        (BOTH | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, Signals(traces=True, metrics=True)),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, Signals()),
    ],
)
def test_the_standard_variables_decide(env: dict[str, str], wanted: Signals) -> None:
    assert signals(env) == wanted


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"])
def test_a_protocol_that_is_not_spoken_is_refused(variable: str) -> None:
    with pytest.raises(BadOption, match=f"{variable} is 'grpc'"):
        signals(BOTH | {variable: "grpc"})


def test_a_missing_package_is_told_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_PACKAGES", ("no_such_thing.sdk",))
    assert open_telemetry({}, print) is None
    with pytest.raises(TelemetryMissing, match=r"no_such_thing\.sdk cannot be imported") as caught:
        open_telemetry(BOTH, print)
    assert "mlld-sandbox[otel]" in caught.value.remedy


OPENED = """
import os, sys
from runner.telemetry import open_telemetry
found = open_telemetry(os.environ, print)
print(found is not None, any(name.partition(".")[0] == "opentelemetry" for name in sys.modules))
"""


@pytest.mark.parametrize("on", [False, True])
def test_the_sdk_is_imported_only_when_it_is_asked_for(on: bool) -> None:
    env = {"PYTHONPATH": str(ROOT)} | (BOTH if on else {})
    done = subprocess.run([sys.executable, "-c", OPENED], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(on), str(on)]


# ------------------------------------------------------------------------------------------------------------ the parent


def test_a_run_is_a_part_of_the_trace_that_started_it() -> None:
    env = {"TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-01", "TRACESTATE": "ci=1"}
    exported = trace_of(env, exported=True)
    assert exported is not None
    assert (exported.trace_id, exported.parent_id, exported.spans) == ("1" * 32, "2" * 16, True)
    assert exported.span_id not in ("2" * 16, "0" * 16)
    assert exported.environment() == {
        "TRACEPARENT": f"00-{'1' * 32}-{exported.span_id}-01",
        "TRACESTATE": "ci=1",
    }
    # Without spans of our own the job itself stays the parent.
    passed_on = trace_of(env, exported=False)
    assert passed_on is not None
    assert (passed_on.environment(), passed_on.spans) == (env, False)


def test_a_trace_that_is_not_sampled_gets_no_spans() -> None:
    found = trace_of({"TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-00"}, exported=True)
    assert found is not None
    assert (found.spans, found.traceparent) == (False, f"00-{'1' * 32}-{'2' * 16}-00")


@pytest.mark.parametrize("bad", ["", "x", f"00-{'0' * 32}-{'2' * 16}-01", f"ff-{'1' * 32}-{'2' * 16}-01", "00-1-2-01"])
def test_cannot_begin_with_a_parent_that_is_none(bad: str) -> None:
    assert trace_of({"TRACEPARENT": bad}, exported=False) is None
    fresh = trace_of({"TRACEPARENT": bad}, exported=True)
    assert fresh is not None
    assert (len(fresh.trace_id), fresh.parent_id) == (32, "")


# ----------------------------------------------------------------------------------------------------------- what comes


@pytest.fixture
def kept() -> Iterator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def exporting(kept: Collector, warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> Telemetry:
    """An export to a collector that answers, however long the machine takes over it."""
    monkeypatch.setattr(telemetry_export, "FLUSH_SECONDS", PATIENCE)
    return started(kept, warnings, monkeypatch, PATIENCE)


def started(kept: Collector, warnings: list[str], monkeypatch: pytest.MonkeyPatch, seconds: float) -> Telemetry:
    """An export that waits so long for an answer."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", kept.endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", f"{seconds:g}")
    found = open_telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": kept.endpoint}, warnings.append)
    assert found is not None
    return found


def request(event: str = "call", **fields: Any) -> dict[str, Any]:
    told = {
        "event": event, "id": 1, "session": "s1", "method": "tools/call", "decision": "allow", "rule": None,
        "labels": ["src:mcp"], "bytesIn": 10, "bytesOut": 200, "start": BEGAN + 2, "ms": 30.0, "isError": False,
        "trace": TRACE.trace_id, "span": "d" * 16, "parent": TRACE.span_id, "server": "tickets", "name": "list",
        "arguments": {"q": SECRET}, "result": SECRET,
    }  # fmt: skip
    return told | fields


def start(**more: Any) -> list[dict[str, Any]]:
    plan = {"profile": {"name": "full"}, "provider": "docker"}
    return [
        {"event": "run", "t": BEGAN + 0.5, "name": "kubodan", "env": "demo", "agent": "scripted", "images": 0.4} | more,
        {"event": "plan", "t": BEGAN + 0.5, "digest": "sha256:1", "plan": plan},
        {"event": "server", "t": BEGAN + 1, "at": BEGAN + 1, "server": "tickets", "state": "ready", "seconds": 0.25,
         "processes": 1, "restarts": 0},
        {"event": "ready", "t": BEGAN + 1.5, "ms": 1000, "applied": 600, "tested": 700, "tools": 3},
    ]  # fmt: skip


ENDED = [
    {"event": "answer", "t": BEGAN + 3, "text": SECRET, "exit": 0, "taint": ["src:mcp"]},
    {"event": "closed", "t": BEGAN + 4, "lines": 9, "exit": 0},
]


def told(exporting: Telemetry, *events: Event, trace: Trace | None = TRACE) -> None:
    hear = exporting.follow(trace, BEGAN)
    for event in (*start(), *events, *ENDED):
        hear(event)
    exporting.close()


def test_a_run_becomes_one_trace(exporting: Telemetry, kept: Collector, warnings: list[str]) -> None:
    told(exporting, request())
    assert warnings == []
    run = kept.span("sandbox run")
    assert (run.trace_id.hex(), run.span_id.hex(), run.parent_span_id.hex()) == ("a" * 32, "b" * 16, "c" * 16)
    assert (run.end_time_unix_nano - run.start_time_unix_nano) / 1e9 == 4
    assert attributes(run.attributes) == {
        "mlld.run.name": "kubodan",
        "mlld.environment.name": "demo",
        "gen_ai.agent.name": "scripted",
        "mlld.plan.digest": "sha256:1",
        "mlld.provider.name": "docker",
        "mlld.profile.name": "full",
        "process.exit.code": 0,
    }
    parts = {span.name for span in kept.spans() if span.parent_span_id == run.span_id}
    assert parts == {
        "plan", "images", "start", "apply", "self-test", "server start", "invoke_agent scripted", "tools/call list",
    }  # fmt: skip
    assert {span.trace_id for span in kept.spans()} == {run.trace_id}
    tested = kept.span("self-test")
    assert round((tested.end_time_unix_nano - tested.start_time_unix_nano) / 1e6) == 100
    assert kept.resources()[0]["service.name"] == "mlld"


def test_a_call_has_the_names_of_the_conventions(exporting: Telemetry, kept: Collector) -> None:
    told(exporting, request(labels=["src:mcp", "pii"], decision="transform", rule="guard @mask (index.mld:7)"))
    span = kept.span("tools/call list")
    assert (span.span_id.hex(), span.kind, span.status.code) == ("d" * 16, 2, 0)
    assert round((span.end_time_unix_nano - span.start_time_unix_nano) / 1e6) == 30
    assert attributes(span.attributes) == {
        "mcp.method.name": "tools/call",
        "mcp.session.id": "s1",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "list",
        "mlld.mcp.server.name": "tickets",
        "mlld.decision": "transform",
        "mlld.rule": "guard @mask (index.mld:7)",
        "mlld.labels": ["src:mcp", "pii"],
        "mlld.request.size": 10,
        "mlld.response.size": 200,
    }


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"isError": True}, "tool_error"),
        ({"isError": True, "error": -32003}, "-32003"),
        ({"isError": True, "decision": "deny", "rule": "guard @x"}, "denied"),
        ({"event": "request", "isError": True, "decision": "deny", "rule": "protocol", "error": -32602}, "-32602"),
    ],
)
def test_what_failed_says_how(exporting: Telemetry, kept: Collector, fields: dict[str, Any], error: str) -> None:
    told(exporting, request() | fields)
    (span,) = [span for span in kept.spans() if span.name.startswith("tools/call")]
    assert (span.status.code, span.status.message) == (2, "")
    assert attributes(span.attributes)["error.type"] == error
    denied = fields.get("decision") == "deny"
    assert kept.total("mlld.denials") == (1 if denied else 0)
    (point,) = kept.points("mcp.server.operation.duration")
    assert point[0]["error.type"] == error


def test_a_call_is_told_with_the_revision_of_its_session(exporting: Telemetry, kept: Collector) -> None:
    opened = {"event": "session", "session": "s1", "state": "opened", "version": "2025-11-25"}
    told(exporting, opened, request(), opened | {"state": "closed"}, request(name="late"))
    assert attributes(kept.span("tools/call list").attributes)["mcp.protocol.version"] == "2025-11-25"
    assert "mcp.protocol.version" not in attributes(kept.span("tools/call late").attributes)


def test_looking_alone_opens_nothing(project: Project, kept: Collector) -> None:
    ref = project.module("m", "exe @spawn(prompt) = cmd { echo }\nexport { @spawn }\n")
    ask = ("sandbox", "check", "net a.example", "--env", ref, "--provider", "local")
    # A protocol that is refused would be told if anything were opened.
    wrong = {"OTEL_EXPORTER_OTLP_ENDPOINT": kept.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert "OTEL" not in project.mlld(*ask, **wrong).err
    assert "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'" in project.mlld("sandbox", "spawn", "x", *ask[3:], **wrong).err


def test_an_agent_in_a_trace_of_its_own_stays_linked_to_the_run(exporting: Telemetry, kept: Collector) -> None:
    told(exporting, request(trace="e" * 32, parent="f" * 16))
    span = kept.span("tools/call list")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("e" * 32, "f" * 16)
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in span.links] == [("a" * 32, "b" * 16)]


def test_what_is_counted(exporting: Telemetry, kept: Collector) -> None:
    crashed = {"event": "server", "t": 0, "at": BEGAN + 2, "server": "tickets", "state": "exited", "processes": 0}
    again = {"event": "server", "t": 0, "at": BEGAN + 3, "server": "tickets", "state": "ready", "seconds": 0.1,
             "processes": 1, "restarts": 1}  # fmt: skip
    egress = {"event": "egress", "member": "agent", "host": SECRET, "port": 443, "decision": "deny"}
    asked = {"event": "asked", "server": "tickets", "method": "elicitation/create", "decision": "allow"}
    calls = request(), request(name="get", ms=70.0), request("denied", decision="deny")
    told(exporting, *calls, asked, crashed, again, egress)
    assert kept.total("mlld.mcp.calls", mcp__method__name="tools/call") == 3
    assert kept.total("mlld.mcp.calls", mcp__method__name="elicitation/create") == 1
    assert kept.total("mlld.mcp.calls", gen_ai__tool__name="get", mlld__decision="allow") == 1
    assert kept.total("mlld.mcp.io", network__io__direction="transmit") == 600
    assert kept.total("mlld.denials", mlld__denial__kind="denied") == 1
    assert kept.total("mlld.denials", mlld__denial__kind="egress") == 1
    assert kept.total("mlld.mcp.server.restarts", mlld__mcp__server__name="tickets") == 1
    assert kept.total("mlld.mcp.servers.active") == 0  # the run is over
    durations = {named.get("gen_ai.tool.name"): point for named, point in kept.points("mcp.server.operation.duration")}
    assert (durations["get"].count, round(durations["get"].sum, 3)) == (1, 0.07)
    assert list(durations["get"].explicit_bounds)[:3] == [0.01, 0.02, 0.05]
    assert kept.points("mlld.run.duration")[0][1].sum == 4


def test_metrics_alone_make_no_spans(kept: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{kept.endpoint}/v1/metrics")
    found = open_telemetry({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": kept.endpoint}, print)
    assert found is not None
    told(found, request(), trace=None)
    assert set(kept.paths) == {"/v1/metrics"}
    assert kept.total("mlld.mcp.calls") == 1


# -------------------------------------------------------------------------------------------------- what must not happen


def test_cannot_see_what_was_said(exporting: Telemetry, kept: Collector) -> None:
    told(
        exporting,
        request(),
        request("denied", name=SECRET, decision="deny", reason=SECRET),
        request(method="resources/read", name=f"file:///{SECRET}"),
        request("request", method=SECRET, isError=True, decision="deny", result=SECRET),
    )
    sent = b"".join(kept.raw)
    assert b"tickets" in sent
    assert SECRET.encode() not in sent


def test_cannot_blow_up_what_a_backend_must_tell_apart(exporting: Telemetry, kept: Collector) -> None:
    names = [f"tool{number}" for number in range(NAMES_PER_SERVER * 3)]
    told(
        exporting,
        *(request(name=name) for name in names),
        *(request("denied", name=f"made-up-{number}", decision="deny") for number in range(500)),
        *(request("request", method=f"m/{number}") for number in range(500)),
    )
    seen = {named.get("gen_ai.tool.name") for named, _ in kept.points("mlld.mcp.calls")}
    assert seen == {*names[:NAMES_PER_SERVER], OTHER, None}
    assert {named["mcp.method.name"] for named, _ in kept.points("mlld.mcp.calls")} == {"tools/call", OTHER}
    assert len({span.name for span in kept.spans()}) <= NAMES_PER_SERVER + 12


def test_an_endpoint_that_does_not_answer_holds_up_nobody(
    kept: Collector, warnings: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exporting = started(kept, warnings, monkeypatch, 1)
    kept.gate.clear()
    record = RunRecord.create(tmp_path, now=time.time)
    record.listen(exporting.follow(TRACE, BEGAN))
    began = time.monotonic()
    for _ in range(5_000):  # more than any queue holds
        fields = request()
        record.append(fields.pop("event"), **fields)
    record.close(exit=0)
    exporting.close()
    assert time.monotonic() - began < PATIENCE  # the collector never answers
    assert len(warnings) == 1
    assert record.events[-1]["event"] == "closed"


def test_an_endpoint_that_refuses_is_one_warning(
    exporting: Telemetry, kept: Collector, warnings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kept.status = 400
    told(exporting, *(request() for _ in range(1_500)))
    assert len(kept.raw) > 2
    assert len(warnings) == 1
    assert warnings[0].startswith("telemetry is not exported completely: ")
    assert capsys.readouterr().err == ""


def test_an_endpoint_where_nobody_listens_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")  # so long would the exporter itself try
        found = open_telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, warnings.append)
        assert found is not None
        began = time.monotonic()
        told(found, request())
        assert time.monotonic() - began < PATIENCE
    assert len(warnings) == 1
    assert capsys.readouterr().err == ""


def test_an_event_that_cannot_be_drawn_is_no_reason_to_stop(
    exporting: Telemetry, kept: Collector, warnings: list[str]
) -> None:
    told(exporting, {"event": "call"}, request(span="not hexadecimal"), request())
    assert len(warnings) == 1
    assert kept.span("tools/call list")


# --------------------------------------------------------------------------------------------------------- a whole run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.make(tmp_path)


def test_a_real_run_ends_in_the_collector(project: Project, kept: Collector) -> None:
    server = f'{{ name: "small", command: "{sys.executable} {project.path}/server.py" }}'
    ref = project.servers("demo", server)
    ask = ("sandbox", "call", "--env", ref, "--provider", "local", "echo_text", f"text={SECRET}")
    parent = f"00-{'1' * 32}-{'2' * 16}-01"
    done = project.mlld(*ask, OTEL_EXPORTER_OTLP_ENDPOINT=kept.endpoint, TRACEPARENT=parent)
    assert (done.code, done.out) == (0, f"{SECRET}\n"), done.err
    assert "telemetry" not in done.err
    run = kept.span("sandbox run")
    assert (run.trace_id.hex(), run.parent_span_id.hex()) == ("1" * 32, "2" * 16)
    call = kept.span("tools/call echo_text")
    assert (call.trace_id, call.parent_span_id) == (run.trace_id, run.span_id)
    assert attributes(call.attributes)["mlld.mcp.server.name"] == "small"
    assert kept.total("mlld.mcp.calls", gen_ai__tool__name="echo_text") == 1
    assert SECRET.encode() not in b"".join(kept.raw)


def test_the_agents_programs_continue_the_runs_trace(project: Project, kept: Collector) -> None:
    project.write("traced.mld", 'var @x = env { provider: "local" } [ => cmd { printenv TRACEPARENT } ]\nshow @x\n')
    parent = f"00-{'1' * 32}-{'2' * 16}-01"
    done = project.mlld("run", "traced.mld", OTEL_EXPORTER_OTLP_ENDPOINT=kept.endpoint, TRACEPARENT=parent)
    assert done.out.strip() == f"00-{'1' * 32}-{kept.span('sandbox run').span_id.hex()}-01", done.err


def test_without_an_endpoint_nothing_leaves(project: Project, kept: Collector) -> None:
    server = f'{{ name: "small", command: "{sys.executable} {project.path}/server.py" }}'
    ask = ("sandbox", "call", "--env", project.servers("demo", server), "--provider", "local", "echo_text", "text=x")
    assert project.mlld(*ask).out == "x\n"
    assert kept.raw == []
