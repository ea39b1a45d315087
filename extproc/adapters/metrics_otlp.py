"""Metric families by OTLP: cumulative sums, gauges and histograms, made anew for every push. Nothing is queued."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence

import structlog
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from extproc import __version__
from extproc.adapters.telemetry import build_resource
from extproc.adapters.telemetry_settings import TelemetrySettings, read_environment
from extproc.domain.metric import Family

_UNITS = {"_seconds": "s", "_bytes": "By"}
_SCOPE = InstrumentationScope("extproc", __version__)

log = structlog.get_logger(__name__)


class MetricsPusher:
    """Sends families to a collector. What it does not take is not kept: the next push says the same and more."""

    def __init__(self, exporter: MetricExporter, resource: Resource, began: float) -> None:
        """`began` is when the counters began, in Unix seconds."""
        self._exporter = exporter
        self._resource = resource
        self._began = int(began * 1e9)
        self._reachable = True

    def push(self, families: Iterable[Family], now: float) -> bool:
        """Send once; did the collector take it?"""
        at = int(now * 1e9)
        metrics = [_metric(family, self._began, at) for family in families]
        scope = ScopeMetrics(_SCOPE, [metric for metric in metrics if metric.data.data_points], "")
        try:
            result = self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))
            delivered = result is MetricExportResult.SUCCESS
        except Exception as failure:  # whatever an exporter raises: the next push comes
            log.error("metrics.exporter_failed", error=type(failure).__name__)
            delivered = False
        if delivered != self._reachable:
            self._reachable = delivered
            (log.info if delivered else log.warning)(
                "metrics.reachable" if delivered else "metrics.unreachable"
            )
        return delivered

    def close(self) -> None:
        """Let go of the connection."""
        self._exporter.shutdown()


def open_pusher(settings: TelemetrySettings, began: float) -> MetricsPusher:
    """For the collector that the configuration or the `OTEL_*` variables name. Raises ConfigError."""
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    headers = dict(settings.headers) if settings.headers else None
    protocol = settings.protocol or read_environment(_for_metrics()).protocol
    return MetricsPusher(
        _exporter(protocol, settings.endpoint, headers), build_resource(settings.service_name), began
    )


def otlp_name(family: Family) -> tuple[str, str]:
    """Name and unit as OpenTelemetry has them; a collector's Prometheus names are ours again."""
    name, unit = family.name.removesuffix("_total"), ""
    for suffix, symbol in _UNITS.items():
        if name.endswith(suffix):
            name, unit = name.removesuffix(suffix), symbol
    return name.replace("extproc_", "extproc.", 1), unit


def _exporter(protocol: str, endpoint: str | None, headers: dict[str, str] | None) -> MetricExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter(endpoint=endpoint, headers=headers)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

    return HttpExporter(endpoint=f"{endpoint.rstrip('/')}/v1/metrics" if endpoint else None, headers=headers)


def _for_metrics() -> dict[str, str]:
    """The environment, with what it says of metrics in the place of traces."""
    env = dict(os.environ)
    env.pop("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", None)
    if named := env.get("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"):
        env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = named
    return env


def _metric(family: Family, began: int, at: int) -> Metric:
    name, unit = otlp_name(family)
    if family.kind == "histogram":
        spreads = [
            HistogramDataPoint(
                _attributes(family, spread.labels),
                began,
                at,
                sum(spread.counts),
                spread.total,
                spread.counts,
                family.bounds,
                None,  # type: ignore[arg-type]  # neither least nor most is known: left out of the message
                None,  # type: ignore[arg-type]
            )
            for spread in family.spreads
        ]
        return Metric(name, family.help, unit, Histogram(spreads, AggregationTemporality.CUMULATIVE))
    points = [
        NumberDataPoint(_attributes(family, sample.labels), began, at, sample.value)
        for sample in family.samples
    ]
    if family.kind == "counter":
        return Metric(name, family.help, unit, Sum(points, AggregationTemporality.CUMULATIVE, True))
    return Metric(name, family.help, unit, Gauge(points))


def _attributes(family: Family, labels: Sequence[str]) -> dict[str, str]:
    return dict(zip(family.labels, labels, strict=True))
