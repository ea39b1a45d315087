"""Messages as bytes (PostgreSQL documentation, "Message Formats"): `parse_*` reads a body, `build_*` writes a message.

Every parser takes the body without type and length, and raises ProtocolError when one byte is missing or left over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres.events import BackendKey, Column
from extproc.protocols.postgres.limits import Refusal

INT16 = struct.Struct("!h")
UINT16 = struct.Struct("!H")
INT32 = struct.Struct("!i")
UINT32 = struct.Struct("!I")
HEAD = struct.Struct("!cI")
HEAD_BYTES = 5
ROW_HEAD = struct.Struct("!cIH")
NULL = b"\xff\xff\xff\xff"
"""Length -1 (Bind, DataRow)."""
_COLUMN = struct.Struct("!IhIhih")

SYNC = b"S\x00\x00\x00\x04"
FLUSH = b"H\x00\x00\x00\x04"
TERMINATE = b"X\x00\x00\x00\x04"
AUTHENTICATION_OK = b"R\x00\x00\x00\x08\x00\x00\x00\x00"
AUTHENTICATION_CLEARTEXT = b"R\x00\x00\x00\x08\x00\x00\x00\x03"

CANCEL_REQUEST, SSL_REQUEST, GSSENC_REQUEST = 80877102, 80877103, 80877104
SSL_REQUEST_PACKET = UINT32.pack(8) + UINT32.pack(SSL_REQUEST)


def malformed(what: str) -> ProtocolError:
    """A message that does not have the shape the specification gives it."""
    return ProtocolError("malformed-message", f"malformed {what} message")


def build(kind: bytes, body: bytes) -> bytes:
    """A message: its type, its length (which counts itself), its body."""
    return HEAD.pack(kind, len(body) + 4) + body


def cstring(body: bytes, at: int, what: str) -> tuple[bytes, int]:
    """The bytes up to the next NUL, and where to read on."""
    end = body.find(b"\x00", at)
    if end < 0:
        raise malformed(what)
    return body[at:end], end + 1


def build_query(text: bytes) -> bytes:
    return build(b"Q", text + b"\x00")


def parse_query(body: bytes) -> bytes:
    text, at = cstring(body, 0, "Query")
    if at != len(body):
        raise malformed("Query")
    return text


class Parse(NamedTuple):
    name: bytes
    text: bytes
    types: tuple[int, ...]


def build_parse(name: bytes, text: bytes, types: Sequence[int] = ()) -> bytes:
    body = name + b"\x00" + text + b"\x00" + struct.pack(f"!H{len(types)}I", len(types), *types)
    return build(b"P", body)


def parse_parse(body: bytes) -> Parse:
    name, at = cstring(body, 0, "Parse")
    text, at = cstring(body, at, "Parse")
    try:
        (count,) = UINT16.unpack_from(body, at)
        if at + 2 + 4 * count != len(body):
            raise malformed("Parse")
        return Parse(name, text, struct.unpack_from(f"!{count}I", body, at + 2))
    except struct.error:
        raise malformed("Parse") from None


class Bind(NamedTuple):
    portal: bytes
    statement: bytes
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]

    def format_of(self, parameter: int) -> int:
        """No format code means text for all, a single one counts for all (Bind)."""
        if len(self.formats) == 1:
            return self.formats[0]
        return self.formats[parameter] if self.formats else 0


def build_bind(
    portal: bytes,
    statement: bytes,
    values: Sequence[bytes | None] = (),
    formats: Sequence[int] = (),
    result_formats: Sequence[int] = (),
) -> bytes:
    body = bytearray(portal + b"\x00" + statement + b"\x00")
    body += struct.pack(f"!H{len(formats)}H", len(formats), *formats)
    body += UINT16.pack(len(values))
    _append_values(body, values)
    body += struct.pack(f"!H{len(result_formats)}H", len(result_formats), *result_formats)
    return build(b"B", bytes(body))


def parse_bind(body: bytes) -> Bind:
    portal, at = cstring(body, 0, "Bind")
    statement, at = cstring(body, at, "Bind")
    try:
        formats, at = _codes(body, at)
        (count,) = UINT16.unpack_from(body, at)
        values, at = _values(body, at + 2, count, "Bind")
        result_formats, at = _codes(body, at)
    except struct.error:
        raise malformed("Bind") from None
    if at != len(body) or (len(formats) > 1 and len(formats) != count):
        raise malformed("Bind")
    return Bind(portal, statement, formats, values, result_formats)


def _codes(body: bytes, at: int) -> tuple[tuple[int, ...], int]:
    (count,) = UINT16.unpack_from(body, at)
    return struct.unpack_from(f"!{count}H", body, at + 2), at + 2 + 2 * count


def _values(body: bytes, at: int, count: int, what: str) -> tuple[tuple[bytes | None, ...], int]:
    values: list[bytes | None] = []
    total = len(body)
    for _ in range(count):
        (length,) = INT32.unpack_from(body, at)
        at += 4
        if length == -1:  # NULL is length -1, not a size (Bind, DataRow)
            values.append(None)
            continue
        end = at + length
        if length < 0 or end > total:
            raise malformed(what)
        values.append(body[at:end])
        at = end
    return tuple(values), at


def _append_values(body: bytearray, values: Iterable[bytes | None]) -> None:
    for value in values:
        if value is None:
            body += b"\xff\xff\xff\xff"
        else:
            body += UINT32.pack(len(value))
            body += value


def parse_data_row(body: bytes, columns: int) -> tuple[bytes | None, ...]:
    try:
        if UINT16.unpack_from(body, 0)[0] != columns:
            raise malformed("DataRow")
        values, at = _values(body, 2, columns, "DataRow")
    except struct.error:
        raise malformed("DataRow") from None
    if at != len(body):
        raise malformed("DataRow")
    return values


def build_data_row(values: Sequence[bytes | None]) -> bytes:
    # joined once: a masked result is made of nothing else
    parts = [b""]
    size = 6
    for value in values:
        if value is None:
            parts.append(NULL)
            size += 4
        else:
            parts.append(UINT32.pack(len(value)))
            parts.append(value)
            size += 4 + len(value)
    parts[0] = ROW_HEAD.pack(b"D", size, len(values))
    return b"".join(parts)


def parse_target(body: bytes, what: str) -> tuple[bytes, bytes]:
    """Describe and Close: `S` or `P`, and a name."""
    name, at = cstring(body, 1, what)
    if at != len(body) or body[:1] not in (b"S", b"P"):
        raise malformed(what)
    return body[:1], name


def build_target(kind: bytes, which: bytes, name: bytes) -> bytes:
    return build(kind, which + name + b"\x00")


def parse_execute(body: bytes) -> bytes:
    """The portal; the row limit is the client's business."""
    portal, at = cstring(body, 0, "Execute")
    if at + 4 != len(body):
        raise malformed("Execute")
    return portal


def build_execute(portal: bytes, limit: int = 0) -> bytes:
    return build(b"E", portal + b"\x00" + UINT32.pack(limit))


def parse_row_description(body: bytes, codec: str) -> tuple[Column, ...]:
    columns = []
    try:
        (count,) = UINT16.unpack_from(body, 0)
        at = 2
        for _ in range(count):
            name, at = cstring(body, at, "RowDescription")
            table, attribute, type_oid, _size, _modifier, form = _COLUMN.unpack_from(body, at)
            at += _COLUMN.size
            columns.append(Column(name.decode(codec, "backslashreplace"), table, attribute, type_oid, form))
    except struct.error:
        raise malformed("RowDescription") from None
    if at != len(body):
        raise malformed("RowDescription")
    return tuple(columns)


def build_row_description(columns: Iterable[Column]) -> bytes:
    rows = [
        column.name.encode()
        + b"\x00"
        + _COLUMN.pack(column.table_oid, column.attribute, column.type_oid, -1, -1, column.format)
        for column in columns
    ]
    return build(b"T", UINT16.pack(len(rows)) + b"".join(rows))


def parse_parameter_description(body: bytes) -> tuple[int, ...]:
    try:
        (count,) = UINT16.unpack_from(body, 0)
        if len(body) != 2 + 4 * count:
            raise malformed("ParameterDescription")
        return struct.unpack_from(f"!{count}I", body, 2)
    except struct.error:
        raise malformed("ParameterDescription") from None


def parse_fields(body: bytes, what: str = "ErrorResponse") -> dict[str, bytes]:
    """The fields of an ErrorResponse or NoticeResponse by their letters."""
    fields: dict[str, bytes] = {}
    at = 0
    while body[at : at + 1] not in (b"\x00", b""):
        letter = chr(body[at])
        fields[letter], at = cstring(body, at + 1, what)
    if at + 1 != len(body):
        raise malformed(what)
    return fields


def build_fields(kind: bytes, fields: Mapping[str, bytes]) -> bytes:
    body = b"".join(
        letter.encode("latin-1") + value.replace(b"\x00", b"") + b"\x00" for letter, value in fields.items()
    )
    return build(kind, body + b"\x00")


def build_error(
    refusal: Refusal, *, severity: str = "ERROR", kind: bytes = b"E", codec: str = "utf-8"
) -> bytes:
    fields = {"S": severity, "V": severity, "C": refusal.sqlstate, "M": refusal.message}
    if refusal.detail:
        fields["D"] = refusal.detail
    if refusal.hint:
        fields["H"] = refusal.hint
    return build_fields(kind, {name: value.encode(codec, "replace") for name, value in fields.items()})


def build_startup(minor: int, parameters: Iterable[tuple[str, str]]) -> bytes:
    """A startup message has no type byte. Values are UTF-8, as libpq and the server take them."""
    body = UINT32.pack(3 << 16 | minor)
    for name, value in parameters:
        if "\x00" in name or "\x00" in value or not name:
            raise ValueError("a startup parameter cannot contain NUL or have no name")
        body += name.encode() + b"\x00" + value.encode() + b"\x00"
    body += b"\x00"
    return UINT32.pack(len(body) + 4) + body


def build_negotiate(minor: int, unknown: Sequence[str]) -> bytes:
    """NegotiateProtocolVersion: the newest minor version we know, and the `_pq_.` options we do not."""
    names = b"".join(name.encode("utf-8", "surrogateescape") + b"\x00" for name in unknown)
    return build(b"v", UINT32.pack(3 << 16 | minor) + UINT32.pack(len(unknown)) + names)


def build_cancel(key: BackendKey) -> bytes:
    body = UINT32.pack(CANCEL_REQUEST) + UINT32.pack(key.process_id) + key.secret
    return UINT32.pack(len(body) + 4) + body


def build_ready(status: str) -> bytes:
    return build(b"Z", status.encode())
