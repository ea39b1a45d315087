"""Envoy's HeaderMap, read from its bytes.

A general parser makes an object for each field of a message; here a field that came before is found, not made, and the
others are cut out of the buffer (protobuf's wire format: a tag, a length, bytes). What is not laid out as Envoy
lays it out goes to the general parser.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from extproc.servers.wire import ext_proc_pb2 as pb

Fields: TypeAlias = tuple[tuple[str, str], ...]

KEY_TAG: Final = 0x0A
"""Field 1, a length and bytes: `HeaderMap.headers` and, inside, `HeaderValue.key`."""
RAW_VALUE_TAG: Final = 0x1A
"""Field 3: `HeaderValue.raw_value`."""
MOST_REMEMBERED: Final = 1024
LONGEST_REMEMBERED: Final = 128

NAMES: Final = {
    name.encode(): name
    for name in (
        ":authority", ":method", ":path", ":protocol", ":scheme", ":status", "accept", "accept-encoding",
        "accept-language", "authorization", "cache-control", "content-encoding", "content-length", "content-type",
        "cookie", "date", "etag", "host", "last-modified", "location", "origin", "prefer", "referer", "server",
        "set-cookie", "traceparent", "tracestate", "transfer-encoding", "user-agent", "vary", "x-forwarded-for",
        "x-forwarded-proto", "x-request-id",
    )
}  # fmt: skip
"""Names nearly every request has: found, not made, and kept once however many requests wait."""
RECURRING: Final = frozenset(
    {
        ":authority", ":method", ":scheme", ":status", "accept", "accept-encoding", "accept-language",
        "cache-control", "content-encoding", "content-type", "host", "server", "transfer-encoding", "user-agent",
        "vary", "x-forwarded-proto",
    }
)  # fmt: skip
"""Fields whose values come again and again, and are nobody's secret."""

_beginnings: Final = {
    bytes((KEY_TAG, len(key))) + key + bytes((RAW_VALUE_TAG,)): name for key, name in NAMES.items()
}
"""How a field begins that has one of these names and a raw value: tags, length and key in one look."""
_seen: Final[dict[bytes, tuple[str, str]]] = {}


def read_header_map(data: bytes) -> Fields:
    """Fields in order, names in lower case; Latin-1 keeps every byte. Raises DecodeError for what is no HeaderMap."""
    found: list[tuple[str, str]] = []
    at, end = 0, len(data)
    try:
        while at < end:
            size = data[at + 1]
            if data[at] != KEY_TAG:
                return _read_any(data)
            at += 2
            if size & 0x80:
                more = data[at]
                if more & 0x80:
                    return _read_any(data)
                size = size & 0x7F | more << 7
                at += 1
            stop = at + size
            if stop > end:
                return _read_any(data)
            if size <= LONGEST_REMEMBERED:
                entry = data[at:stop]
                pair = _seen.get(entry)
                if pair is None:
                    pair = _read_field(entry, 0, size)
                    if pair is None:
                        return _read_any(data)
                    if pair[0] in RECURRING:
                        if len(_seen) >= MOST_REMEMBERED:
                            _seen.clear()
                        _seen[entry] = pair
            else:
                pair = _read_field(data, at, stop)
                if pair is None:
                    return _read_any(data)
            found.append(pair)
            at = stop
    except IndexError:
        return _read_any(data)
    return tuple(found)


def _read_field(data: bytes, start: int, stop: int) -> tuple[str, str] | None:
    """One HeaderValue; None unless it is a short key and a raw value, in this order. Raises IndexError."""
    at = start + data[start + 1] + 3
    begin = data[start:at]
    name = _beginnings.get(begin)
    if name is None:
        name = _read_beginning(begin, at - start)
        if name is None:
            entry = data[start:stop]
            return (entry[2:].decode("latin-1").lower(), "") if _is_bare(entry) else None
    length = data[at]
    at += 1
    if length & 0x80:
        more = data[at]
        if more & 0x80:
            return None
        length = length & 0x7F | more << 7
        at += 1
    return (name, data[at:stop].decode("latin-1")) if at + length == stop else None


def _read_beginning(begin: bytes, size: int) -> str | None:
    """The name, if this is a short key and the tag of a raw value."""
    if len(begin) != size or begin[0] != KEY_TAG or begin[1] & 0x80 or begin[-1] != RAW_VALUE_TAG:
        return None
    return begin[2:-1].decode("latin-1").lower()


def _is_bare(entry: bytes) -> bool:
    """A short key and nothing else: the value is empty."""
    return entry[0] == KEY_TAG and not entry[1] & 0x80 and entry[1] + 2 == len(entry)


def _read_any(data: bytes) -> Fields:
    """Any HeaderMap; `raw_value` before `value`, which older ones fill."""
    return tuple(
        [
            (
                NAMES.get(key := h.key) or key.decode("latin-1").lower(),
                (h.raw_value or h.value).decode("latin-1"),
            )
            for h in pb.HeaderMap.FromString(data).headers
        ]
    )
