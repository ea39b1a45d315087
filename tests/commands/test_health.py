"""`extproc health` says what Envoy's health check would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from extproc.cli import main
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
