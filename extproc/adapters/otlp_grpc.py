"""OTLP over gRPC: the SDK's exporter with a request that is encoded already.

Endpoint, headers, compression, credentials, time limit and repeats are the SDK's own, with the `OTEL_*` variables
that say so. Its encoder is left out: it takes three fifths of an exporter's CPU (docs/adr/0020-spans-encoded-here.md).
"""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExportResult


class GrpcSender(OTLPSpanExporter):
    """Calls `TraceService/Export`."""

    def send(self, request: bytes) -> bool:
        """True if the collector took it."""
        return self._export(request) is SpanExportResult.SUCCESS  # type: ignore[arg-type]

    def _translate_data(self, data: bytes) -> ExportTraceServiceRequest:  # type: ignore[override]
        return ExportTraceServiceRequest.FromString(data)

    def _count_data(self, data: bytes) -> int:  # type: ignore[override]
        return 0  # for metrics of the SDK's own, which nobody reads
