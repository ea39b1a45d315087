"""What runs by name (EXECUTE, FETCH) is judged as what was given that name on the same connection."""

from __future__ import annotations

from dataclasses import replace

from extproc.domain.statement import Statement, StatementFacts

RUNS = {"EXECUTE": "prepared", "FETCH": "cursor", "MOVE": "cursor"}
MAKES = {"PREPARE": "prepared", "DECLARE": "cursor"}
MAX_REMEMBERED = 8 << 20
"""Characters of all texts that one connection has named, with what each name costs."""
NAME_COST = 2048
NOTHING = StatementFacts(statements=0)
"""An empty text: the server answers EmptyQueryResponse."""


class StatementNames:
    """Prepared statements and cursors of one connection, with the facts of what made them."""

    __slots__ = ("_lost", "_prepared", "_remembered")

    def __init__(self) -> None:
        self._prepared: dict[tuple[str, str], tuple[StatementFacts, ...]] = {}
        self._remembered = 0
        self._lost = False

    def understood(self, statement: Statement) -> tuple[StatementFacts, ...]:
        """The facts to judge: what runs a prepared statement or cursor is judged as what was prepared under that
        name. A name may have stood for several texts (a failed PREPARE leaves the first): all of them count."""
        found: list[StatementFacts] = []
        for sql in statement.facts or (NOTHING,):
            known = self._prepared.get((RUNS.get(sql.verb, ""), sql.refers_to)) if sql.refers_to else None
            found.extend([sql.running(made, made.underlying) for made in known] if known else (sql,))
        return tuple(found)

    def remember(self, statement: Statement, name: str = "") -> None:
        """A statement that goes on names others that may run later: `name` at Parse, or PREPARE and DECLARE.

        A connection that has named too much is not followed any more: what runs by name is then not understood.
        """
        for sql in statement.facts:
            kind, called = (MAKES.get(sql.verb, ""), sql.refers_to) if not name else ("prepared", name)
            if not kind or not called or self._lost:
                continue
            before = self._prepared.get((kind, called), ())
            named = replace(sql, underlying=statement.text)
            if named in before:
                continue
            self._prepared[kind, called] = (*before, named)
            self._remembered += NAME_COST + len(statement.text)
            if self._remembered > MAX_REMEMBERED:
                self._lost = True
                self._prepared.clear()
