"""The metrics of a running service, as a Prometheus server and an OTLP collector get them."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from extproc.demo.processes import free_port, wait_until
from tests.e2e.approving import Approvals, Asking
from tests.e2e.stack import Stack

pytestmark = pytest.mark.e2e

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


class Collector:
    """Takes metrics by OTLP/HTTP on loopback."""

    def __init__(self) -> None:
        self.got: list[ExportMetricsServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/metrics":  # the others are spans
                    collector.got.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def values(self, name: str) -> dict[str, float]:
        """The last values of one metric, by the label `verdict`."""
        found: dict[str, float] = {}
        for request in self.got[-1:]:
            for metric in request.resource_metrics[0].scope_metrics[0].metrics:
                if metric.name == name:
                    for point in metric.sum.data_points:
                        verdict = {a.key: a.value.string_value for a in point.attributes}.get("verdict", "")
                        found[verdict] = found.get(verdict, 0) + point.as_int + point.as_double
        return found

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture(scope="module")
def page() -> str:
    return f"http://127.0.0.1:{free_port()}/metrics"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: Collector, page: str) -> Iterator[Stack]:
    telemetry = {
        "otlp": {"endpoint": collector.url, "protocol": "http"},
        "metrics": {
            "listen": page.removeprefix("http://").removesuffix("/metrics"),
            "otlp": True,
            "every": "1s",
        },
    }
    directory = tmp_path_factory.mktemp("metrics")
    settings = {"telemetry": telemetry, "envoy": {"tracing": False}, "processor": {"workers": 2}}
    with Stack(directory, settings=settings) as stack:
        yield stack


@pytest.fixture
def scrape(page: str) -> Callable[[], Samples]:
    def read() -> Samples:
        found: Samples = {}
        answer = httpx2.get(page, timeout=60)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found

    return read


def where(samples: Samples, name: str, **labels: str) -> float:
    """The sum over the samples that carry these labels."""
    wanted = set(labels.items())
    return sum(value for key, value in samples.get(name, {}).items() if wanted <= set(key))


def eventually(check: Callable[[], bool], what: str) -> None:
    wait_until(check, what=what, within=90)


def settled(stack: Stack, scrape: Callable[[], Samples]) -> Samples:
    """The page, once it has counted whatever was asked before."""
    found: Samples = {}

    def counted() -> bool:
        asked, ended = (
            {record["decision_id"] for record in stack.records() if record["kind"] == kind}
            for kind in ("intent", "outcome")
        )
        found.clear()
        found.update(scrape())
        told = where(found, "extproc_ledger_records_total", kind="outcome")
        return asked == ended and told == len(ended)

    eventually(counted, "everything to be counted")
    return found


def test_decisions_masks_and_holds_are_on_the_page(stack: Stack, scrape: Callable[[], Samples]):
    before = settled(stack, scrape)

    def more(found: Samples, name: str, **labels: str) -> float:
        return where(found, name, **labels) - where(before, name, **labels)

    assert stack.request("GET", "/customers").status == 200
    assert stack.request("DELETE", "/customers").status == 403
    decided = "extproc_decisions_total"
    with Asking(stack, "ann", "/payments") as waiting:
        hold = Approvals(stack).hold_of("ann")
        eventually(lambda: where(scrape(), "extproc_open_waits") == 1, "a worker to say that one waits")
        found = scrape()
        assert where(found, "extproc_holds_open", state="pending") == 1
        assert where(found, "extproc_hold_oldest_age_seconds", state="pending") > 0
        assert where(found, "extproc_hold_store_up") == 1
        assert where(found, "extproc_open_streams") >= 1
        assert Approvals(stack).deny(hold["id"]).status == 200
        assert waiting.answer().status == 403
    ledger = "extproc_ledger_records_total"
    # the hold's own end reaches the ledger by another process, after the answer
    eventually(lambda: more(scrape(), ledger, kind="hold.rejected") == 1, "the hold's end")
    found = settled(stack, scrape)
    assert more(found, decided, rule="e2e/payments-wait") == 1
    assert more(found, decided, verdict="allow", rule="e2e/readers-read", target="customers-api") == 1
    assert more(found, decided, verdict="deny", rule="e2e/no-delete", protocol="http") == 1
    assert where(found, "extproc_holds_open", state="pending") == 0
    assert more(found, "extproc_exchange_duration_seconds_count", target="customers-api") == 3


def test_children_keys_and_lags_are_on_the_page(stack: Stack, scrape: Callable[[], Samples]):
    assert (
        stack.request("GET", "/customers").status == 200
    )  # a worker has fetched the keys, and a record is signed
    eventually(lambda: where(scrape(), "extproc_ledger_writable") == 2, "both workers to report")
    wanted = ("extproc_jwks_age_seconds", "extproc_checkpoint_age_seconds")
    eventually(lambda: set(wanted) <= set(scrape()), "the keys and a checkpoint to be told of")
    found = scrape()
    names = {dict(key)["child"] for key in found["extproc_child_ready"]}
    assert names == {"worker-0", "worker-1", "approvals", "checkpointer", "exporter", "metrics"}
    assert where(found, "extproc_jwks_age_seconds", provider="corp") >= 0
    assert ("provider", "corp") in {pair for key in found["extproc_jwks_age_seconds"] for pair in key}
    for name in (
        "extproc_ledger_unsigned_records",
        "extproc_checkpoint_age_seconds",
        "extproc_ledger_records",
    ):
        assert name in found
    assert where(found, "extproc_build_info") == 1


def test_nobody_is_named_on_the_page(stack: Stack, page: str):
    stack.request("GET", "/customers/card-4111-1111", token=stack.token("mallory-the-caller"))
    eventually(lambda: "readers-read" in httpx2.get(page, timeout=60).text, "the request to be counted")
    text = httpx2.get(page, timeout=60).text
    for told in ("mallory", "alice", "4111", "/customers", stack.issuer.issuer):
        assert told not in text


def test_the_page_is_all_there_is_and_not_on_the_data_path(stack: Stack, page: str):
    assert httpx2.get(page.removesuffix("/metrics") + "/", timeout=60).status_code == 404
    assert httpx2.post(page, timeout=60).status_code == 405
    through_envoy = stack.request("GET", "/metrics", token=None)
    assert through_envoy.status == 401


def test_the_same_counts_reach_a_collector(stack: Stack, collector: Collector, scrape: Callable[[], Samples]):
    assert stack.request("DELETE", "/customers").status == 403
    wanted = where(settled(stack, scrape), "extproc_decisions_total", verdict="deny")
    assert wanted >= 1
    eventually(
        lambda: collector.values("extproc.decisions").get("deny", 0) == wanted, "the collector to know"
    )
    resources = {r.resource_metrics[0].resource.SerializeToString() for r in collector.got}
    started = 1 + where(scrape(), "extproc_child_restarts_total", child="metrics")
    assert 1 <= len(resources) <= started  # each process is one
    assert all(b"extproc" in resource for resource in resources)


def test_a_process_that_dies_takes_no_count_with_it(stack: Stack, scrape: Callable[[], Samples]):
    name = "extproc_decisions_total"
    for method in ("GET", "GET", "DELETE"):
        stack.request(method, "/customers")
    before = settled(stack, scrape)
    assert where(before, name, verdict="allow") >= 2
    for kind in ("metrics", "worker"):
        for pid in stack.service_pids(kind):
            os.kill(pid, signal.SIGKILL)

    def is_back() -> bool:
        try:
            found = scrape()
        except (httpx2.HTTPError, AssertionError):
            return False
        return where(found, "extproc_child_restarts_total") >= 3 and where(found, "extproc_child_ready") == 6

    eventually(is_back, "everything to be back")
    after = scrape()
    for verdict in ("allow", "deny", "hold"):
        assert where(after, name, verdict=verdict) >= where(before, name, verdict=verdict)
    assert where(after, "extproc_child_restarts_total", child="metrics") == 1
    died = "admin.child_died"
    eventually(lambda: where(scrape(), "extproc_ledger_records_total", kind=died) == 3, "the deaths")


def test_without_the_setting_there_is_no_process_for_it(tmp_path: Path):
    with Stack(tmp_path) as plain:
        assert not plain.service_pids("metrics")


def test_every_record_of_real_traffic_is_in_a_span_that_arrived(
    stack: Stack, scrape: Callable[[], Samples], collector: Collector
):
    for _ in range(3):
        assert stack.request("GET", "/customers").status == 200
    eventually(lambda: where(scrape(), "extproc_exporter_lag_records") == 0, "the exporter to catch up")
    assert where(scrape(), "extproc_spans_missing_records") == 0
    told = json.loads(stack.cli("ledger", "status", "--config", str(stack.config_path), "--json").stdout)
    assert told["spans_exported"] > 0
    assert told["lost"] == 0
    accounted = ("shown", "sampled_out", "spanless", "open", "behind")
    assert sum(told[part] for part in accounted) == told["records"]
