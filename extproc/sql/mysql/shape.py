"""A statement's text without its comments and literals: what may be shown, compared and granted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from extproc.sql.mysql.tokens import Token
from extproc.sql.mysql.words import RESERVED

_LITERALS = frozenset({"string", "number", "bits"})


def normalise(tokens: Sequence[Token], text: str) -> str:
    """Keywords in capitals, other words folded, every literal a `?` numbered after those that stand in the text."""
    parts: list[str] = []
    for token, written in _written(tokens, text):
        if parts and token.is_apart:
            parts.append(" ")
        parts.append(written)
    return "".join(parts)


def literals(tokens: Sequence[Token], text: str) -> dict[str, str]:
    """What `normalise` leaves out: each literal as it is written, by what stands for it (`?3`)."""
    return {
        written: text[token.start : token.end]
        for token, written in _written(tokens, text)
        if token.kind in _LITERALS
    }


def fingerprint(tokens: Sequence[Token]) -> str:
    """Equal for statements of one structure: literals do not count, nor how long a list of them is."""
    parts: list[str] = []
    for token in tokens:
        if token.kind in _LITERALS or token.kind == "param":
            parts.append("?")
        else:
            parts.append(token.word or token.value)
        if len(parts) > 2 and parts[-1] == parts[-3] == "?" and parts[-2] == ",":
            del parts[-2:]
        elif parts[-5:] == ["(", "?", ")", ",", "("]:
            pass
        elif len(parts) > 6 and parts[-7:] == ["(", "?", ")", ",", "(", "?", ")"]:
            del parts[-4:]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _written(tokens: Sequence[Token], text: str) -> Iterator[tuple[Token, str]]:
    number = sum(token.kind == "param" for token in tokens)
    parameter = 0
    for token in tokens:
        raw = text[token.start : token.end]
        if token.kind in _LITERALS:
            number += 1
            yield token, f"?{number}"
        elif token.kind == "param":
            parameter += 1
            yield token, f"?{parameter}"
        elif token.word in RESERVED:
            yield token, token.word
        else:
            yield token, raw.lower() if token.kind == "word" else raw
