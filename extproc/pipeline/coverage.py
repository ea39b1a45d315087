"""Which columns of a database are masked, as its catalogue has them: through views, by kin, in generated columns.

Masking by where a result column comes from is sound only for plain columns. Whatever computes with a masked column
hides where its values come from, so it is refused, or hidden whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from extproc.domain.statement import StatementFacts
from extproc.masking.operators import Operator, strictest
from extproc.masking.rows import RowMasks, split_name
from extproc.pipeline.catalogue import (
    FIRST_USER_OID,
    MOST_REMEMBERED,
    STATEMENTS,
    STATISTICS,
    Catalogue,
    Relation,
)
from extproc.pipeline.view_trees import Attribute

TELLING = frozenset({"pg_stat_get_activity", "pg_stat_get_backend_activity", "pg_mcv_list_items"})
"""The server's own functions that show what its `STATISTICS` and `STATEMENTS` do."""
DEEPEST = 100
"""Views on views that are followed."""
_UNKNOWN = frozenset({"unknown-table", "unknown-column", "unknown-view"})


@dataclass(frozen=True, slots=True)
class Cover:
    """What is done to a column. Without an operator nothing of it is shown."""

    operator: Operator | None
    label: str


class Coverage:
    """The columns that one plan masks in one catalogue."""

    __slots__ = ("_known", "_statements", "_version", "catalogue", "masks")

    def __init__(self, catalogue: Catalogue, masks: RowMasks) -> None:
        self.catalogue = catalogue
        self.masks = masks
        self._known: dict[Attribute, Cover | None] = {}
        self._statements: dict[int, tuple[StatementFacts, str, bool]] = {}
        """What was found out of a statement, by the identity of its facts: those of a text are made once."""
        self._version = catalogue.version

    def of(self, oid: int, attribute: int) -> Cover | None:
        """What is owed on a column of a table or view; None where nothing is.

        A table that is not known may have been made since: hidden. System columns hold no values.
        """
        if attribute < 0 or not self.masks.rules:
            return None
        self._look_whether_changed()
        return self._resolve(oid, attribute, 0)

    def _look_whether_changed(self) -> None:
        if self._version != self.catalogue.version:
            self._known.clear()
            self._statements.clear()
            self._version = self.catalogue.version

    def _resolve(self, oid: int, attribute: int, depth: int) -> Cover | None:
        mark = oid, attribute
        if mark in self._known:
            return self._known[mark]
        cover = self._cover(oid, attribute, depth)
        if cover is None or cover.label not in _UNKNOWN:  # what is not known yet may be known later
            self._known[mark] = cover
        return cover

    def _cover(self, oid: int, attribute: int, depth: int) -> Cover | None:
        if (oid, attribute) in self.catalogue.holders:
            return Cover(None, "values-of-others")
        if oid < FIRST_USER_OID or attribute < 0:
            return None
        relation = self.catalogue.relations.get(oid)
        if relation is None or depth > DEEPEST:
            return Cover(None, "unknown-table")
        if attribute == 0:
            covers = [self._resolve(oid, number, depth + 1) for number in relation.columns]
            return next((cover for cover in covers if cover is not None), None)
        name = relation.columns.get(attribute)
        if name is None:
            return Cover(None, "unknown-column")
        below = self._of_view(relation, attribute, depth) if relation.is_view else None
        if below is not None and below.operator is None:
            return below
        own = self._by_kin(relation, name)
        operator = strictest(own, below.operator if below is not None else None)
        if operator is not None:
            label = f"{relation.name}.{name}" if operator is own or below is None else below.label
            return Cover(operator, label)
        for read in relation.generated.get(attribute, ()):
            if self._resolve(oid, read, depth + 1) is not None:
                return Cover(None, f"{relation.name}.{name}")
        return None

    def _of_view(self, view: Relation, attribute: int, depth: int) -> Cover | None:
        column = (view.definition or {}).get(attribute)
        if column is None:
            return Cover(None, "unknown-view")
        if column.origin is not None:
            return self._resolve(*column.origin, depth + 1)
        for oid, number in column.reads:
            if self._resolve(oid, number, depth + 1) is not None:
                return Cover(None, f"{view.name}.{view.columns[attribute]}")
        return None

    def _by_kin(self, relation: Relation, column: str) -> Operator | None:
        """Rows of a child show through its parent, and may be read from itself: both are masked alike."""
        found: Operator | None = None
        seen = {relation.oid}
        todo = [relation]
        while todo:
            each = todo.pop()
            if column not in each.numbers:
                continue
            found = strictest(found, self.masks.operator(each.schema, each.name, column))
            for oid in each.kin - seen:
                seen.add(oid)
                todo.append(self.catalogue.relations[oid])
        return found

    def touches(self, sql: StatementFacts) -> str:
        """Why the rows of a statement cannot be masked column by column; empty when they can."""
        return self._found(sql)[1]

    def names(self, sql: StatementFacts) -> bool:
        """Whether a statement names a masked column, shown or used."""
        return self._found(sql)[2]

    def _found(self, sql: StatementFacts) -> tuple[StatementFacts, str, bool]:
        self._look_whether_changed()
        if len(self._statements) >= MOST_REMEMBERED:
            self._statements.clear()
        found = self._statements.get(id(sql))
        if found is None:
            found = self._statements[id(sql)] = (sql, self._touches(sql), self._names(sql))
        return found

    def _touches(self, sql: StatementFacts) -> str:
        tables = (*sql.tables_read, *sql.tables_written)
        if any(split_name(table)[-1] in STATISTICS for table in tables):
            return "the planner's statistics hold values of masked columns"
        if not TELLING.isdisjoint(sql.functions) or any(
            name.split(".")[-1] in ("query", "*") and split_name(table)[-1] in STATEMENTS
            for name in sql.columns_used
            for table in tables
        ):
            return "the texts of others' statements may hold values of masked columns"
        if any(self.catalogue.tells(table) for table in tables):
            return "tables of the server's own show values and the texts of others' statements"
        if any(self._calls_a_row(name, tables) for name in sql.columns):
            return "a function of a whole row may show a masked column"
        if any(self._may_be_masked(name, tables) for name in sql.columns_used):
            return "a masked column may only stand as a plain result column"
        return ""

    def _names(self, sql: StatementFacts) -> bool:
        tables = (*sql.tables_read, *sql.tables_written)
        return any(self._may_be_masked(name, tables) for name in sql.columns if not name.endswith("*"))

    def _may_be_masked(self, name: str, tables: Sequence[str]) -> bool:
        """Whether `column`, `table.column`, `table.*` or `*` in a statement may be a masked column of its tables."""
        parts = split_name(name)
        column = parts[-1] if not name.endswith("*") else "*"
        for table in tables:
            if len(parts) > 1 and split_name(table)[-1] != parts[-2]:
                continue
            relations = self.catalogue.named(table)
            if not relations and not self.catalogue.knows(table) and self.masks.may_cover(name):
                return True
            if any(self._has_masked(relation, column) for relation in relations):
                return True
        return not tables and self.masks.may_cover(name)

    def _calls_a_row(self, name: str, tables: Sequence[str]) -> bool:
        """Whether `table.name` is no column of that table but a function, called with its row."""
        parts = split_name(name)
        if len(parts) < 2 or parts[-1] not in self.catalogue.of_rows:
            return False
        return any(
            parts[-1] not in relation.numbers and self._has_masked(relation, "*")
            for table in tables
            if split_name(table)[-1] == parts[-2]
            for relation in self.catalogue.named(table)
        )

    def _has_masked(self, relation: Relation, column: str) -> bool:
        numbers: Iterator[int] | Sequence[int]
        if column == "*":
            numbers = iter(relation.columns)
        else:
            numbers = (relation.numbers[column],) if column in relation.numbers else ()
        return any(self.of(relation.oid, number) is not None for number in numbers)


def hides_origins(coverage: Coverage, facts: Sequence[StatementFacts]) -> bool:
    """Whether a column of a masked view may come without saying so."""
    catalogue = coverage.catalogue
    return catalogue.views_hide_origins and any(
        relation.is_view and coverage.of(relation.oid, 0) is not None
        for sql in facts
        for table in sql.tables_read
        for relation in catalogue.named(table)
    )


def knows_all(catalogue: Catalogue, facts: Sequence[StatementFacts]) -> bool:
    """Whether every table that a text names is known."""
    return all(catalogue.knows(table) for sql in facts for table in (*sql.tables_read, *sql.tables_written))
