"""COPY data towards a client, in text and csv (PostgreSQL documentation, COPY, "File Formats"): rows out of pieces,
fields out of rows, and back. A field that is not changed keeps its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres.encodings import codec_for

Option = str | tuple[str, ...] | None
"""The value of a COPY option as it was written: a text, a list of columns, or nothing."""

_KNOWN = frozenset(
    {"format", "delimiter", "null", "header", "quote", "escape", "force_quote", "encoding", "freeze"}
)
_ON = frozenset({None, "true", "on", "1"})
_OFF = frozenset({"false", "off", "0"})
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPED = {**{value: b"\\" + letter for letter, value in _LETTERS.items()}, b"\\": b"\\\\"}


class CopyFormatError(ValueError):
    """Options that we cannot follow; the text is safe to show."""


@dataclass(frozen=True, slots=True)
class CopyFormat:
    """How rows are written. One byte each: `delimiter`, `quote`, `escape`."""

    is_csv: bool = False
    delimiter: bytes = b"\t"
    null: bytes = b"\\N"
    quote: bytes = b'"'
    escape: bytes = b'"'
    has_header: bool = False
    forced: frozenset[str] = frozenset()
    """Columns that are always quoted; `*` is every one."""
    codec: str = "utf-8"


def is_binary(options: Mapping[str, Option]) -> bool:
    """Whether the data is COPY's binary format."""
    return options.get("format") == "binary"


def copy_format(options: Mapping[str, Option], codec: str) -> CopyFormat:
    """What the options say. Raises CopyFormatError for one that is not known here, as a server will for a wrong one."""
    unknown = sorted(set(options) - _KNOWN)
    if unknown:
        raise CopyFormatError("it has an option that is not known here")
    kind = _text(options, "format", "text")
    if kind not in ("text", "csv"):
        raise CopyFormatError("its format is neither text nor csv")
    is_csv = kind == "csv"
    if "encoding" in options:
        named = codec_for(_text(options, "encoding", ""))
        if named is None:
            raise CopyFormatError("its encoding cannot be read here")
        codec = named
    quote = _byte(options, "quote", b'"')
    forced = options.get("force_quote")
    format = CopyFormat(
        is_csv=is_csv,
        delimiter=_byte(options, "delimiter", b"," if is_csv else b"\t"),
        null=_encoded(_text(options, "null", "" if is_csv else "\\N"), codec),
        quote=quote,
        escape=_byte(options, "escape", quote),
        has_header=_flag(options, "header"),
        forced=frozenset(forced) if isinstance(forced, tuple) else frozenset({"*"} if forced == "*" else ()),
        codec=codec,
    )
    # the server says so too; here it is what the reading of rows relies on
    if format.delimiter in (format.quote, format.escape) and is_csv:
        raise CopyFormatError("its delimiter is also a quote or escape character")
    if format.delimiter in (b"\n", b"\r", b"\\") or b"\n" in format.null or b"\r" in format.null:
        raise CopyFormatError("its delimiter or null text cannot be told from its rows")
    if is_csv and (format.quote in (b"\n", b"\r") or format.escape in (b"\n", b"\r")):
        raise CopyFormatError("its quote or escape cannot be told from its rows")
    return format


def _text(options: Mapping[str, Option], name: str, otherwise: str) -> str:
    value = options.get(name, otherwise)
    if not isinstance(value, str):
        raise CopyFormatError("an option of it has no plain value")
    return value


def _encoded(text: str, codec: str) -> bytes:
    try:
        return text.encode(codec)
    except UnicodeError:
        raise CopyFormatError("an option of it is not in its encoding") from None


def _byte(options: Mapping[str, Option], name: str, otherwise: bytes) -> bytes:
    if name not in options:
        return otherwise
    text = _text(options, name, "")
    if len(text) != 1 or not text.isascii() or text == "\0":
        raise CopyFormatError("an option of it is not one character")
    return text.encode()


def _flag(options: Mapping[str, Option], name: str) -> bool:
    if name not in options:
        return False
    value = options[name]
    told = value.lower() if isinstance(value, str) else value
    if told in _ON:
        return True
    if told in _OFF:
        return False
    raise CopyFormatError("an option of it is neither on nor off")


class CopyRows:
    """Rows of one COPY, however they are cut into pieces. A row keeps no newline at its end."""

    __slots__ = ("_is_open", "_limit", "_line", "_lines", "_pair", "_quote", "_size")

    def __init__(self, format: CopyFormat, limit: int) -> None:
        """`limit`: the longest row, in bytes."""
        self._quote = format.quote if format.is_csv else b""
        self._pair = _pair(format) if format.is_csv and format.escape != format.quote else None
        self._limit = limit
        self._line: list[bytes] = []
        self._lines: list[bytes] = []
        self._size = 0
        self._is_open = False
        """Inside a quoted csv field, where a newline is data."""

    def rows(self, pieces: Iterable[bytes]) -> list[bytes]:
        """The rows that end in these pieces. Raises ProtocolError for one that is too long."""
        found: list[bytes] = []
        quote = self._quote
        for piece in pieces:
            if (
                not self._size
                and piece.find(b"\n") == len(piece) - 1
                and not (quote and quote in piece)
                and piece
            ):
                found.append(piece[:-1])  # as the server sends them: one message, one row
                continue
            *lines, rest = piece.split(b"\n")
            for line in lines:
                self._add(line)
                self._size += 1
                row = self._end_of_line()
                if row is not None:
                    found.append(row)
            if rest:
                self._add(rest)
        return found

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise ProtocolError("row-too-long", "a row of COPY data that must be read is too long")
        self._line.append(part)

    def _end_of_line(self) -> bytes | None:
        line = b"".join(self._line)
        self._line = []
        if self._quote:
            bare = self._pair.sub(b"", line) if self._pair is not None else line
            if bare.count(self._quote) % 2:
                self._is_open = not self._is_open
        self._lines.append(line)
        if self._is_open:
            return None
        row = b"\n".join(self._lines)
        self._lines, self._size = [], 0
        return row

    @property
    def is_between(self) -> bool:
        """No row has begun without ending."""
        return not self._size


class CopyFields:
    """Fields of a row, and a value written as a field. `columns` are the names, in order."""

    __slots__ = ("_count", "_escapes", "_forced", "_format", "_quoted", "_special", "_unescape")

    def __init__(self, format: CopyFormat, columns: Sequence[str]) -> None:
        self._format = format
        self._count = len(columns)
        self._quoted: re.Pattern[bytes] | None = None
        self._special: re.Pattern[bytes] | None = None
        self._forced = ["*" in format.forced or name in format.forced for name in columns]
        if format.is_csv:
            quote, escape = re.escape(format.quote), re.escape(format.escape)
            # possessive: a field that does not end is found at once, not after trying every other reading
            inner = b"(?:" + escape + b"[" + _class(format) + b"]|[^" + quote + b"])*+"
            self._quoted = re.compile(quote + inner + quote, re.DOTALL)
            self._unescape = _pair(format)
            self._special = re.compile(b"[\n\r" + re.escape(format.delimiter) + quote + b"]")
            self._escapes = re.compile(b"[" + _class(format) + b"]")
        else:
            self._unescape = re.compile(rb"\\(.)", re.DOTALL)
            self._escapes = re.compile(b"[\\\\\b\f\n\r\t\v" + re.escape(format.delimiter) + b"]")

    def split(self, row: bytes) -> list[bytes]:
        """The fields as they stand. Raises ProtocolError where there are not as many as columns."""
        fields = self._split_csv(row) if self._format.is_csv else self._split_text(row)
        if len(fields) != self._count and not (self._count == 0 and fields == [b""]):
            raise ProtocolError("malformed-copy", "a row of COPY data has another number of columns")
        return fields

    def _split_text(self, row: bytes) -> list[bytes]:
        parts = row.split(self._format.delimiter)
        if b"\\" not in row or len(parts) == self._count:
            return parts
        fields: list[bytes] = []
        part = b""
        for piece in parts:
            part += piece
            if (len(part) - len(part.rstrip(b"\\"))) % 2:  # the delimiter after it is data
                part += self._format.delimiter
                continue
            fields.append(part)
            part = b""
        return fields

    def _split_csv(self, row: bytes) -> list[bytes]:
        format, quoted = self._format, self._quoted
        assert quoted is not None  # noqa: S101 - csv
        if format.quote not in row:
            return row.split(format.delimiter)
        fields: list[bytes] = []
        at = 0
        while True:
            if row[at : at + 1] == format.quote:
                match = quoted.match(row, at)
                end = match.end() if match is not None else -1
            else:
                end = row.find(format.delimiter, at)
                end = len(row) if end < 0 else end
            if end < 0 or row[end : end + 1] not in (b"", format.delimiter):
                raise ProtocolError("malformed-copy", "a row of COPY data is not what its format says")
            fields.append(row[at:end])
            if end == len(row):
                return fields
            at = end + 1

    def joined(self, fields: Sequence[bytes]) -> bytes:
        """A row of these fields."""
        return self._format.delimiter.join(fields)

    def value(self, field: bytes) -> bytes | None:
        """What a field means; None is NULL."""
        format = self._format
        if field == format.null:
            return None
        if format.is_csv:
            if field[:1] != format.quote:
                return field
            return self._unescape.sub(rb"\1", field[1:-1])
        return self._unescape.sub(_letter, field) if b"\\" in field else field

    def field(self, value: bytes | None, number: int) -> bytes:
        """A value of column `number` as a field."""
        format = self._format
        if value is None:
            return format.null
        if not format.is_csv:
            return self._escapes.sub(_escaped, value)
        special = self._special
        assert special is not None  # noqa: S101 - csv
        plain = value != format.null and value != b"\\." and special.search(value) is None
        if plain and not self._forced[number]:
            return value
        escape = format.escape
        return format.quote + self._escapes.sub(lambda found: escape + found[0], value) + format.quote


def _class(format: CopyFormat) -> bytes:
    return re.escape(format.quote) + re.escape(format.escape)


def _pair(format: CopyFormat) -> re.Pattern[bytes]:
    """An escape with what it escapes."""
    return re.compile(re.escape(format.escape) + b"([" + _class(format) + b"])")


def _letter(found: re.Match[bytes]) -> bytes:
    return _LETTERS.get(found[1], found[1])


def _escaped(found: re.Match[bytes]) -> bytes:
    return _ESCAPED.get(found[0], b"\\" + found[0])
