"""Reading statement text as the server reads it: only encodings whose every byte below 128 is that ASCII character.

In the others (SJIS, BIG5, GBK, UHC, GB18030, JOHAB, SHIFT_JIS_2004) a quote or backslash may be half a character,
so that we and the server could disagree on where a literal ends.
"""

from __future__ import annotations

from functools import lru_cache

CODECS = {
    "UTF8": "utf-8",
    "UNICODE": "utf-8",
    "SQL_ASCII": "utf-8",  # the server does not convert; bytes that are no UTF-8 are refused
    "LATIN1": "iso8859-1",
    "LATIN2": "iso8859-2",
    "LATIN3": "iso8859-3",
    "LATIN4": "iso8859-4",
    "LATIN5": "iso8859-9",
    "LATIN6": "iso8859-10",
    "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14",
    "LATIN9": "iso8859-15",
    "LATIN10": "iso8859-16",
    "ISO_8859_5": "iso8859-5",
    "ISO_8859_6": "iso8859-6",
    "ISO_8859_7": "iso8859-7",
    "ISO_8859_8": "iso8859-8",
    "WIN866": "cp866",
    "WIN874": "cp874",
    "WIN1250": "cp1250",
    "WIN1251": "cp1251",
    "WIN1252": "cp1252",
    "WIN1253": "cp1253",
    "WIN1254": "cp1254",
    "WIN1255": "cp1255",
    "WIN1256": "cp1256",
    "WIN1257": "cp1257",
    "WIN1258": "cp1258",
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
}
"""PostgreSQL's names (as `client_encoding` is reported) to Python's."""


@lru_cache(maxsize=64)
def codec_for(client_encoding: str) -> str | None:
    """Python's codec, or None where text in that encoding cannot be judged."""
    return CODECS.get(client_encoding.upper())
