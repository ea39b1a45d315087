"""What the test upstream can answer: every framing, coding and misbehaviour, and pauses a test controls."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

Framing = Literal["length", "chunked", "close", "none"]


class Gate:
    """Items that a test releases one by one to a waiting server. `release(None)` or `finish()` ends them."""

    def __init__(self) -> None:
        self._items: deque[bytes | None] = deque()
        self._lock = threading.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self.reached = threading.Event()
        """Set when a server waits here for the first time."""

    def release(self, item: bytes | str | None = b"") -> None:
        """Let the next item through; before the server waits is fine too."""
        with self._lock:
            self._items.append(item.encode() if isinstance(item, str) else item)
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            loop, future = waiting
            loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(None))

    def finish(self) -> None:
        """No more items: a body ends well."""
        self.release(None)

    async def next(self) -> bytes | None:
        """The next item, once it is released. For one waiting server at a time."""
        while True:
            with self._lock:
                if self._items:
                    return self._items.popleft()
                loop = asyncio.get_running_loop()
                future = loop.create_future()
                self._waiting = (loop, future)
            self.reached.set()
            await future


@dataclass(frozen=True)
class Reply:
    """One answer. `body` may be cut, gated or held back; header names are sent as given.

    `gate` streams what a test releases (chunked, or until close); `hold` waits for one item before the status
    line; `cut_after` closes the connection after that many body bytes; `informational` are whole 1xx replies
    sent first; `pause` waits that many seconds between `chunks`; `raw` replaces everything.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    framing: Framing = "length"
    chunks: tuple[bytes, ...] | None = None
    trailers: tuple[tuple[str, str], ...] = ()
    gate: Gate | None = None
    hold: Gate | None = None
    cut_after: int | None = None
    informational: tuple[tuple[int, tuple[tuple[str, str], ...]], ...] = ()
    pause: float = 0.0
    tunnel: bool = False
    """After the head, echo whatever comes until the peer closes: a WebSocket or CONNECT peer in miniature."""
    raw: bytes | None = None

    async def send(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, head_only: bool = False
    ) -> bool:
        """Write it. True when the connection can be used again."""
        if self.hold is not None:
            await self.hold.next()
        if self.raw is not None:
            writer.write(self.raw)
            await writer.drain()
            return False
        for status, headers in self.informational:
            writer.write(_head(status, headers))
        empty = head_only or self.status in (204, 304) or self.status < 200
        writer.write(_head(self.status, (*self.headers, *self._framing_headers())))
        await writer.drain()
        if self.tunnel:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            return False
        if empty:
            return self.framing != "close"
        return await self._send_body(writer)

    def _framing_headers(self) -> list[tuple[str, str]]:
        if self.framing == "chunked":
            return [("transfer-encoding", "chunked")]
        if self.framing == "close":
            return [("connection", "close")]
        if self.framing == "none" or self.status in (204, 304) or self.status < 200:
            return []
        return [("content-length", str(len(self.body)))]

    async def _send_body(self, writer: asyncio.StreamWriter) -> bool:
        left = self.cut_after
        async for piece in self._pieces():
            part = piece if left is None else piece[:left]
            if part:
                chunked = self.framing == "chunked"
                writer.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                await writer.drain()
            if left is not None:
                left -= len(part)
                if left <= 0:
                    return False
        if self.cut_after is not None:
            return False
        if self.framing == "chunked":
            writer.write(b"0\r\n" + _lines(self.trailers) + b"\r\n")
            await writer.drain()
        return self.framing != "close"

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self.gate is not None:
            while (item := await self.gate.next()) is not None:
                yield item
            return
        for index, piece in enumerate((self.body,) if self.chunks is None else self.chunks):
            if index and self.pause:
                await asyncio.sleep(self.pause)
            yield piece


def json_reply(
    value: object, *, status: int = 200, headers: Iterable[tuple[str, str]] = (), framing: Framing = "length"
) -> Reply:
    """JSON with a content type."""
    body = json.dumps(value, ensure_ascii=False).encode()
    return Reply(status, (("content-type", "application/json"), *headers), body, framing)


def text_reply(text: str, *, status: int = 200, content_type: str = "text/plain; charset=utf-8") -> Reply:
    """Text in UTF-8."""
    return Reply(status, (("content-type", content_type),), text.encode())


def coded_reply(
    body: bytes, coding: str, *, content_type: str = "application/json", framing: Framing = "length"
) -> Reply:
    """A body under a content coding: gzip, deflate (zlib), raw-deflate (labelled deflate), gzip-twice, or any
    other label put on bytes left as they are (`br`, `zstd`, `identity`, nonsense)."""
    label = {"raw-deflate": "deflate", "gzip-twice": "gzip, gzip"}.get(coding, coding)
    return Reply(
        200, (("content-type", content_type), ("content-encoding", label)), encode(body, coding), framing
    )


def encode(body: bytes, coding: str) -> bytes:
    """Apply a coding as `coded_reply` names them."""
    if coding == "gzip":
        return gzip.compress(body, mtime=0)
    if coding == "gzip-twice":
        return gzip.compress(gzip.compress(body, mtime=0), mtime=0)
    if coding == "deflate":
        return zlib.compress(body)
    if coding == "raw-deflate":
        packer = zlib.compressobj(wbits=-15)
        return packer.compress(body) + packer.flush()
    return body


def chunked_reply(
    chunks: Sequence[bytes],
    *,
    content_type: str = "application/json",
    pause: float = 0.0,
    trailers: Sequence[tuple[str, str]] = (),
    cut_after: int | None = None,
) -> Reply:
    """A chunked body cut exactly so."""
    return Reply(
        200,
        (("content-type", content_type),),
        framing="chunked",
        chunks=tuple(chunks),
        pause=pause,
        trailers=tuple(trailers),
        cut_after=cut_after,
    )


def sse_reply(gate: Gate) -> Reply:
    """An event stream whose bytes a test releases: `gate.release("data: 1\\n\\n")`, then `gate.finish()`."""
    return Reply(
        200,
        (("content-type", "text/event-stream"), ("cache-control", "no-store")),
        framing="chunked",
        gate=gate,
    )


def huge_reply(size: int, *, framing: Framing = "length", filler: bytes = b"x") -> Reply:
    """A JSON document of exactly `size` bytes (at least 8): one long string."""
    body = b'{"a":"' + (filler * size)[: size - 8] + b'"}'
    chunks = tuple(body[at : at + 65536] for at in range(0, len(body), 65536))
    return Reply(200, (("content-type", "application/json"),), body, framing, chunks)


def switching_reply(protocol: str = "websocket") -> Reply:
    """101, then an echo of whatever comes."""
    return Reply(101, (("upgrade", protocol), ("connection", "upgrade")), framing="none", tunnel=True)


def _head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    return f"HTTP/1.1 {status} {reason}\r\n".encode() + _lines(headers) + b"\r\n"


def _lines(headers: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers)
