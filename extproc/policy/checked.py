"""Reads a serialized `cel.expr.CheckedExpr` without protobuf: just enough to see what an expression reads.

Field numbers are those of cel-spec `proto/cel/expr/{syntax,checked}.proto`. The bytes come from our own CEL
library, never from a peer; anything unexpected raises ValueError and stops the load.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from extproc.policy.syntax import Build, Call, Comprehension, Const, Expr, Ident, Select

Fields = dict[int, list[int | bytes]]


def read_expression(serialized: bytes) -> Expr:
    """The expression inside `Any(ParsedExpr | CheckedExpr)`."""
    wrapped = _fields(serialized)
    type_url = _text(wrapped, 1)
    body = _fields(_message(wrapped, 2))
    if type_url.endswith("/cel.expr.CheckedExpr"):
        return _expr(_message(body, 4))
    if type_url.endswith("/cel.expr.ParsedExpr"):
        return _expr(_message(body, 2))
    raise ValueError("not a CEL expression")


def _expr(data: bytes) -> Expr:
    """Expr: const 3, ident 4, select 5, call 6, list 7, struct 8, comprehension 9."""
    fields = _fields(data)
    if 3 in fields:
        return _const(_message(fields, 3))
    if 4 in fields:
        return Ident(_text(_fields(_message(fields, 4)), 1))
    if 5 in fields:
        select = _fields(_message(fields, 5))
        return Select(_expr(_message(select, 1)), _text(select, 2), bool(select.get(3, [0])[-1]))
    if 6 in fields:
        call = _fields(_message(fields, 6))
        target = _expr(_message(call, 1)) if 1 in call else None
        return Call(_text(call, 2), tuple(_expr(part) for part in _messages(call, 3)), target)
    if 7 in fields:
        elements = _messages(_fields(_message(fields, 7)), 1)
        return Build("list", tuple(_expr(part) for part in elements))
    if 8 in fields:
        return _struct(_fields(_message(fields, 8)))
    if 9 in fields:
        return _comprehension(_fields(_message(fields, 9)))
    raise ValueError("an expression of no known kind")


def _struct(fields: Fields) -> Expr:
    """CreateStruct: entries 2, each with map_key 3 and value 4."""
    parts: list[Expr] = []
    for data in _messages(fields, 2):
        entry = _fields(data)
        parts.extend(_expr(_message(entry, number)) for number in (3, 4) if number in entry)
    return Build("struct", tuple(parts))


def _comprehension(fields: Fields) -> Expr:
    """Comprehension: variables 1 and 8, range 2, accumulator 3, then init, condition, step, result 4 to 7."""
    names = tuple(_text(fields, number) for number in (1, 8) if number in fields)
    parts = tuple(_expr(_message(fields, number)) for number in (4, 5, 6, 7) if number in fields)
    return Comprehension((*names, _text(fields, 3)), _expr(_message(fields, 2)), parts)


def _const(data: bytes) -> Const:
    """Constant: null 1, bool 2, int64 3, uint64 4, double 5, string 6, bytes 7."""
    fields = _fields(data)
    if 2 in fields:
        return Const(bool(fields[2][-1]))
    if 3 in fields:
        number = _number(fields, 3)
        return Const(number - (1 << 64) if number >> 63 else number)
    if 4 in fields:
        return Const(_number(fields, 4), unsigned=True)
    if 5 in fields:
        return Const(struct.unpack("<d", _message(fields, 5))[0])
    if 6 in fields:
        return Const(_text(fields, 6))
    if 7 in fields:
        return Const(_message(fields, 7))
    return Const(None)


def _fields(data: bytes) -> Fields:
    found: Fields = {}
    for number, value in _walk(data):
        found.setdefault(number, []).append(value)
    return found


def _walk(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Protobuf's wire format: varint 0, 64 bits 1, length-delimited 2, 32 bits 5."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("unknown wire type")
        if at + size > len(data):
            raise ValueError("a field is cut short")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")


def _message(fields: Fields, number: int) -> bytes:
    found = fields.get(number, [b""])[-1]
    if not isinstance(found, bytes):
        raise ValueError("a number where a message belongs")
    return found


def _messages(fields: Fields, number: int) -> list[bytes]:
    found = fields.get(number, [])
    if not all(isinstance(part, bytes) for part in found):
        raise ValueError("a number where a message belongs")
    return [part for part in found if isinstance(part, bytes)]


def _number(fields: Fields, number: int) -> int:
    found = fields[number][-1]
    if not isinstance(found, int):
        raise ValueError("a message where a number belongs")
    return found


def _text(fields: Fields, number: int) -> str:
    return _message(fields, number).decode()
