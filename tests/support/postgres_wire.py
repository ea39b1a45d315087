"""A Postgres client that sends exactly these messages and keeps every byte it is told."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from extproc.protocols.postgres import messages as m

PASSWORD_ASKED = b"\x00\x00\x00\x03"


class Wire:
    """One connection. `address` is a socket's path or a port of 127.0.0.1; cleartext password or none."""

    def __init__(
        self,
        address: Path | int,
        user: str,
        password: str = "",
        *,
        database: str = "postgres",
        parameters: Mapping[str, str] | None = None,
        timeout: float = 20.0,
    ) -> None:
        if isinstance(address, int):
            self.socket = socket.create_connection(("127.0.0.1", address), timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(str(address))
        self.said = bytearray()
        """Everything since the login."""
        self.errors: list[dict[str, str]] = []
        """Fields of every ErrorResponse."""
        self.data = b""
        """COPY data to send when asked."""
        self.kinds = bytearray()
        """The kind of every message heard, in order."""
        self.closed = False
        self.backend_key = b""
        self._buffer = bytearray()
        self._password = password
        startup = {"user": user, "database": database, **(parameters or {})}
        self.send(m.build_startup(0, startup.items()))
        self.read(1)
        if not self.closed:
            self.said.clear()
            self.kinds.clear()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *messages: bytes) -> None:
        """Send these, in one piece."""
        try:
            self.socket.sendall(b"".join(messages))
        except ConnectionError:
            self.closed = True

    def ask(self, *messages: bytes) -> None:
        """Send these and read until each Query, Sync and FunctionCall among them has its ReadyForQuery."""
        self.send(*messages)
        self.read(sum(message[:1] in (b"Q", b"S", b"F") for message in messages))

    def query(self, text: bytes) -> None:
        """The simple protocol."""
        self.ask(m.build_query(text))

    def prepared(self, text: bytes) -> None:
        """Parse, Bind, Describe and Execute without names, results in binary."""
        bind = m.build_bind(b"", b"", (), (), (1,))
        describe = m.build_target(b"D", b"P", b"")
        self.send(m.build_parse(b"", text), bind, describe, m.build_execute(b""), m.SYNC)
        self.read(1, extended=True)

    def read(self, count: int, *, extended: bool = False) -> None:
        """Read until `count` ReadyForQuery came, or the end."""
        while count and not self.closed:
            kind, body = self._message()
            if kind == b"Z":
                count -= 1
            elif kind == b"R" and body == PASSWORD_ASKED:
                self.send(m.build(b"p", self._password.encode() + b"\0"))
            elif kind == b"G":
                self.send(m.build(b"d", self.data), m.build(b"c", b""), m.SYNC if extended else b"")
            elif kind == b"K":
                self.backend_key = body
            elif kind == b"E":
                fields = m.parse_fields(body)
                self.errors.append({name: value.decode(errors="replace") for name, value in fields.items()})

    def _message(self) -> tuple[bytes, bytes]:
        while True:
            size = 1 + int.from_bytes(self._buffer[1:5], "big") if len(self._buffer) >= 5 else 1 << 62
            if len(self._buffer) >= size:
                message = bytes(self._buffer[:size])
                del self._buffer[:size]
                self.kinds += message[:1]
                return message[:1], message[5:]
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                self.closed = True
                return b"", b""
            self.said += data
            self._buffer += data

    def drain(self) -> None:
        """Read to the end of the connection."""
        while not self.closed:
            self._message()


def from_steps(steps: Iterable[dict[str, list[object] | object]]) -> list[bytes]:
    """Messages from `{parse: [name, text]}`, `{bind: [portal, statement, value, …]}` and their kin."""
    return [message for step in steps for name, given in step.items() for message in [_built(name, given)]]


def _built(name: str, given: object) -> bytes:
    parts = [_bytes(part) for part in (given if isinstance(given, list) else [given])]
    first = parts[0] or b""
    match name:
        case "query":
            return m.build_query(first)
        case "parse":
            return m.build_parse(first, parts[1] or b"")
        case "bind":
            return m.build_bind(first, parts[1] or b"", parts[2:])
        case "bind_binary":
            return m.build_bind(first, parts[1] or b"", parts[2:], [1], [1])
        case "query_bytes":  # each character one byte, so that YAML can say any
            return m.build_query(str(given).encode("latin-1"))
        case "execute":
            return m.build_execute(first)
        case "execute_some":
            return m.build_execute(first, int(parts[1] or b"0"))
        case "describe" | "close":
            return m.build_target(name[:1].upper().encode(), first, parts[1] or b"")
        case "sync":
            return m.SYNC
        case "flush":
            return m.FLUSH
        case "call":  # FunctionCall: an OID and arguments as text
            arguments = b"".join(len(v or b"").to_bytes(4, "big") + (v or b"") for v in parts[1:])
            count = (len(parts) - 1).to_bytes(2, "big")
            return m.build(b"F", int(first).to_bytes(4, "big") + b"\0\0" + count + arguments + b"\0\0")
        case "copy_data":
            return m.build(b"d", first)
        case "copy_done":
            return m.build(b"c", b"")
        case "raw":
            return bytes.fromhex(first.decode())
    raise ValueError(f"no message is called {name!r}")


def _bytes(part: object) -> bytes | None:
    """Text in UTF-8; bytes are `!!binary`; null is NULL."""
    return part if isinstance(part, bytes | None) else str(part).encode()
