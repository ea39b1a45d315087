"""OTLP over gRPC: the SDK's exporter with a request that is encoded already.

Endpoint, headers, compression, credentials, time limit and repeats are the SDK's own, with the `OTEL_*` variables
that say so. Its encoder is left out: it takes three fifths of an exporter's CPU (docs/adr/0020-spans-encoded-here.md).
"""

from __future__ import annotations

from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace.export import SpanExportResult

from extproc.adapters.otlp_answer import TAKEN, Answer, answer_of


class GrpcSender(OTLPSpanExporter):
    """Calls `TraceService/Export`."""

    _answer = TAKEN

    def send(self, request: bytes) -> Answer | None:
        """What the collector said; None if it did not take it."""
        taken = self._export(request) is SpanExportResult.SUCCESS  # type: ignore[arg-type]
        return self._answer if taken else None

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]
        client: Any = self._client
        export = client.Export

        def heed(**call: Any) -> ExportTraceServiceResponse:  # the SDK drops the answer
            response: ExportTraceServiceResponse = export(**call)
            self._answer = answer_of(response)
            return response

        client.Export = heed

    def _translate_data(self, data: bytes) -> ExportTraceServiceRequest:  # type: ignore[override]
        return ExportTraceServiceRequest.FromString(data)

    def _count_data(self, data: bytes) -> int:  # type: ignore[override]
        return 0  # for metrics of the SDK's own, which nobody reads
