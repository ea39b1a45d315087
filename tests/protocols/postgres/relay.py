"""A relay of a few lines between real clients and a real server, with the state machine between them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extproc.protocols.postgres import (
    BackendKey,
    CancelReceived,
    LoggedIn,
    LoginReceived,
    MessageReceived,
    PostgresConnection,
    Refusal,
    RowsDescribed,
    RowsReceived,
    StatementReceived,
    UpstreamLogin,
)

Rows = Callable[[RowsReceived], Sequence[Sequence[bytes | None] | None]]


@dataclass
class Gate:
    """What the relay answers. Every event is kept in `seen`."""

    login: UpstreamLogin
    verdict: Callable[[StatementReceived], Refusal | None] = lambda asked: None
    rows: Rows | None = None
    message: Callable[[MessageReceived], dict[str, str]] | None = None
    token: str = "token"
    tls: ssl.SSLContext | None = None
    port: int = 0
    """Where it listens on 127.0.0.1, since clients do not use TLS on unix sockets."""
    chunk: int = 65536
    seen: list[Any] = field(default_factory=list)
    held: dict[BackendKey, Conversation] = field(default_factory=dict)
    hold: Callable[[StatementReceived], bool] = lambda asked: False
    released: asyncio.Event = field(default_factory=asyncio.Event)


class Conversation:
    """One client, one server, one connection."""

    def __init__(self, gate: Gate, writers: dict[str, asyncio.StreamWriter]) -> None:
        self.gate = gate
        self.writers = writers
        self.wire = PostgresConnection(
            read_messages=gate.message is not None, tls=gate.tls, require_tls=gate.tls is not None
        )
        self.waiting: int | None = None

    def answer(self, event: Any) -> None:
        gate, wire = self.gate, self.wire
        match event:
            case LoginReceived(token=token):
                if token == gate.token:
                    wire.accept_login(gate.login)
                else:
                    wire.refuse_login("28000", "bad token")
            case LoggedIn(backend_key=key) if key is not None:
                gate.held[key] = self
            case StatementReceived():
                self.judge(event)
            case RowsDescribed(id=number):
                wire.read_rows(number)
            case RowsReceived(id=number):
                assert gate.rows is not None
                wire.replace_rows(number, gate.rows(event))
            case MessageReceived():
                assert gate.message is not None
                wire.replace_message(gate.message(event))
            case CancelReceived(key=key):
                other = gate.held.get(key)
                if other is not None and other.waiting is not None:
                    other.decide(Refusal("57014", "canceling statement due to user request"))
                    wire.drop_cancel()
                else:
                    wire.forward_cancel()

    def judge(self, asked: StatementReceived) -> None:
        if self.gate.hold(asked):
            self.waiting = asked.id
            self.wire.notice("waiting for approval")
            return
        refusal = self.gate.verdict(asked)
        if refusal is None:
            self.wire.forward(asked.id, rows=self.gate.rows is not None)
        else:
            self.wire.deny(asked.id, refusal.sqlstate, refusal.message, refusal.detail, refusal.hint)

    def decide(self, refusal: Refusal | None) -> None:
        number, self.waiting = self.waiting, None
        assert number is not None
        if refusal is None:
            self.wire.forward(number, rows=self.gate.rows is not None)
        else:
            self.wire.deny(number, refusal.sqlstate, refusal.message)
        self.flush()

    def flush(self) -> None:
        while (event := self.wire.next_event()) is not None:
            self.gate.seen.append(event)
            self.answer(event)
        for name, data in (("client", self.wire.bytes_to_client()), ("server", self.wire.bytes_to_server())):
            if data and not self.writers[name].is_closing():
                self.writers[name].write(data)
        for name, ended in (("client", self.wire.end_to_client), ("server", self.wire.end_to_server)):
            if ended and not self.writers[name].is_closing():
                self.writers[name].close()

    async def pump(self, reader: asyncio.StreamReader, receive: Callable[[bytes, bool], None]) -> None:
        while True:
            try:
                data = await reader.read(self.gate.chunk)
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
async def relay(gate: Gate, server_socket: Path, folder: Path) -> AsyncIterator[Path]:
    """Listens on a unix socket in `folder` the way libpq expects it; yields the folder."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(str(server_socket))
        talk = Conversation(gate, {"client": writer, "server": upstream_writer})
        async with asyncio.TaskGroup() as both:
            both.create_task(talk.pump(reader, talk.wire.receive_from_client))
            both.create_task(talk.pump(upstream_reader, talk.wire.receive_from_server))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_unix_server(accept, str(folder / ".s.PGSQL.5432"))
    local = await asyncio.start_server(accept, "127.0.0.1", 0)
    gate.port = local.sockets[0].getsockname()[1]
    try:
        yield folder
    finally:
        server.close()
        local.close()
        if running:
            _, stuck = await asyncio.wait(running, timeout=5)
            for task in stuck:
                task.cancel()
            assert not stuck, "a connection did not end with its client"
