"""OTLP over HTTP: the SDK's exporter with a request that is encoded already.

Endpoint, headers, compression, certificates, time limit and repeats are the SDK's own, with the `OTEL_*` variables
that say so. Its encoder is left out: it takes three fifths of an exporter's CPU (docs/adr/0020-spans-encoded-here.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from extproc.adapters.otlp_answer import TAKEN, Answer, answer_in


class HttpSender(OTLPSpanExporter):
    """Posts export requests to `/v1/traces`."""

    def __init__(self, *, endpoint: str | None, headers: Mapping[str, str] | None) -> None:
        super().__init__(endpoint=endpoint, headers=headers)
        self._answer = TAKEN
        client: Any = self._client
        submit = client._submit

        def heed(data: bytes, timeout: float) -> Any:  # the SDK drops the answer
            result = submit(data, timeout)
            if result.status_code is not None and 200 <= result.status_code < 300:
                self._answer = answer_in(result.content)
            return result

        client._submit = heed

    def send(self, request: bytes) -> Answer | None:
        """What the collector said; None if it did not take it."""
        self._answer = TAKEN
        taken = self._client.export(request).success
        return self._answer if taken else None
