"""The facts of a text in whichever dialect, for commands that read recorded or written cases of both."""

from __future__ import annotations

from extproc.domain.statement import StatementFacts
from extproc.sql import mysql
from extproc.sql.analysis import analyze as analyze_postgres


def analyze(text: str, dialect: str, *, database: str = "", server: str = "") -> tuple[StatementFacts, ...]:
    """The facts of every statement. `database` completes names on MySQL; `server` is its version as it greets, and
    without one executable comments are not understood. Raises ValueError for an unknown dialect."""
    if dialect != "mysql":
        return analyze_postgres(text, dialect)
    session = mysql.Session(database=database)
    return mysql.analyze(text, session.greeted(server) if server else session).facts
