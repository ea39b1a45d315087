"""What stands between real clients and a real MariaDB in the tests of the wire."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from extproc.protocols.mysql import (
    InquiryAnswered,
    Limits,
    LoginReceived,
    MessageReceived,
    MysqlConnection,
    Refusal,
    RowsDescribed,
    RowsReceived,
    StatementReceived,
    UpstreamLogin,
)
from tests.support.wire_relay import Talk, Writers, relaying

Rows = Callable[[RowsReceived], Sequence[Sequence[bytes | None] | None]]


def nonce() -> bytes:
    """Twenty random bytes without a NUL."""
    return bytes(1 + secrets.randbelow(127) for _ in range(20))


@dataclass
class Gate:
    """What the relay answers. Every event is kept in `seen`."""

    login: UpstreamLogin
    verdict: Callable[[StatementReceived], Refusal | None] = lambda asked: None
    rows: Rows | None = None
    message: Callable[[MessageReceived], str | None] | None = None
    question: str = ""
    """Asked before every statement."""
    token: str = "token"
    tls: ssl.SSLContext | None = None
    require_tls: bool = False
    takes_cleartext: bool = True
    rsa_key: rsa.RSAPrivateKey | None = None
    limits: Limits = field(default_factory=Limits)
    port: int = 0
    chunk: int = 65536
    seen: list[Any] = field(default_factory=list)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]


class Conversation(Talk):
    """One client, one server, one connection."""

    def __init__(self, gate: Gate, writers: Writers) -> None:
        self.gate = gate
        self.wire = MysqlConnection(
            nonce(),
            gate.limits,
            read_messages=gate.message is not None,
            takes_cleartext=gate.takes_cleartext,
            tls=gate.tls,
            require_tls=gate.require_tls,
            rsa_key=gate.rsa_key,
        )
        self.asked: dict[int, StatementReceived] = {}
        super().__init__(gate, self.wire, writers)

    def answer(self, event: Any) -> None:
        gate, wire = self.gate, self.wire
        match event:
            case LoginReceived(token=token):
                if token == gate.token:
                    wire.accept_login(replace(gate.login, database=event.database))
                else:
                    wire.refuse_login(Refusal(1045, "28000", "bad token"))
            case StatementReceived():
                self.asked[event.id] = event
                if not (gate.question and wire.inquire(event.id, gate.question)):
                    self.decide(event)
            case InquiryAnswered(id=number):
                self.decide(self.asked[number])
            case RowsDescribed(id=number):
                wire.read_rows(number)
            case RowsReceived(id=number):
                assert gate.rows is not None
                wire.replace_rows(number, gate.rows(event))
            case MessageReceived():
                assert gate.message is not None
                wire.replace_message(gate.message(event))

    def decide(self, asked: StatementReceived) -> None:
        refusal = self.gate.verdict(asked)
        if refusal is None:
            self.wire.forward(asked.id, rows=self.gate.rows is not None)
        else:
            self.wire.deny(asked.id, refusal)


@asynccontextmanager
async def relay(gate: Gate, server_socket: Path, path: Path) -> AsyncIterator[int]:
    """Listens on 127.0.0.1; yields the port."""
    async with relaying(lambda writers: Conversation(gate, writers), server_socket, path) as port:
        gate.port = port
        yield port
