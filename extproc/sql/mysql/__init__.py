"""What a statement does on MySQL and MariaDB. `docs/sql.md` says what is known, what is not, and why."""

from __future__ import annotations

from extproc.sql.mysql.analysis import TextFacts, analyze
from extproc.sql.mysql.session import Session

__all__ = ["Session", "TextFacts", "analyze"]
