"""The MariaDB of the tests: the demo's."""

from __future__ import annotations

from extproc.demo.mariadb import DATABASE, MariaDB, is_here, program

__all__ = ["DATABASE", "MISSING", "MariaDB", "is_here", "program"]

MISSING = "no MariaDB: apt-get install mariadb-server mariadb-client"
