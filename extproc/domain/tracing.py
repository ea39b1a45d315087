"""W3C trace context: what a caller says of the trace it is in."""

from __future__ import annotations

import re

from extproc.domain.request import NO_TRACE, Trace

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.DOTALL)


def parse_traceparent(value: str) -> Trace:
    """W3C trace context, level 1: version-traceid-parentid-flags, lower-case hex, not all zero."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return NO_TRACE
    version, trace_id, parent_id, flags = match.groups()
    if version == "ff" or not trace_id.strip("0") or not parent_id.strip("0"):
        return NO_TRACE
    return Trace(trace_id, parent_id, bool(int(flags, 16) & 1))
