"""The exporter: spans leave by OTLP, at least once, and the cursor moves only after they have arrived.

Beside it only its senders and the metrics know OpenTelemetry. There is no batch processor: nothing is queued that
could be dropped; what the collector has not taken stays in the ledger until it has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog
from opentelemetry.sdk.resources import Resource

from extproc import __version__
from extproc.adapters.otlp_answer import TAKEN, Answer
from extproc.adapters.span_feed import SpanFeed
from extproc.adapters.telemetry_settings import Environment, TelemetrySettings, read_environment
from extproc.ledger.otlp import SpanEncoder
from extproc.ledger.spans import SpanView

POLL = 0.5
"""Seconds between two looks at the ledger when there was nothing to tell."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
"""Seconds to wait after a failed export: doubling from the first to the longest."""

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

log = structlog.get_logger(__name__)


class SpanSender(Protocol):
    """Takes an export request to the collector."""

    def send(self, request: bytes) -> Answer | None:
        """What the collector said, or None if it did not take it. May raise anything.

        `request`: an encoded `ExportTraceServiceRequest`.
        """

    def shutdown(self) -> None:
        """Let go of the connection."""


def build_span_sender(settings: TelemetrySettings, environment: Environment) -> SpanSender:
    """OTLP by the protocol that is configured."""
    # what goes wrong is told once by our own loop, not once for every attempt
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    headers = dict(settings.headers) if settings.headers else None
    if (settings.protocol or environment.protocol) == "grpc":
        from extproc.adapters.otlp_grpc import GrpcSender

        return GrpcSender(endpoint=settings.endpoint, headers=headers)
    from extproc.adapters.otlp_http import HttpSender

    endpoint = settings.endpoint
    return HttpSender(endpoint=f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None, headers=headers)


def build_resource(service_name: str | None) -> Resource:
    """`service.name` from the configuration, else from `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES`."""
    named = Resource.create(
        {"service.version": __version__} | ({"service.name": service_name} if service_name else {})
    )
    if str(named.attributes.get("service.name", "")).startswith("unknown_service"):
        return named.merge(Resource({"service.name": "extproc"}))
    return named


def build_encoder(resource: Resource, value_limit: int = 1024) -> SpanEncoder:
    """For spans of this service; text is cut at `value_limit` characters."""
    described = {
        name: value if isinstance(value, str | bool | int) else str(value)
        for name, value in resource.attributes.items()
    }
    return SpanEncoder(
        described, scope="extproc", version=__version__, schema_url=SCHEMA, value_limit=value_limit
    )


class TelemetryExporter:
    """Reads the feed, exports, moves the cursor. One thread, no queue."""

    def __init__(
        self,
        feed: SpanFeed,
        sender: SpanSender,
        encoder: SpanEncoder,
        *,
        ratio: float = 1.0,
        batch: int = 512,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ratio` is the share of plain allows to keep; everything else is always kept."""
        self._feed = feed
        self._sender = sender
        self._encoder = encoder
        self._ratio = ratio
        self._batch = batch
        self._clock = clock
        self._left: list[SpanView] = []
        self._reachable = True
        self._fits = batch
        self.failures = 0
        """Exports that the collector did not take, since this process began."""
        self.rejected = 0
        """Spans of exports that it did take, but would not keep."""

    @property
    def reachable(self) -> bool:
        """Did the collector take the last export?"""
        return self._reachable

    def step(self) -> bool:
        """Read and export once. True if something was delivered; what was not stays for the next step."""
        if not self._left:
            views = self._feed.next_batch(self._batch, self._clock())
            if not views:
                if self._feed.has_moved:
                    self._feed.save()
                return False
            for view in views:
                if self._is_kept(view):
                    self._left.append(view)
                else:
                    self._feed.left_out(view)
        while self._left:
            batch = self._left[: self._fits]
            if not self._send(batch):
                return False
            for view in batch:
                self._feed.delivered(view)
            del self._left[: len(batch)]
            self._fits = self._batch
        self._feed.save()
        return True

    def run(self, stop: threading.Event) -> int:
        """Work until `stop`; then deliver what is there if the collector can be reached. 1 if it could not."""
        pause = FIRST_PAUSE
        while not stop.is_set():
            try:
                delivered = self.step()
            except OSError as failure:
                log.error("telemetry.cursor", error=failure.strerror)
                stop.wait(LONGEST_PAUSE)
                continue
            if delivered:
                pause = FIRST_PAUSE
            elif self._left:
                stop.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                stop.wait(POLL)
        try:
            while self._reachable and self.step():
                pass
        except OSError as failure:
            log.error("telemetry.cursor", error=failure.strerror)
        self._feed.close()
        self._sender.shutdown()
        return 0 if self._reachable else 1

    def _is_kept(self, view: SpanView) -> bool:
        # the same share of traces as the SDK's TraceIdRatioBased keeps: by the low 64 bits of the trace id
        return not view.plain or int(view.context.trace_id[16:], 16) < self._ratio * (1 << 64)

    def _send(self, batch: list[SpanView]) -> bool:
        answer = None
        try:
            answer = self._sender.send(self._encoder.encode(batch))
        except Exception as failure:  # whatever a sender raises, nothing may be skipped
            log.error("telemetry.exporter_failed", error=type(failure).__name__)
        if answer is not None and answer is not TAKEN:
            # it is not sent again (OTLP forbids that): the records stay in the ledger, and somebody has to know
            self.rejected += answer.rejected
            log.warning("telemetry.rejected", spans=answer.rejected, of=len(batch), reason=answer.reason)
        delivered = answer is not None
        if delivered != self._reachable:
            self._reachable = delivered
            (log.info if delivered else log.warning)(
                "telemetry.reachable" if delivered else "telemetry.unreachable"
            )
        if not delivered:
            self.failures += 1
            self._fits = max(1, self._fits // 2)  # perhaps it was too much at once for the collector
        return delivered


def open_exporter(
    directory: Path,
    cursor: Path,
    settings: TelemetrySettings,
    environment: Environment | None = None,
) -> TelemetryExporter:
    """Everything put together. Raises ConfigError."""
    env = environment or read_environment()
    encoder = build_encoder(build_resource(settings.service_name), env.value_limit)
    sender = build_span_sender(settings, env)
    return TelemetryExporter(SpanFeed(directory, cursor), sender, encoder, ratio=env.ratio, batch=env.batch)
