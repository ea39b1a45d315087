"""A small OTLP trace receiver on loopback: gRPC and HTTP/protobuf in, spans in memory.

It stands in for a collector in the demo and the tests. It can be told to refuse, so that an exporter's
patience can be tried.
"""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
MAX_BODY = 16 << 20
MAX_SPANS = 100_000
KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}

AttributeValue = str | bool | int | float | bytes | list[Any] | dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it arrived. Ids in hex, times in nanoseconds since 1970; `parent_id` is empty for a root."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    attributes: dict[str, AttributeValue]
    service: str
    error: str | None = None
    """The status message of a span that ended in error, else None."""
    events: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    resource: dict[str, AttributeValue] = field(default_factory=dict)
    scope: str = ""


class OtlpReceiver:
    """Listens for spans until stopped. A port of 0 takes any; `on_spans` runs on a receiver thread."""

    def __init__(
        self,
        *,
        grpc_port: int = 0,
        http_port: int = 0,
        on_spans: Callable[[list[ReceivedSpan]], None] | None = None,
    ) -> None:
        self._wanted = (grpc_port, http_port)
        self._on_spans = on_spans
        self._spans: list[ReceivedSpan] = []
        self._arrived = threading.Condition()
        self._grpc: grpc.Server | None = None
        self._http: ThreadingHTTPServer | None = None
        self.refusing = False
        """Answer UNAVAILABLE or 503 and keep nothing."""
        self.rejecting = 0
        """Take every export, and say of so many of its spans that they are not kept."""
        self.exports = 0
        """How many exports came in, refused ones included."""
        self.grpc_port = 0
        self.http_port = 0

    @property
    def grpc_endpoint(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT` with protocol grpc."""
        return f"http://127.0.0.1:{self.grpc_port}"

    @property
    def http_endpoint(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT` with protocol http/protobuf; traces go to `/v1/traces`."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Every span in order of arrival; a span that was exported twice is here twice."""
        with self._arrived:
            return list(self._spans)

    def start(self) -> OtlpReceiver:
        """Listen on both ports. Raises OSError when one is taken."""
        server = grpc.server(
            ThreadPoolExecutor(4, thread_name_prefix="otlp"),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_BODY)],
        )
        export = grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=ExportTraceServiceRequest.FromString,
            response_serializer=ExportTraceServiceResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Export": export}),))
        try:
            self.grpc_port = server.add_insecure_port(f"127.0.0.1:{self._wanted[0]}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on 127.0.0.1:{self._wanted[0]} for OTLP over gRPC") from error
        self._http = _HttpServer(("127.0.0.1", self._wanted[1]), self)
        self.http_port = self._http.server_address[1]
        server.start()
        self._grpc = server
        threading.Thread(target=self._http.serve_forever, args=(0.05,), name="otlp-http", daemon=True).start()
        return self

    def stop(self) -> None:
        """Close both ports. What arrived stays readable."""
        if self._grpc is not None:
            self._grpc.stop(grace=0).wait()
            self._grpc = None
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def __enter__(self) -> OtlpReceiver:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for(
        self, check: Callable[[list[ReceivedSpan]], bool], within: float = 10.0
    ) -> list[ReceivedSpan]:
        """The spans once `check` holds for them. Raises TimeoutError at the deadline (seconds)."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: check(self._spans), within):
                raise TimeoutError(f"{len(self._spans)} spans came within {within:g} s, not those waited for")
            return list(self._spans)

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of one trace, each once, oldest start first."""
        return traces(self.spans).get(trace_id, [])

    def accept(self, request: ExportTraceServiceRequest) -> bool:
        """Keep the spans of one export; False when it was refused."""
        with self._arrived:
            self.exports += 1
            if self.refusing or len(self._spans) >= MAX_SPANS:
                return False
            spans = read_spans(request)
            self._spans.extend(spans)
            self._arrived.notify_all()
        if self._on_spans is not None and spans:
            self._on_spans(spans)
        return True

    def _export(
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        if not self.accept(request):
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return self.answer()

    def answer(self) -> ExportTraceServiceResponse:
        """What is said of an export that was taken."""
        answer = ExportTraceServiceResponse()
        if self.rejecting:
            answer.partial_success.rejected_spans = self.rejecting
            answer.partial_success.error_message = "not all of it"
        return answer


def read_spans(request: ExportTraceServiceRequest) -> list[ReceivedSpan]:
    """The spans of one export request."""
    spans: list[ReceivedSpan] = []
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        service = str(resource.get("service.name", ""))
        for of_scope in of_resource.scope_spans:
            spans.extend(_span(span, service, resource, of_scope.scope.name) for span in of_scope.spans)
    return spans


def traces(spans: Iterable[ReceivedSpan]) -> dict[str, list[ReceivedSpan]]:
    """Spans by trace id in order of arrival of each trace; each span once, oldest start first."""
    found: dict[str, dict[str, ReceivedSpan]] = {}
    for span in spans:
        found.setdefault(span.trace_id, {})[span.span_id] = span
    return {
        trace_id: sorted(kept.values(), key=lambda span: (span.start, -span.end))
        for trace_id, kept in found.items()
    }


def _span(span: Span, service: str, resource: dict[str, AttributeValue], scope: str) -> ReceivedSpan:
    failed = span.status.code == Status.STATUS_CODE_ERROR
    return ReceivedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=KINDS.get(span.kind, ""),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        service=service,
        error=span.status.message if failed else None,
        events=tuple(event.name for event in span.events),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        resource=resource,
        scope=scope,
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, AttributeValue]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> AttributeValue:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return {pair.key: _value(pair.value) for pair in value.kvlist_value.values}
        case kind:
            return cast(AttributeValue, getattr(value, kind))


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], receiver: OtlpReceiver) -> None:
        self.receiver = receiver
        super().__init__(address, _HttpHandler)


class _HttpHandler(BaseHTTPRequestHandler):
    """`POST /v1/traces` with protobuf, plain or gzip (OTLP 1.9, OTLP/HTTP)."""

    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def do_POST(self) -> None:
        status, body = self._answer()
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        if status >= 400:
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def _answer(self) -> tuple[int, bytes]:
        length = self.headers.get("content-length", "")
        if not length.isdigit():
            return 411, b""
        if int(length) > MAX_BODY:
            return 413, b""
        data = self.rfile.read(int(length))
        if self.path != "/v1/traces":
            return 404, b""
        if self.headers.get_content_type() != "application/x-protobuf":
            return 415, b""
        try:
            if self.headers.get("content-encoding", "identity") == "gzip":
                data = _gunzip(data)
            request = ExportTraceServiceRequest.FromString(data)
        except (DecodeError, zlib.error, gzip.BadGzipFile, EOFError, ValueError):
            return 400, b""
        if not self.server.receiver.accept(request):
            return 503, b""
        return 200, self.server.receiver.answer().SerializeToString()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the demo's screen is for its story."""


def _gunzip(data: bytes) -> bytes:
    """One gzip member, no larger than MAX_BODY unpacked. Raises ValueError beyond."""
    inflater = zlib.decompressobj(31)
    plain = inflater.decompress(data, MAX_BODY)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError("too large or cut short")
    return plain
