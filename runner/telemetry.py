"""OpenTelemetry, off unless the user's environment names an endpoint: whether to export, and what.

Everything exported is made on this side of the fence, from the events of the record. The sidecar has no network for it
and imports no SDK; it only says where in a trace each request stands. The SDK is imported when the first sandbox is
opened with an endpoint set, and never else. The variables are those of OpenTelemetry's own specification.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from runner.errors import BadOption, TelemetryMissing
from runner.record import Event
from runner.trace import Trace

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL = "http/protobuf"
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What is exported."""

    traces: bool = False
    metrics: bool = False


class Telemetry(Protocol):
    """The way out for what runs do; one for a process."""

    signals: Signals

    def follow(self, trace: Trace | None, began: float) -> Callable[[Event], None]:
        """Hears the events of one run, which began at that time. Never raises and never waits."""
        ...

    def close(self) -> None:
        """Delivers what is left, for a limited time."""
        ...


def signals(env: Mapping[str, str]) -> Signals:
    """What the environment asks for. Errors: `BadOption` for a protocol that the exporter does not speak."""
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Signals()
    found = {name: _wanted(env, name.upper()) for name in ("traces", "metrics")}
    for name, wanted in found.items():
        variable = f"OTEL_EXPORTER_OTLP_{name.upper()}_PROTOCOL"
        variable = variable if env.get(variable) else "OTEL_EXPORTER_OTLP_PROTOCOL"
        if wanted and env.get(variable, _PROTOCOL) != _PROTOCOL:
            raise BadOption(
                f"{variable} is {env[variable]!r}, and telemetry is exported over {_PROTOCOL} alone",
                remedy=f"set {variable}={_PROTOCOL}, or OTEL_SDK_DISABLED=true to export nothing",
            )
    return Signals(**found)


def _wanted(env: Mapping[str, str], signal: str) -> bool:
    endpoint = env.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or env.get(ENDPOINT)
    return bool(endpoint) and env.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() != "none"


def open_telemetry(env: Mapping[str, str], warn: Callable[[str], None]) -> Telemetry | None:
    """None when nothing is to be exported. Errors: `TelemetryMissing`, `BadOption`."""
    wanted = signals(env)
    if not (wanted.traces or wanted.metrics):
        return None
    if missing := [package for package in _PACKAGES if not _installed(package)]:
        raise TelemetryMissing(missing)
    exporting = importlib.import_module("runner.telemetry_export")
    telemetry: Telemetry = exporting.Export(wanted, warn)
    return telemetry


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # a parent package is not there
        return False
