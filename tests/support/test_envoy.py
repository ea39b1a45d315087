"""The Envoy harness starts, tells, explains and stops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.demo.processes import StartError, accepts
from tests.support.envoy import Envoy, RawClient, ask, build_request, forwarding_config, validate_envoy
from tests.support.replies import Gate, Reply
from tests.support.upstream import Upstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def envoy(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    with Envoy(forwarding_config(upstream.address), directory=tmp_path_factory.mktemp("envoy")) as envoy:
        yield envoy


def test_traffic_reaches_the_upstream_and_is_counted(envoy: Envoy, upstream: Upstream):
    reply = ask(envoy.address("http"), build_request("GET", "/through?q=1"))
    assert (reply.status, reply.json()) == (200, {"ok": True})
    assert upstream.last().target == "/through?q=1"
    assert envoy.wait_for_stat("cluster.upstream.upstream_rq_200") >= 1
    assert envoy.stat("cluster.upstream.no_such_counter") == 0
    assert "cluster.upstream.upstream_rq_200" in envoy.stats("upstream_rq_2")


def test_a_kept_connection_carries_several_requests(envoy: Envoy):
    with RawClient(envoy.address("http")) as client:
        assert [client.ask(build_request("GET", "/keep")).status for _ in range(3)] == [200, 200, 200]


def test_an_abrupt_close_reaches_the_upstream(envoy: Envoy, upstream: Upstream):
    gate = Gate()
    upstream.on("GET", "/held", Reply(hold=gate))
    with RawClient(envoy.address("http")) as client:
        client.send(build_request("GET", "/held"))
        assert gate.reached.wait(5)
        client.reset()
    assert envoy.wait_for_stat("http.http.downstream_cx_destroy_remote_active_rq") >= 1
    gate.release()


def test_an_unknown_listener_is_named(envoy: Envoy):
    with pytest.raises(AssertionError, match="no listener nowhere"):
        envoy.address("nowhere")


def test_a_wrong_config_fails_with_envoys_own_words(tmp_path: Path):
    config = forwarding_config("127.0.0.1:9", hcm={"no_such_field": 1})
    with pytest.raises(StartError, match="no_such_field"):
        Envoy(config, directory=tmp_path).start()
    assert "no_such_field" in validate_envoy(tmp_path / "envoy.json")


def test_leaving_by_an_exception_shows_the_logs_and_stops_envoy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = tmp_path / "service.log"
    other.write_text("what the service said\n")
    with (
        pytest.raises(RuntimeError, match="the test failed"),
        Envoy(forwarding_config("127.0.0.1:9"), directory=tmp_path, logs=[other]) as envoy,
    ):
        assert validate_envoy(tmp_path / "envoy.json") == ""
        raise RuntimeError("the test failed")
    said = capsys.readouterr().err
    assert "what the service said" in said
    assert "starting main dispatch loop" in said
    assert not envoy.process.is_running
    assert not accepts(envoy.admin)
