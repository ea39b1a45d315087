"""Families as Prometheus reads them and as OTLP carries them; how far the readers of the ledger have come."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from prometheus_client.parser import text_string_to_metric_families

from extproc.adapters.ledger_reader import CHECKPOINTS
from extproc.adapters.ledger_tally import LedgerTally, last_checkpoint
from extproc.adapters.metrics_otlp import MetricsPusher, otlp_name
from extproc.adapters.prometheus import render_text
from extproc.domain.metric import Counter, Family, Histogram, gauge
from extproc.domain.record import Record
from tests.adapters.test_telemetry import Collector, export_all, open_telemetry
from tests.support.books import START, fill, open_writer, sign_now
from tests.support.metrics import metric_names

OLD, NEW = "worker0-20200101t000000000000z-00000001", "worker0-20991231t000000000000z-00000001"
SINCE = "20260101t000000000000z"


def read(families: list[Family]) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What a Prometheus server would take from the page, by sample name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(render_text(families).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def values(families: list[Family]) -> dict[str, float]:
    return {name: next(iter(samples.values())) for name, samples in read(families).items()}


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def tally(ledger: Path) -> LedgerTally:
    found = LedgerTally(ledger, SINCE)
    while found.look():
        pass
    return found


def families(ledger: Path, counted: LedgerTally | None = None) -> list[Family]:
    return list((counted or tally(ledger)).families(START, ledger.parent / "cursor.json"))


class TestText:
    def test_labels_of_any_text_come_back_as_they_were(self):
        counter = Counter("extproc_x_total", 'Help with "quotes"\nand lines.', ("rule",))
        for text in ('a"b', "new\nline", "back\\slash", "ünïcode", "", "x" * 300):
            counter.add(text)
        found = read([counter.family()])["extproc_x_total"]
        assert {labels[0][1] for labels in found} == {key[0] for key in counter.counts}

    def test_a_histogram_is_cumulated(self):
        histogram = Histogram("extproc_y_seconds", "H.", ("t",), (0.1, 1.0))
        for value in (0.05, 0.5, 0.6, 7.0):
            histogram.add(value, "a")
        found = read([histogram.family()])
        by_bound = {dict(labels)["le"]: value for labels, value in found["extproc_y_seconds_bucket"].items()}
        assert by_bound == {"0.1": 1, "1.0": 3, "+Inf": 4}
        assert values([histogram.family()])["extproc_y_seconds_sum"] == pytest.approx(8.15)


class TestTally:
    def test_a_writer_of_this_run_is_counted_and_one_of_before_is_not(self, ledger: Path):
        old = open_writer(ledger, OLD)
        fill(old, 10)
        old.close()
        new = open_writer(ledger, NEW)
        fill(new, 3)
        found = read(families(ledger))
        assert sum(found["extproc_decisions_total"].values()) == 3
        assert found["extproc_ledger_records"][()] == 22 + 7  # with start and stop

    def test_what_comes_later_is_added(self, ledger: Path):
        writer = open_writer(ledger, NEW)
        fill(writer, 3)
        counted = tally(ledger)
        fill(writer, 4, 3)
        assert counted.look()
        assert sum(read(families(ledger, counted))["extproc_outcomes_total"].values()) == 7

    def test_records_no_checkpoint_covers_are_the_lag(self, ledger: Path):
        writer = open_writer(ledger, NEW)
        fill(writer, 5)
        assert "extproc_ledger_unsigned_records" not in values(families(ledger))
        sign_now(ledger)
        assert values(families(ledger))["extproc_ledger_unsigned_records"] == 0
        fill(writer, 2, 5)
        assert values(families(ledger))["extproc_ledger_unsigned_records"] == 4

    def test_a_half_written_checkpoint_is_passed_over(self, ledger: Path):
        fill(open_writer(ledger, NEW), 5)
        sign_now(ledger)
        whole = last_checkpoint(ledger)
        assert whole is not None
        log = ledger / CHECKPOINTS
        log.write_bytes(log.read_bytes() + log.read_bytes()[:-40])
        assert last_checkpoint(ledger) == whole

    def test_records_the_exporter_has_not_delivered_are_its_lag(self, ledger: Path):
        writer = open_writer(ledger, NEW)
        fill(writer, 5)
        collector = Collector()
        export_all(open_telemetry(ledger, collector))
        found = values(families(ledger))
        assert found["extproc_exporter_lag_records"] == 0
        assert found["extproc_spans_exported_total"] == 6
        collector.up = False
        fill(writer, 5, 5)
        open_telemetry(ledger, collector).step()
        assert values(families(ledger))["extproc_exporter_lag_records"] == 10

    @pytest.mark.parametrize("cursor", [b"", b"[]", b"{", b'{"writers":[]}', b'{"exported":3}'])
    def test_a_cursor_that_is_none_hides_nothing_else(self, ledger: Path, cursor: bytes):
        fill(open_writer(ledger, NEW), 1)
        (ledger.parent / "cursor.json").write_bytes(cursor)
        assert values(families(ledger))["extproc_ledger_records"] == 3

    def test_a_damaged_writer_does_not_stop_the_others(self, ledger: Path):
        broken = open_writer(ledger, NEW)
        fill(broken, 2)
        counted = tally(ledger)
        (segment,) = (ledger / NEW).glob("*.jsonl")
        segment.write_bytes(b"")
        other = open_writer(ledger, NEW.replace("worker0", "worker1"))
        fill(other, 2)
        while counted.look():
            pass
        found = read(families(ledger, counted))
        assert sum(found["extproc_outcomes_total"].values()) == 4
        assert found["extproc_ledger_unreadable_total"][()] == 1

    def test_a_line_that_is_no_record_is_counted(self, ledger: Path):
        writer = open_writer(ledger, NEW)
        writer.append(Record("admin.x", START, {}))
        writer.commit()
        (segment,) = (ledger / NEW).glob("*.jsonl")
        with segment.open("ab") as file:
            file.write(b"garbage\n")
        assert values(families(ledger))["extproc_ledger_unreadable_total"] == 1


class Remembering(MetricExporter):
    """Keeps what it was given, or refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.pushed: list[MetricsData] = []
        self.answer: MetricExportResult | Exception = MetricExportResult.SUCCESS

    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **_: object) -> MetricExportResult:
        if isinstance(self.answer, Exception):
            raise self.answer
        self.pushed.append(metrics_data)
        return self.answer

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **_: object) -> None:
        """Nothing is open."""


class TestOtlp:
    def test_families_become_sums_gauges_and_histograms(self):
        histogram = Histogram("extproc_exchange_duration_seconds", "H.", ("t",), (0.1, 1.0))
        histogram.add(0.5, "a")
        counter = Counter("extproc_decisions_total", "D.", ("verdict",))
        counter.add("allow", by=3)
        exporter = Remembering()
        pusher = MetricsPusher(exporter, Resource({"service.name": "extproc"}), START)
        assert pusher.push(
            [counter.family(), histogram.family(), gauge("extproc_holds_open", "", (), {(): 2})], START + 9
        )
        encoded = encode_metrics(exporter.pushed[0])
        metrics = {m.name: m for m in encoded.resource_metrics[0].scope_metrics[0].metrics}
        sums = metrics["extproc.decisions"].sum
        assert sums.is_monotonic
        assert sums.data_points[0].as_int == 3
        assert sums.data_points[0].start_time_unix_nano == int(START * 1e9)
        spread = metrics["extproc.exchange_duration"]
        assert (spread.unit, list(spread.histogram.data_points[0].bucket_counts)) == ("s", [0, 1, 0])
        assert not spread.histogram.data_points[0].HasField("min")
        assert metrics["extproc.holds_open"].gauge.data_points[0].as_int == 2
        assert metrics["extproc.holds_open"].gauge.data_points[0].as_int == 2

    @pytest.mark.parametrize("answer", [MetricExportResult.FAILURE, RuntimeError("no")])
    def test_a_collector_that_is_away_loses_nothing(self, answer: MetricExportResult | Exception):
        exporter = Remembering()
        pusher = MetricsPusher(exporter, Resource({}), START)
        exporter.answer = answer
        assert not pusher.push([gauge("extproc_a", "", (), {(): 1})], START)
        exporter.answer = MetricExportResult.SUCCESS
        assert pusher.push([gauge("extproc_a", "", (), {(): 1})], START)

    def test_units_leave_the_name(self):
        assert otlp_name(gauge("extproc_jwks_age_seconds", "", (), {})) == ("extproc.jwks_age", "s")
        assert otlp_name(Counter("extproc_decisions_total", "").family()) == ("extproc.decisions", "")


def test_the_cursor_of_an_older_version_is_read(tmp_path: Path):
    ledger = tmp_path / "ledger"
    writer = open_writer(ledger, NEW)
    fill(writer, 3)
    collector = Collector()
    export_all(open_telemetry(ledger, collector))
    path = tmp_path / "cursor.json"
    state = json.loads(path.read_bytes())
    for place in state["writers"].values():
        del place["records"]
    path.write_text(json.dumps(state))
    fill(writer, 3, 3)
    export_all(open_telemetry(ledger, collector))
    assert collector.requests() == list(range(6))


def test_every_metric_is_in_the_documentation_and_the_other_way_round():
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    told = set(re.findall(r"`(extproc_[a-z_]+)`", page))
    assert told == set(metric_names())
