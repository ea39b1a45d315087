"""Arrays of a database element by element, in the text form (`{a,"b c",NULL}`) and the binary one (array_send)."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

ELEMENTS = {
    143: 142, 199: 114, 1001: 17, 1002: 18, 1003: 19, 1009: 25, 1014: 1042, 1015: 1043, 1016: 20, 1231: 1700,
    3807: 3802,
}  # fmt: skip
"""Types of arrays, and of their elements: xml, json, bytea, char, name, text, bpchar, varchar, int8, numeric, jsonb."""

Change = Callable[[bytes], bytes | None]
"""An element to what stands for it; None is NULL."""

_PART = re.compile(
    rb'"((?:[^"\\]|\\.)*+)"|((?:[^"{},\\\s]|\\.|(?<=[^{},\s])[ \t]++(?=[^{},\s]))++)|([{},]|\s++)', re.DOTALL
)
_DIMENSIONS = re.compile(rb"(?:\[[+-]?\d+:[+-]?\d+\])++=")
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_PLAIN = re.compile(rb'[^"\\{},\s]++')


def map_text(value: bytes, change: Change) -> bytes:
    """Every element through `change`; an element that stays keeps its bytes. Raises ValueError for no array."""
    head = _DIMENSIONS.match(value)
    at = head.end() if head is not None else 0
    out = [value[:at]]
    depth = 0
    if value[at : at + 1] != b"{":
        raise ValueError("not an array")
    while at < len(value):
        part = _PART.match(value, at)
        if part is None:
            raise ValueError("not an array")
        quoted, bare, sign = part.groups()
        if sign is not None:
            depth += (sign == b"{") - (sign == b"}")
            out.append(sign)
        elif quoted is None and bare.upper() == b"NULL":
            out.append(bare)
        else:
            element = _ESCAPED.sub(rb"\1", bare if quoted is None else quoted)
            new = change(element)
            out.append(part[0] if new == element else _element(new))
        at = part.end()
        if depth == 0 and at != len(value):
            raise ValueError("not an array")
    if depth:
        raise ValueError("not an array")
    return b"".join(out)


def _element(value: bytes | None) -> bytes:
    if value is None:
        return b"NULL"
    if _PLAIN.fullmatch(value) and value.upper() != b"NULL":
        return value
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def map_binary(value: bytes, change: Change) -> bytes:
    """The same for dimensions, flag, element type, then length and lower bound of each, then elements (array_recv).

    Raises ValueError or struct.error for no array.
    """
    count, _, element_type = struct.unpack_from("!iiI", value)
    if not 0 <= count <= 6:  # MAXDIM
        raise ValueError("not an array")
    at = 12 + 8 * count
    elements: list[bytes] = []
    has_nulls = False
    while at < len(value):
        (length,) = struct.unpack_from("!i", value, at)
        at += 4
        new: bytes | None = None
        if length >= 0:
            if at + length > len(value):
                raise ValueError("not an array")
            new = change(value[at : at + length])
            at += length
        elif length != -1:
            raise ValueError("not an array")
        has_nulls = has_nulls or new is None
        elements.append(b"\xff\xff\xff\xff" if new is None else struct.pack("!i", len(new)) + new)
    head = struct.pack("!iiI", count, int(has_nulls), element_type)
    return head + value[12 : 12 + 8 * count] + b"".join(elements)
