"""Sessions with servers whose version is known."""

from __future__ import annotations

from extproc.domain.statement import StatementFacts
from extproc.sql.mysql import Session, analyze

MARIADB = Session(database="shop").greeted("5.5.5-10.11.6-MariaDB-0+deb12u1")
MYSQL = Session(database="shop").greeted("8.4.3")


def one(text: str, session: Session = MARIADB) -> StatementFacts:
    """The facts of a text that is one statement."""
    (facts,) = analyze(text, session).facts
    return facts
