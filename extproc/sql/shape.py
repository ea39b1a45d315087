"""A statement's text without its comments and literals: what may be shown, compared and granted."""

from __future__ import annotations

import postgast

_TOKEN = postgast.pg_query_pb2.Token
_COMMENTS = frozenset({_TOKEN.Value("SQL_COMMENT"), _TOKEN.Value("C_COMMENT")})
_LITERALS = frozenset(
    _TOKEN.Value(name) for name in ("ICONST", "FCONST", "SCONST", "USCONST", "BCONST", "XCONST")
)
_PARAMETER = _TOKEN.Value("PARAM")
_UESCAPE = _TOKEN.Value("UESCAPE")
_IDENTIFIER = _TOKEN.Value("IDENT")
_FOLD = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def normalise(text: str) -> str:
    """Keywords in capitals, unquoted names folded, every literal a parameter numbered after those in the text.

    Spaces and comments become one space. The character after UESCAPE stays, for a name may hang on it.
    Raises what the lexer raises; the text has passed `limits.refusal`.
    """
    raw = text.encode()
    tokens = postgast.scan(text).tokens
    number = max((_parameter(raw[t.start + 1 : t.end]) for t in tokens if t.token == _PARAMETER), default=0)
    parts: list[str] = []
    last = 0
    escapes = escaping = False
    for token in tokens:
        kind = token.token
        if kind in _COMMENTS:
            continue
        start, end = token.start, token.end
        if parts and start > last:
            parts.append(" ")
        last = end
        escapes, escaping = escaping, kind == _UESCAPE
        if kind in _LITERALS and not escapes:
            number += 1
            parts.append(f"${number}")
        elif token.keyword_kind:
            parts.append(raw[start:end].decode().upper())
        elif kind == _IDENTIFIER and raw[start : start + 1] != b'"':
            parts.append(raw[start:end].decode().translate(_FOLD))
        else:
            parts.append(raw[start:end].decode())
    return "".join(parts)


def without_comments(text: str) -> str:
    """The same text with blanks in place of comments, byte for byte.

    libpg_query stumbles over a comment inside a pair of words (`NOT /* */ IN`); the server does not.
    """
    if "--" not in text and "/*" not in text:
        return text
    raw = bytearray(text.encode())
    for token in postgast.scan(text).tokens:
        if token.token in _COMMENTS:
            raw[token.start : token.end] = b" " * (token.end - token.start)
    return raw.decode()


def _parameter(digits: bytes) -> int:
    return int(digits) if len(digits) < 10 and digits.isdigit() else 0
