"""`extproc health` says what Envoy's health check would."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from extproc.cli import main
from extproc.commands.health import ask_relay
from extproc.config import Address
from extproc.domain.relay import PING, PONG
from extproc.protocols.proxy_header import LOCAL_HEADER
from tests.config.test_databases import GOOD as DATABASE
from tests.config.test_load import GOOD


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="xp-") as short:
        (Path(short) / "extproc.yaml").write_text(GOOD + 'processor: {listen: "unix:p.sock", workers: 2}\n')
        yield Path(short)


@pytest.fixture
def workers(folder: Path) -> Iterator[list[health.HealthServicer]]:
    servicers, servers = [], []
    for number in range(2):
        servicer = health.HealthServicer()
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        server = grpc.server(futures.ThreadPoolExecutor(2))
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        server.add_insecure_port(f"unix:{folder}/p-{number}.sock")
        server.start()
        servicers.append(servicer)
        servers.append(server)
    yield servicers
    for server in servers:
        server.stop(0).wait(5)


def run(folder: Path) -> Result:
    return CliRunner().invoke(main, ["health", "--config", str(folder / "extproc.yaml"), "--json"])


def test_all_workers_serving_is_0(folder: Path, workers: list[health.HealthServicer]):
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout).values()) == {"serving"}


def test_one_that_drains_is_1(folder: Path, workers: list[health.HealthServicer]):
    workers[1].set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    result = run(folder)
    assert result.exit_code == 1
    assert sorted(json.loads(result.stdout).values()) == ["not serving", "serving"]


def test_nobody_there_is_3(folder: Path):
    assert run(folder).exit_code == 3


class Answering(threading.Thread):
    """A relay that answers one health check, or says nothing."""

    def __init__(self, path: Path, answer: bytes) -> None:
        super().__init__(daemon=True)
        self.heard = b""
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self.start()

    def run(self) -> None:
        connection, _ = self._socket.accept()
        self._socket.close()
        with connection:
            self.heard = connection.recv(100)
            connection.sendall(self._answer)


@pytest.mark.parametrize(("answer", "state", "code"), [(PONG, "serving", 0), (b"", "not serving", 1)])
def test_the_relay_is_asked_as_well(
    folder: Path, workers: list[health.HealthServicer], answer: bytes, state: str, code: int
):
    sockets = 'processor: {listen: "unix:p.sock", relay: "unix:r.sock", workers: 2}\n'
    (folder / "extproc.yaml").write_text(
        DATABASE.replace("target: db}", "target: db, front: relay}") + sockets
    )
    relays = [Answering(folder / f"r-{number}.sock", answer) for number in range(2)]
    result = run(folder)
    found = json.loads(result.output)
    assert [found[f"unix:{folder}/r-{number}.sock"] for number in range(2)] == [state, state]
    assert result.exit_code == code
    assert all(relay.heard == LOCAL_HEADER + PING for relay in relays)


def test_a_relay_that_is_not_there_is_3(folder: Path, workers: list[health.HealthServicer]):
    assert ask_relay(Address(path=folder / "nothing.sock"), 1.0) == "unreachable"
