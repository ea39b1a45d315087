"""A client that sends exactly these bytes and reads exactly one reply."""

from __future__ import annotations

import gzip
import json
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from extproc.demo.processes import connect


class ReplyError(AssertionError):
    """The peer closed, timed out or sent no HTTP where a whole reply was expected. `received` is what came."""

    def __init__(self, message: str, received: bytes = b"") -> None:
        super().__init__(f"{message} (after {len(received)} bytes: {received[:120]!r})")
        self.received = received


@dataclass(frozen=True, slots=True)
class RawReply:
    """One reply. `body` is de-chunked, still content-coded; `whole` is False when it was cut off."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    whole: bool = True
    informational: tuple[int, ...] = ()
    trailers: tuple[tuple[str, str], ...] = ()

    def all(self, name: str) -> list[str]:
        """Every value of a header given in lower case."""
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str | None:
        """The first value of a header given in lower case."""
        return next(iter(self.all(name)), None)

    def json(self) -> Any:
        """The body as JSON, gunzipped when it says so."""
        return json.loads(
            gzip.decompress(self.body) if self.header("content-encoding") == "gzip" else self.body
        )


class RawClient:
    """A connection to `host:port` or `unix:/path` that stays open until closed. Timeouts in seconds."""

    def __init__(self, address: str, *, timeout: float = 10.0) -> None:
        self.socket = connect(address, timeout=timeout)
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """These bytes, whatever they are."""
        self.socket.sendall(data)

    def ask(self, data: bytes, *, head_only: bool = False) -> RawReply:
        """Send and read one reply."""
        self.send(data)
        return self.read(head_only=head_only)

    def read(self, *, head_only: bool = False, partial: bool = False) -> RawReply:
        """One reply. Raises ReplyError when none comes, or when it is cut off and `partial` is not set."""
        informational: list[int] = []
        while True:
            status, headers = self._read_head()
            if status == 101 or status >= 200:
                break
            informational.append(status)
        empty = head_only or status in (101, 204, 304)
        nothing: tuple[bytes, tuple[tuple[str, str], ...], bool] = (b"", (), True)
        empty = head_only or status in (101, 204, 304)
        body, trailers, whole = nothing if empty else self._read_body(dict(headers))
        if not whole and not partial:
            raise ReplyError(f"a reply with status {status} was cut off", body)
        return RawReply(status, headers, body, whole, tuple(informational), trailers)

    def read_head(self) -> RawReply:
        """Status and headers of a reply whose body is read with `read_some`."""
        status, headers = self._read_head()
        return RawReply(status, headers, b"", whole=False)

    def read_until(self, marker: bytes) -> bytes:
        """Raw bytes up to and including `marker`. Raises ReplyError."""
        while marker not in self._buffer:
            self._more()
        at = self._buffer.index(marker) + len(marker)
        taken, self._buffer = self._buffer[:at], self._buffer[at:]
        return taken

    def is_closed(self) -> bool:
        """The peer closes (or resets) without sending more, within the timeout."""
        try:
            return not self._buffer and self.socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def finish_sending(self) -> None:
        """Half-close: no more bytes from us."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """An ordinary close."""
        self.socket.close()

    def reset(self) -> None:
        """An abrupt close: the peer gets RST, not FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _read_head(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        head = self.read_until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise ReplyError("this is no HTTP reply", head.encode("latin-1"))
        return int(rest[:3]), _fields(lines)

    def _read_body(self, headers: dict[str, str]) -> tuple[bytes, tuple[tuple[str, str], ...], bool]:
        parts: list[bytes] = []
        try:
            if "chunked" in headers.get("transfer-encoding", ""):
                while size := int(self.read_until(b"\r\n").split(b";")[0], 16):
                    parts.append(self._exactly(size))
                    self._exactly(2)
                lines: list[str] = []
                while line := self.read_until(b"\r\n")[:-2]:
                    lines.append(line.decode("latin-1"))
                return b"".join(parts), _fields(lines), True
            if "content-length" in headers:
                return self._exactly(int(headers["content-length"])), (), True
            while True:  # until the peer closes (RFC 9112 6.3)
                parts.append(self._buffer)
                self._buffer = b""
                if not (data := self.socket.recv(65536)):
                    return b"".join(parts), (), True
                self._buffer = data
        except (ReplyError, OSError):
            rest, self._buffer = self._buffer, b""
            return b"".join(parts) + rest, (), False

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _more(self) -> None:
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise ReplyError("nothing more came in time", self._buffer) from None
        except ConnectionError as error:
            raise ReplyError(f"the connection broke: {error}", self._buffer) from None
        if not data:
            raise ReplyError("the peer closed", self._buffer)
        self._buffer += data


def build_request(
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    *,
    host: str | None = "api.example",
) -> bytes:
    """An HTTP/1.1 request; `host` None leaves the field out, a body brings its content-length."""
    fields = [*([("Host", host)] if host is not None else []), *headers]
    if body is not None and not any(n.lower() in ("content-length", "transfer-encoding") for n, _ in fields):
        fields.append(("Content-Length", str(len(body))))
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
    return head.encode("latin-1") + b"\r\n" + (body or b"")


def chunked(*chunks: bytes, trailers: Iterable[tuple[str, str]] = ()) -> bytes:
    """A chunked body cut exactly so."""
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    return coded + b"0\r\n" + b"".join(f"{n}: {v}\r\n".encode("latin-1") for n, v in trailers) + b"\r\n"


def ask(address: str, data: bytes, *, timeout: float = 10.0, head_only: bool = False) -> RawReply:
    """One request on a connection of its own."""
    with RawClient(address, timeout=timeout) as client:
        return client.ask(data, head_only=head_only)


def _fields(lines: Iterable[str]) -> tuple[tuple[str, str], ...]:
    pairs = (line.partition(":") for line in lines)
    return tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
