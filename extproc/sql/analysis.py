"""A text in, what each of its statements does out. Never raises on any text: what cannot be read is incomplete."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import postgast

from extproc.domain.statement import CopyFacts, StatementFacts
from extproc.sql.commands import HANDLERS as COMMANDS
from extproc.sql.copying import copy_facts
from extproc.sql.found import unread
from extproc.sql.limits import refusal
from extproc.sql.nodes import HANDLERS, PLAIN_CLASSES
from extproc.sql.queries import OUTERMOST
from extproc.sql.scope import Scope
from extproc.sql.shape import normalise, without_comments
from extproc.sql.walk import NOTHING_VOUCHED, TooLargeError, Vouched, Walk

DIALECTS = ("postgres",)
MAX_STATEMENTS = 2_000
MAX_NODES = 100_000
"""How many statements and nodes one text may have; constants do not count."""
CACHED_TEXTS = 4_096
CACHED_CHARACTERS = 4_096
"""Longer texts are analysed each time: the cache holds at most the product of both."""


def analyze(
    text: str, dialect: str = "postgres", *, standard_strings: bool = True, vouched: Vouched = NOTHING_VOUCHED
) -> tuple[StatementFacts, ...]:
    """The facts of every statement in order, at least one: an empty text is one statement that does nothing.

    `standard_strings` is the server's `standard_conforming_strings` as it last reported it; when it is off, a text
    with a backslash cannot be read with certainty. A text that cannot be read gives one incomplete statement.
    Raises ValueError for an unknown dialect.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"unknown SQL dialect {dialect!r}")
    if not standard_strings and "\\" in text:
        return _unread("backslashes are ambiguous while standard_conforming_strings is off", len(text))
    if len(text) > CACHED_CHARACTERS:
        return _analyze(text, vouched)
    return _cached(text, vouched)


def _analyze(text: str, vouched: Vouched) -> tuple[StatementFacts, ...]:
    reason = refusal(text)
    if reason:
        return _unread(reason, 0)
    raw = text.encode()
    try:
        bare = without_comments(text)
        return _all(bare.encode(), postgast.parse(bare).stmts, vouched)
    except postgast.PgQueryError as error:
        place = f" at byte {error.cursorpos}" if error.cursorpos > 0 else ""
        return _unread(f"the text does not parse{place}", len(raw))
    except Exception as error:
        return _unread(_trouble(error), len(raw))


_cached = lru_cache(maxsize=CACHED_TEXTS)(_analyze)


def _trouble(error: Exception) -> str:
    """Protobuf gives up at a hundred levels. Anything else is ours, and incomplete as well."""
    if isinstance(error, TooLargeError):
        return f"the text has more than {MAX_STATEMENTS} statements or {MAX_NODES} parts"
    if type(error).__name__ == "DecodeError" or isinstance(error, RecursionError):
        return "the statement is nested too deeply"
    return f"the statement could not be analysed ({type(error).__name__})"


def _all(raw: bytes, statements: Any, vouched: Vouched) -> tuple[StatementFacts, ...]:
    found = [part for part in statements if part.stmt.WhichOneof("node") is not None]
    if not found:
        return (StatementFacts(statements=0, end=len(raw)),)
    if len(found) > MAX_STATEMENTS:
        raise TooLargeError
    facts: list[StatementFacts] = []
    budget = MAX_NODES
    for part in found:
        walk = Walk(HANDLERS, PLAIN_CLASSES, vouched, budget)
        facts.append(_facts(raw, part, len(found), walk))
        budget = walk.budget
    return tuple(facts)


def _facts(raw: bytes, statement: Any, count: int, walk: Walk) -> StatementFacts:
    start = statement.stmt_location
    end = start + statement.stmt_len if statement.stmt_len else len(raw)
    text = raw[start:end].decode()
    _walk(walk, statement.stmt)
    return walk.facts(
        statements=count,
        fingerprint=postgast.fingerprint(text).hex,
        normalised=normalise(text).strip(),
        copy=_copy(statement.stmt, text),
        start=start,
        end=end,
    )


def _walk(walk: Walk, node: Any) -> None:
    field = node.WhichOneof("node")
    handler = OUTERMOST.get(field)
    scope = Scope()
    if handler is not None:
        handler(walk, getattr(node, field), scope, outermost=True)
        return
    if getattr(node, field).DESCRIPTOR.name not in COMMANDS:
        walk.incomplete("unknown statement")
    walk.visit(node, scope)


def _copy(node: Any, text: str) -> CopyFacts | None:
    return copy_facts(node.copy_stmt, text) if node.WhichOneof("node") == "copy_stmt" else None


def _unread(reason: str, size: int) -> tuple[StatementFacts, ...]:
    return (unread(reason, size),)


def cache_clear() -> None:
    """Forget every text: for measurements."""
    _cached.cache_clear()
