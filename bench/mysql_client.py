"""A MySQL client that only counts: prepared bytes out, whole answers back, next to nothing parsed.

PyMySQL logs in; then its socket is ours.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pymysql  # type: ignore[import-untyped]

from bench.database_rig import Login

DATABASE = "bench"
ROWS = 20_000
"""Of the table `point`."""
CHUNK = 1 << 20
EOF_SIZE = 9
"""Bytes of an EOF packet with its header: none of these connections asks for CLIENT_DEPRECATE_EOF."""
MOST_HEAD = 4096
Command = Callable[[], bytes]
_TEXT = b"\x03SELECT pad FROM point WHERE id = %d"
_PREPARE = b"\x16SELECT pad FROM point WHERE id = ?"


def fetch(login: Login, text: str, timeout: float = 120.0) -> tuple[int, float]:
    """Bytes and seconds of one statement's rows, the login not counted. Raises RuntimeError on an error answer."""
    with _logged_in(login, timeout) as connection:
        began = time.perf_counter()
        connection.sendall(_packet(b"\x03" + text.encode()))
        _read_head(connection)
        buffer, size, tail = memoryview(bytearray(CHUNK)), 0, b""
        while not _ends(tail):
            got = connection.recv_into(buffer)
            if not got:
                raise RuntimeError("the connection ended before its answer did")
            size += got
            tail = (tail + bytes(buffer[max(0, got - EOF_SIZE) : got]))[-EOF_SIZE:]
        return size, time.perf_counter() - began


def point_selects(prepared: bool, clients: int, login: Login, seconds: float) -> tuple[int, float]:
    """One row by its key, in a closed loop of so many connections: how many, and how many a second.

    Every row is as long as every other, so the first answer's length is that of all. Raises RuntimeError otherwise.
    """
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(clients):
            connection = stack.enter_context(_logged_in(login, 20.0))
            command = _prepare(connection) if prepared else _text
            size = _length_of(connection, command())
            selector.register(connection, selectors.EVENT_READ, [command, size, b""])
        began = time.perf_counter()
        count, ends = 0, began + seconds
        for key in selector.get_map().values():
            _socket(key).sendall(key.data[0]())
        while time.perf_counter() < ends:
            ready = selector.select(10.0)
            if not ready:
                raise RuntimeError("no answer for ten seconds")
            for key, _ in ready:
                count += _answered(_socket(key), key.data)
        return count, count / (time.perf_counter() - began)


def _answered(connection: socket.socket, state: list[Any]) -> bool:
    """Read; where the answer is whole, ask the next question."""
    command, size, heard = state
    read = connection.recv(MOST_HEAD)
    heard += read
    if read and len(heard) < size and heard[4:5] != b"\xff":
        state[2] = heard
        return False
    if len(heard) != size or not _ends(heard[-EOF_SIZE:]):
        raise RuntimeError(f"not a row: {heard[:300]!r}")
    state[2] = b""
    connection.sendall(command())
    return True


def _socket(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket)
    return key.fileobj


def _text() -> bytes:
    return _packet(_TEXT % random.randint(1, ROWS))


def _prepare(connection: socket.socket) -> Command:
    """Prepare; what executes it (COM_STMT_EXECUTE with one MYSQL_TYPE_LONG)."""
    connection.sendall(_packet(_PREPARE))
    made, *_ = [_read_packet(connection) for _ in range(5)]  # OK, a parameter, EOF, a column, EOF
    if made[0]:
        raise RuntimeError(f"not prepared: {made!r}")
    head = b"\x17" + made[1:5] + b"\x00\x01\x00\x00\x00\x00\x01\x03\x00"
    return lambda: _packet(head + struct.pack("<i", random.randint(1, ROWS)))


def _length_of(connection: socket.socket, command: bytes) -> int:
    """Bytes of the answer to a command, which has one row."""
    connection.sendall(command)
    return _read_head(connection) + sum(4 + len(_read_packet(connection)) for _ in ("row", "EOF"))


def _read_head(connection: socket.socket) -> int:
    """Read up to the EOF before the rows; bytes of it. Raises what an ERR says."""
    first = _read_packet(connection)
    if first[0] in (0x00, 0xFF):
        raise RuntimeError(f"no rows: {first!r}")
    return 4 + len(first) + sum(4 + len(_read_packet(connection)) for _ in range(first[0] + 1))


def _read_packet(connection: socket.socket) -> bytes:
    """The payload of the next one."""
    head = _exactly(connection, 4)
    return _exactly(connection, int.from_bytes(head[:3], "little"))


def _exactly(connection: socket.socket, size: int) -> bytes:
    if size > MOST_HEAD:
        raise RuntimeError(f"a packet of {size} bytes where a short one was due")
    data = b""
    while len(data) < size:
        read = connection.recv(size - len(data))
        if not read:
            raise RuntimeError("the connection ended before its answer did")
        data += read
    return data


def _ends(tail: bytes) -> bool:
    """These are the bytes of an EOF packet."""
    return len(tail) == EOF_SIZE and tail[:3] == b"\x05\x00\x00" and tail[4] == 0xFE


def _packet(payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + b"\x00" + payload


@contextlib.contextmanager
def _logged_in(login: Login, timeout: float) -> Iterator[socket.socket]:
    where: dict[str, Any] = (
        {"unix_socket": login.host}
        if login.host.startswith("/")
        else {"host": login.host, "port": login.port}
    )
    session = pymysql.connect(
        user=login.user, password=login.password, database=DATABASE, connect_timeout=timeout, read_timeout=timeout,
        **where,
    )  # fmt: skip
    try:
        connection: socket.socket = session._sock
        connection.settimeout(timeout)
        yield connection
    finally:
        session._force_close()
