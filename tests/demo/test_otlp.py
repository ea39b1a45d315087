"""The OTLP receiver takes what exporters send, over both protocols, and survives what they should not send."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from typing import Any

import grpc
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode

from extproc.demo.otlp import SERVICE, OtlpReceiver, read_spans, traces


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


def emit(exporter: SpanExporter, name: str) -> str:
    """One trace of a server span with an internal span in it. Returns its id."""
    provider = TracerProvider(resource=Resource({"service.name": "extproc-test"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span(name, kind=SpanKind.SERVER) as root:
        root.set_attributes({"extproc.decision": "deny", "n": 3, "list": ["a", "b"], "ok": True, "f": 0.5})
        root.set_status(Status(StatusCode.ERROR, "refused"))
        with tracer.start_as_current_span("inner"):
            pass
    provider.shutdown()
    return f"{root.get_span_context().trace_id:032x}"


def one_of_each(receiver: OtlpReceiver) -> list[SpanExporter]:
    traces_url = f"{receiver.http_endpoint}/v1/traces"
    return [
        GrpcExporter(endpoint=receiver.grpc_endpoint, insecure=True, timeout=5),
        HttpExporter(endpoint=traces_url, timeout=5),
        HttpExporter(endpoint=traces_url, timeout=5, compression=Compression.Gzip),
    ]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["grpc", "http", "http-gzip"])
def test_spans_of_the_sdk_arrive_whole(receiver: OtlpReceiver, which: int):
    trace_id = emit(one_of_each(receiver)[which], f"GET /{which}")
    receiver.wait_for(lambda spans: sum(span.trace_id == trace_id for span in spans) == 2)
    root, inner = receiver.trace(trace_id)
    assert (root.name, root.kind, root.service) == (f"GET /{which}", "server", "extproc-test")
    assert (root.parent_id, inner.parent_id) == ("", root.span_id)
    assert (root.error, inner.error) == ("refused", None)
    assert root.start <= inner.start <= inner.end <= root.end
    assert root.attributes == {
        "extproc.decision": "deny",
        "n": 3,
        "list": ["a", "b"],
        "ok": True,
        "f": 0.5,
    }


def request_with(*spans: Span) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(spans)
    return request


def test_a_span_exported_twice_is_kept_twice_and_belongs_to_its_trace_once():
    span = Span(trace_id=b"\1" * 16, span_id=b"\2" * 8, name="again")
    spans = read_spans(request_with(span, span))
    assert len(spans) == 2
    assert [span.name for span in traces(spans)["01" * 16]] == ["again"]


def test_a_refusing_receiver_keeps_nothing_and_says_so_on_both_protocols():
    data = request_with(Span(name="lost")).SerializeToString()
    with OtlpReceiver() as receiver:
        receiver.refusing = True
        answer = post(receiver, data)
        with (
            grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel,
            pytest.raises(grpc.RpcError, match="UNAVAILABLE"),
        ):
            export: Any = channel.unary_unary(f"/{SERVICE}/Export")
            export(data, timeout=5)
        assert answer == 503
        assert (receiver.spans, receiver.exports) == ([], 2)
        receiver.refusing = False
        assert post(receiver, data) == 200
        assert [span.name for span in receiver.spans] == ["lost"]


def test_a_receiver_comes_back_on_its_ports():
    first = OtlpReceiver().start()
    first.stop()
    ports = (first.grpc_port, first.http_port)
    with OtlpReceiver(grpc_port=ports[0], http_port=ports[1]) as second:
        assert (second.grpc_port, second.http_port) == ports
        assert post(second, b"") == 200


def test_new_spans_are_told_at_once():
    told: list[str] = []
    with OtlpReceiver(on_spans=lambda spans: told.extend(span.name for span in spans)) as receiver:
        assert post(receiver, request_with(Span(name="a"), Span(name="b")).SerializeToString()) == 200
    assert told == ["a", "b"]


def test_waiting_in_vain_ends():
    with OtlpReceiver() as receiver, pytest.raises(TimeoutError, match="0 spans came"):
        receiver.wait_for(bool, within=0)


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"\xff\xff\xff", {}, 400),
        (b"not gzip", {"content-encoding": "gzip"}, 400),
        (gzip.compress(b"\xff" * 10), {"content-encoding": "gzip"}, 400),
        (gzip.compress(b"", mtime=0)[:-4], {"content-encoding": "gzip"}, 400),
        (gzip.compress(bytes(20 << 20)), {"content-encoding": "gzip"}, 400),
        (b"{}", {"content-type": "application/json"}, 415),
    ],
    ids=["noise", "no-gzip", "gzipped-noise", "cut-gzip", "bomb", "json"],
)
def test_what_is_no_export_is_refused(
    receiver: OtlpReceiver, data: bytes, headers: dict[str, str], status: int
):
    before = receiver.exports
    assert post(receiver, data, **headers) == status
    assert receiver.exports == before


def test_other_paths_and_bodies_without_a_length_are_refused(receiver: OtlpReceiver):
    assert httpx2.post(f"{receiver.http_endpoint}/v1/logs", content=b"").status_code == 404
    assert httpx2.post(f"{receiver.http_endpoint}/v1/traces", content=iter([b"a"])).status_code == 411


@settings(max_examples=25)
@given(st.binary(max_size=200))
def test_any_bytes_are_spans_or_a_refusal(receiver: OtlpReceiver, data: bytes):
    assert post(receiver, data) in (200, 400)


def post(receiver: OtlpReceiver, data: bytes, **headers: str) -> int:
    sent = {"content-type": "application/x-protobuf", **headers}
    return httpx2.post(f"{receiver.http_endpoint}/v1/traces", content=data, headers=sent).status_code


def test_the_environment_was_left_alone():
    assert not [name for name in os.environ if name.startswith("OTEL_EXPORTER")]
