"""A real MySQL (9.7 from Debian's unstable packages, or another): unpacked beside the project, installed nowhere.

`tools/mysql.sh` brings it; `EXTPROC_MYSQL` names another folder that has `usr/sbin/mysqld` and its libraries.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from extproc.demo import mariadb
from extproc.demo.mariadb import MariaDB
from extproc.demo.processes import StartError, free_port

# the server runs as nobody for root, whose home nobody may read
_CACHE = Path("/var/cache") if os.geteuid() == 0 else Path.home() / ".cache"
FOLDER = Path(os.environ.get("EXTPROC_MYSQL") or _CACHE / "extproc" / "mysql")
MISSING = f"no MySQL server in {FOLDER}: tools/mysql.sh brings one, or name its folder in EXTPROC_MYSQL"
_LIBRARIES = FOLDER / "usr" / "lib" / "x86_64-linux-gnu"
_LOADER = _LIBRARIES / "ld-linux-x86-64.so.2"


def binary(name: str) -> list[str]:
    """What runs one of its programs with the libraries that came with it."""
    path = next(
        (
            FOLDER / "usr" / place / name
            for place in ("sbin", "bin")
            if (FOLDER / "usr" / place / name).exists()
        ),
        None,
    )
    if path is None:
        return []
    return [str(_LOADER), "--library-path", str(_LIBRARIES), str(path)] if _LOADER.exists() else [str(path)]


def is_here() -> bool:
    """The server, and MariaDB's client that the tests give it orders with."""
    return bool(binary("mysqld")) and mariadb.program("mariadb") is not None


class MySQL(MariaDB):
    """The same as `MariaDB`: a database `shop`, an administrator without a password on the socket. It also listens on
    127.0.0.1, with TLS for those who ask; with `tls`, for TLS alone."""

    has_returning = False

    def __init__(
        self, *, tls: tuple[Path, Path] | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(tls=tls, settings=settings)
        self.port = free_port()

    def _require(self) -> None:
        if not is_here():
            raise StartError(MISSING)

    def _installs(self, data: Path) -> list[str]:
        return [
            *self._serves(), "--initialize-insecure", f"--datadir={data}", "--performance-schema=0",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-redo-log-capacity=64M",
        ]  # fmt: skip

    def _serves(self) -> list[str]:
        return [*binary("mysqld"), "--no-defaults", f"--lc-messages-dir={FOLDER}/usr/share/mysql"]

    def _own_settings(self) -> dict[str, str]:
        return {
            "bind-address": "127.0.0.1",
            "port": str(self.port),
            "mysqlx": "0",
            "innodb-redo-log-capacity": "64M",
            "innodb-doublewrite": "0",
            "disable-log-bin": "1",
            "secure-file-priv": "",
        }

    def _tls_settings(self, own: dict[str, object]) -> dict[str, str]:
        return super()._tls_settings(own) | {"require-secure-transport": "1"} if self._tls is not None else {}
