"""A MySQL client that sends exactly these texts, as they are or prepared, and keeps every byte of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]
from pymysql.constants import CLIENT, COMMAND  # type: ignore[import-untyped]

_MORE_RESULTS = 8
_LOST = frozenset({2006, 2013})


class Wire:
    """One connection. `address` is a socket's path or a port of 127.0.0.1."""

    def __init__(
        self,
        address: Path | int,
        user: str,
        password: str = "",
        *,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        where: dict[str, Any] = (
            {"host": "127.0.0.1", "port": address}
            if isinstance(address, int)
            else {"unix_socket": str(address)}
        )
        options: dict[str, Any] = {"database": "shop", "charset": "utf8mb4", **(parameters or {})}
        self._connection = pymysql.connect(
            user=user, password=password, autocommit=True, connect_timeout=20, read_timeout=20, local_infile=True,
            ssl_disabled=True,  # nobody offers it here, and to load what this machine trusts takes 30 ms
            client_flag=CLIENT.MULTI_STATEMENTS | CLIENT.MULTI_RESULTS, **where, **options,
        )  # fmt: skip
        self.said = bytearray()
        self.errors: list[str] = []
        """What every ERR packet says."""
        self.data = b""
        """What is sent where the server asks for a file of the client."""
        self.answered = False
        """Rows came."""
        self.closed = False

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection._force_close()

    @property
    def id(self) -> int:
        return int(self._connection.thread_id())

    def query(self, text: bytes) -> None:
        """COM_QUERY and all its results."""
        self._ask(COMMAND.COM_QUERY, text, self._results)

    def prepared(self, text: bytes) -> None:
        """COM_STMT_PREPARE and, where that succeeds, COM_STMT_EXECUTE with all its results."""
        self._ask(COMMAND.COM_STMT_PREPARE, text, self._execute)

    def _ask(self, command: int, text: bytes, then: Any) -> None:
        try:
            self._connection._execute_command(command, text)
            then()
        except pymysql.err.MySQLError as error:
            if error.args and error.args[0] in _LOST:
                self.closed = True
            told = str(error.args[-1]) if error.args else ""
            self.errors.append(told)
            self.said += told.encode()
            self._connection._result = None

    def _execute(self) -> None:
        made = self._packet()
        statement, columns, parameters = made[1:5], made[5] | made[6] << 8, made[7] | made[8] << 8
        for count in (parameters, columns):
            for _ in range(count + bool(count)):  # definitions and the EOF after them
                self._packet()
        self._connection._execute_command(COMMAND.COM_STMT_EXECUTE, statement + b"\0\1\0\0\0")
        self._results()

    def _packet(self) -> bytes:
        """The next packet. Raises what an ERR packet says."""
        packet = bytes(self._connection._read_packet()._data)
        self.said += packet
        return packet

    def _results(self) -> None:
        more = _MORE_RESULTS
        while more & _MORE_RESULTS:
            first = self._packet()
            if first[0] == 0xFB:  # the server asks for a file
                self._connection.write_packet(self.data)
                self._connection.write_packet(b"")
                first = self._packet()
            more = _status_of_ok(first) if first[0] == 0 else self._rows()

    def _rows(self) -> int:
        self.answered = True
        self._until_end()
        return self._until_end()

    def _until_end(self) -> int:
        """Packets up to an EOF; its status."""
        while True:
            packet = self._packet()
            if packet[0] == 0xFE and len(packet) < 9:
                return packet[3] | packet[4] << 8


def _status_of_ok(packet: bytes) -> int:
    at = 1
    for _ in range(2):  # affected rows, last insert id
        at += {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(packet[at], 1)
    return packet[at] | packet[at + 1] << 8
