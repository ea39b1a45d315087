"""One statement's tokens with what has been found in them. What is not expected is not understood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from extproc.sql.found import Found
from extproc.sql.mysql.functions import FUNCTION_EFFECTS, RUNS_SQL, SAFE_FUNCTIONS
from extproc.sql.mysql.session import Session
from extproc.sql.mysql.tokens import Token
from extproc.sql.mysql.words import NO_SPACE, RESERVED
from extproc.sql.names import written
from extproc.sql.scope import DERIVED, Scope

MAX_DEPTH = 100
"""How deep brackets, subqueries and prefixes may be nested."""
_END = Token("sign", "", 0, 0, True)
_SYSTEM_SCHEMAS = frozenset({"information_schema", "performance_schema", "mysql", "sys"})


class NotUnderstoodError(Exception):
    """A statement holds what we do not read; the message holds nothing of the text."""


class Level(Scope):
    """One query level, with the columns that its result list names again."""

    __slots__ = ("aliases",)

    def __init__(self, parent: Scope | None = None, ctes: frozenset[str] | None = None) -> None:
        super().__init__(parent, ctes)
        self.aliases: dict[str, list[Column]] = {}


class Column:
    """A column as it stands in the text. What it means is known once the whole statement has been read."""

    __slots__ = ("parts", "scope", "used")

    def __init__(self, scope: Scope, parts: tuple[str, ...], used: bool) -> None:
        self.scope = scope
        self.parts = parts
        """Folded; `*` in the last place stands for all columns."""
        self.used = used


class Queries(Protocol):
    """What an expression asks of those who read queries."""

    def subquery(self, r: Reader, scope: Level) -> None:
        """A query in brackets, without them."""

    def tail(self, r: Reader, scope: Level) -> None:
        """What may follow a query in brackets: UNION, ORDER BY, LIMIT."""

    def statement(self, r: Reader, scope: Level) -> None:
        """A whole statement that another one holds."""


class Reader(Found):
    """A cursor over the tokens of one statement."""

    __slots__ = (
        "_at", "_depth", "_tokens", "explained", "functions_said", "named", "pending", "queries", "session",
        "session_after", "tables_said",
    )  # fmt: skip

    def __init__(self, tokens: Sequence[Token], session: Session, queries: Queries) -> None:
        super().__init__()
        self.queries = queries
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self.session = session
        self.session_after = session
        self.pending: list[Column] = []
        self.named: set[str] = set()
        """Folded names of ranges, aliases and common table expressions: what is no table and no column."""
        self.tables_said: set[str] = set()
        self.functions_said: set[str] = set()
        """Folded, without what stands before a dot: what a second reader may see as well."""
        self.explained = False
        """Inside EXPLAIN, whose warnings may show values of rows: no column is a bare item there."""

    # ------------------------------------------------------------------ tokens

    def peek(self, ahead: int = 0) -> Token:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else _END

    @property
    def is_done(self) -> bool:
        return self._at >= len(self._tokens)

    @property
    def at(self) -> int:
        return self._at

    def next(self) -> Token:
        token = self.peek()
        self._at += 1
        return token

    def word(self, *words: str) -> str:
        """The next word if it is one of these, and go past it; else nothing."""
        token = self.peek()
        if token.word not in words or not token.word:
            return ""
        self._at += 1
        return token.word

    def words(self, sequence: str) -> bool:
        """Whether these words follow one another here, and go past them."""
        parts = sequence.split()
        if any(self.peek(ahead).word != part for ahead, part in enumerate(parts)):
            return False
        self._at += len(parts)
        return True

    def sign(self, *signs: str) -> str:
        """The next sign if it is one of these, and go past it; else nothing."""
        token = self.peek()
        if token.kind != "sign" or token.value not in signs or not token.value:
            return ""
        self._at += 1
        return token.value

    def need_word(self, *words: str) -> str:
        return self.word(*words) or self.fail()

    def need_sign(self, *signs: str) -> str:
        return self.sign(*signs) or self.fail()

    def fail(self) -> str:
        """Raises NotUnderstoodError."""
        raise NotUnderstoodError("the statement holds something that is not understood")

    def string(self) -> str:
        """One literal; those that follow it belong to it."""
        if self.peek().kind != "string":
            self.fail()
        parts = []
        while self.peek().kind == "string":
            parts.append(self.next().value)
        return "".join(parts)

    def enter(self) -> None:
        """One level deeper. Raises NotUnderstoodError."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotUnderstoodError("the statement is nested too deeply")

    def leave(self) -> None:
        self._depth -= 1

    def skip_all(self) -> None:
        """The rest of the statement says nothing that we need to know."""
        self._at = len(self._tokens)

    def plain_rest(self) -> None:
        """The rest is words, names and literals without brackets, in which nothing runs. Raises NotUnderstoodError."""
        while not self.is_done:
            if self.next().is_sign("(", ")"):
                self.fail()

    # ------------------------------------------------------------------ names

    def is_name(self, ahead: int = 0) -> bool:
        """Whether a name may stand here."""
        token = self.peek(ahead)
        return token.kind == "name" or (token.kind == "word" and token.word not in RESERVED)

    def name(self) -> str:
        """A name as written."""
        if not self.is_name():
            self.fail()
        return self.next().value

    def dotted(self, most: int = 2) -> list[str]:
        """A name with what stands before it: schema, table, column."""
        parts = [self.name()]
        while len(parts) < most and self.peek().is_sign(".") and self.is_name(1):
            self.next()
            parts.append(self.next().value)
        return parts

    def table_name(self) -> str:
        """A table as facts have it: with the default database where it has none."""
        return self.table(self.dotted())

    def table(self, parts: list[str]) -> str:
        """The same for a name that is read already."""
        self.tables_said.add(fold(parts[-1]))
        if len(parts) == 1 and self.session_after.database:
            parts = [self.session_after.database, *parts]
        if self.session.folds_tables or (len(parts) > 1 and parts[0].lower() in _SYSTEM_SCHEMAS):
            parts = [fold(part) for part in parts]
        return written(parts)

    # ------------------------------------------------------------------ what is found

    def call(self, name: str, *, bracket: Token | None = None) -> None:
        """Note a call of an unqualified function. `bracket` is the one that opens its arguments."""
        folded = fold(name)
        self.functions_said.add(folded)
        spaced = bracket is not None and bracket.is_apart and "IGNORE_SPACE" not in self.session.modes
        self.functions.add(written([folded]))
        if folded in RUNS_SQL:
            self.incomplete("a function runs SQL or reads tables that a value names")
        if folded in FUNCTION_EFFECTS:
            self.effects.update(FUNCTION_EFFECTS[folded])
        elif folded not in SAFE_FUNCTIONS or (spaced and folded.upper() in NO_SPACE):
            self.effects.add("unknown_function")

    def stored(self, parts: list[str]) -> None:
        """Note a call of a function of the database's own."""
        self.functions_said.add(fold(parts[-1]))
        self.functions.add(written([fold(part) for part in parts]))
        self.effects.add("unknown_function")

    def refer(self, scope: Scope, parts: Sequence[str], *, used: bool = True) -> Column:
        """Note a column; what it means is found by `resolve`."""
        column = Column(scope, tuple(fold(part) for part in parts), used or self.explained)
        self.pending.append(column)
        return column

    def resolve(self) -> None:
        """Give each column its table, now that every FROM has been read. Whoever uses a new name of the result
        list uses what it stands for."""
        todo = [column for column in self.pending if column.used and len(column.parts) == 1]
        while todo:
            column = todo.pop()
            for meant in _renamed(column.scope, column.parts[0]):
                if not meant.used:
                    meant.used = True
                    if len(meant.parts) == 1:
                        todo.append(meant)
        for column in self.pending:
            self._resolved(column)

    def _resolved(self, column: Column) -> None:
        *qualifier, last = column.parts
        scope, used = column.scope, column.used
        if not qualifier:
            if last == "*":
                for each in scope.tables():
                    self.whole_row(each, used=used)
            else:
                self.column(last, scope.only_table(), used=used)
            return
        table = self._table_of(qualifier, scope)
        if last != "*":
            self.column(last, table, used=used)
        elif table:
            self.whole_row(table, used=used)

    def _table_of(self, qualifier: list[str], scope: Scope) -> str:
        if len(qualifier) == 1:
            return scope.range_of(qualifier[0]) or DERIVED
        table = self.table(qualifier)
        return table if scope.has_table(table) else DERIVED


def fold(name: str) -> str:
    """Names of columns, aliases and functions are told apart without case."""
    return name.lower()


def _renamed(scope: Scope | None, name: str) -> list[Column]:
    """What a name may stand for that the result list of this level or one around it gives."""
    found: list[Column] = []
    while scope is not None:
        if isinstance(scope, Level):
            found += scope.aliases.get(name, ())
        scope = scope.parent
    return found
