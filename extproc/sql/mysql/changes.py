"""INSERT, REPLACE, UPDATE and DELETE, of one table or of several."""

from __future__ import annotations

from extproc.sql.mysql.expressions import condition, expression, order_by
from extproc.sql.mysql.queries import Block, limit, partition, query, result, row, tables, with_clause
from extproc.sql.mysql.reader import Level, Reader, fold
from extproc.sql.scope import DERIVED


def insert(r: Reader, scope: Level) -> None:
    """INSERT and REPLACE."""
    r.verbs.append(r.need_word("INSERT", "REPLACE"))
    r.effects.add("write")
    r.word("LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY")
    r.word("IGNORE")
    r.word("INTO")
    level = Level(scope)
    table = _target(r, level)
    partition(r)
    if r.peek().is_sign("(") and not _query_in_brackets(r):
        columns(r, table)
    if r.word("VALUES", "VALUE"):
        r.word("ROW")
        row(r, level)
        while r.sign(","):
            r.word("ROW")
            row(r, level)
    elif r.word("SET"):
        assignments(r, level, {table})
    else:
        query(r, scope, copied=True)
        level.add(_SOURCE, DERIVED)  # what follows sees the tables of the query as well
    if r.word("AS"):  # a name for the new row, and perhaps for its columns
        level.add(fold(r.name()), table)
        if r.peek().is_sign("("):
            r.whole_row(table)
            columns(r, table)
    if r.words("ON DUPLICATE KEY UPDATE"):
        assignments(r, level, {table})
    _returning(r, level, table)


_SOURCE = "\0"
"""A range name that no statement can say."""


def _query_in_brackets(r: Reader) -> bool:
    ahead = 1
    while r.peek(ahead).is_sign("("):
        ahead += 1
    return r.peek(ahead).is_word("SELECT", "WITH", "VALUES", "TABLE")


def _target(r: Reader, level: Level) -> str:
    parts = r.dotted()
    table = r.table(parts)
    level.add(fold(parts[-1]), table)
    r.tables_written.add(table)
    return table


def columns(r: Reader, table: str) -> None:
    r.need_sign("(")
    while not r.sign(")"):
        r.column(fold(r.dotted(3)[-1]), table, used=False)
        if not r.peek().is_sign(")"):
            r.need_sign(",")


def assignments(r: Reader, level: Level, only: set[str]) -> set[str]:
    """`a = 1, t.b = DEFAULT`: the columns are named, the values are read. The tables that are changed: `only` those
    where a column has no table before it."""
    changed: set[str] = set()
    while True:
        parts = r.dotted(3)
        column = r.refer(level, parts, used=False)
        if len(parts) > 1:
            table = level.range_of(column.parts[-2]) if len(parts) == 2 else r.table(parts[:-1])
            changed |= {table} if table else only
        else:
            changed |= only
        r.need_sign("=", ":=")
        expression(r, level)
        if not r.sign(","):
            return changed


def _returning(r: Reader, level: Level, table: str) -> None:
    if r.word("RETURNING"):
        r.effects.add("read")
        r.tables_read.add(table)
        result(r, Block(level), outermost=True)


def update(r: Reader, scope: Level) -> None:
    r.need_word("UPDATE")
    r.verbs.append("UPDATE")
    r.word("LOW_PRIORITY")
    r.word("IGNORE")
    level = Level(scope)
    several = _changed_tables(r, level)
    r.need_word("SET")
    changed = assignments(r, level, several)
    r.effects.add("write")
    r.tables_written |= changed
    _rest(r, level)


def _changed_tables(r: Reader, level: Level) -> set[str]:
    """The tables of an UPDATE or DELETE. One alone is written, not read; of several each is read."""
    read, effects = set(r.tables_read), set(r.effects)
    joined = _is_joined(r)
    tables(r, level)
    found = set(level.tables())
    if not joined:
        r.tables_read.clear()
        r.tables_read |= read
        r.effects.clear()
        r.effects |= effects
    return found


def _is_joined(r: Reader) -> bool:
    """Whether more than one plain table stands before SET or WHERE."""
    ahead = 0
    while (token := r.peek(ahead)).value and not token.is_word("SET", "WHERE", "ORDER", "LIMIT", "RETURNING"):
        if token.is_sign("(", ",") or token.is_word("JOIN", "STRAIGHT_JOIN"):
            return True
        ahead += 1
    return False


def _rest(r: Reader, level: Level) -> None:
    r.wheres.append(condition(r, level) if r.word("WHERE") else False)
    if r.peek().is_word("ORDER"):
        order_by(r, level)
    if r.peek().is_word("LIMIT"):
        limit(r, level, outermost=True)


def delete(r: Reader, scope: Level) -> None:
    """`DELETE FROM t`, `DELETE a, b FROM …`, `DELETE FROM a, b USING …`."""
    r.need_word("DELETE")
    r.verbs.append("DELETE")
    while r.word("LOW_PRIORITY", "QUICK", "IGNORE"):
        pass
    level = Level(scope)
    if not r.word("FROM"):
        names = _deleted(r)
        r.need_word("FROM")
        _from_several(r, level, names)
    elif _has_using(r):
        names = _deleted(r)
        r.need_word("USING")
        _from_several(r, level, names)
    else:
        found = _changed_tables(r, level)
        r.effects.add("write")
        r.tables_written |= found
        _rest(r, level)
        _returning(r, level, next(iter(found), ""))


def _deleted(r: Reader) -> list[list[str]]:
    """`a, s.b.*`"""
    names = []
    while True:
        parts = r.dotted()
        if r.sign("."):
            r.need_sign("*")
        names.append(parts)
        if not r.sign(","):
            return names


def _has_using(r: Reader) -> bool:
    """`FROM a, b USING` rather than `FROM a JOIN b USING (id)`."""
    ahead = 0
    while r.is_name(ahead) or r.peek(ahead).is_sign(",", ".", "*"):
        ahead += 1
    return r.peek(ahead).is_word("USING")


def _from_several(r: Reader, level: Level, names: list[list[str]]) -> None:
    tables(r, level)
    for parts in names:
        table = level.range_of(fold(parts[-1])) if len(parts) == 1 else r.table(parts)
        r.tables_written.add(table or r.table(parts))
    r.effects.update(("read", "write"))
    _rest(r, level)


def with_change(r: Reader, scope: Level) -> bool:
    """Whether a WITH stands before an UPDATE or DELETE, and then read them both."""
    if not r.peek().is_word("WITH"):
        return False
    depth = ahead = 0
    while (token := r.peek(ahead)).value and not (depth == 0 and token.is_word("SELECT", "UPDATE", "DELETE")):
        depth += token.is_sign("(") - token.is_sign(")")
        ahead += 1
    if token.word not in ("UPDATE", "DELETE"):
        return False
    verbs, r.verbs = r.verbs, []
    inner = Level(scope, with_clause(r, scope))
    before, r.verbs = r.verbs, verbs
    (update if token.word == "UPDATE" else delete)(r, inner)
    r.verbs += before
    return True
