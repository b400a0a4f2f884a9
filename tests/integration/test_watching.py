"""A run on a real engine, watched: its trace and metrics in a collector, its page, its lines, the health of its server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.otlp import Collector, attributes, collector
from tests.support.projects import SMALL, Project

pytestmark = pytest.mark.engine

PARENT = f"00-{'1' * 32}-{'2' * 16}-01"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.make(tmp_path)


@pytest.fixture
def kept() -> Iterator[Collector]:
    with collector() as running:
        yield running


def test_a_fenced_run_is_seen_from_every_side(project: Project, kept: Collector) -> None:
    ref = project.servers("m", SMALL)
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": kept.endpoint, "TRACEPARENT": PARENT}
    done = project.spawn('Show me the echo text "hi"', ref, "--agent", "scripted", **told)
    assert done.code == 0, done.err
    assert "telemetry" not in done.err

    run = kept.span("sandbox run")
    assert (run.trace_id.hex(), run.parent_span_id.hex()) == ("1" * 32, "2" * 16)
    assert {span.trace_id for span in kept.spans()} == {run.trace_id}
    ours = {span.name for span in kept.spans() if span.parent_span_id == run.span_id}
    assert {"plan", "images", "start", "apply", "self-test", "server start", "invoke_agent scripted"} <= ours
    call = kept.span("tools/call echo_text")
    assert attributes(call.attributes)["mlld.mcp.server.name"] == "small"
    assert run.start_time_unix_nano < call.start_time_unix_nano < call.end_time_unix_nano < run.end_time_unix_nano
    assert kept.total("mlld.mcp.calls", gen_ai__tool__name="echo_text", mlld__decision="allow") == 1
    assert kept.total("mlld.mcp.servers.active") == 0

    lines = project.mlld("sandbox", "logs", "last", "-f", "--of", "small").out.splitlines()
    states = [line.split(None, 2)[2] for line in lines if "echo_text" not in line]
    assert [state for state in states if state in ("starting", "fenced", "ready")][:2] == ["starting", "fenced"]
    assert any('✓ small.echo_text {"text": "hi"}' in line for line in lines)
    (row,) = json.loads(project.mlld("sandbox", "ps", "--all", "--json").out)
    assert [(server["name"], server["calls"], server["restarts"]) for server in row["servers"]] == [("small", 1, 0)]

    assert project.mlld("sandbox", "view", "last", "--out", "run.html").code == 0
    page = (project.path / "run.html").read_text()
    assert "the sidecar had no network either: no packet could leave the run" in page
    assert "facts proved it from 3 seats" in page
    assert "the record is whole" in page


def test_the_agents_programs_are_told_where_they_stand(project: Project, kept: Collector) -> None:
    ref = project.module("m", "exe @spawn(prompt) = cmd { printenv TRACEPARENT }\nexport { @spawn }\n")
    traced = project.spawn("x", ref, OTEL_EXPORTER_OTLP_ENDPOINT=kept.endpoint)
    run = kept.span("sandbox run")
    assert traced.out.strip() == f"00-{run.trace_id.hex()}-{run.span_id.hex()}-01"
    # Without an export of ours the job that started us stays the parent; without a job there is none.
    assert project.spawn("x", ref, TRACEPARENT=PARENT).out.strip() == PARENT
    assert project.spawn("x", ref).out.strip() == ""
