"""Spans as the bytes of an OTLP export request (opentelemetry-proto 1.x, `ExportTraceServiceRequest`).

Written without message objects: a span has some twenty-five attributes, and the SDK's encoder makes two objects of
each. The tests hold every message against what that encoder makes of the same span.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from extproc.ledger.spans import SpanContext, SpanView, Value

LONGEST_NAME: Final = 256
"""Characters of a span's name and of its status."""
MOST_ITEMS: Final = 128
"""Items of a list that an attribute keeps."""
_REMEMBERED: Final = 1024
"""Attribute names whose bytes are kept."""

# tags: field number << 3 | wire type
_FIRST: Final = b"\x0a"  # field 1 of nearly every message here, bytes
_SECOND: Final = b"\x12"
_THIRD: Final = b"\x1a"
_PARENT: Final = b"\x22\x08"
_NAME: Final = b"\x2a"
_SERVER: Final = b"\x30\x02"
_INTERNAL: Final = b"\x30\x01"
_START: Final = b"\x39"
_END: Final = b"\x41"
_ATTRIBUTE: Final = b"\x4a"
_LINK: Final = b"\x6a"
_STATUS: Final = b"\x7a"
_UNSET: Final = b"\x7a\x00"
_ERROR: Final = b"\x18\x02"
_IS_LOCAL: Final = b"\x85\x01\x00\x01\x00\x00"
_IS_REMOTE: Final = b"\x85\x01\x00\x03\x00\x00"
"""A span's flags: it is known whether the parent is in another process, and whether it is."""
_LINK_IS_REMOTE: Final = b"\x35\x00\x03\x00\x00"
_TRUE: Final = b"\x10\x01"
_FALSE: Final = b"\x10\x00"
_INTEGER: Final = b"\x18"
_LIST: Final = b"\x2a"


class SpanEncoder:
    """Encodes spans of one resource; texts are cut at `value_limit` characters. Never raises."""

    def __init__(
        self,
        resource: Mapping[str, Value],
        *,
        scope: str,
        version: str,
        schema_url: str,
        value_limit: int = 1024,
    ) -> None:
        self._limit = value_limit
        self._names: dict[str, bytes] = {}
        described = b"".join([_sized(_FIRST, self._pair(name, value)) for name, value in resource.items()])
        self._resource = _sized(_FIRST, described)
        self._scope = _sized(_FIRST, _text(_FIRST, scope) + _text(_SECOND, version))
        self._schema = _text(_THIRD, schema_url)

    def encode(self, spans: Iterable[SpanView]) -> bytes:
        """One export request with these spans, in this order."""
        parts = [self._scope, *[_sized(_SECOND, self._span(span)) for span in spans], self._schema]
        return _sized(_FIRST, self._resource + _sized(_SECOND, b"".join(parts)))

    def _span(self, span: SpanView) -> bytes:
        is_server = span.kind == "server"
        parts = [_ids(span.context)]
        if span.parent_id:
            parts += (_PARENT, bytes.fromhex(span.parent_id))
        parts.append(_text(_NAME, span.name[:LONGEST_NAME]))
        parts.append(_SERVER if is_server else _INTERNAL)
        parts += (_START, _nanoseconds(span.start_us), _END, _nanoseconds(span.end_us))
        for name, value in span.attributes.items():
            pair = self._pair(name, value)
            parts += (_ATTRIBUTE, _varint(len(pair)), pair)
        for context in span.links:
            parts.append(_sized(_LINK, _ids(context) + _LINK_IS_REMOTE))
        if span.error is None:
            parts.append(_UNSET)
        else:
            parts.append(_sized(_STATUS, _text(_SECOND, span.error[:LONGEST_NAME]) + _ERROR))
        # whoever asks us, Envoy, is another process
        parts.append(_IS_REMOTE if is_server and span.parent_id else _IS_LOCAL)
        return b"".join(parts)

    def _pair(self, name: str, value: Value) -> bytes:
        known = self._names.get(name)
        if known is None:
            if len(self._names) >= _REMEMBERED:
                self._names.clear()
            known = self._names[name] = _text(_FIRST, name)
        said = self._value(value)
        return known + _SECOND + _varint(len(said)) + said

    def _value(self, value: Value) -> bytes:
        if isinstance(value, str):
            return _text(_FIRST, value[: self._limit])
        if isinstance(value, bool):
            return _TRUE if value else _FALSE
        if isinstance(value, int):
            return _whole(value)
        return _sized(_LIST, b"".join([_sized(_FIRST, self._value(item)) for item in value[:MOST_ITEMS]]))


def _ids(context: SpanContext) -> bytes:
    return b"\x0a\x10" + bytes.fromhex(context.trace_id) + b"\x12\x08" + bytes.fromhex(context.span_id)


def _text(tag: bytes, text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return tag + _varint(len(data)) + data


def _sized(tag: bytes, data: bytes) -> bytes:
    return tag + _varint(len(data)) + data


def _nanoseconds(micros: int) -> bytes:
    """A `fixed64`; a line may name any year, and what does not fit is its first or last moment."""
    return min(max(0, micros) * 1000, (1 << 64) - 1).to_bytes(8, "little")


def _whole(value: int) -> bytes:
    """An `int64`; what is no such number is told as text."""
    if -(1 << 63) <= value < 1 << 63:
        return _INTEGER + _varint(value if value >= 0 else value + (1 << 64))
    return _text(_FIRST, str(value))


def _varint(value: int) -> bytes:
    """A whole number from 0 on, seven bits to the byte, the lowest first."""
    if value < 0x80:
        return _SHORT[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


_SHORT: Final[Sequence[bytes]] = tuple(bytes((value,)) for value in range(0x80))
