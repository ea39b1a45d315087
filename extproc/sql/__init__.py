"""What a statement does, without running it. `docs/sql.md` says what is known, what is not, and why."""

from __future__ import annotations

from extproc.sql.analysis import analyze
from extproc.sql.walk import Vouched

__all__ = ["Vouched", "analyze"]
