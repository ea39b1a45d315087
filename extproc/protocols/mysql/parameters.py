"""Parameters of COM_STMT_EXECUTE: what is about to run with a prepared statement."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

from extproc.domain.errors import ProtocolError
from extproc.protocols.mysql.events import BoundParameter
from extproc.protocols.mysql.results import (
    DATE,
    DATETIME,
    DECIMAL,
    DOUBLE,
    FLOAT,
    INT24,
    LONG,
    LONGLONG,
    NULL,
    OLD_DECIMAL,
    SHORT,
    TIME,
    TIMESTAMP,
    TINY,
    YEAR,
    read_binary_value,
)
from extproc.protocols.mysql.values import malformed, read_bytes, read_int

UNSIGNED = 0x8000
"""In a parameter's type."""
_WHAT = "COM_STMT_EXECUTE"
_INTEGERS = frozenset({TINY, SHORT, YEAR, LONG, INT24, LONGLONG})
_KNOWN = _INTEGERS | frozenset(
    {
        FLOAT,
        DOUBLE,
        NULL,
        TIMESTAMP,
        DATE,
        TIME,
        DATETIME,
        DECIMAL,
        OLD_DECIMAL,
        *range(15, 17),
        *range(242, 256),
    }
)


def read_parameters(
    payload: bytes,
    at: int,
    count: int,
    types: Sequence[int],
    long_data: Mapping[int, bytes],
    codec: str,
) -> tuple[tuple[BoundParameter, ...], tuple[int, ...]]:
    """The parameters from `at` on, and their types. `types` are those of the last execution: a client may leave them
    out. What came as `long_data` is in no payload. Raises ProtocolError."""
    bitmap, at = read_bytes(payload, at, (count + 7) // 8, _WHAT)
    are_new, at = read_int(payload, at, 1, _WHAT)
    if are_new == 1:
        told = []
        for _ in range(count):
            kind, at = read_int(payload, at, 2, _WHAT)
            told.append(kind)
        types = told
    elif are_new or len(types) != count:
        raise malformed(_WHAT)
    found = []
    for number, kind in enumerate(types):
        if kind & 0xFF not in _KNOWN:
            raise ProtocolError("malformed-packet", "a parameter of an unknown type")
        given = long_data.get(number)
        if given is not None:
            if kind & 0xFF in _INTEGERS or kind & 0xFF in _READERS:  # the server would take it as text
                raise ProtocolError("malformed-packet", "long data is for texts and binary strings")
            found.append(_parameter(kind, given, codec))
        elif bitmap[number >> 3] >> (number & 7) & 1:
            found.append(BoundParameter(kind & 0xFF, None, None))
        else:
            value, at = read_binary_value(payload, at, kind & 0xFF, _WHAT)
            found.append(_parameter(kind, value, codec))
    if at != len(payload):
        raise malformed(_WHAT)
    return tuple(found), tuple(types)


def _parameter(kind: int, value: bytes, codec: str) -> BoundParameter:
    if kind & 0xFF == NULL:
        return BoundParameter(NULL, None, None)
    try:
        text: str | None = value_text(kind, value, codec)
    except (ValueError, struct.error, IndexError):
        text = None
    return BoundParameter(kind & (UNSIGNED | 0xFF), value, text)


def value_text(kind: int, value: bytes, codec: str) -> str:
    """A value of the binary protocol as text. Raises ValueError, IndexError or struct.error where it is none."""
    number = kind & 0xFF
    if number in _INTEGERS:
        return str(int.from_bytes(value, "little", signed=not kind & UNSIGNED))
    reader = _READERS.get(number)
    return reader(value) if reader is not None else value.decode(codec)


def _moment(value: bytes) -> str:
    year, month, day = struct.unpack("<HBB", value[:4]) if len(value) >= 4 else (0, 0, 0)
    text = f"{year:04d}-{month:02d}-{day:02d}"
    if len(value) >= 7:
        text += " {:02d}:{:02d}:{:02d}".format(*value[4:7])
    if len(value) == 11:
        text += f".{int.from_bytes(value[7:11], 'little'):06d}"
    if len(value) not in (0, 4, 7, 11):
        raise ValueError("no moment is this long")
    return text


def _duration(value: bytes) -> str:
    if len(value) not in (0, 8, 12):
        raise ValueError("no duration is this long")
    negative, days, hours, minutes, seconds = struct.unpack("<BIBBB", value[:8]) if value else (0,) * 5
    text = f"{'-' if negative else ''}{days * 24 + hours:02d}:{minutes:02d}:{seconds:02d}"
    return text + (f".{int.from_bytes(value[8:12], 'little'):06d}" if len(value) == 12 else "")


def _float(form: str) -> Callable[[bytes], str]:
    return lambda value: str(struct.unpack(form, value)[0])


_READERS: dict[int, Callable[[bytes], str]] = {
    FLOAT: _float("<f"),
    DOUBLE: _float("<d"),
    DATE: _moment,
    DATETIME: _moment,
    TIMESTAMP: _moment,
    TIME: _duration,
}
