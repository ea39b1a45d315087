"""A Postgres client that only counts: one statement, every byte of its answer, nothing parsed."""

from __future__ import annotations

import socket
import time

from bench.database_rig import Login

READY = b"Z\x00\x00\x00\x05I"
CHUNK = 1 << 20


def fetch(login: Login, text: str, timeout: float = 120.0) -> tuple[int, float]:
    """Bytes and seconds of one statement's answer, the login not counted. Raises RuntimeError on an error answer."""
    with _connect(login, timeout) as connection:
        began = time.perf_counter()
        connection.sendall(_message(b"Q", text.encode() + b"\0"))
        buffer, size, tail, first = memoryview(bytearray(CHUNK)), 0, b"", b""
        while not tail.endswith(READY):
            got = connection.recv_into(buffer)
            if not got:
                raise RuntimeError("the connection ended before its answer did")
            first = first or bytes(buffer[:200])
            size += got
            tail = (tail + bytes(buffer[max(0, got - 6) : got]))[-6:]
        if first[:1] == b"E":
            raise RuntimeError(f"refused: {first[5:]!r}")
        return size, time.perf_counter() - began


def _connect(login: Login, timeout: float) -> socket.socket:
    if login.host.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(f"{login.host}/.s.PGSQL.{login.port}")
    else:
        connection = socket.create_connection((login.host, login.port), timeout)
    try:
        body = b"\x00\x03\x00\x00user\0" + login.user.encode() + b"\0database\0postgres\0\0"
        connection.sendall((len(body) + 4).to_bytes(4, "big") + body)
        heard = b""
        while not heard.endswith(READY):
            if heard.startswith(b"R\x00\x00\x00\x08\x00\x00\x00\x03"):
                connection.sendall(_message(b"p", login.password.encode() + b"\0"))
                heard = b""
            data = connection.recv(65536)
            if not data:
                raise RuntimeError(f"not let in: {heard[-200:]!r}")
            heard += data
    except BaseException:
        connection.close()
        raise
    return connection


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body
