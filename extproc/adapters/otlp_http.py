"""OTLP over HTTP: the SDK's exporter with a request that is encoded already.

Endpoint, headers, compression, certificates, time limit and repeats are the SDK's own, with the `OTEL_*` variables
that say so. Its encoder is left out: it takes three fifths of an exporter's CPU (docs/adr/0020-spans-encoded-here.md).
"""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter


class HttpSender(OTLPSpanExporter):
    """Posts export requests to `/v1/traces`."""

    def send(self, request: bytes) -> bool:
        """True if the collector took it."""
        return self._client.export(request).success
