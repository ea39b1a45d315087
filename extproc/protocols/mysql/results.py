"""Columns and rows of a result: as text, and in the binary protocol's forms (Text and Binary Protocol Resultset)."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.protocols.mysql.events import Column
from extproc.protocols.mysql.values import lenenc_bytes, malformed, read_bytes, read_int, read_lenenc_bytes

TINY, SHORT, LONG, FLOAT, DOUBLE, NULL, TIMESTAMP, LONGLONG, INT24 = 1, 2, 3, 4, 5, 6, 7, 8, 9
DATE, TIME, DATETIME, YEAR, BIT, JSON, DECIMAL, OLD_DECIMAL = 10, 11, 12, 13, 16, 245, 246, 0
GEOMETRY = 255
BYTE_STRINGS = frozenset({14, 15, 247, 248, 249, 250, 251, 252, 253, 254})
"""Types whose values are texts, or bytes where their character set is the binary one."""

SIZES = {TINY: 1, SHORT: 2, YEAR: 2, LONG: 4, INT24: 4, FLOAT: 4, DOUBLE: 8, LONGLONG: 8}
"""Types with a fixed size in the binary protocol."""
SHORT_SIZED = frozenset({DATE, TIME, DATETIME, TIMESTAMP})
"""Types with one byte of length there."""


def parse_column(payload: bytes, codec: str, *, is_binary: bool) -> Column:
    """ColumnDefinition41."""
    what = "column definition"
    catalogue, at = read_lenenc_bytes(payload, 0, what)
    schema, at = read_lenenc_bytes(payload, at, what)
    _, at = read_lenenc_bytes(payload, at, what)
    table, at = read_lenenc_bytes(payload, at, what)
    name, at = read_lenenc_bytes(payload, at, what)
    origin, at = read_lenenc_bytes(payload, at, what)
    size, at = read_int(payload, at, 1, what)
    if size != 12:
        raise malformed(what)
    charset, at = read_int(payload, at, 2, what)
    _, at = read_int(payload, at, 4, what)
    kind, at = read_int(payload, at, 1, what)
    flags, at = read_int(payload, at, 2, what)
    if catalogue != b"def" or at + 3 != len(payload):  # a rest would go on unread
        raise malformed(what)
    return Column(
        name.decode(codec, "replace"),
        schema.decode(codec, "replace"),
        table.decode(codec, "replace"),
        origin.decode(codec, "replace"),
        kind,
        charset,
        flags,
        is_binary,
    )


def parse_text_row(payload: bytes, count: int) -> tuple[bytes | None, ...]:
    values: list[bytes | None] = []
    at = 0
    for _ in range(count):
        size = payload[at] if at < len(payload) else 0xFF
        if size < 0xFB:
            end = at + 1 + size
            if end > len(payload):
                raise malformed("row")
            values.append(payload[at + 1 : end])
            at = end
        elif size == 0xFB:
            values.append(None)
            at += 1
        else:
            value, at = read_lenenc_bytes(payload, at, "row")
            values.append(value)
    if at != len(payload):
        raise malformed("row")
    return tuple(values)


def build_text_row(values: Sequence[bytes | None]) -> bytes:
    return b"".join([b"\xfb" if value is None else lenenc_bytes(value) for value in values])


def read_binary_value(payload: bytes, at: int, kind: int, what: str) -> tuple[bytes, int]:
    """One value without what says its length, and the position behind it."""
    size = SIZES.get(kind)
    if size is None:
        if kind == NULL:
            return b"", at
        if kind not in SHORT_SIZED:
            return read_lenenc_bytes(payload, at, what)
        size, at = read_int(payload, at, 1, what)
    return read_bytes(payload, at, size, what)


def parse_binary_row(payload: bytes, columns: Sequence[Column]) -> tuple[bytes | None, ...]:
    what = "row"
    if payload[:1] != b"\x00":
        raise malformed(what)
    bitmap, at = read_bytes(payload, 1, (len(columns) + 9) // 8, what)
    values: list[bytes | None] = []
    for number, column in enumerate(columns):
        bit = number + 2  # the first two bits are reserved
        if bitmap[bit >> 3] >> (bit & 7) & 1:
            values.append(None)
            continue
        value, at = read_binary_value(payload, at, column.type, what)
        values.append(value)
    if at != len(payload):
        raise malformed(what)
    return tuple(values)


def build_binary_row(values: Sequence[bytes | None], columns: Sequence[Column]) -> bytes:
    bitmap = bytearray((len(columns) + 9) // 8)
    parts = []
    for number, (value, column) in enumerate(zip(values, columns, strict=True)):
        if value is None:
            bit = number + 2
            bitmap[bit >> 3] |= 1 << (bit & 7)
        elif column.type in SIZES or column.type == NULL:
            if len(value) != SIZES.get(column.type, 0):
                raise ValueError("a value keeps the size of its type")
            parts.append(value)
        elif column.type in SHORT_SIZED:
            parts.append(bytes((len(value),)) + value)
        else:
            parts.append(lenenc_bytes(value))
    return b"\x00" + bytes(bitmap) + b"".join(parts)
