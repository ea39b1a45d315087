"""What is said of the collector: by the configuration, and by the `OTEL_*` variables. Knows no OpenTelemetry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from extproc.domain.errors import ConfigError

OtlpProtocol = Literal["grpc", "http"]


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """What the configuration names; None leaves it to the `OTEL_*` variables and their defaults.

    `endpoint` is a URL without a path.
    """

    endpoint: str | None = None
    protocol: OtlpProtocol | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    service_name: str | None = None


@dataclass(frozen=True, slots=True)
class Environment:
    """The `OTEL_*` variables that we obey ourselves; the exporter classes read the rest of theirs."""

    protocol: OtlpProtocol
    ratio: float
    value_limit: int
    batch: int
    disabled: bool
    has_endpoint: bool


def read_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """Read them. Raises ConfigError where one cannot be understood."""
    env = os.environ if environ is None else environ
    named = env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
    protocols: dict[str, OtlpProtocol] = {"grpc": "grpc", "http/protobuf": "http"}
    if named not in protocols:
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {named!r} is neither grpc nor http/protobuf")
    limits = ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT")
    return Environment(
        protocol=protocols[named],
        ratio=_sampling_ratio(env),
        value_limit=next((_whole(env, name, 1) for name in limits if env.get(name)), 1024),
        batch=_whole(env, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1)
        if env.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE")
        else 512,
        disabled=env.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or env.get("OTEL_TRACES_EXPORTER") == "none",
        has_endpoint=any(
            env.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        ),
    )


def is_enabled(settings: TelemetrySettings, environment: Environment) -> bool:
    """Does anybody want spans? Somebody must have named a collector."""
    return not environment.disabled and (settings.endpoint is not None or environment.has_endpoint)


def _sampling_ratio(env: Mapping[str, str]) -> float:
    sampler = env.get("OTEL_TRACES_SAMPLER", "parentbased_always_on").removeprefix("parentbased_")
    if sampler == "always_on":
        return 1.0
    if sampler == "always_off":
        return 0.0
    if sampler != "traceidratio":
        raise ConfigError(f"OTEL_TRACES_SAMPLER: {sampler!r} is not known")
    try:
        ratio = float(env.get("OTEL_TRACES_SAMPLER_ARG", "1"))
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise ConfigError("OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1")
    return ratio


def _whole(env: Mapping[str, str], name: str, least: int) -> int:
    try:
        value = int(env[name])
    except ValueError:
        value = least - 1
    if value < least:
        raise ConfigError(f"{name}: must be a whole number of at least {least}")
    return value
