"""What has been found so far in one statement, whichever dialect it is of."""

from __future__ import annotations

from typing import Any, cast

from extproc.domain.statement import EFFECTS, StatementFacts, TransactionControl
from extproc.sql.names import written


class Found:
    """Sets that grow while a statement is read, and become its facts."""

    __slots__ = (
        "columns",
        "columns_used",
        "effects",
        "functions",
        "has_limit",
        "keeps",
        "limit",
        "reason",
        "refers_to",
        "select_restricts",
        "tables_read",
        "tables_written",
        "transaction",
        "verbs",
        "wheres",
    )

    def __init__(self) -> None:
        self.verbs: list[str] = []
        self.effects: set[str] = set()
        self.tables_read: set[str] = set()
        self.tables_written: set[str] = set()
        self.columns: set[str] = set()
        self.columns_used: set[str] = set()
        self.functions: set[str] = set()
        self.wheres: list[bool] = []
        """For each UPDATE and DELETE whether its WHERE restricts."""
        self.select_restricts = False
        self.has_limit = False
        self.limit = -1
        self.reason = ""
        self.transaction = ""
        self.refers_to = ""
        self.keeps = False
        """Something is put into a variable, which later texts can show."""

    def incomplete(self, reason: str) -> None:
        """The first reason stays."""
        self.reason = self.reason or reason

    def column(self, name: str, table: str = "", *, used: bool = True) -> None:
        full = f"{table}.{written([name])}" if table else written([name])
        self.columns.add(full)
        if used:
            self.columns_used.add(full)

    def whole_row(self, table: str, *, used: bool = True) -> None:
        self.columns.add(f"{table}.*")
        if used:
            self.columns_used.add(f"{table}.*")

    def take(self, inner: Found) -> None:
        """Everything that another statement does, which this one holds."""
        self.verbs += inner.verbs
        self.effects |= inner.effects
        self.tables_read |= inner.tables_read
        self.tables_written |= inner.tables_written
        self.columns |= inner.columns
        self.columns_used |= inner.columns_used
        self.functions |= inner.functions
        self.wheres += inner.wheres
        self.select_restricts = inner.select_restricts
        self.has_limit, self.limit = inner.has_limit, inner.limit
        self.reason = self.reason or inner.reason
        self.keeps = self.keeps or inner.keeps

    def facts(self, **others: Any) -> StatementFacts:
        """The facts, with those `others` that the text gives beside."""
        complete = not self.reason
        return StatementFacts(
            verb=self.verbs[0] if self.verbs else "",
            verbs=tuple(sorted(set(self.verbs))),
            effects=tuple(sorted(self.effects)) if complete else EFFECTS,
            effects_seen=tuple(sorted(self.effects)),
            tables_read=tuple(sorted(self.tables_read)),
            tables_written=tuple(sorted(self.tables_written)),
            columns=tuple(sorted(self.columns)),
            columns_used=tuple(sorted(self.columns_used)),
            functions=tuple(sorted(self.functions)),
            has_where=complete and (all(self.wheres) if self.wheres else self.select_restricts),
            has_limit=self.has_limit,
            limit=self.limit,
            complete=complete,
            incomplete_reason=self.reason,
            transaction=cast(TransactionControl, self.transaction),
            refers_to=self.refers_to,
            keeps=self.keeps,
            **others,
        )


def unread(reason: str, size: int) -> StatementFacts:
    """Anything may happen, so every effect is listed."""
    return StatementFacts(effects=EFFECTS, complete=False, incomplete_reason=reason, end=size)
