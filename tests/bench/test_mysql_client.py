"""The counting client of MySQL: whole answers, whatever the network cuts, and no answer that is not one."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from bench.database_rig import Login
from bench.mysql_client import fetch, point_selects

GREETING = (
    b"\x0a8.0.0\0\1\0\0\0saltsalt\0\x0f\xa2\x21\2\0\x08\0\x15"
    + bytes(10)
    + b"saltsaltsalt\0mysql_native_password\0"
)
OK = b"\0\0\0\2\0\0\0"
EOF = b"\xfe\0\0\2\0"
DENIED = b"\xff\x76\x04#42000no"


def packet(payload: bytes, number: int = 1) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


def rows(*values: bytes) -> bytes:
    """One column that nobody reads, and these rows."""
    told = [b"\1", b"a column", EOF, *(bytes([len(value)]) + value for value in values), EOF]
    return b"".join(packet(payload, number + 1) for number, payload in enumerate(told))


def server(*answers: bytes, piece: int = 1 << 20) -> Login:
    """One client is let in and told these answers, one a command and the last one again and again, in pieces. What
    is less than a packet ends the connection."""
    listening = socket.create_server(("127.0.0.1", 0))

    def one() -> None:
        connection, _ = listening.accept()
        listening.close()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = list(answers)
        with connection, connection.makefile("rb") as heard, contextlib.suppress(OSError):
            connection.sendall(packet(GREETING, 0))
            while head := heard.read(4):
                payload = heard.read(int.from_bytes(head[:3], "little"))
                if head[3] or payload.startswith(b"\3SET"):  # the login, and what the client says after it
                    connection.sendall(packet(OK, head[3] + 1))
                    continue
                answer = due.pop(0) if len(due) > 1 else due[0]
                for at in range(0, len(answer), piece):
                    connection.sendall(answer[at : at + piece])
                if len(answer) < 5:
                    return

    threading.Thread(target=one, daemon=True).start()
    return Login("127.0.0.1", int(listening.getsockname()[1]), "u")


@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_every_byte_of_the_rows_counts(piece: int) -> None:
    answer = rows(*[b"b" * 250] * 100)
    size, took = fetch(server(answer, piece=piece), "SELECT 1")
    assert size == len(packet(b"b" * 251)) * 100 + len(packet(EOF)) and took > 0


@pytest.mark.parametrize("answer", [packet(DENIED), b"abc", packet(OK)], ids=["denied", "half", "no rows"])
def test_an_error_or_half_an_answer_is_no_measurement(answer: bytes) -> None:
    with pytest.raises(RuntimeError):
        fetch(server(answer), "SELECT 1")


@pytest.mark.parametrize("piece", [5, 1 << 20])
def test_whole_rows_are_counted_one_by_one(piece: int) -> None:
    count, rate = point_selects(False, 1, server(rows(b"p" * 120), piece=piece), 0.2)
    assert count > 0 and rate > 0


def test_a_statement_is_prepared_once_and_executed_often() -> None:
    made = b"".join(
        packet(payload) for payload in (b"\0\7\0\0\0\1\0\1\0\0\0\0", b"a parameter", EOF, b"a column", EOF)
    )
    count, _ = point_selects(True, 1, server(made, rows(b"p" * 120)), 0.2)
    assert count > 0


@pytest.mark.parametrize("later", [packet(DENIED), rows(b"p" * 121)], ids=["denied", "another row"])
def test_an_answer_unlike_the_first_is_no_measurement(later: bytes) -> None:
    with pytest.raises(RuntimeError, match="not a row"):
        point_selects(False, 1, server(rows(b"p" * 120), later), 2.0)
