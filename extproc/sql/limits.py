"""What a text must be before the parser may see it: the parser is C, and some texts would crash or stall it.

Its grammar stops at ten thousand open symbols, but chains that grow to the left (`1+1+…`, `UNION`, `JOIN`, `::`)
have no bound there and overflow the stack afterwards; nested comments are read in quadratic time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import postgast

MAX_BYTES = 1 << 20
"""The longest text that is analysed, in bytes of UTF-8."""
MAX_COMMENTS = 256
"""How often `/*` may stand in a text."""
MAX_CHAIN = 2_000
"""How many operators and keywords may stand between two commas or semicolons of one level of brackets."""
MAX_TOKENS = 100_000
"""How many words, signs and literals a text may hold; looked at in texts of more than `_MANY_BYTES`."""
_MANY_BYTES = 1 << 16
_SHORTEST_LINK = 2
"""No link of a chain is shorter than two bytes (`+1`)."""

_LINKS = re.compile(r"[-+*/<>=~!@#%^&|`?:]|(?<![\w$])[a-zA-Z_]+")
_OPENING = frozenset({40, 91})  # ( [
_CLOSING = frozenset({41, 93})
_COMMA = 44
_SEMICOLON = 59
_SCALARS = frozenset(
    {"ICONST", "FCONST", "SCONST", "USCONST", "BCONST", "XCONST", "PARAM", "IDENT", "UIDENT"}
)
_PLAIN_TOKENS = frozenset(postgast.pg_query_pb2.Token.Value(name) for name in _SCALARS)


def refusal(text: str) -> str:
    """Why this text is not given to the parser; empty when it may be."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return "the text is not valid Unicode"
    if len(raw) > MAX_BYTES:
        return f"the text has more than {MAX_BYTES} bytes"
    if "\0" in text:
        return "the text holds a NUL"
    if text.count("/*") > MAX_COMMENTS:
        return f"the text holds more than {MAX_COMMENTS} comments"
    if len(raw) <= MAX_CHAIN * _SHORTEST_LINK or (len(raw) <= _MANY_BYTES and _few_links(text)):
        return ""
    try:
        tokens = postgast.scan(text).tokens
    except Exception:
        return "the text does not parse"
    if len(tokens) > MAX_TOKENS:
        return f"the text has more than {MAX_TOKENS} words and signs"
    return "" if _longest_chain(tokens) <= MAX_CHAIN else "an expression in the text is too long"


def _few_links(text: str) -> bool:
    """A first look that takes literals and comments for code: it may only find too much."""
    return all(count < MAX_CHAIN for count, _ in enumerate(_LINKS.finditer(text)))


def _longest_chain(tokens: Iterable[Any]) -> int:
    """An upper bound of the depth of the tree that left-growing chains can make.

    A comma ends an expression but not a chain of clauses, so keywords are counted beside operators and are not
    set back by commas. What brackets hold adds to the chain in which they stand.
    """
    longest = operators = clauses = inner = 0
    stack: list[tuple[int, int, int]] = []
    for token in tokens:
        kind = token.token
        if kind in _PLAIN_TOKENS:
            continue
        if kind in _OPENING:
            stack.append((operators, clauses, inner))
            operators = clauses = inner = 0
        elif kind in _CLOSING and stack:
            depth = operators + clauses + inner + 1
            operators, clauses, inner = stack.pop()
            inner = max(inner, depth)
        elif kind == _COMMA:
            longest = max(longest, operators + clauses + inner)
            operators = 0
        elif kind == _SEMICOLON and not stack:
            longest = max(longest, operators + clauses + inner)
            operators = clauses = inner = 0
        elif token.keyword_kind:
            clauses += 1
        else:
            operators += 1
    for outer in reversed([*stack, (0, 0, 0)]):
        longest = max(longest, operators + clauses + inner)
        operators, clauses, inner = outer[0], outer[1], max(outer[2], operators + clauses + inner)
    return longest
