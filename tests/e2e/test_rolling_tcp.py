"""A worker on TCP hands its port on: a renewed certificate comes into force, and nobody who asks notices."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from extproc.demo.processes import StartError, free_port, wait_until
from tests.e2e.load import Load, check_ledger
from tests.e2e.rolling import ask_to_roll, of_kind, wait_for, wait_until_only
from tests.e2e.stack import Stack
from tests.e2e.test_processor_tls import TlsStack, pair
from tests.support.asking import Asking

pytestmark = pytest.mark.e2e

JSON = [("content-type", "application/json")]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsStack]:
    with TlsStack(tmp_path_factory.mktemp("tcp"), "lean") as stack:
        yield stack


def test_a_renewed_certificate_comes_into_force_and_no_request_is_lost(stack: TlsStack) -> None:
    before, old = stack.service_pids("worker"), stack.shown()
    settings = yaml.safe_load(stack.config_path.read_text())
    settings["processor"]["tls"] |= pair(stack.authority.issue("renewed", hosts=["processor.internal"]))
    stack.config_path.write_text(yaml.safe_dump(settings))
    load = Load(stack, callers=3, requests=10**5).start()
    load.wait_for(100)
    ask_to_roll(stack)
    wait_for(stack, "admin.roll_done")
    load.wait_for(load.done + 100)
    load.stop()
    load.finish()
    assert load.failed == set()
    assert Counter(load.answered.values()).keys() == {200}
    assert [record["changed"] for record in of_kind(stack, "admin.roll")] == [["processor.tls"]]
    assert set(before).isdisjoint(stack.service_pids("worker"))
    assert len({old} | {stack.shown() for _ in range(5)}) == 2
    check_ledger(stack, load)


def test_a_worker_that_dies_lets_nothing_through_and_its_port_is_served_again(stack: TlsStack) -> None:
    load = Load(stack, callers=3, requests=10**5).start()
    load.wait_for(50)
    (worker,) = stack.service_pids("worker")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: stack.service_pids("worker") not in ([], [worker]), what="another worker", within=30.0)
    wait_until(lambda: stack.request("GET", "/again").status == 200, what="it to serve", within=30.0)
    load.wait_for(load.done + 50)
    load.stop()
    load.finish()
    assert all(status == 200 or status >= 500 for status in load.answered.values())
    check_ledger(stack, load)
    wait_until_only(stack, 1)


def test_a_port_that_somebody_has_stops_the_start_and_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        stack = Stack(tmp_path, settings={"processor": {"listen": listen, "insecure": True}})
        stack.issuer.start()
        stack.upstream.start()
        try:
            stack._write()
            with pytest.raises(StartError):
                stack.start_service()
            assert f"processor.listen: cannot listen at {listen}: " in (tmp_path / "serve.log").read_text()
            assert stack.service is not None and stack.service.returncode == 1
        finally:
            stack._stop()


def test_nobody_is_let_in_once_it_stops(tmp_path: Path) -> None:
    """The supervisor outlives its workers, and must not keep their ports open: who connects would wait for nothing."""
    port = free_port()

    def is_refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    with Stack(tmp_path, settings={"processor": {"listen": f"127.0.0.1:{port}", "insecure": True}}) as stack:
        # somebody waits for a person, so the worker takes all of its time to end
        paying = Asking(lambda: stack.request("POST", "/payments", body=b'{"amount":1}', headers=JSON))
        stack.wait_for_records(lambda record: record["kind"] == "hold.opened")
        assert not is_refused()
        assert stack.service is not None
        stack.service.send(signal.SIGTERM)
        wait_until(is_refused, what="the port to close", within=20.0)
        assert stack.service.is_running
        assert paying.finish().status >= 500
        assert stack.service.wait(40.0) == 0
