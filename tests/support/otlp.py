"""A collector on loopback: keeps what OTLP exporters send over HTTP, decoded from protobuf."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def plain(value: Any) -> Any:
    """An attribute's value."""
    kind = value.WhichOneof("value")
    inner = getattr(value, kind)
    return [plain(item) for item in inner.values] if kind == "array_value" else inner


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in pairs}


@dataclass
class Collector:
    """What came, and how the collector behaves: `status` it answers with, `gate` that lets answers out."""

    port: int = 0
    status: int = 200
    gate: threading.Event = field(default_factory=threading.Event)
    raw: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _requests(self, path: str, kind: Any) -> list[Any]:
        return [kind.FromString(body) for at, body in zip(self.paths, self.raw, strict=True) if at == path]

    def resources(self) -> list[dict[str, Any]]:
        found = self._requests("/v1/traces", ExportTraceServiceRequest)
        return [attributes(r.resource.attributes) for request in found for r in request.resource_spans]

    def spans(self) -> list[Any]:
        """Every span, in the order of its start."""
        found = [
            span
            for request in self._requests("/v1/traces", ExportTraceServiceRequest)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def span(self, name: str) -> Any:
        (found,) = [span for span in self.spans() if span.name == name]
        return found

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Attributes and point of a metric, as they were told last."""
        last: dict[str, tuple[dict[str, Any], Any]] = {}
        for request in self._requests("/v1/metrics", ExportMetricsServiceRequest):
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == name:
                            for point in getattr(metric, metric.WhichOneof("data")).data_points:
                                named = attributes(point.attributes)
                                last[repr(sorted(named.items()))] = (named, point)
        return list(last.values())

    def total(self, name: str, **wanted: Any) -> float:
        """The sum of a counter over the points that have these attributes (dots as double underscores)."""
        asked = {key.replace("__", "."): value for key, value in wanted.items()}
        points = [point for named, point in self.points(name) if asked.items() <= named.items()]
        return float(sum(point.as_int or point.as_double for point in points))


@contextmanager
def collector() -> Iterator[Collector]:
    """A running collector that answers at once, until a test says otherwise."""
    kept = Collector()
    kept.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            kept.raw.append(body)
            kept.paths.append(self.path)
            kept.gate.wait()
            try:
                self.send_response(kept.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:
                return  # the exporter did not wait

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        kept.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
