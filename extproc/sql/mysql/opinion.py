"""A second reader, sqlglot: what it sees in a query and we do not makes the facts incomplete.

It gets the plainest text that has the same structure: names in backquotes, every literal alike, no comments. So its
own lexer has nothing to decide, and two parsers that share no code have to agree on tables, columns and functions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from extproc.sql.mysql.tokens import Token

_DIALECT = sqlglot.Dialect.get_or_raise("mysql")
_ASKED = frozenset({"SELECT", "WITH", "INSERT", "REPLACE", "UPDATE", "DELETE"})
MAX_CHARACTERS = 20_000
"""The longest text that sqlglot gets, without comments and literals; it takes a second for ten times that."""
CACHED_TEXTS = 4_096
logging.getLogger("sqlglot").setLevel(
    logging.CRITICAL
)  # it warns of what it does not know; we look ourselves

_ROWS = re.compile(r"(?:\((?:NULL|DEFAULT|[ '0?,-])*+\) , )++(?=\()")
_LISTS = re.compile(r"(?:(?:''|0) , ){8,}+(?=''|0)")
"""Of rows and lists that hold only literals one is enough."""
_VARIABLE = "_v_"


@dataclass(frozen=True, slots=True)
class Seen:
    """Names, folded and without what stands before a dot."""

    tables: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()


def second_opinion(tokens: Sequence[Token]) -> Seen | None:
    """What sqlglot sees in a query or a change of rows; None where it does not understand it. Empty for everything
    else, which it is not asked about. Raises RecursionError."""
    first = next((token.word for token in tokens if not token.is_sign("(")), "")
    if first not in _ASKED:
        return Seen()
    text = _plain(tokens)
    return _seen(text) if len(text) <= MAX_CHARACTERS else None


def _plain(tokens: Sequence[Token]) -> str:
    parts: list[str] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        skipped = _skipped(tokens, at)
        if skipped:
            parts += ["0"] if token.is_sign("@@") else []
            at += skipped
            continue
        parts.append(_part(token))
        at += 1
    if tokens[0].is_word("REPLACE"):
        parts[0] = "INSERT"
    text = " ".join(parts)
    return _LISTS.sub("", _ROWS.sub("", text)) if len(parts) > _MANY else text


_MANY = 200


def _part(token: Token) -> str:
    if token.kind == "name":
        return "`" + token.value.replace("`", "``") + "`"
    if token.kind == "variable":
        return "@" + _VARIABLE
    if token.kind in ("number", "bits"):
        return "0"
    return "''" if token.kind == "string" else token.value


_MODIFIERS = ("LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "QUICK", "IGNORE")
_AFTER_INTO = ("FROM", "FOR", "LOCK")


def _skipped(tokens: Sequence[Token], at: int) -> int:
    """How many tokens are of a kind that sqlglot does not know and that name nothing: a system variable, INTO a
    file or variables, modifiers of a change, ROW and DEFAULT before a bracket, the star of a table to delete from."""
    token, size = tokens[at], len(tokens)
    follows = tokens[at + 1] if at + 1 < size else token
    if token.is_sign("@@"):
        end = at + 2
        while end + 1 < size and tokens[end].is_sign("."):
            end += 2
        return end - at
    if token.is_word("INTO") and (follows.is_word("OUTFILE", "DUMPFILE") or follows.kind == "variable"):
        end = at + 2
        while end < size and not tokens[end].is_word(*_AFTER_INTO) and not tokens[end].is_sign(")"):
            end += 1
        return end - at
    if token.is_word("ROW", "DEFAULT") and follows.is_sign("("):
        return 1
    if token.is_sign(".") and follows.is_sign("*") and tokens[0].is_word("DELETE"):
        return 2
    return 1 if 0 < at < _FIRST_WORDS and token.is_word(*_MODIFIERS) else 0


_FIRST_WORDS = 5


@lru_cache(maxsize=CACHED_TEXTS)
def _seen(text: str) -> Seen | None:
    try:
        trees = _DIALECT.parser().parse(_DIALECT.tokenize(text), text)
    except SqlglotError:
        return None
    if len(trees) != 1 or trees[0] is None or trees[0].find(exp.Command):
        return None
    tree = trees[0]
    return Seen(
        frozenset(node.name.lower() for node in tree.find_all(exp.Table)) - {_VARIABLE},
        frozenset(node.name.lower() for node in tree.find_all(exp.Column)) - {_VARIABLE},
        frozenset(node.name.lower() for node in tree.find_all(exp.Anonymous)),
    )
