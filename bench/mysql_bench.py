"""What governing MySQL costs, on a MariaDB: `python -m bench.mysql_bench`, `--quick` for under a minute.

Single rows by their key, as text and prepared, and large results.
"""

from __future__ import annotations

import sys
from functools import partial

from bench.database_bench import Bench, run
from bench.database_rig import PASSWORD, WIDE, Login
from bench.mysql_client import DATABASE, ROWS, fetch, point_selects
from tests.support.mariadb import MariaDB

MODES = {"text-1": (False, 1), "text-8": (False, 8), "prepared-8": (True, 8)}
"""Whether prepared, and clients."""
GOALS = {
    "text-8.rate.relay/tcp_proxy": 0.55,
    "prepared-8.rate.relay/tcp_proxy": 0.55,
    "text-8.rate.ext_proc/empty": 0.6,
    "prepared-8.rate.ext_proc/empty": 0.6,
    "clean.rate.relay/tcp_proxy": 0.5,
    "masked.rate.relay/tcp_proxy": 0.25,
}


class BenchMariaDB(MariaDB):
    """Quiet, with a table for single rows and a large one."""

    kind = "mysql"

    def __init__(self) -> None:
        super().__init__(
            settings={"general-log": "0", "innodb-buffer-pool-size": "512M", "innodb-log-file-size": "96M"}
        )

    def fill(self, megabytes: int) -> None:
        self.run(
            f"""
            CREATE DATABASE {DATABASE};
            USE {DATABASE};
            CREATE USER app_reader IDENTIFIED BY '{PASSWORD}';
            CREATE TABLE point (id int PRIMARY KEY, pad char(120) NOT NULL);
            INSERT INTO point SELECT seq, REPEAT('p', 120) FROM seq_1_to_{ROWS};
            CREATE TABLE bulk (id int PRIMARY KEY, body text, secret text);
            INSERT INTO bulk SELECT seq, REPEAT('b', {WIDE}), REPEAT('s', {WIDE}) FROM seq_1_to_{megabytes * 1000};
            GRANT SELECT ON {DATABASE}.* TO app_reader;
            """
        )

    def ungoverned(self, port: int) -> Login:
        return Login("127.0.0.1", port, "root") if port else Login(str(self.socket), 0, "root")


BENCH = Bench(
    "mysql",
    BenchMariaDB,
    {case: partial(point_selects, *mode) for case, mode in MODES.items()},
    fetch,
    GOALS,
)


if __name__ == "__main__":
    sys.exit(run(BENCH))
