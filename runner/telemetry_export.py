"""OpenTelemetry's SDK, and the only place that imports it: spans and measurements of runs on their way out.

Its queues are bounded, its threads do not keep the process, and what it has to complain about is told once.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from runner import __version__
from runner.record import Event
from runner.telemetry import Signals
from runner.telemetry_run import ACTIVE, CALLS, DENIALS, DURATION, IO, RESTARTS, RUNS, Attribute, RunTelemetry, Span
from runner.trace import Trace

FLUSH_SECONDS = 3.0
_SCOPE = "mlld.sandbox"
_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER}
# What the conventions for MCP ask for, in seconds.
_BUCKETS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300]
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class GivenIds(IdGenerator):
    """The ids of the next span are those that the record has: whoever was handed them took them for its parent."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class Export:
    """Implements `telemetry.Telemetry` and `telemetry_run.Outlet`."""

    def __init__(self, signals: Signals, warn: Callable[[str], None]) -> None:
        self.signals = signals
        self._complaints = _Once(warn)
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(self._complaints)
        logger.propagate = False  # its own words, with tracebacks, would be written between the user's
        resource = _resource()
        self._lock = threading.Lock()
        self._ids = GivenIds()
        # Everything that is decided is exported: an agent that says "not sampled" does not hide what it does.
        self._tracing = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        if signals.traces:
            self._tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._tracing.get_tracer(_SCOPE, __version__)
        readers = [PeriodicExportingMetricReader(OTLPMetricExporter())] if signals.metrics else []
        self._metering = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        self._record = _instruments(self._metering.get_meter(_SCOPE, __version__))

    def follow(self, trace: Trace | None, began: float) -> Callable[[Event], None]:
        run = RunTelemetry(self, trace, began)

        def hear(event: Event) -> None:
            try:
                run(event)
            except Exception as error:  # a run must not end because nobody can draw it
                self._complaints.say(f"{type(error).__name__}: {error}")

        return hear

    def span(self, span: Span) -> None:
        if not self.signals.traces:
            return
        parent = Context()
        if span.parent_id:
            parent = set_span_in_context(NonRecordingSpan(_place(span.trace_id, span.parent_id)), parent)
        failed = {"error.type": span.error} if span.error else {}
        with self._lock:
            self._ids.trace_id, self._ids.span_id = int(span.trace_id, 16), int(span.span_id, 16)
            started = self._tracer.start_span(
                span.name,
                context=parent,
                kind=_KINDS[span.kind],
                attributes={**span.attributes, **failed},
                links=[Link(_place(*span.link))] if span.link else [],
                start_time=round(span.start * 1e9),
            )
        if span.error:
            # Without a description: the server's own words may be anything, and are in the record.
            started.set_status(Status(StatusCode.ERROR))
        started.end(round(span.end * 1e9))

    def measure(self, instrument: str, value: float, attributes: Mapping[str, Attribute]) -> None:
        self._record[instrument](value, dict(attributes))

    def close(self) -> None:
        """Waits no longer than `FLUSH_SECONDS`, whatever the endpoint does."""
        until = time.monotonic() + FLUSH_SECONDS
        ends = [threading.Thread(target=end, daemon=True) for end in (self._tracing.shutdown, self._metering.shutdown)]
        for thread in ends:
            thread.start()
        for thread in ends:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in ends):
            self._complaints.say(f"the endpoint did not take the last of it within {FLUSH_SECONDS:g} s")
        logging.getLogger("opentelemetry").removeHandler(self._complaints)


class _Once(logging.Handler):
    """The first complaint becomes a warning; the others would say the same."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn, self._said = warn, False

    def emit(self, record: logging.LogRecord) -> None:
        self.say(record.getMessage())

    def say(self, text: str) -> None:
        if not self._said:
            self._said = True
            self._warn(f"telemetry is not exported completely: {' '.join(text.split())[:300]}")


def _resource() -> Resource:
    """This process, under the name that the user gave it or ours."""
    own = Resource.create({"service.version": __version__, "service.instance.id": str(uuid.uuid4())})
    named = str(own.attributes.get("service.name", "unknown_service"))
    return own.merge(Resource({"service.name": "mlld"})) if named.startswith("unknown_service") else own


def _instruments(meter: Meter) -> Mapping[str, Callable[[float, dict[str, Attribute]], None]]:
    return {
        CALLS: meter.create_counter(CALLS, "{call}", "Requests of agents, by what was decided").add,
        DURATION: meter.create_histogram(
            DURATION, "s", "From a request to its answer", explicit_bucket_boundaries_advisory=_BUCKETS
        ).record,
        IO: meter.create_counter(IO, "By", "Parameters of requests, and results").add,
        DENIALS: meter.create_counter(DENIALS, "{denial}", "What policy, guards and filters refused").add,
        RESTARTS: meter.create_counter(RESTARTS, "{restart}", "Starts of servers that were there before").add,
        ACTIVE: meter.create_up_down_counter(ACTIVE, "{server}", "Servers with a process").add,
        RUNS: meter.create_histogram(RUNS, "s", "From opening a sandbox to its end").record,
    }


def _place(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=_SAMPLED)
