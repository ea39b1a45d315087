"""Encoded spans, held against what the SDK's own encoder makes of the same spans."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, TraceFlags
from opentelemetry.trace import SpanContext as OtelContext
from opentelemetry.trace.status import Status, StatusCode

from extproc.ledger.otlp import MOST_ITEMS, SpanEncoder
from extproc.ledger.spans import SpanContext, SpanView

RESOURCE: dict[str, str | int | bool] = {
    "service.name": "extproc",
    "service.version": "1.2.3",
    "replicas": 3,
    "is.test": True,
}
SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
LIMIT = 50

texts = st.text(max_size=80) | st.text("aé☃𝄞", min_size=120, max_size=160)
whole = st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([0, 1, 127, 128, 16383, 16384, -1])
values = texts | st.booleans() | whole | st.lists(texts, max_size=5)


def hexes(digits: int) -> st.SearchStrategy[str]:
    return st.integers(1, 16**digits - 1).map(lambda number: f"{number:0{digits}x}")


contexts = st.builds(SpanContext, hexes(32), hexes(16))
moments = st.integers(0, 253_402_300_799_000_000).filter(lambda micros: micros * 1000 < 1 << 64)
spans = st.builds(
    SpanView,
    name=st.text(max_size=300),
    kind=st.sampled_from(["server", "internal"]),
    context=contexts,
    parent_id=st.just("") | hexes(16),
    start_us=moments,
    end_us=moments,
    attributes=st.dictionaries(st.text(max_size=30), values, max_size=8),
    error=st.none() | st.text(max_size=300),
    links=st.lists(contexts, max_size=3).map(tuple),
)


def encoder() -> SpanEncoder:
    return SpanEncoder(dict(RESOURCE), scope="extproc", version="1.2.3", schema_url=SCHEMA, value_limit=LIMIT)


def as_otel(context: SpanContext, *, is_remote: bool = False) -> OtelContext:
    return OtelContext(
        int(context.trace_id, 16), int(context.span_id, 16), is_remote, TraceFlags(TraceFlags.SAMPLED)
    )


def cut(value: Any) -> Any:
    return (
        value[:LIMIT]
        if isinstance(value, str)
        else [cut(v) for v in value]
        if isinstance(value, list)
        else value
    )


def of_the_sdk(view: SpanView) -> ReadableSpan:
    parent = SpanContext(view.context.trace_id, view.parent_id)
    return ReadableSpan(
        name=view.name[:256],
        context=as_otel(view.context),
        parent=as_otel(parent, is_remote=view.kind == "server") if view.parent_id else None,
        resource=Resource(RESOURCE),
        attributes={name: cut(value) for name, value in view.attributes.items()},
        links=tuple(Link(as_otel(context, is_remote=True)) for context in view.links),
        kind=SpanKind.SERVER if view.kind == "server" else SpanKind.INTERNAL,
        status=Status(StatusCode.UNSET) if view.error is None else Status(StatusCode.ERROR, view.error[:256]),
        start_time=view.start_us * 1000,
        end_time=view.end_us * 1000,
        instrumentation_scope=InstrumentationScope("extproc", "1.2.3", SCHEMA),
    )


def read(data: bytes) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(data)


@given(st.lists(spans, min_size=1, max_size=4))
def test_a_request_says_what_the_sdks_encoder_says(views: list[SpanView]) -> None:
    encode = encoder()
    assert read(encode.encode(views)) == encode_spans([of_the_sdk(view) for view in views])
    again = encode.encode(views)  # names are remembered now
    assert read(again) == encode_spans([of_the_sdk(view) for view in views])


def view(**said: Any) -> SpanView:
    context = SpanContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    return SpanView(**{
        "name": "x", "kind": "internal", "context": context, "parent_id": "", "start_us": 1, "end_us": 2,
        "attributes": {}, **said,
    })  # fmt: skip


def span_of(shown: SpanView) -> Any:
    (of_resource,) = read(encoder().encode([shown])).resource_spans
    (of_scope,) = of_resource.scope_spans
    (span,) = of_scope.spans
    return span


def test_moments_that_do_not_fit_are_the_first_or_the_last() -> None:
    span = span_of(view(start_us=-5, end_us=253_402_300_799_000_000))
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (0, (1 << 64) - 1)


def test_numbers_that_do_not_fit_and_text_that_is_none_are_still_told() -> None:
    attributes = {"large": 1 << 63, "small": -(1 << 63) - 1, "broken": "a\ud800b"}
    told = {pair.key: pair.value.string_value for pair in span_of(view(attributes=attributes)).attributes}
    assert told == {"large": str(1 << 63), "small": str(-(1 << 63) - 1), "broken": "a?b"}


def test_long_lists_are_cut() -> None:
    (pair,) = span_of(view(attributes={"many": ["m" * 500] * 300})).attributes
    kept = pair.value.array_value.values
    assert (len(kept), {len(item.string_value) for item in kept}) == (MOST_ITEMS, {LIMIT})


def test_names_without_end_are_not_remembered_without_end() -> None:
    encode = encoder()
    for number in range(0, 5000, 500):
        attributes = {f"name-{number + each}": each for each in range(500)}
        (of_resource,) = read(encode.encode([view(attributes=attributes)])).resource_spans
        assert {
            p.key: p.value.int_value for p in of_resource.scope_spans[0].spans[0].attributes
        } == attributes


def test_no_spans_are_a_request_without_spans() -> None:
    (of_resource,) = read(encoder().encode([])).resource_spans
    assert [len(of_scope.spans) for of_scope in of_resource.scope_spans] == [0]
