"""A relay of a few lines between real clients and a real server, with a wire's state machine between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

Writers = dict[str, asyncio.StreamWriter]


class Gate(Protocol):
    """What every test's gate has."""

    chunk: int
    seen: list[Any]


class Talk:
    """One client, one server, one connection."""

    def __init__(self, gate: Gate, wire: Any, writers: Writers) -> None:
        self._gate = gate
        self._wire = wire
        self.writers = writers

    def answer(self, event: Any) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        while (event := self._wire.next_event()) is not None:
            self._gate.seen.append(event)
            self.answer(event)
        for name, data in (
            ("client", self._wire.bytes_to_client()),
            ("server", self._wire.bytes_to_server()),
        ):
            if data and not self.writers[name].is_closing():
                self.writers[name].write(data)
        for name, ended in (("client", self._wire.end_to_client), ("server", self._wire.end_to_server)):
            if ended and not self.writers[name].is_closing():
                self.writers[name].close()

    async def pump(self, reader: asyncio.StreamReader, receive: Callable[[bytes, bool], None]) -> None:
        while True:
            try:
                data = await reader.read(self._gate.chunk)
            except OSError:
                data = b""
            receive(data, not data)
            self.flush()
            for writer in self.writers.values():
                with contextlib.suppress(OSError):
                    await writer.drain()
            if not data:
                return


@asynccontextmanager
async def relaying(make: Callable[[Writers], Talk], server_socket: Path, path: Path) -> AsyncIterator[int]:
    """Listens on the unix socket `path` and on 127.0.0.1, whose port it yields."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(str(server_socket))
        talk = make({"client": writer, "server": upstream_writer})
        async with asyncio.TaskGroup() as both:
            both.create_task(talk.pump(reader, talk._wire.receive_from_client))
            both.create_task(talk.pump(upstream_reader, talk._wire.receive_from_server))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_unix_server(accept, str(path))
    local = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield local.sockets[0].getsockname()[1]
    finally:
        server.close()
        local.close()
        if running:
            _, stuck = await asyncio.wait(running, timeout=5)
            for task in stuck:
                task.cancel()
            assert not stuck, "a connection did not end with its client"
