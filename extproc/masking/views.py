"""Text behind an escaping, with the way back: search the plain text, change only the bytes that carried it.

JSON string escapes, percent-encoding and character references can each hide a value (`alice\\u0040example.com`).
A view undoes one of them and remembers where every plain byte came from, so that bytes outside a finding stay
as they were written, whatever their spelling.
"""

from __future__ import annotations

import html
import re
from bisect import bisect_right
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import NamedTuple
from urllib.parse import quote

Escape = Callable[[bytes], bytes]


class Edit(NamedTuple):
    """Replace the bytes from `start` to `end`."""

    start: int
    end: int
    text: bytes


class View:
    """Plain bytes and, by `span`, where they stand in the escaped original."""

    __slots__ = ("_plain_at", "_raw_at", "_units", "escape", "text")

    def __init__(
        self, text: bytes, plain_at: list[int], raw_at: list[int], units: list[bool], escape: Escape
    ) -> None:
        self.text = text
        self.escape = escape
        self._plain_at = plain_at
        self._raw_at = raw_at
        self._units = units

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where the plain bytes `start:end` stand in the original; an escape sequence is never cut."""
        return self._raw(start), self._raw_end(end)

    def edits(self, edits: list[Edit], offset: int) -> list[Edit]:
        """Edits of the plain text as edits of the original, which begins at `offset` of its document."""
        raw = self._raw
        raw_end = self._raw_end
        escape = self.escape
        return [Edit(raw(start) + offset, raw_end(end) + offset, escape(text)) for start, end, text in edits]

    def _raw(self, at: int) -> int:
        piece = bisect_right(self._plain_at, at) - 1
        if self._units[piece]:
            return self._raw_at[piece]
        return self._raw_at[piece] + at - self._plain_at[piece]

    def _raw_end(self, end: int) -> int:
        if end == 0:
            return 0
        piece = bisect_right(self._plain_at, end - 1) - 1
        if self._units[piece]:
            return self._raw_at[piece + 1]
        return self._raw_at[piece] + end - self._plain_at[piece]


def json_view(raw: bytes) -> View:
    """A view of what stands between the quotes of a JSON string (RFC 8259 §7). The string must be valid."""
    return _view(raw, _JSON_ESCAPE, _plain_json, escape_json)


def percent_view(raw: bytes, *, plus: bool) -> View:
    """A view of percent-encoded text (RFC 3986 §2.1); with `plus`, a plus sign is a space (HTML forms)."""
    return _view(raw, _FORM_ESCAPE if plus else _PERCENT_ESCAPE, _plain_percent, escape_percent)


def reference_view(raw: bytes) -> View:
    """A view of HTML or XML text with its character references resolved."""
    return _view(raw, _REFERENCE, _plain_reference, escape_reference)


def escape_json(text: bytes) -> bytes:
    """`text` as it may stand inside a JSON string; pure ASCII."""
    return encode_basestring_ascii(text.decode("utf-8", "surrogatepass"))[1:-1].encode("ascii")


def escape_percent(text: bytes) -> bytes:
    """`text` as it may stand anywhere in a URL; brackets and asterisks stay readable in most parsers."""
    return quote(text, safe="*[]@").encode("ascii")


def escape_reference(text: bytes) -> bytes:
    """`text` as it may stand in HTML or XML, in an element or an attribute."""
    return html.escape(text.decode("utf-8", "surrogatepass")).encode("utf-8", "surrogatepass")


def apply_edits(data: bytes, edits: list[Edit]) -> bytes:
    """`data` with every edit made, in any order. Where two meet inside one escape sequence both count."""
    pieces: list[bytes] = []
    at = 0
    for start, end, text in sorted(edits):
        pieces.append(data[at:start])
        pieces.append(text)
        at = max(at, end)
    pieces.append(data[at:])
    return b"".join(pieces)


_JSON_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL
)
_PERCENT_ESCAPE = re.compile(rb"%[0-9a-fA-F]{2}")
_FORM_ESCAPE = re.compile(rb"%[0-9a-fA-F]{2}|\+")
_REFERENCE = re.compile(rb"&(?:#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,7}|[A-Za-z][A-Za-z0-9]{1,31});?")
_JSON_PLAIN = {
    b'\\"': b'"', b"\\\\": b"\\", b"\\/": b"/", b"\\b": b"\b",
    b"\\f": b"\f", b"\\n": b"\n", b"\\r": b"\r", b"\\t": b"\t",
}  # fmt: skip


def _view(raw: bytes, escapes: re.Pattern[bytes], plain: Callable[[bytes], bytes], escape: Escape) -> View:
    pieces: list[bytes] = []
    plain_at: list[int] = []
    raw_at: list[int] = []
    units: list[bool] = []
    at = 0
    length = 0
    for match in escapes.finditer(raw):
        start, end = match.span()
        if start > at:
            pieces.append(raw[at:start])
            plain_at.append(length)
            raw_at.append(at)
            units.append(False)
            length += start - at
        unit = plain(match.group())
        pieces.append(unit)
        plain_at.append(length)
        raw_at.append(start)
        units.append(True)
        length += len(unit)
        at = end
    pieces.append(raw[at:])
    plain_at.append(length)
    raw_at.append(at)
    units.append(False)
    return View(b"".join(pieces), plain_at, raw_at, units, escape)


def _plain_json(unit: bytes) -> bytes:
    known = _JSON_PLAIN.get(unit)
    if known is not None:
        return known
    code = int(unit[2:6], 16)
    if len(unit) == 12:  # a surrogate pair is one character
        code = 0x10000 + ((code - 0xD800) << 10) + int(unit[8:12], 16) - 0xDC00
    return chr(code).encode("utf-8", "surrogatepass")


def _plain_percent(unit: bytes) -> bytes:
    return b" " if unit == b"+" else bytes((int(unit[1:], 16),))


def _plain_reference(unit: bytes) -> bytes:
    return html.unescape(unit.decode("ascii")).encode("utf-8", "surrogatepass")
