"""Which names a part of a statement can see: common table expressions and what stands in FROM."""

from __future__ import annotations

from collections.abc import Iterator

DERIVED = ""
"""The range of a subquery, a function or a common table expression: columns of it have no table of their own."""


class Scope:
    """One query level. `ranges` maps an alias to the table it stands for, as written, or to `DERIVED`."""

    __slots__ = ("ctes", "functions", "parent", "ranges")

    def __init__(self, parent: Scope | None = None, ctes: frozenset[str] | None = None) -> None:
        self.parent = parent
        self.ctes: frozenset[str] = ctes if ctes is not None else (parent.ctes if parent else frozenset())
        self.ranges: dict[str, str] = {}
        self.functions: dict[str, frozenset[str]] = {}
        """Ranges that are functions, with the columns they are known to have: such a range may be a mere value."""

    def add(self, alias: str, table: str) -> None:
        """Two ranges of one name hide each other's table, for it is not certain which one a name means."""
        self.ranges[alias] = table if self.ranges.get(alias, table) == table else DERIVED

    def range_of(self, alias: str) -> str | None:
        """The table behind the nearest range of that name; None when there is none."""
        level: Scope | None = self
        while level is not None:
            if alias in level.ranges:
                return level.ranges[alias]
            level = level.parent
        return None

    def function_columns(self, alias: str) -> frozenset[str] | None:
        """Known columns of the nearest range of that name if it is a function; None if it is none."""
        level: Scope | None = self
        while level is not None:
            if alias in level.ranges:
                return level.functions.get(alias)
            level = level.parent
        return None

    def has_ranges(self) -> bool:
        """Whether any level has something in FROM."""
        level: Scope | None = self
        while level is not None:
            if level.ranges:
                return True
            level = level.parent
        return False

    def has_table(self, table: str) -> bool:
        """Whether a range of any level stands for that table."""
        level: Scope | None = self
        while level is not None:
            if table in level.ranges.values():
                return True
            level = level.parent
        return False

    def only_table(self) -> str:
        """The one table that an unqualified column must be of; empty when that is not certain."""
        level = self.parent
        while level is not None:
            if level.ranges:
                return ""
            level = level.parent
        tables = set(self.ranges.values())
        return tables.pop() if len(tables) == 1 else DERIVED

    def tables(self) -> Iterator[str]:
        return (table for table in self.ranges.values() if table != DERIVED)
