"""SELECT and everything that yields rows: unions, common table expressions, VALUES, FROM."""

from __future__ import annotations

from extproc.sql.mysql.expressions import condition, expression, expressions, order_by, starts_query, window
from extproc.sql.mysql.reader import Column, Level, NotUnderstoodError, Reader, fold
from extproc.sql.scope import DERIVED, Scope

_MODIFIERS = (
    *(
        "ALL",
        "DISTINCT",
        "DISTINCTROW",
        "HIGH_PRIORITY",
        "STRAIGHT_JOIN",
        "SQL_SMALL_RESULT",
        "SQL_BIG_RESULT",
    ),
    *("SQL_BUFFER_RESULT", "SQL_CACHE", "SQL_NO_CACHE", "SQL_CALC_FOUND_ROWS"),
)
SET_OPERATIONS = ("UNION", "EXCEPT", "INTERSECT")


class Block:
    """One SELECT of a query: its names, and the bare columns in its result list by their place."""

    __slots__ = ("items", "level")

    def __init__(self, level: Level) -> None:
        self.level = level
        self.items: list[list[Column]] = []

    def use(self) -> None:
        """Every column of the result goes elsewhere than into the result of the statement."""
        for item in self.items:
            for column in item:
                column.used = True


def subquery(r: Reader, scope: Level) -> None:
    query(r, scope)


def query(r: Reader, scope: Scope, *, outermost: bool = False, copied: bool = False) -> None:
    """One query with all that follows it. The bare columns of the outermost one's list are its result, unless they
    are `copied` into a table or a variable."""
    r.enter()
    ctes = with_clause(r, scope)
    block = _term(r, scope, ctes, outermost=outermost)
    _follows(r, block, outermost=outermost)
    if copied or not outermost:
        block.use()
    r.leave()


def tail(r: Reader, scope: Level) -> None:
    _follows(r, Block(Level(scope)), outermost=False)


def with_clause(r: Reader, scope: Scope) -> frozenset[str]:
    """Common table expressions, and the names that are seen afterwards. One that is not recursive sees those before
    it."""
    seen = scope.ctes
    if not r.word("WITH"):
        return seen
    recursive = bool(r.word("RECURSIVE"))
    while True:
        name = fold(r.name())
        r.named.add(name)
        _column_names(r)
        r.need_word("AS")
        r.need_sign("(")
        inside = Level(scope, seen | {name} if recursive else seen)
        query(r, inside)
        r.need_sign(")")
        if r.word("CYCLE"):
            r.fail()
        seen = seen | {name}
        if not r.sign(","):
            return seen


def _column_names(r: Reader) -> None:
    """`(a, b)` behind the name of something derived."""
    if r.sign("("):
        r.named.add(fold(r.name()))
        while r.sign(","):
            r.named.add(fold(r.name()))
        r.need_sign(")")


def _term(r: Reader, scope: Scope, ctes: frozenset[str], *, outermost: bool) -> Block:
    level = Level(scope, ctes)
    if r.sign("("):
        block = Block(level)
        if not (starts_query(r) or r.peek().is_sign("(")):
            r.fail()
        query(r, level)
        r.need_sign(")")
        return block
    _reads(r)
    if r.word("SELECT"):
        return _select(r, level, outermost=outermost)
    if r.word("TABLE"):
        parts = r.dotted()
        _table(r, level, parts, r.table(parts), "")
        r.refer(level, ["*"])
        return Block(level)
    r.need_word("VALUES")
    while True:
        r.word("ROW")
        row(r, level)
        if not r.sign(","):
            return Block(level)


def _reads(r: Reader) -> None:
    r.verbs.append("SELECT")
    r.effects.add("read")


def row(r: Reader, scope: Level) -> None:
    """`(1, DEFAULT, a + 1)`, which may be empty."""
    r.need_sign("(")
    if not r.peek().is_sign(")"):
        expressions(r, scope)
    r.need_sign(")")


# ---------------------------------------------------------------------- SELECT


def _select(r: Reader, level: Level, *, outermost: bool) -> Block:
    block = Block(level)
    while r.word(*_MODIFIERS):
        pass
    result(r, block, outermost=outermost)
    _into(r, block)
    if r.word("FROM") and not r.word("DUAL"):
        tables(r, level)
    restricts = condition(r, level) if r.word("WHERE") else False
    if outermost:
        r.select_restricts = restricts
    if r.peek().is_word("GROUP"):
        if order_by(r, level):
            block.use()
        r.words("WITH ROLLUP")
    if r.word("HAVING"):
        condition(r, level)
    if r.word("WINDOW"):
        while True:
            r.name()
            r.need_word("AS")
            window(r, level)
            if not r.sign(","):
                break
    return block


def result(r: Reader, block: Block, *, outermost: bool) -> None:
    """A result list: what is a bare column there is named but not used."""
    level = block.level
    while True:
        column = _star(r, level)
        if column is None:
            column = expression(r, level).column
            named = _alias(r, strings=True)
            if named:
                r.named.add(fold(named))
                if column is not None:
                    level.aliases.setdefault(fold(named), []).append(column)
        if column is not None and outermost and not r.explained:
            column.used = False
        block.items.append([column] if column is not None else [])
        if not r.sign(","):
            return


def _star(r: Reader, level: Level) -> Column | None:
    """`*`, `t.*`, `s.t.*`."""
    parts: list[str] = []
    ahead = 0
    while r.is_name(ahead) and r.peek(ahead + 1).is_sign("."):
        parts.append(r.peek(ahead).value)
        ahead += 2
    if len(parts) > 2 or not r.peek(ahead).is_sign("*"):
        return None
    for _ in range(ahead + 1):
        r.next()
    return r.refer(level, [*parts, "*"])


def _alias(r: Reader, *, strings: bool = False) -> str:
    if r.word("AS"):
        if r.peek().kind == "string":
            return r.string()
        return r.name()
    if strings and r.peek().kind == "string":
        return r.string()
    return r.name() if r.is_name() and not r.peek().is_word(*_NO_ALIAS) else ""


_NO_ALIAS = ("FULL", "MINUS", "OFFSET", "PIVOT", "UNPIVOT", "SYSTEM_TIME")
"""Not reserved everywhere, but what they begin is not read."""


def _follows(r: Reader, block: Block, *, outermost: bool) -> None:
    """UNION and its kin, ORDER BY, LIMIT, locks and INTO, in any order."""
    level = block.level
    while True:
        if r.word(*SET_OPERATIONS):
            r.word("ALL", "DISTINCT")
            block.use()
            if outermost:
                r.select_restricts = False
            _term(r, level.parent or level, level.ctes, outermost=False).use()
        elif r.peek().is_word("ORDER"):
            if order_by(r, level):
                block.use()
        elif r.peek().is_word("LIMIT", "OFFSET", "FETCH"):
            limit(r, level, outermost=outermost)
        elif r.peek().is_word("FOR", "LOCK"):
            _lock(r, level)
        elif not _into(r, block):
            return


def limit(r: Reader, level: Level, *, outermost: bool) -> None:
    """LIMIT, where its number is known. A row that is skipped changes nothing."""
    number = -1
    if r.word("LIMIT"):
        number = _count(r)
        if r.sign(","):
            number = _count(r)
        elif r.word("OFFSET"):
            _count(r)
        if r.words("ROWS EXAMINED"):
            _count(r)
    elif r.word("OFFSET"):
        _count(r)
        r.word("ROW", "ROWS")
        return
    else:
        r.next()
        r.need_word("FIRST", "NEXT")
        number = _count(r) if not r.peek().is_word("ROW", "ROWS") else 1
        r.need_word("ROW", "ROWS")
        if not r.word("ONLY"):
            r.fail()
    if outermost:
        r.has_limit, r.limit = True, number


def _count(r: Reader) -> int:
    token = r.next()
    if token.kind == "number" and token.value.isdigit() and len(token.value) < 19:
        return int(token.value)
    if token.kind not in ("param", "number"):
        r.fail()
    return -1


def _lock(r: Reader, level: Level) -> None:
    """FOR UPDATE, FOR SHARE, LOCK IN SHARE MODE: they make others wait."""
    if not r.words("LOCK IN SHARE MODE"):
        r.need_word("FOR")
        r.need_word("UPDATE", "SHARE")
    r.effects.add("write")
    if r.word("OF"):
        r.name()
        while r.sign(","):
            r.name()
    if r.word("WAIT"):
        _count(r)
    elif not r.word("NOWAIT"):
        r.words("SKIP LOCKED")
    r.tables_written.update(level.tables())


def _into(r: Reader, block: Block) -> bool:
    """INTO a file of the server, or INTO variables, which later texts can show."""
    if not r.word("INTO"):
        return False
    block.use()
    if r.word("OUTFILE"):
        r.string()
        r.effects.add("file")
        lines_and_fields(r)
    elif r.word("DUMPFILE"):
        r.string()
        r.effects.add("file")
    else:
        while True:
            if r.next().kind != "variable":
                r.fail()
            r.keeps = True
            if not r.sign(","):
                break
    return True


_FORMAT = ("FIELDS", "COLUMNS", "TERMINATED", "BY", "OPTIONALLY", "ENCLOSED", "ESCAPED", "LINES", "STARTING")


def lines_and_fields(r: Reader) -> None:
    """How a file is written: words and literals."""
    while True:
        if r.peek().kind in ("string", "bits"):
            r.next()
        elif r.word("CHARSET") or r.words("CHARACTER SET"):
            if not r.word("BINARY"):
                r.name()
        elif not r.word(*_FORMAT):
            return


# ---------------------------------------------------------------------- FROM


def tables(r: Reader, level: Level) -> None:
    """What stands in FROM, or after UPDATE."""
    while True:
        _factor(r, level)
        _joins(r, level)
        if not r.sign(","):
            return


def _joins(r: Reader, level: Level) -> None:
    while True:
        if r.peek().is_word("ON") and r.peek(1).is_word("DUPLICATE"):
            return
        if r.word("ON"):
            expression(r, level)
        elif r.word("USING"):
            _using(r, level)
        elif not _join(r, level):
            return


def _join(r: Reader, level: Level) -> bool:
    before = set(level.ranges)
    natural = bool(r.word("NATURAL"))
    kind = r.word("INNER", "CROSS", "LEFT", "RIGHT")
    if kind in ("LEFT", "RIGHT"):
        r.word("OUTER")
    if not natural and not kind and r.word("STRAIGHT_JOIN"):
        _factor(r, level)
        return True
    if not r.word("JOIN"):
        if natural or kind:
            r.fail()
        return False
    _factor(r, level)
    if natural:  # any column may be compared
        for name in {*before, *level.ranges}:
            if level.ranges[name]:
                r.whole_row(level.ranges[name])
    return True


def _using(r: Reader, level: Level) -> None:
    r.need_sign("(")
    while True:
        r.refer(level, [r.name()])
        if not r.sign(","):
            break
    r.need_sign(")")


def _factor(r: Reader, level: Level) -> None:
    r.enter()
    lateral = bool(r.word("LATERAL"))
    if r.peek().is_sign("("):
        if _bracketed(r, level, lateral=lateral):
            _derived(r, level)
    elif r.peek().is_word("JSON_TABLE") and r.peek(1).is_sign("("):
        raise NotUnderstoodError("JSON_TABLE is not read")
    else:
        parts = r.dotted()
        if r.peek().is_sign("("):
            raise NotUnderstoodError("a function in FROM is not read")
        partition(r)
        if r.words("FOR SYSTEM_TIME"):
            _system_time(r, level)
        alias = _alias(r)
        _table(r, level, parts, r.table(parts), alias)
        _index_hints(r)
    r.leave()


def partition(r: Reader) -> None:
    """`PARTITION (p0, p1)` behind a table."""
    if r.word("PARTITION"):
        r.need_sign("(")
        r.named.add(fold(r.name()))
        while r.sign(","):
            r.named.add(fold(r.name()))
        r.need_sign(")")


def _bracketed(r: Reader, level: Level, *, lateral: bool = False) -> bool:
    """What stands in brackets in FROM: True for a query, which still wants its name, False for tables."""
    r.need_sign("(")
    r.enter()
    if starts_query(r):
        # a derived table sees nothing of this level, a lateral one does; seeing too much only blurs a column
        query(r, level if lateral else Level(level.parent, level.ctes))
        is_query = True
    elif r.peek().is_sign("("):
        is_query = _bracketed(r, level)
        if is_query and not r.peek().is_sign(")"):
            if r.peek().is_word(*SET_OPERATIONS, "ORDER", "LIMIT"):
                tail(r, Level(level.parent, level.ctes))
            else:
                _derived(r, level)
                is_query = False
    else:
        is_query = False
        _factor(r, level)
    if not is_query:
        _joins(r, level)
        if r.sign(","):
            tables(r, level)
    r.leave()
    r.need_sign(")")
    return is_query


def _derived(r: Reader, level: Level) -> None:
    alias = _alias(r)
    if alias:
        r.named.add(fold(alias))
        level.add(fold(alias), DERIVED)
        _column_names(r)


def _table(r: Reader, level: Level, parts: list[str], table: str, alias: str) -> None:
    """A table or a common table expression, under its name or a new one."""
    name = fold(alias or parts[-1])
    if alias:
        r.named.add(name)
    if len(parts) == 1 and fold(parts[0]) in level.ctes:
        level.add(name, DERIVED)
        return
    r.effects.add("read")
    r.tables_read.add(table)
    level.add(name, table)


def _system_time(r: Reader, level: Level) -> None:
    if r.word("ALL"):
        return
    if r.words("AS OF"):
        r.word("TIMESTAMP", "TRANSACTION")
        expression(r, level, 7)
        return
    r.need_word("BETWEEN", "FROM")
    expression(r, level, 7)
    r.need_word("AND", "TO")
    expression(r, level, 7)


def _index_hints(r: Reader) -> None:
    while r.word("USE", "FORCE", "IGNORE"):
        r.need_word("INDEX", "KEY")
        if r.word("FOR") and not (r.word("JOIN") or r.words("ORDER BY")):
            r.need_word("GROUP")
            r.need_word("BY")
        r.need_sign("(")
        while not r.sign(")"):
            if not r.word("PRIMARY"):
                r.name()
            r.sign(",")
