"""Character sets whose texts can be read: those in which every byte below 0x80 is ASCII wherever it stands.

In the others (gbk, sjis, big5 …) the second byte of a character may look like a quote or a backslash, so nothing
read of such a text is certain.
"""

from __future__ import annotations

CODECS: dict[str, str] = {
    "utf8mb4": "utf-8",
    "utf8mb3": "utf-8",
    "utf8": "utf-8",
    "ascii": "ascii",
    "latin1": "latin-1",
    "binary": "latin-1",
}
"""By the server's name. MySQL's latin1 is cp1252 for letters; Python's keeps every byte apart, which is enough to read
names and literals, and loses none."""

_UTF8MB3 = frozenset({33, 76, 83, *range(192, 216), 223})
_UTF8MB4 = frozenset({45, 46, *range(224, 248), *range(255, 324)})
_LATIN1 = frozenset({5, 8, 15, 31, 47, 48, 49, 94})


def codec_of(collation: int) -> str | None:
    """The codec for the collation of a login (one byte); None where texts cannot be read."""
    if collation in _UTF8MB4 or collation in _UTF8MB3:
        return CODECS["utf8mb4"]
    if collation in _LATIN1:
        return CODECS["latin1"]
    return {11: "ascii", 65: "ascii", 63: "latin-1"}.get(collation)


_WIDE = (range(35, 36), range(54, 57), range(60, 63), range(90, 91), range(101, 125), range(128, 152),
         range(159, 184), range(640, 672), range(672, 704), range(736, 768))  # fmt: skip
_NO_PAD = 1024
_UCA_1400 = range(2560, 3328)
"""MariaDB: ucs2, utf16 and utf32, 256 of each."""


def is_wide_collation(number: int) -> bool:
    """Whether a text under this collation has no ASCII in it: ucs2, utf16, utf16le and utf32.

    MariaDB gives collations without padding the number of their sister, and 1,024 more.
    """
    return number in _UCA_1400 or any(number in span or number - _NO_PAD in span for span in _WIDE)
