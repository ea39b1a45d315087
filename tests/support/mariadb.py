"""The MariaDB of the tests is the demo's."""

from __future__ import annotations

from extproc.demo.mariadb import DATABASE, MISSING, OWNER, MariaDB, is_here, program

__all__ = ["DATABASE", "MISSING", "OWNER", "MariaDB", "is_here", "program"]
