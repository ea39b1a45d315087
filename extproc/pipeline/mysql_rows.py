"""Rows of MySQL as a record shows them: packets of the text and of the binary protocol become texts."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import partial

from extproc.domain.errors import ProtocolError
from extproc.pipeline.row_sample import OMITTED, ReadRows, Shown, text_of
from extproc.protocols.mysql import Column
from extproc.protocols.mysql.packets import HEAD_BYTES, LONGEST
from extproc.protocols.mysql.parameters import UNSIGNED, value_text
from extproc.protocols.mysql.results import (
    BIT,
    BYTE_STRINGS,
    GEOMETRY,
    JSON,
    parse_binary_row,
    parse_text_row,
)

BINARY_CHARSET = 63
UNSIGNED_COLUMN = 0x20
"""In a column's flags."""


def mysql_rows(columns: Sequence[Column]) -> ReadRows:
    """What reads the rows of a result with these columns."""
    return partial(_rows, tuple(columns))


def _rows(
    columns: Sequence[Column], held: bytearray, at: int, codec: str
) -> Iterator[tuple[int, Sequence[Shown]]]:
    for end, payload in _payloads(held, at):
        yield end, _row(columns, payload, codec)


def _payloads(held: bytearray, at: int) -> Iterator[tuple[int, bytes]]:
    """Whole payloads; one of 16 MiB and more comes in several packets."""
    parts: list[bytes] = []
    while len(held) - at >= HEAD_BYTES:
        size = int.from_bytes(held[at : at + 3], "little")
        end = at + HEAD_BYTES + size
        if end > len(held):
            return
        parts.append(bytes(held[at + HEAD_BYTES : end]))
        at = end
        if size < LONGEST:
            yield at, b"".join(parts)
            parts.clear()


def _row(columns: Sequence[Column], payload: bytes, codec: str) -> Sequence[Shown]:
    is_binary = bool(columns) and columns[0].is_binary
    try:
        values = parse_binary_row(payload, columns) if is_binary else parse_text_row(payload, len(columns))
    except ProtocolError:
        return [(OMITTED, False)]
    return [
        (None if value is None else _text(column, value, codec), column.type == JSON)
        for column, value in zip(columns, values, strict=True)
    ]


def _text(column: Column, value: bytes, codec: str) -> str:
    if column.type in (BIT, GEOMETRY):
        return OMITTED
    if column.type in BYTE_STRINGS and column.charset == BINARY_CHARSET:
        return OMITTED
    if not column.is_binary:
        return text_of(value, codec)
    kind = column.type | (UNSIGNED if column.flags & UNSIGNED_COLUMN else 0)
    try:
        return value_text(kind, value, codec)
    except (ValueError, struct.error, IndexError):
        return OMITTED
