"""A real MariaDB on a unix socket, from the distribution's packages, run by a user that may.

```python
with MariaDB() as mariadb:
    mariadb.run("CREATE TABLE t (a int)")
    mariadb.socket  # /tmp/…/mariadb.sock
```
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from extproc.demo.processes import StartError, free_port, tail, wait_until

OWNER = "nobody"
"""Started by root, the server runs as this user."""
DATABASE = "shop"
MISSING = "no MariaDB: apt-get install mariadb-server mariadb-client"
_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/bin")


def program(name: str) -> str | None:
    """The path of one of the server's programs, or None when it is not installed."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_PLACES))


def is_here() -> bool:
    """The server, what makes its data folder, and the command line client are installed."""
    return all(program(name) for name in ("mariadbd", "mariadb-install-db", "mariadb"))


class MariaDB:
    """One server with a database `shop`. Its own administrator, `root`, needs no password on the unix socket."""

    has_returning = True
    """INSERT … RETURNING is spoken."""

    def __init__(
        self, *, tls: tuple[Path, Path] | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """`settings` are server settings beside those that make it small and quick to start. With `tls`, certificate
        and key, it also listens on 127.0.0.1, for TLS alone.
        """
        self._tls = tls
        self.port = free_port() if tls is not None else 3306
        # a socket path holds 107 bytes at most, and the owner must reach it
        self.directory = Path(tempfile.mkdtemp(prefix="maria-", dir="/tmp"))
        self.socket = self.directory / "mariadb.sock"
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Make the data folder, start, and wait until it answers. Raises StartError."""
        self._require()
        data = self.directory / "data"
        data.mkdir(mode=0o700)
        own: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam(OWNER)
            own = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(data, owner.pw_uid, owner.pw_gid)
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        self.directory.chmod(0o755)
        # a server that starts drops every temporary table in its folder for those, other servers' too
        environ = {**os.environ, "TMPDIR": str(self.directory)}
        made = subprocess.run(
            self._installs(data),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd=self.directory,
            env=environ, **own,
        )  # fmt: skip
        if made.returncode != 0:
            raise StartError(f"the data folder was not made: {made.stdout.strip()[:1000]}")
        settings = {
            "datadir": str(data),
            "socket": str(self.socket),
            "pid-file": str(self.directory / "pid"),
            "innodb-flush-log-at-trx-commit": "0",
            "innodb-buffer-pool-size": "16M",
            "general-log": "1",
            "general-log-file": str(self.directory / "log"),
            "max-connections": "200",
            "max-allowed-packet": "64M",
            "performance-schema": "0",
            **self._own_settings(),
            **self._tls_settings(own),
            **self._settings,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        output = self.directory / "errors"
        with output.open("wb") as errors:
            self._process = subprocess.Popen(
                [*self._serves(), *options],
                stdout=errors, stderr=errors, start_new_session=True, cwd=self.directory, env=environ, **own,
            )  # fmt: skip
        wait_until(self.answers, what="the server to answer", within=60.0, logs=[output])
        self.run(f"CREATE DATABASE IF NOT EXISTS {DATABASE}", database="")

    def _require(self) -> None:
        """Raises StartError where a program is missing."""
        if not is_here():
            raise StartError(MISSING)

    def _installs(self, data: Path) -> list[str]:
        """What makes the data folder."""
        return [
            str(program("mariadb-install-db")), "--no-defaults", f"--datadir={data}",
            "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=8M",
        ]  # fmt: skip

    def _serves(self) -> list[str]:
        """What serves it, with the options that must come first."""
        return [str(program("mariadbd")), "--no-defaults"]

    def _own_settings(self) -> dict[str, str]:
        return {"innodb-log-file-size": "8M"}

    def _tls_settings(self, own: dict[str, Any]) -> dict[str, str]:
        if self._tls is None:
            return {"skip-networking": "1"}
        settings = {"bind-address": "127.0.0.1", "port": str(self.port)}
        for name, source in zip(("ssl-cert", "ssl-key"), self._tls, strict=True):
            target = self.directory / f"{name}.pem"
            target.touch(mode=0o600)
            target.write_bytes(source.read_bytes())
            if own:
                os.chown(target, own["user"], own["group"])
            settings[name] = str(target)
        return settings

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"---- mariadb\n{self.log(60)}\n{tail(self.directory / 'errors', 40)}")
        self.stop()

    def stop(self) -> None:
        """End it and drop its data."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def answers(self) -> bool:
        """It takes connections."""
        try:
            self.run("SELECT 1", database="")
        except StartError:
            return False
        return True

    def run(self, text: str, *, database: str = DATABASE) -> list[list[str]]:
        """Run as the administrator, past everything that governs; the rows of the results, as text."""
        done = subprocess.run(
            [str(program("mariadb")), "--no-defaults", f"--socket={self.socket}", "--user=root", "--batch", "--raw",
             "--skip-column-names", *([database] if database else [])],
            input=text, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        if done.returncode != 0:
            raise StartError(f"MariaDB says: {done.stderr.strip()}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def log(self, lines: int = 200) -> str:
        """The end of the server's log: every statement it was given."""
        return tail(self.directory / "log", lines)
