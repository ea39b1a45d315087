"""What stands between real clients and a real Postgres in the tests of the wire."""

from __future__ import annotations

import asyncio
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
from tests.support.wire_relay import Talk, Writers, relaying

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


class Conversation(Talk):
    """One client, one server, one connection."""

    def __init__(self, gate: Gate, writers: Writers) -> None:
        self.gate = gate
        self.wire = PostgresConnection(
            read_messages=gate.message is not None, tls=gate.tls, require_tls=gate.tls is not None
        )
        super().__init__(gate, self.wire, writers)
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


@asynccontextmanager
async def relay(gate: Gate, server_socket: Path, folder: Path) -> AsyncIterator[Path]:
    """Listens on a unix socket in `folder` the way libpq expects it; yields the folder."""
    async with relaying(
        lambda writers: Conversation(gate, writers), server_socket, folder / ".s.PGSQL.5432"
    ) as port:
        gate.port = port
        yield folder
