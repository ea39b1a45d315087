"""What the ledger costs, as ratios within one run: `python -m bench.ledger_bench [--json]`.

- append and commit of a record, beside an SDK span started, ended and encoded for OTLP: empty, and with the
  attributes that the exporter gives it
- the same with a payload, sealed beside plain
- verify, beside SHA-256 over the same files
- the exporter's work on a record, beside the same SDK span and encoding

Times are CPU seconds of this process. The candidates take turns and each keeps its best round, so that a busy
machine disturbs all of them alike.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanKind

from extproc.adapters.ledger_files import LedgerWriter
from extproc.adapters.ledger_verify import verify_directory
from extproc.adapters.otlp_answer import TAKEN, Answer
from extproc.adapters.span_feed import SpanFeed
from extproc.adapters.telemetry import TelemetryExporter, build_encoder
from extproc.domain.record import INTENT, OUTCOME, Checked, Record
from extproc.ledger.sealing import KeyRing
from extproc.ledger.spans import Value

# principal and rules are `Checked` once and written many times, as the service has them
INTENT_FIELDS: dict[str, Any] = {
    "decision_id": "0190d5f0c4a17b6e8d1f2a3b4c5d6e7f",
    "session_id": "0190d5f0c4a17b6e8d1f2a3b4c5d6e70",
    "target": "customers-api",
    "protocol": "http",
    "verdict": "allow",
    "code": "allowed",
    "policy": "c1" * 32,
    "risk": 0,
    "principal": Checked(
        {
            "issuer": "https://issuer.example",
            "subject": "agent-7",
            "kind": "agent",
            "person": "https://issuer.example|agent-7",
            "groups": ["analysts"],
            "token_id": "ab" * 16,
        }
    ),
    "request": {"method": "GET", "scheme": "http", "host": "api.example", "path": "/customers/1?fields=name"},
    "rules": [Checked({"rule": "readers-read", "digest": "d4" * 32, "effect": "allow"})],
    "masks": ["records"],
    "trace": {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "parent_span_id": "00f067aa0ba902b7"},
    "span_id": "53995c3f42cd8ad8",
}
OUTCOME_FIELDS = {
    "decision_id": INTENT_FIELDS["decision_id"],
    "session_id": INTENT_FIELDS["session_id"],
    "target": "customers-api",
    "executed": True,
    "end": "complete",
    "duration_us": 1840,
    "response": {"code": 200, "inspected": "full", "size": 812, "masked": {"EMAIL_ADDRESS": 2}},
    "trace": INTENT_FIELDS["trace"],
    "span_id": INTENT_FIELDS["span_id"],
}


PAYLOADS = {"request": b'{"customer":1,"note":"masked"}' * 20}
RING = KeyRing("bench", {"bench": bytes(range(32))})


class Nowhere:
    """Takes export requests and sends nothing."""

    def send(self, request: bytes) -> Answer:
        return TAKEN

    def shutdown(self) -> None:
        """Nothing is open."""


def append(
    directory: Path, exchanges: int, payloads: Mapping[str, bytes] | None = None, ring: KeyRing | None = None
) -> float:
    """Two records and two commits for each exchange, as the service does it. CPU seconds per record.

    `payloads` go with each intent.
    """
    writer = LedgerWriter(directory, writer_id="bench-a", clock=time.time, ring=ring)
    kept = payloads or {}
    began = time.process_time()
    for _ in range(exchanges):
        now = time.time()
        writer.append(Record(INTENT, now, INTENT_FIELDS, kept))
        writer.commit()
        writer.append(Record(OUTCOME, now, OUTCOME_FIELDS))
        writer.commit()
    spent = time.process_time() - began
    writer.close()
    return spent / (2 * exchanges)


def export(directory: Path, exchanges: int, cursor: Path) -> float:
    """Read, join, build and encode everything. CPU seconds per record."""
    feed = SpanFeed(directory, cursor)
    telemetry = TelemetryExporter(feed, Nowhere(), build_encoder(Resource({})))
    began = time.process_time()
    while telemetry.step():
        pass
    spent = time.process_time() - began
    if feed.counts.exported != exchanges + 2:
        raise RuntimeError(f"{feed.counts.exported} spans of {exchanges} exchanges")
    return spent / (2 * exchanges)


def sdk_spans(count: int, attributes: Mapping[str, Value]) -> float:
    """Start, end and encode spans with the SDK, 512 at a time as its batch processor does. CPU seconds per span.

    Attributes are given at the start, which is the SDK's quickest way.
    """
    kept: list[ReadableSpan] = []
    tracer = TracerProvider(resource=Resource({}), shutdown_on_exit=False).get_tracer("bench")
    began = time.process_time()
    for _ in range(count):
        span = tracer.start_span("GET customers-api", kind=SpanKind.SERVER, attributes=attributes)
        span.end()
        assert isinstance(span, ReadableSpan)
        kept.append(span)
        if len(kept) == 512:
            encode_spans(kept).SerializeToString()
            kept = []
    if kept:
        encode_spans(kept).SerializeToString()
    return (time.process_time() - began) / count


def hash_files(directory: Path) -> float:
    """SHA-256 over every line segment, read in megabytes as the verifier reads. CPU seconds."""
    began = time.process_time()
    for path in sorted(directory.glob("*/*.jsonl")):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        digest.digest()
    return time.process_time() - began


def verify(directory: Path) -> float:
    """CPU seconds of a verification that finds nothing wrong."""
    began = time.process_time()
    report = verify_directory(directory, None)
    spent = time.process_time() - began
    if not report.ok:
        raise RuntimeError(str(report.problems[0]))
    return spent


def run(exchanges: int, rounds: int) -> dict[str, float]:
    """Every candidate in turn, `rounds` times; the best of each."""
    best: dict[str, float] = {}

    def keep(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, seconds), seconds)

    with tempfile.TemporaryDirectory() as scratch:
        attributes: Mapping[str, Value] = {}
        for number in range(rounds):
            directory = Path(scratch) / str(number)
            keep("append", append(directory, exchanges))
            keep("append_plain", append(Path(scratch) / f"plain-{number}", exchanges, PAYLOADS))
            keep("append_sealed", append(Path(scratch) / f"sealed-{number}", exchanges, PAYLOADS, RING))
            keep("export", export(directory, exchanges, Path(scratch) / f"cursor-{number}"))
            attributes = attributes or span_attributes(directory, Path(scratch) / "cursor-once")
            keep("sdk_span", sdk_spans(exchanges, {}))
            keep("sdk_span_full", sdk_spans(exchanges, attributes))
            keep("verify", verify(directory))
            keep("hash", hash_files(directory))
    return best


def span_attributes(directory: Path, cursor: Path) -> Mapping[str, Value]:
    """The attributes that an exchange's span carries, for the SDK to carry too."""
    feed = SpanFeed(directory, cursor)
    view = next(view for view in feed.next_batch(8, time.time()) if view.kind == "server")
    feed.close()
    return view.attributes


def ratios(best: dict[str, float]) -> dict[str, float]:
    """The figures that may be quoted."""
    return {
        "append_to_empty_sdk_span": best["append"] / best["sdk_span"],
        "append_to_same_sdk_span": best["append"] / best["sdk_span_full"],
        "append_sealed_to_plain": best["append_sealed"] / best["append_plain"],
        "verify_speed_to_sha256": best["hash"] / best["verify"],
        # one exchange is two records and one span
        "export_to_same_sdk_span": 2 * best["export"] / best["sdk_span_full"],
        "export_record_to_same_sdk_span": best["export"] / best["sdk_span_full"],
    }


LABELS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    (
        "append_to_empty_sdk_span",
        "append and commit a record / empty SDK span and its encoding",
        lambda r: f"{r:.2f}",
    ),
    (
        "append_to_same_sdk_span",
        "append and commit a record / SDK span with the same facts",
        lambda r: f"{r:.2f}",
    ),
    (
        "append_sealed_to_plain",
        "append with a sealed payload of 600 bytes in every other record / with a plain one",
        lambda r: f"{r:.2f}",
    ),
    ("verify_speed_to_sha256", "speed of verify / sha256 of the same files", lambda r: f"1/{1 / r:.1f}"),
    (
        "export_record_to_same_sdk_span",
        "exporter, per record / SDK span with the same facts",
        lambda r: f"{r:.2f}",
    ),
    (
        "export_to_same_sdk_span",
        "exporter, per exchange / SDK span with the same facts",
        lambda r: f"{r:.2f}",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 0 when everything was measured."""
    parser = argparse.ArgumentParser(prog="bench.ledger_bench", description=__doc__)
    parser.add_argument("--exchanges", type=int, default=5000, help="exchanges of a round, two records each")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is run")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    given = parser.parse_args(arguments)
    best = run(given.exchanges, given.rounds)
    found = ratios(best)
    if given.json:
        print(json.dumps({"ratios": found, "exchanges": given.exchanges, "rounds": given.rounds}))
        return 0
    for name, label, form in LABELS:
        print(f"{form(found[name]):>8}  {label}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
