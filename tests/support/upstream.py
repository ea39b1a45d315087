"""An upstream that tells exactly what arrived and answers exactly what a test wants.

Its HTTP/1.1 reader is lenient on purpose (bare LF, spaces before the colon, any target): what a careless
server would accept must be visible here, not hidden by a parser. It runs on a thread with its own event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.support.replies import Gate, Reply, json_reply

MAX_HEAD = 1 << 20
Handler = Callable[["SeenRequest"], Reply]


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """One request, bytes kept as they came. Text is Latin-1, so every byte survives."""

    number: int
    """Counts from 1 over the life of the server."""
    connection: int
    method: str
    target: str
    version: str
    headers: tuple[tuple[str, str], ...]
    """Names in the case they arrived in, every repetition, in order."""
    body: bytes
    """De-chunked, still content-coded."""
    trailers: tuple[tuple[str, str], ...] = ()
    raw_head: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def all(self, name: str) -> list[str]:
        """Every value of a header, whatever its case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The first value of a header, whatever its case."""
        return next(iter(self.all(name)), None)


class Upstream:
    """A server on 127.0.0.1. Replies come from `on(...)`, else from `handler`, else are `200 {"ok": true}`."""

    def __init__(self, handler: Handler | None = None) -> None:
        self._handler = handler
        self._routes: dict[tuple[str, str], Reply | Handler] = {}
        self._seen: list[SeenRequest] = []
        self._malformed: list[bytes] = []
        self._numbers = itertools.count(1)
        self._connections = 0
        self._open = 0
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="upstream", daemon=True)
        self._server: asyncio.Server | None = None

    # -- life

    def start(self, port: int = 0) -> Upstream:
        """Listen on 127.0.0.1 and return once connections are accepted."""
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", port, limit=MAX_HEAD), self._loop
        ).result(10)
        return self

    def stop(self) -> None:
        """Close every connection and the port."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    def __enter__(self) -> Upstream:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def address(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    # -- what to answer

    def on(self, method: str, path: str, reply: Reply | Handler) -> None:
        """Answer this method and path (without query) so; `*` as method means any."""
        self._routes[(method, path)] = reply

    # -- what arrived

    @property
    def requests(self) -> list[SeenRequest]:
        """Every whole request so far, in the order they were complete."""
        with self._changed:
            return list(self._seen)

    @property
    def malformed(self) -> list[bytes]:
        """What could not be read as a request, up to 64 KiB of each."""
        with self._changed:
            return list(self._malformed)

    @property
    def connections(self) -> int:
        """How many connections were ever accepted."""
        return self._connections

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests arrived with this method and path; empty matches all."""
        return sum(
            (not method or seen.method == method) and (not path or seen.path == path)
            for seen in self.requests
        )

    def last(self) -> SeenRequest:
        """The newest request. Raises IndexError when there is none."""
        return self.requests[-1]

    def forget(self) -> None:
        """Empty the list of what arrived; numbers go on."""
        with self._changed:
            self._seen.clear()
            self._malformed.clear()

    def wait_for(self, count: int, within: float = 10.0) -> list[SeenRequest]:
        """The requests, once there are at least `count`. Raises AssertionError at the deadline."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self._seen) >= count, within)
            assert arrived, f"{len(self._seen)} of {count} requests reached the upstream within {within:g} s"
            return list(self._seen)

    def wait_for_no_connections(self, within: float = 10.0) -> None:
        """Return once every connection is closed. Raises AssertionError at the deadline."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._open == 0, within), (
                f"{self._open} connections are open"
            )

    # -- serving

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with self._changed:
            self._connections += 1
            self._open += 1
            connection = self._connections
        try:
            while await self._exchange(reader, writer, connection):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the peer went away; what was whole has been noted
        except asyncio.CancelledError:
            pass  # the server stops
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> bool:
        """One request and its reply. True when the connection may carry another."""
        head = await _read_head(reader)
        if head is None:
            return False
        parsed = _parse_head(head)
        if parsed is None:
            await self._reject(writer, head)
            return False
        method, target, version, headers = parsed
        lower = [(name.lower(), value) for name, value in headers]
        if any(name == "expect" and value.lower() == "100-continue" for name, value in lower):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body, trailers = await _read_body(reader, lower)
        except ValueError:
            await self._reject(writer, head)
            return False
        with self._changed:
            number = next(self._numbers)
            seen = SeenRequest(number, connection, method, target, version, headers, body, trailers, head)
            self._seen.append(seen)
            self._changed.notify_all()
        reply = self._reply_to(seen)
        keep = await reply.send(reader, writer, head_only=method == "HEAD")
        close = any(name == "connection" and "close" in value.lower() for name, value in lower)
        return keep and not close and version != "HTTP/1.0"

    async def _reject(self, writer: asyncio.StreamWriter, head: bytes) -> None:
        with self._changed:
            self._malformed.append(head[:65536])
            self._changed.notify_all()
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()

    def _reply_to(self, seen: SeenRequest) -> Reply:
        chosen = self._routes.get((seen.method, seen.path)) or self._routes.get(("*", seen.path))
        if chosen is None:
            chosen = self._handler or json_reply({"ok": True})
        return chosen if isinstance(chosen, Reply) else chosen(seen)


def echo_reply(seen: SeenRequest) -> Reply:
    """A handler that echoes the request as JSON, credentials included, as careless services do."""
    return json_reply(
        {
            "method": seen.method,
            "target": seen.target,
            "headers": [[name, value] for name, value in seen.headers],
            "body": seen.body.decode("latin-1"),
        },
        headers=[(f"x-echo-{name.lower()}", value) for name, value in seen.headers if _can_echo(name)],
    )


def echoed(body: bytes) -> dict[str, str]:
    """The headers in an echoed body by lower-case name; the last of several wins."""
    return {name.lower(): value for name, value in json.loads(body)["headers"]}


def _can_echo(name: str) -> bool:
    return name.replace("-", "").isalnum() and name.isascii()


async def _read_head(reader: asyncio.StreamReader) -> bytes | None:
    """Everything up to the empty line, or None when the connection ends first. Bare LF ends lines too."""
    lines: list[bytes] = []
    size = 0
    while True:
        line = await reader.readline()
        size += len(line)
        if not line.endswith(b"\n") or size > MAX_HEAD:
            return None
        if line in (b"\r\n", b"\n"):
            if lines:
                return b"".join([*lines, line])
            continue  # empty lines before a request line are ignored (RFC 9112 2.2)
        lines.append(line)


def _parse_head(head: bytes) -> tuple[str, str, str, tuple[tuple[str, str], ...]] | None:
    lines = [line.rstrip("\r") for line in head.decode("latin-1").split("\n")]
    method, _, rest = lines[0].partition(" ")
    target, _, version = rest.rpartition(" ")
    if not method or not target or not version.startswith("HTTP/1."):
        return None
    return method, target.strip(" "), version, tuple(_fields(line for line in lines[1:] if line))


def _fields(lines: Iterable[str]) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for line in lines:
        if line[0] in " \t" and fields:  # obs-fold: the value goes on
            fields[-1] = (fields[-1][0], f"{fields[-1][1]} {line.strip()}")
            continue
        name, _, value = line.partition(":")
        fields.append((name.strip(), value.strip(" \t")))
    return fields


async def _read_body(
    reader: asyncio.StreamReader, headers: list[tuple[str, str]]
) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """Chunked wins over a length, as in many servers (RFC 9112 6.3)."""
    if any(name == "transfer-encoding" and "chunked" in value.lower() for name, value in headers):
        parts: list[bytes] = []
        while size := int((await reader.readline()).split(b";")[0].strip() or b"0", 16):
            parts.append(await reader.readexactly(size))
            await reader.readline()
        trailer_lines: list[str] = []
        while (line := (await reader.readline()).decode("latin-1").rstrip("\r\n")) != "":
            trailer_lines.append(line)
        return b"".join(parts), tuple(_fields(trailer_lines))
    lengths = [value for name, value in headers if name == "content-length"]
    length = int(lengths[-1]) if lengths and lengths[-1].isdigit() else 0
    return await reader.readexactly(length), ()


__all__ = ["Gate", "Handler", "Reply", "SeenRequest", "Upstream", "echo_reply", "echoed", "json_reply"]
