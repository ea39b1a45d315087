"""The readers of SQL, for commands that may meet a statement."""

from __future__ import annotations

from extproc.domain.statement import StatementFacts


def analyze(text: str, dialect: str, *, database: str = "", server: str = "") -> tuple[StatementFacts, ...]:
    """As `sql.dialects` has it. Both readers are loaded at the first statement: policies over HTTP have none."""
    from extproc.sql.dialects import analyze

    return analyze(text, dialect, database=database, server=server)
