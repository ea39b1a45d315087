"""Bound parameters as text, where their type says how to read them."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable

from extproc.domain.statement import Parameter

_TEXT_TYPES = (18, 19, 25, 114, 142, 705, 1042, 1043)
"""char, name, text, json, xml, unknown, bpchar, varchar: their binary form is the text itself."""


def _number(form: str) -> Callable[[bytes], str]:
    return lambda value: str(struct.unpack(form, value)[0])


BINARY: dict[int, Callable[[bytes], str]] = {
    **{oid: lambda value: value.decode("utf-8") for oid in _TEXT_TYPES},
    16: lambda value: {b"\x00": "false", b"\x01": "true"}[value],
    20: _number("!q"),
    21: _number("!h"),
    23: _number("!i"),
    26: _number("!I"),
    700: _number("!f"),
    701: _number("!d"),
    2950: lambda value: str(uuid.UUID(bytes=value)),
    3802: lambda value: value[1:].decode("utf-8") if value[:1] == b"\x01" else _unreadable(),
}
"""Types that are read in binary, by the object id PostgreSQL gives them everywhere (pg_type.dat)."""


def read_parameter(type_oid: int, format: int, value: bytes | None, codec: str) -> Parameter:
    """The parameter with its text, None where it cannot be read. `codec` is the client's encoding."""
    text: str | None = None
    if value is not None:
        try:
            text = value.decode(codec) if format == 0 else BINARY[type_oid](value)
        except (KeyError, ValueError, struct.error):
            text = None
    return Parameter(type_oid, format, value, text)


def _unreadable() -> str:
    raise ValueError
