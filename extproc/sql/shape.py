"""A statement's text without its comments and literals: what may be shown, compared and granted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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
    parts: list[str] = []
    last = 0
    for token, literal in _tokens(raw, postgast.scan(text).tokens):
        start, end = token.start, token.end
        if parts and start > last:
            parts.append(" ")
        last = end
        if literal:
            parts.append(f"${literal}")
        elif token.keyword_kind:
            parts.append(raw[start:end].decode().upper())
        elif token.token == _IDENTIFIER and raw[start : start + 1] != b'"':
            parts.append(raw[start:end].decode().translate(_FOLD))
        else:
            parts.append(raw[start:end].decode())
    return "".join(parts)


def literals(text: str) -> dict[str, str]:
    """What `normalise` leaves out: each literal as it is written, by the parameter that stands for it (`$3`).

    Raises what the lexer raises.
    """
    raw = text.encode()
    return {
        f"${number}": raw[token.start : token.end].decode()
        for token, number in _tokens(raw, postgast.scan(text).tokens)
        if number
    }


def _tokens(raw: bytes, tokens: Sequence[Any]) -> Iterator[tuple[Any, int]]:
    """Everything but comments, each with the number of the parameter it becomes; 0 for what is no literal."""
    number = max((_parameter(raw[t.start + 1 : t.end]) for t in tokens if t.token == _PARAMETER), default=0)
    escapes = escaping = False
    for token in tokens:
        kind = token.token
        if kind in _COMMENTS:
            continue
        escapes, escaping = escaping, kind == _UESCAPE
        if kind in _LITERALS and not escapes:
            number += 1
            yield token, number
        else:
            yield token, 0


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
