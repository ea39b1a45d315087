"""What is counted and measured: families of samples, before anybody says how they leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MAX_SERIES = 1000
"""Different label values of one family; what comes after is counted under `OTHER`."""
OTHER = "(other)"

MetricKind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One value. `labels` are in the order of the family's names."""

    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class Spread:
    """One histogram: how many fell into each bucket (not cumulated; the last has no bound), and their sum."""

    labels: Labels
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with all its label values. A counter's `name` ends in `_total`, a unit stands before that.

    `spreads` and `bounds` are for histograms, `samples` for the others.
    """

    name: str
    kind: MetricKind
    help: str
    labels: Labels = ()
    samples: tuple[Sample, ...] = ()
    bounds: tuple[float, ...] = ()
    spreads: tuple[Spread, ...] = ()


@dataclass(slots=True)
class Counter:
    """Counts by label values, at most `MAX_SERIES` of them."""

    name: str
    help: str
    labels: Labels = ()
    counts: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: str, by: float = 1) -> None:
        """One more, or `by` more."""
        counts = self.counts
        if labels not in counts and len(counts) >= MAX_SERIES:
            labels = (OTHER,) * len(self.labels)
        counts[labels] = counts.get(labels, 0) + by

    def family(self) -> Family:
        """As it stands. A counter without labels is there from the start, at 0."""
        counts: Mapping[Labels, float] = self.counts if self.counts or self.labels else {(): 0}
        samples = tuple(Sample(labels, counts[labels]) for labels in sorted(counts))
        return Family(self.name, "counter", self.help, self.labels, samples)


@dataclass(slots=True)
class Histogram:
    """How often a value fell between the bounds, by label values."""

    name: str
    help: str
    labels: Labels
    bounds: tuple[float, ...]
    counts: dict[Labels, list[int]] = field(default_factory=dict)
    totals: dict[Labels, float] = field(default_factory=dict)

    def add(self, value: float, *labels: str) -> None:
        """One value more."""
        if labels not in self.counts:
            if len(self.counts) >= MAX_SERIES:
                labels = (OTHER,) * len(self.labels)
            self.counts.setdefault(labels, [0] * (len(self.bounds) + 1))
            self.totals.setdefault(labels, 0.0)
        at = next((place for place, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))
        self.counts[labels][at] += 1
        self.totals[labels] += value

    def family(self) -> Family:
        """As it stands."""
        spreads = tuple(
            Spread(labels, tuple(self.counts[labels]), self.totals[labels]) for labels in sorted(self.counts)
        )
        return Family(self.name, "histogram", self.help, self.labels, bounds=self.bounds, spreads=spreads)


def gauge(name: str, help_text: str, labels: Labels, values: Mapping[Labels, float]) -> Family:
    """A family of values that go up and down."""
    samples = tuple(Sample(key, values[key]) for key in sorted(values)[:MAX_SERIES])
    return Family(name, "gauge", help_text, labels, samples)


def total(name: str, help_text: str, labels: Labels, values: Mapping[Labels, float]) -> Family:
    """A family of counts that somebody else keeps."""
    samples = tuple(Sample(key, values[key]) for key in sorted(values)[:MAX_SERIES])
    return Family(name, "counter", help_text, labels, samples)
