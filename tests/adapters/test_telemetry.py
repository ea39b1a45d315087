import json
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from structlog.testing import capture_logs

from extproc.adapters.ledger_reader import CHECKPOINTS
from extproc.adapters.otlp_answer import TAKEN, Answer
from extproc.adapters.otlp_http import HttpSender
from extproc.adapters.span_feed import SpanFeed
from extproc.adapters.telemetry import (
    TelemetryExporter,
    build_encoder,
    build_resource,
    open_exporter,
)
from extproc.adapters.telemetry_settings import TelemetrySettings, is_enabled, read_environment
from extproc.demo.otlp import OtlpReceiver, ReceivedSpan, read_spans
from extproc.domain.errors import ConfigError
from extproc.domain.record import Record
from extproc.ledger.lines import parse_line
from tests.support.books import (
    START,
    fill,
    intent,
    lines_of,
    open_writer,
    outcome,
    sign_now,
)
from tests.support.replies import Reply
from tests.support.upstream import Upstream

NOW = START + 1000


class Collector:
    """Takes spans while it is up; can also take them and then fail to say so."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.calls = 0
        self.up = True
        self.most = 1 << 30
        self.swallow_answer = False

    def send(self, request: bytes) -> Answer | None:
        self.calls += 1
        spans = read_spans(ExportTraceServiceRequest.FromString(request))
        if not self.up or len(spans) > self.most:
            return None
        self.spans += spans
        return None if self.swallow_answer else TAKEN

    def shutdown(self) -> None:
        self.up = False

    def requests(self) -> list[int]:
        """Which exchanges arrived, by the number in their decision id."""
        found = [span for span in self.spans if span.kind == "server"]
        return [int(str(span.attributes["extproc.decision.id"])[1:]) for span in found]


@pytest.fixture
def collector():
    return Collector()


def open_telemetry(directory: Path, collector: Collector, now: float = NOW, **settings) -> TelemetryExporter:
    feed = SpanFeed(directory, directory.parent / "cursor.json")
    encoder = build_encoder(Resource({"service.name": "extproc"}), settings.pop("limit", 1024))
    return TelemetryExporter(feed, collector, encoder, clock=lambda: now, **settings)


def export_all(telemetry: TelemetryExporter) -> None:
    while telemetry.step():
        pass


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger"


def test_every_exchange_arrives_once(ledger, collector):
    writer = open_writer(ledger)
    fill(writer, 1500)
    writer.close()
    export_all(open_telemetry(ledger, collector))
    assert collector.requests() == list(range(1500))
    assert [span.name for span in collector.spans if span.kind == "internal"] == ["start", "stop"]


def test_a_span_carries_its_records_hash_and_ids(ledger, collector):
    fill(open_writer(ledger), 1)
    export_all(open_telemetry(ledger, collector))
    (span,) = (span for span in collector.spans if span.kind == "server")
    record = parse_line(lines_of(ledger)[1])
    assert span.attributes["extproc.record.hash"] == record.hash
    assert span.trace_id == record.fields["trace"]["trace_id"]
    assert span.span_id == record.fields["span_id"]
    assert (span.name, span.error) == ("GET customers-api", None)
    assert span.start == int((START + 0.2485) * 1e9) or span.start == START * 1e9


def test_nothing_is_lost_while_the_collector_is_away(ledger, collector):
    writer = open_writer(ledger)
    telemetry = open_telemetry(ledger, collector)
    fill(writer, 20)
    export_all(telemetry)
    collector.up = False
    for first in range(20, 1020, 100):
        fill(writer, 100, first)
        assert not telemetry.step()
    assert not telemetry.reachable
    collector.up = True
    export_all(telemetry)
    assert collector.requests() == list(range(1020))
    assert telemetry.reachable


def test_nothing_is_lost_if_the_exporter_restarts_while_the_collector_is_away(ledger, collector):
    writer = open_writer(ledger)
    fill(writer, 30)
    export_all(open_telemetry(ledger, collector))
    collector.up = False
    fill(writer, 30, 30)
    open_telemetry(ledger, collector).step()
    fill(writer, 30, 60)
    collector.up = True
    export_all(open_telemetry(ledger, collector))
    assert collector.requests() == list(range(90))


def test_a_restart_before_the_cursor_moved_repeats_the_same_spans(ledger, collector):
    fill(open_writer(ledger), 5)
    collector.swallow_answer = True
    open_telemetry(ledger, collector).step()
    collector.swallow_answer = False
    export_all(open_telemetry(ledger, collector))
    ids = [span.span_id for span in collector.spans]
    half = len(ids) // 2
    assert ids[:half] == ids[half:]  # the same ids: a reader can drop the repeat


def test_a_restart_does_not_forget_what_is_still_open(ledger, collector):
    writer = open_writer(ledger)
    opened = {"hold": "h1", "move": "h1.1", "decision_id": "d1", "trace_id": f"{2:032x}"}
    writer.append(Record("hold.opened", START, opened))
    writer.append(intent(0))
    writer.commit()
    export_all(open_telemetry(ledger, collector))
    assert collector.requests() == []
    fill(writer, 50, 100)
    export_all(open_telemetry(ledger, collector))
    writer.append(Record("hold.approved", START + 50, {"hold": "h1", "move": "h1.2"}))
    writer.append(intent(1, hold={"id": "h1", "state": "released"}))
    writer.append(outcome(1))
    writer.append(outcome(0))
    writer.commit()
    export_all(open_telemetry(ledger, collector))
    assert collector.requests() == [*range(100, 150), 1, 0]
    (hold,) = (span for span in collector.spans if span.name == "hold")
    request = next(
        s for s in collector.spans if s.attributes.get("extproc.decision.id") == "d1" and s.kind == "server"
    )
    assert hold.parent_id == request.span_id
    assert (request.attributes or {})["extproc.record.hash"]


def test_an_intent_without_outcome_is_shown_once_its_writer_has_ended(ledger, collector):
    writer = open_writer(ledger)
    writer.append(intent(0))
    writer.commit()
    telemetry = open_telemetry(ledger, collector)
    export_all(telemetry)
    assert collector.requests() == []  # it is still running
    writer.close()
    export_all(telemetry)
    assert collector.requests() == [0]
    (span,) = (span for span in collector.spans if span.kind == "server")
    assert span.error == "outcome unknown"


def test_checkpoints_arrive_with_root_and_size(ledger, collector):
    fill(open_writer(ledger), 3)
    sign_now(ledger)
    telemetry = open_telemetry(ledger, collector)
    export_all(telemetry)
    fill(open_writer(ledger, "worker0-b-1"), 1)
    export_all(telemetry)
    (span,) = (span for span in collector.spans if span.name == "ledger checkpoint")
    assert span.attributes["extproc.checkpoint.records"] == 7
    note = (ledger / CHECKPOINTS).read_text()
    (head,) = span.attributes["extproc.checkpoint.heads"]
    assert f"writer {head}\n" in note


def test_a_collector_that_takes_only_little_at_once_gets_it_in_pieces(ledger, collector):
    fill(open_writer(ledger), 100)
    collector.most = 7
    telemetry = open_telemetry(ledger, collector)
    for _ in range(200):
        telemetry.step()
    assert sorted(collector.requests()) == list(range(100))


def test_an_exporter_that_raises_loses_nothing(ledger):
    class Broken(Collector):
        def send(self, request: bytes) -> Answer | None:
            if self.calls < 3:
                self.calls += 1
                raise RuntimeError("boom")
            return super().send(request)

    collector = Broken()
    fill(open_writer(ledger), 4)
    telemetry = open_telemetry(ledger, collector)
    for _ in range(10):
        telemetry.step()
    assert collector.requests() == [0, 1, 2, 3]


def test_a_record_of_any_year_holds_nothing_up(ledger, collector):
    writer = open_writer(ledger)
    writer.append(Record("note.odd", 250_000_000_000.0, {}))  # later than a span can say
    writer.commit()
    fill(writer, 3)
    export_all(open_telemetry(ledger, collector))
    assert collector.requests() == [0, 1, 2]
    assert [span.start for span in collector.spans if span.name == "note.odd"] == [(1 << 64) - 1]


def test_sampling_never_drops_denials_holds_or_errors(ledger, collector):
    writer = open_writer(ledger)
    fill(writer, 400)
    special = [
        (1000, {"verdict": "deny"}, {}),
        (1001, {"verdict": "hold", "hold": {"id": "h", "state": "pending"}}, {}),
        (1002, {}, {"response": {"code": 500}}),
        (1003, {}, {"end": "aborted"}),
        (1004, {"degraded": ["insecure"]}, {}),
    ]
    for number, said, became in special:
        writer.append(intent(number, trace={"trace_id": "f" * 32}, **said))
        writer.append(outcome(number, trace={"trace_id": "f" * 32}, **became))
    writer.commit()
    telemetry = open_telemetry(ledger, collector, ratio=0.0)
    export_all(telemetry)
    assert collector.requests() == [1000, 1001, 1002, 1003, 1004]
    state = json.loads((ledger.parent / "cursor.json").read_text())
    assert (state["exported"], state["sampled_out"]) == (6, 400)


def test_a_trace_is_sampled_as_the_sdk_would_sample_it(ledger, collector):
    from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

    writer = open_writer(ledger)
    traces = [f"{number * 0x9E3779B97F4A7C15 % (1 << 64):032x}" for number in range(1, 200)]
    for number, trace in enumerate(traces):
        writer.append(intent(number, trace={"trace_id": trace}))
        writer.append(outcome(number, trace={"trace_id": trace}))
    writer.commit()
    export_all(open_telemetry(ledger, collector, ratio=0.25))
    sampler = TraceIdRatioBased(0.25)
    expected = [
        number
        for number, trace in enumerate(traces)
        if sampler.should_sample(None, int(trace, 16), "x").decision is Decision.RECORD_AND_SAMPLE
    ]
    assert collector.requests() == expected
    assert 20 < len(expected) < 80


def test_long_values_are_cut(ledger, collector):
    writer = open_writer(ledger)
    writer.append(intent(0, request={"method": "GET", "path": "/" + "x" * 5000}, masks=["m" * 500] * 300))
    writer.append(outcome(0))
    writer.commit()
    export_all(open_telemetry(ledger, collector, limit=100))
    (span,) = (span for span in collector.spans if span.kind == "server")
    attributes = span.attributes
    assert len(str(attributes["url.path"])) == 100
    masks = attributes["extproc.masks"]
    assert isinstance(masks, list)
    assert (len(masks), len(masks[0])) == (128, 100)


def test_a_damaged_line_is_counted_and_the_rest_goes_on(ledger, collector):
    writer = open_writer(ledger)
    fill(writer, 2)
    with (ledger / "worker0-a-1" / "000000000000.jsonl").open("ab") as file:
        file.write(b"rubbish\n")
    fill(writer, 2, 2)
    export_all(open_telemetry(ledger, collector))
    assert collector.requests() == [0, 1, 2, 3]
    assert json.loads((ledger.parent / "cursor.json").read_text())["unreadable"] == 1


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"version":1}', '{"exported":1,"sampled_out":0,"unreadable":0,"checkpoints":0,"writers":3}'],
)
def test_a_lost_cursor_means_that_everything_is_told_again(ledger, collector, content):
    fill(open_writer(ledger), 3)
    (ledger.parent / "cursor.json").write_text(content)
    export_all(open_telemetry(ledger, collector))
    assert collector.requests() == [0, 1, 2]


def test_a_purged_writer_does_not_stop_the_others(ledger, collector):
    import shutil

    first = open_writer(ledger, "worker0-a-1")
    fill(first, 2)
    first.append(intent(7))
    first.commit()
    export_all(open_telemetry(ledger, collector))
    shutil.rmtree(ledger / "worker0-a-1")
    fill(open_writer(ledger, "worker1-a-1"), 2, 10)
    export_all(open_telemetry(ledger, collector))
    assert collector.requests() == [0, 1, 10, 11]


def test_on_stop_what_is_there_is_still_delivered(ledger, collector):
    fill(open_writer(ledger), 3)
    stop = threading.Event()
    stop.set()
    assert open_telemetry(ledger, collector).run(stop) == 0
    assert collector.requests() == [0, 1, 2]


def test_on_stop_an_absent_collector_is_not_waited_for(ledger, collector):
    fill(open_writer(ledger), 3)
    collector.up = False
    stop = threading.Event()
    stop.set()
    assert open_telemetry(ledger, collector).run(stop) == 1
    assert collector.calls == 1


# ---------------------------------------------------------------- settings


def test_the_standard_variables_are_obeyed():
    env = read_environment(
        {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "64",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "99",
        }
    )
    assert (env.protocol, env.ratio, env.value_limit, env.batch) == ("http", 0.1, 64, 99)
    assert is_enabled(TelemetrySettings(), env)


@pytest.mark.parametrize("variable", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_telemetry_can_be_switched_off(variable):
    env = read_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", **variable})
    assert not is_enabled(TelemetrySettings("http://127.0.0.1:1"), env)


def test_without_a_collector_there_is_nothing_to_do():
    assert not is_enabled(TelemetrySettings(), read_environment({}))
    assert is_enabled(TelemetrySettings("http://127.0.0.1:1"), read_environment({}))


@pytest.mark.parametrize(
    "variable",
    [
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
        {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "many"},
        {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "0"},
    ],
)
def test_a_variable_that_makes_no_sense_is_refused(variable):
    with pytest.raises(ConfigError, match=next(reversed(variable))):
        read_environment(variable)


def test_the_configured_service_name_wins_and_the_variable_comes_next(monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=low")
    assert build_resource(None).attributes["service.name"] == "low"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-variable")
    assert build_resource(None).attributes["service.name"] == "from-variable"
    named = build_resource("from-config").attributes
    assert (named["service.name"], named["deployment.environment.name"]) == ("from-config", "test")
    monkeypatch.delenv("OTEL_SERVICE_NAME")
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES")
    assert build_resource(None).attributes["service.name"] == "extproc"


def test_headers_are_not_shown():
    assert "hush" not in repr(TelemetrySettings(headers={"authorization": "hush"}))


# ---------------------------------------------------------------- over the wire


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_spans_arrive_at_a_real_receiver(ledger, protocol):
    trace = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "parent_span_id": "00f067aa0ba902b7"}
    writer = open_writer(ledger)
    writer.append(intent(0, trace=trace))
    writer.append(outcome(0, trace=trace))
    writer.commit()
    with OtlpReceiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        settings = TelemetrySettings(endpoint, protocol, service_name="gateway")
        telemetry = open_exporter(ledger, ledger.parent / "cursor.json", settings, read_environment({}))
        export_all(telemetry)
        spans = receiver.wait_for(lambda spans: len(spans) == 2)
    span = next(span for span in spans if span.name == "GET customers-api")
    assert (span.trace_id, span.parent_id) == (trace["trace_id"], trace["parent_span_id"])
    assert span.attributes["http.response.status_code"] == 200
    assert span.resource["service.name"] == "gateway"
    assert span.scope == "extproc"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_real_receiver_may_be_away(ledger, protocol, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    writer = open_writer(ledger)
    fill(writer, 10)
    with OtlpReceiver() as receiver:
        receiver.refusing = True
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        settings = TelemetrySettings(endpoint, protocol)
        telemetry = open_exporter(ledger, ledger.parent / "cursor.json", settings, read_environment({}))
        assert not telemetry.step()
        fill(writer, 10, 10)
        receiver.refusing = False
        export_all(telemetry)
        spans = receiver.wait_for(lambda spans: len(spans) == 21)
    decisions = [
        span.attributes["extproc.decision.id"] for span in spans if "extproc.decision.id" in span.attributes
    ]
    assert sorted(decisions) == sorted(f"d{number}" for number in range(20))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_what_a_collector_takes_and_will_not_keep_is_told(ledger, protocol):
    writer = open_writer(ledger)
    fill(writer, 10)
    with OtlpReceiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        settings = TelemetrySettings(endpoint, protocol)
        telemetry = open_exporter(ledger, ledger.parent / "cursor.json", settings, read_environment({}))
        receiver.rejecting = 3
        with capture_logs() as logs:
            export_all(telemetry)
            fill(writer, 10, 10)
            receiver.rejecting = 0
            export_all(telemetry)
        assert receiver.exports == 2, "OTLP: what was rejected is not sent again"
    assert [line for line in logs if line["event"] == "telemetry.rejected"] == [
        {
            "event": "telemetry.rejected",
            "log_level": "warning",
            "spans": 3,
            "of": 11,
            "reason": "not all of it",
        }
    ]
    assert (telemetry.rejected, telemetry.failures, telemetry.reachable) == (3, 0, True)


def partial(rejected: int, message: str) -> bytes:
    said = ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    return ExportTraceServiceResponse(partial_success=said).SerializeToString()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", TAKEN),
        (b"\xff\xff not protobuf", TAKEN),
        (ExportTraceServiceResponse().SerializeToString(), TAKEN),
        (partial(2, "x" * 5_000), Answer(2, "x" * 200)),
        (partial(-7, "odd"), Answer(0, "odd")),
        (partial(0, "a warning"), Answer(0, "a warning")),
    ],
    ids=["empty", "not protobuf", "taken", "long", "negative", "warning"],
)
def test_any_body_of_a_collector_is_an_answer(body, said):
    with Upstream() as collector:
        collector.on("POST", "/v1/traces", Reply(200, body=body))
        sender = HttpSender(endpoint=f"http://{collector.address}/v1/traces", headers=None)
        assert sender.send(b"") == said
        sender.shutdown()


async def _receive(port: int, directory: Path) -> list[tuple[str, bytes]]:
    import asyncio

    from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

    settings = OtelTapHttpProtobufReceiverSettings(http_port=port)
    async with OtelTapHttpProtobufReceiver(settings) as receiver:
        telemetry = open_exporter(
            directory,
            directory.parent / "cursor.json",
            TelemetrySettings(f"http://127.0.0.1:{port}", "http"),
            read_environment({}),
        )
        # the receiver keeps nothing for later: whoever waits has to wait before the spans are sent
        waiting = receiver.await_trace(lambda span: span.name == "GET customers-api", timeout=20)
        found, _ = await asyncio.gather(waiting, asyncio.to_thread(export_all, telemetry))
        return [(attribute.key, attribute.value.string_value.encode()) for attribute in found.attributes]


def test_a_foreign_receiver_understands_the_spans(ledger):
    import asyncio
    import socket

    fill(open_writer(ledger), 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    attributes = dict(asyncio.run(_receive(port, ledger)))
    assert attributes["extproc.record.hash"].decode() == parse_line(lines_of(ledger)[1]).hash


PROGRAM = """
import signal, sys, threading
from pathlib import Path
from extproc.adapters.telemetry import open_exporter
from extproc.adapters.telemetry_settings import TelemetrySettings
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
telemetry = open_exporter(Path(sys.argv[1]), Path(sys.argv[2]), TelemetrySettings(sys.argv[3], "http"))
print("ready", flush=True)
sys.exit(telemetry.run(stop))
"""


def start_exporter(directory: Path, endpoint: str) -> subprocess.Popen[str]:
    arguments = [
        sys.executable,
        "-c",
        PROGRAM,
        str(directory),
        str(directory.parent / "cursor.json"),
        endpoint,
    ]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_killed_and_restarted_exporters_deliver_everything_at_least_once(ledger):
    writer = open_writer(ledger)
    with OtlpReceiver() as receiver:
        sent = 0
        for _ in range(3):
            process = start_exporter(ledger, receiver.http_endpoint)
            fill(writer, 200, sent)
            sent += 200
            seen = len(receiver.spans)
            receiver.wait_for(lambda spans, seen=seen: len(spans) > seen, 30)
            process.kill()
            process.communicate()
        fill(writer, 50, sent)
        sent += 50
        process = start_exporter(ledger, receiver.http_endpoint)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
        spans = receiver.spans
    found = {
        span.attributes["extproc.decision.id"]: span.span_id
        for span in spans
        if span.name == "GET customers-api"
    }
    assert len(found) == sent
    assert len({span.span_id for span in spans if span.name == "GET customers-api"}) == sent


def test_the_sdks_own_complaints_are_silenced_and_ours_is_said_once(ledger, collector, caplog):
    open_exporter(ledger, ledger.parent / "cursor.json", TelemetrySettings("http://127.0.0.1:1", "http"))
    assert logging.getLogger("opentelemetry.exporter.otlp.proto.http").getEffectiveLevel() == logging.CRITICAL
