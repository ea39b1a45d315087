"""A text in, what each of its statements does out. Never raises on any text: what cannot be read is incomplete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from extproc.domain.statement import CHANGES_READING, StatementFacts
from extproc.sql.found import unread
from extproc.sql.mysql import commands, queries
from extproc.sql.mysql.commands import COMMANDS
from extproc.sql.mysql.opinion import Seen, second_opinion
from extproc.sql.mysql.reader import Level, NotUnderstoodError, Reader
from extproc.sql.mysql.session import Session
from extproc.sql.mysql.shape import fingerprint, literals, normalise
from extproc.sql.mysql.tokens import Token, UnreadableError, as_text, tokenize
from extproc.sql.mysql.words import NULLARY

MAX_BYTES = 1 << 20
"""The longest text that is analysed, in bytes of UTF-8."""
MAX_STATEMENTS = 500
CACHED_TEXTS = 4_096
CACHED_CHARACTERS = 4_096
"""Longer texts are analysed each time: the cache holds at most the product of both."""
_COMPOUND = frozenset({"IF", "CASE", "LOOP", "REPEAT", "WHILE", "FOR", "DECLARE"})
_BODIES = frozenset({"PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "PACKAGE"})


@dataclass(frozen=True, slots=True)
class TextFacts:
    """What a text does, statement by statement; at least one: an empty text is one that does nothing."""

    facts: tuple[StatementFacts, ...]
    after: tuple[Session, ...]
    """For each statement, how the server reads what follows once that statement has succeeded. Not at all, until the
    server is asked, where one that is not understood may have changed it, or CALL."""


class _Queries:
    """What expressions ask of queries and commands."""

    subquery = staticmethod(queries.subquery)
    tail = staticmethod(queries.tail)
    statement = staticmethod(commands.statement)


_QUERIES = _Queries()


def analyze(text: str | bytes, session: Session) -> TextFacts:
    """The facts of every statement in order. Bytes are read in the session's charset."""
    try:
        characters = as_text(text, session) if isinstance(text, bytes) else text
    except UnreadableError as error:
        return _unread(str(error), len(text), session)
    if len(characters) > CACHED_CHARACTERS:
        return _analyze(characters, session)
    return _cached(characters, session)


def _analyze(text: str, session: Session) -> TextFacts:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return _unread("the text is not valid Unicode", 0, session)
    if size > MAX_BYTES:
        return _unread(f"the text has more than {MAX_BYTES} bytes", 0, session)
    try:
        parts = list(_statements(tokenize(text, session)))
        if len(parts) > MAX_STATEMENTS:
            return _unread(f"the text has more than {MAX_STATEMENTS} statements", 0, session)
        return _all(text, parts, size, session)
    except UnreadableError as error:
        return _unread(str(error), size, session)
    except RecursionError:
        return _unread("the statement is nested too deeply", size, session)
    except Exception as error:
        return _unread(f"the statement could not be analysed ({type(error).__name__})", size, session)


_cached = lru_cache(maxsize=CACHED_TEXTS)(_analyze)


def _unread(reason: str, size: int, session: Session) -> TextFacts:
    return TextFacts((unread(reason, size),), (replace(session, readable=False),))


_CHANGE_NO_READING = frozenset(COMMANDS) - {"SET", "EXECUTE", "BEGIN", "USE"}
"""First words of statements that leave the session as it is, understood or not. EXECUTE does once it is known what
it runs, for what changes the session is not understood when it is prepared."""


def _statements(tokens: list[Token]) -> Iterator[list[Token]]:
    """The tokens of each statement. Where one may hold semicolons of its own, all the rest belongs to it."""
    part: list[Token] = []
    for at, token in enumerate(tokens):
        if not part and _may_hold_several(tokens, at):
            yield tokens[at:]
            return
        if token.is_sign(";"):
            if part:
                yield part
            part = []
        else:
            part.append(token)
    if part:
        yield part


def _may_hold_several(tokens: list[Token], at: int) -> bool:
    """Compound statements, labels, and definitions whose body may be one."""
    first, *others = tokens[at : at + 2]
    if first.word in _COMPOUND or (others and others[0].is_sign(":")):
        return True
    if first.is_word("BEGIN"):
        return bool(others) and not others[0].is_word("WORK") and not others[0].is_sign(";")
    if not first.is_word("CREATE", "ALTER"):
        return False
    for token in tokens[at:]:
        if token.word in _BODIES:
            return True
        if token.is_sign(";", "(") or token.is_word("TABLE", "VIEW", "DATABASE", "SCHEMA", "INDEX", "USER"):
            return False
    return False


def _all(text: str, parts: list[list[Token]], size: int, session: Session) -> TextFacts:
    if not parts:
        return TextFacts((StatementFacts(statements=0, end=size),), (session,))
    facts: list[StatementFacts] = []
    after: list[Session] = []
    for tokens in parts:
        reader = _read(tokens, session)
        if not session.readable:
            reader.incomplete("a statement before it may have changed how it is read")
        if reader.session_after != session and not _follows(
            session, reader.session_after, alone=len(parts) == 1
        ):
            reader.incomplete(CHANGES_READING)
        if not reader.reason:
            session = reader.session_after
            if "CALL" in reader.verbs:  # a procedure may leave another default database
                session = replace(session, readable=False)
        elif tokens[0].word not in _CHANGE_NO_READING:
            session = replace(session, readable=False)
        start, end = (len(text[:place].encode()) for place in (tokens[0].start, tokens[-1].end))
        facts.append(
            reader.facts(
                statements=len(parts),
                fingerprint=fingerprint(tokens),
                normalised=normalise(tokens, text),
                literals=tuple(literals(tokens, text).items()),
                start=start,
                end=end,
            )
        )
        after.append(session)
    return TextFacts(tuple(facts), tuple(after))


def _follows(before: Session, after: Session, *, alone: bool) -> bool:
    """Whether the change can be followed: USE always, another mode or charset where the statement stands alone, so
    that its answer says whether it took effect."""
    return after.readable and (alone or replace(before, database=after.database) == after)


def _read(tokens: list[Token], session: Session) -> Reader:
    reader = Reader(tokens, session, _QUERIES)
    try:
        if any(token.is_sign(";") for token in tokens):
            raise NotUnderstoodError("it holds several statements, as the body of a routine does")
        commands.statement(reader, Level())
        if not reader.is_done:
            reader.fail()
    except NotUnderstoodError as error:
        reader.incomplete(str(error))
    reader.resolve()
    if not reader.reason and not _is_agreed(reader, second_opinion(tokens)):
        reader.incomplete("two readers of the statement do not agree")
    return reader


def _is_agreed(reader: Reader, seen: Seen | None) -> bool:
    """Whether the second reader understood the statement and saw nothing that the first did not."""
    if seen is None:
        return False
    columns = {column.parts[-1] for column in reader.pending}
    return (
        reader.tables_said | reader.named | _NO_TABLES >= seen.tables
        and columns | reader.named | _NO_COLUMNS >= seen.columns
        and reader.functions_said >= seen.functions
    )


_NO_TABLES = frozenset({"dual"})
_NO_COLUMNS = frozenset(word.lower() for word in NULLARY) | {"*"}


def cache_clear() -> None:
    """Forget every text: for measurements."""
    _cached.cache_clear()
