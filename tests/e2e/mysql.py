"""A real MariaDB behind a rendered Envoy and `extproc serve`, reached by real clients with a token as the password."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]

from tests.e2e.databases import PASSWORD, POLICY, GovernedDatabase
from tests.support.mariadb import DATABASE, MariaDB, program

MYSQL_POLICY = POLICY.replace('"payments" in', f'"{DATABASE}.payments" in')
"""Names of tables are completed with the database that a connection uses."""
SCHEMA = f"""
CREATE USER app_reader IDENTIFIED BY '{PASSWORD}';
CREATE USER app_writer IDENTIFIED BY '{PASSWORD}';
CREATE TABLE customers (id int PRIMARY KEY, name varchar(50), email varchar(100), age int, note json);
INSERT INTO customers VALUES
  (1, 'Ada', 'ada@example.com', 36, '{{"mail": "ada@example.com"}}'),
  (2, 'Grace', 'grace@example.com', 45, '{{"mail": "none"}}'),
  (3, 'Edsger', NULL, NULL, NULL);
CREATE TABLE orders (id int PRIMARY KEY, customer int, amount int);
INSERT INTO orders WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
  SELECT i, 1 + i % 3, i * 10 FROM n;
CREATE TABLE payments (id int);
CREATE VIEW mails AS SELECT id, email AS address FROM customers;
GRANT ALL ON {DATABASE}.* TO app_reader, app_writer;
"""


class MysqlStack(GovernedDatabase):
    """A governed MariaDB."""

    kind = "mysql"
    listener_name = "my"

    def __init__(self, directory: Path, mariadb: MariaDB, **more: Any) -> None:
        more.setdefault("policy", MYSQL_POLICY)
        super().__init__(directory, mariadb.socket, **more)
        self.mariadb = mariadb

    def __enter__(self) -> MysqlStack:
        super().__enter__()
        return self

    def connect(self, user: str = "reader", *groups: str, token: str = "", **more: Any) -> Any:
        """PyMySQL through Envoy, autocommit unless asked otherwise."""
        more.setdefault("autocommit", True)
        if "tls" not in self._listener:
            more.setdefault("ssl_disabled", True)  # it loads what this machine trusts before it asks for TLS
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user=user, password=token or self.token(groups=groups or ("readers",)),
            database=DATABASE, connect_timeout=20, **more,
        )  # fmt: skip

    def shell(self, text: str, *more: str, user: str = "reader", groups: Sequence[str] = ("readers",)) -> Any:
        """The command line client with this input; the finished process."""
        return subprocess.run(
            [str(program("mariadb")), "--no-defaults", "-h127.0.0.1", f"-P{self.port}", f"-u{user}", *more,
             f"-p{self.token(groups=groups)}", "--batch", "--skip-column-names", "--force", DATABASE],
            input=text, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
