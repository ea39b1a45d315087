"""Metric families in Prometheus' text format, by `prometheus_client`, whose own registry is not used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from extproc.domain.metric import Family

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render_text(families: Iterable[Family]) -> bytes:
    """All families as a Prometheus server reads them."""
    return generate_latest(_Collected(families))


class _Collected:
    """What `generate_latest` asks of a registry."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return map(_metric, self._families)


def _metric(family: Family) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        names = [*(_bound(bound) for bound in family.bounds), "+Inf"]
        for spread in family.spreads:
            buckets = [
                (name, float(count)) for name, count in zip(names, accumulate(spread.counts), strict=True)
            ]
            histogram.add_metric(spread.labels, buckets, spread.total)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for sample in family.samples:
        metric.add_metric(sample.labels, sample.value)
    return metric


def _bound(bound: float) -> str:
    return repr(float(bound))
