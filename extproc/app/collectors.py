"""Which collector spans and metrics go to."""

from __future__ import annotations

from extproc.adapters.telemetry_settings import TelemetrySettings, is_enabled, read_environment
from extproc.config import Settings


def telemetry_settings(settings: Settings) -> TelemetrySettings:
    """What extproc.yaml names; the OTEL_* variables say the rest."""
    otlp = settings.telemetry.otlp
    name = settings.telemetry.service_name
    if otlp is None:
        return TelemetrySettings(service_name=name)
    headers = {header: reference.resolve() for header, reference in otlp.headers.items()}
    return TelemetrySettings(otlp.endpoint, otlp.protocol, headers or None, name)


def wants_spans(settings: Settings) -> bool:
    """Whether anybody named a collector. Raises ConfigError for OTEL_* variables that cannot be understood."""
    return is_enabled(telemetry_settings(settings), read_environment())
