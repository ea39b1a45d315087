"""What governing Postgres costs: `python -m bench.postgres_bench`, `--quick` for under a minute.

pgbench -S and large results.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial

from bench.database_bench import Bench, run
from bench.database_rig import PASSWORD, WIDE, Login
from bench.postgres_client import fetch
from tests.support.postgres import ADMIN, Postgres

MODES = {"simple-1": ("simple", 1), "extended-8": ("extended", 8), "prepared-8": ("prepared", 8)}
"""pgbench's protocol and clients."""
GOALS = {
    "prepared-8.rate.relay/tcp_proxy": 0.55,
    "extended-8.rate.relay/tcp_proxy": 0.55,
    "prepared-8.rate.ext_proc/empty": 0.6,
    "extended-8.rate.ext_proc/empty": 0.6,
    "clean.rate.relay/tcp_proxy": 0.5,
    "masked.rate.relay/tcp_proxy": 0.25,
}


class BenchPostgres(Postgres):
    """The wheel's server, quiet, with pgbench's tables and a large one."""

    kind = "postgres"

    def __init__(self) -> None:
        super().__init__(log_statement="none", shared_buffers="256MB")

    def fill(self, megabytes: int) -> None:
        self.run(f"CREATE USER app_reader PASSWORD '{PASSWORD}'")
        subprocess.run(
            ["pgbench", "-h", str(self.directory), "-U", ADMIN, "-i", "-q", "-s", "1", "postgres"],
            check=True, capture_output=True,
        )  # fmt: skip
        self.run("CREATE TABLE bulk (id int, body text, secret text)")
        self.run(
            f"INSERT INTO bulk SELECT n, repeat('b', {WIDE}), repeat('s', {WIDE}) "
            f"FROM generate_series(1, {megabytes * 1000}) n"
        )
        self.run("VACUUM ANALYZE")
        self.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO app_reader")

    def ungoverned(self, port: int) -> Login:
        return Login("127.0.0.1", port, ADMIN) if port else Login(str(self.directory), self.port, ADMIN)


def pgbench(protocol: str, clients: int, login: Login, seconds: float) -> tuple[int, float]:
    """Select only."""
    done = subprocess.run(
        ["pgbench", "-n", "-S", "-M", protocol, "-c", str(clients), "-j", "1", "-T", str(max(1, round(seconds))),
         "-h", login.host, "-p", str(login.port), "-U", login.user, "postgres"],
        env={**os.environ, "PGPASSWORD": login.password, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"},
        capture_output=True, text=True,
    )  # fmt: skip
    count = re.search(r"actually processed: (\d+)", done.stdout)
    rate = re.search(r"tps = ([0-9.]+)", done.stdout)
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    if done.returncode or count is None or rate is None or (failed and failed[1] != "0"):
        raise SystemExit(f"pgbench at port {login.port}: {done.stdout[-500:]}{done.stderr[-1000:]}")
    return int(count[1]), float(rate[1])


BENCH = Bench(
    "postgres",
    BenchPostgres,
    {case: partial(pgbench, *mode) for case, mode in MODES.items()},
    fetch,
    GOALS,
)


if __name__ == "__main__":
    sys.exit(run(BENCH))
