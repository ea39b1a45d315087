"""What a collector says of an export that it took (OTLP, "Partial Success")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

LONGEST_REASON: Final = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """`rejected`: spans that it will not keep, whatever is sent again. `reason`: its own words, or a warning."""

    rejected: int = 0
    reason: str = ""


TAKEN: Final = Answer()
"""All of it, without a word."""


def answer_of(response: ExportTraceServiceResponse) -> Answer:
    """Never negative, never long: the words are somebody else's."""
    partial = response.partial_success
    if not partial.rejected_spans and not partial.error_message:
        return TAKEN
    return Answer(max(0, partial.rejected_spans), partial.error_message[:LONGEST_REASON])


def answer_in(body: Callable[[], bytes]) -> Answer:
    """Of a response by HTTP. One that cannot be read takes nothing back: its status alone decides."""
    try:
        return answer_of(ExportTraceServiceResponse.FromString(body()))
    except Exception:  # of protobuf or of the HTTP library, whatever it is called
        return TAKEN
