"""Times as text. Inside, a time is Unix seconds (float); outside, it is RFC 3339 in UTC with microseconds."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(at: float) -> str:
    """`2030-01-02T03:04:05.000006Z` (RFC 3339 §5.6), always with six digits so that text sorts as time."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
