"""The first invariant against a real Envoy that has no second guard: a processor that fails lets nothing through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extproc.demo.processes import wait_until
from extproc.pipeline import HttpExchange
from extproc.servers.ext_proc import ProcessStream
from extproc.servers.grpc_transport import GrpcChannel
from tests.e2e.stack import Stack
from tests.support.governed import NOW, credential, governance
from tests.support.holds import MemoryHoldStore
from tests.support.raw_http import RawClient, RawReply, ReplyError
from tests.support.replies import Gate, Reply, json_reply, sse_reply
from tests.support.streams import POLICY, MemoryLedger, ServerThread, service

pytestmark = pytest.mark.e2e
SECRET = b"ann@example.com"
JSON = ("content-type", "application/json")


def without_guard(config: dict[str, Any]) -> None:
    """Take the RBAC filter out, so that only our own promise protects."""
    for listener in config["static_resources"]["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        before = len(manager["http_filters"])
        manager["http_filters"] = [
            f for f in manager["http_filters"] if f["name"] != "envoy.filters.http.rbac"
        ]
        assert len(manager["http_filters"]) == before - 1


class InProcess(Stack):
    """A rendered Envoy without its guard in front of a server of this process, whose parts a test can break."""

    def __init__(self, directory: Path) -> None:
        settings = {"envoy": {"message_timeout": "3s", "access_log": False}}
        super().__init__(
            directory, target_name="api", policy="", change_envoy=without_guard, settings=settings
        )
        self.ledger = MemoryLedger()
        self.server: ServerThread | None = None
        self.breaks_at = 0
        """The clock fails when it is asked this many times more, once; 0 for never."""

    def start_service(self) -> None:
        """Instead of `extproc serve`."""
        gov = governance(POLICY, credential=credential())
        self.made = service(gov, ledger=self.ledger, holds=MemoryHoldStore(), now=self.now)
        self.server = ServerThread(self.made, f"unix:{self.directory}/p.sock")
        self.server.start()

    def now(self) -> float:
        if self.breaks_at:
            self.breaks_at -= 1
            if not self.breaks_at:
                raise RuntimeError("no clock")
        return NOW

    def break_at(self, message: int) -> None:
        """Let the clock fail at this message of the next exchange: each asks once, and so does the end of a stream."""
        wait_until(lambda: self.made.open_streams == 0, within=20, what="earlier streams are over")
        self.breaks_at = message

    def __enter__(self) -> InProcess:
        super().__enter__()
        return self

    def _stop(self) -> None:
        super()._stop()
        if self.server is not None:
            self.server.close()

    def send(
        self, method: str, path: str, *more: tuple[str, str], body: bytes | None = None
    ) -> RawReply | None:
        """The reply, as far as it came; None when there was none."""
        with RawClient(self.address, timeout=15.0) as client:
            try:
                client.send(
                    self.raw(method, path, token=None, headers=[("authorization", "alice"), *more], body=body)
                )
                return client.read(partial=True)
            except (ReplyError, OSError):
                return None


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[InProcess]:
    with InProcess(tmp_path) as stack:
        stack.upstream.on("GET", "/open", json_reply({"mail": SECRET.decode()}))
        yield stack


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """For tests that break nothing but what monkeypatch mends."""
    with InProcess(tmp_path_factory.mktemp("invariant")) as stack:
        stack.upstream.on("GET", "/open", json_reply({"mail": SECRET.decode()}))
        yield stack


def test_the_stack_works_as_long_as_nothing_is_broken(shared: InProcess):
    reply = shared.send("GET", "/open")
    assert reply is not None and (reply.status, reply.json()) == (200, {"mail": "[EMAIL_ADDRESS]"})
    reply = shared.send("POST", "/pay", JSON, body=b'{"amount":5}')
    assert reply is not None and reply.status == 200
    reply = shared.send("DELETE", "/open")
    assert reply is not None and reply.status == 403


def fail(*_: object, **__: object) -> None:
    raise RuntimeError


BREAKS: dict[str, tuple[tuple[object, str], ...]] = {
    "refused in band": ((HttpExchange, "PHASE"),),
    "not refusable": ((HttpExchange, "PHASE"), (HttpExchange, "failed")),
    "stream broken": ((ProcessStream, "_handle"), (ProcessStream, "_fail")),
}


REPLACED = pytest.mark.pure_only("puts a fault in place of a method, which compiled code calls directly")


@REPLACED
@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("phase", ["request_headers", "request_body"])
def test_a_fault_before_the_decision_reaches_nobody(
    shared: InProcess, monkeypatch: pytest.MonkeyPatch, phase: str, how: str
):
    before = shared.upstream.count()
    for owner, name in BREAKS[how]:
        monkeypatch.setattr(owner, phase if name == "PHASE" else name, fail)
    reply = shared.send("POST", "/pay", JSON, body=b'{"amount":5}')
    assert reply is not None and reply.status >= 500
    assert shared.upstream.count() == before


@REPLACED
@pytest.mark.parametrize("how", ["refused in band", "not refusable"])
@pytest.mark.parametrize("phase", ["response_headers", "response_body"])
def test_a_fault_after_it_withholds_the_answer(
    shared: InProcess, monkeypatch: pytest.MonkeyPatch, phase: str, how: str
):
    for owner, name in BREAKS[how]:
        monkeypatch.setattr(owner, phase if name == "PHASE" else name, fail)
    reply = shared.send("GET", "/open")
    assert reply is None or reply.status >= 500
    assert reply is None or SECRET not in reply.body


@pytest.mark.parametrize("message", [1, 2])
def test_a_part_that_breaks_before_the_decision_lets_nothing_through(shared: InProcess, message: int):
    before = shared.upstream.count()
    shared.break_at(message)
    reply = shared.send("POST", "/pay", JSON, body=b'{"amount":5}')
    assert shared.breaks_at == 0
    assert reply is not None and reply.status >= 500
    assert shared.upstream.count() == before


@pytest.mark.parametrize("message", [2, 3])
def test_a_part_that_breaks_after_it_withholds_the_answer(shared: InProcess, message: int):
    before = shared.upstream.count()
    shared.break_at(message)
    reply = shared.send("GET", "/open")
    assert shared.breaks_at == 0
    assert reply is None or reply.status >= 500
    assert reply is None or SECRET not in reply.body
    assert shared.upstream.count() == before + 1


@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=REPLACED)])
def test_a_cancelled_handler_lets_nothing_through(
    shared: InProcess, monkeypatch: pytest.MonkeyPatch, when: str
):
    import asyncio

    def cancel(*_: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    before = shared.upstream.count()
    monkeypatch.setattr(ProcessStream, "receive" if when == "before" else "_fail", cancel)
    if when == "after":
        monkeypatch.setattr(HttpExchange, "response_body", fail)
    reply = shared.send("GET", "/open")
    assert reply is None or reply.status >= 500
    assert reply is None or SECRET not in reply.body
    assert shared.upstream.count() == before + (when == "after")


def test_replies_that_get_lost_let_nothing_through(shared: InProcess, monkeypatch: pytest.MonkeyPatch):
    """The reader goes on and answers nothing: Envoy's own timer ends it."""
    before = shared.upstream.count()
    monkeypatch.setattr(GrpcChannel, "send", lambda *_: None)
    reply = shared.send("GET", "/open")
    assert reply is not None and reply.status >= 500
    assert shared.upstream.count() == before


def test_a_write_that_fails_lets_nothing_through(shared: InProcess):
    before = shared.upstream.count()
    for _ in range(3):
        shared.ledger.broken = True
        reply = shared.send("GET", "/open")
        assert reply is not None and (reply.status, reply.json()["code"]) == (503, "ledger-unavailable")
    shared.ledger.broken = False
    assert shared.upstream.count() == before
    reply = shared.send("GET", "/open")
    assert reply is not None and reply.status == 200


@pytest.mark.parametrize("number", [2, 3])
def test_a_write_that_fails_after_the_request_withholds_the_answer(shared: InProcess, number: int):
    """The second commit of the exchange is that of the response headers, the third that of the body."""
    before = shared.upstream.count()
    shared.ledger.fail_at = number
    reply = shared.send("GET", "/open")
    assert reply is not None and reply.status == 503
    assert reply.json()["executed"] is True
    assert shared.upstream.count() == before + 1


def test_an_intent_precedes_every_request_the_upstream_sees(shared: InProcess):
    kept: list[int] = []

    def answer(_: object) -> Reply:
        kept.append(
            sum(r.get("request", {}).get("path") == "/open/first" for r in shared.ledger.of("intent"))
        )
        return json_reply({})

    shared.upstream.on("GET", "/open/first", answer)
    assert shared.send("GET", "/open/first") is not None
    assert kept == [1]


def held(stack: InProcess) -> Any:
    """A request that waits, on an open connection."""
    client = stack.client()
    client.send(stack.raw("PUT", "/x", token=None, headers=[("authorization", "alice")], body=b""))
    stack.envoy.wait_for_stat("http.http.downstream_rq_active", lambda value: value >= 1)  # type: ignore[union-attr]
    return client


def ends(client: RawClient) -> int:
    """The status a waiting client gets in the end, 0 for a closed connection."""
    with client:
        try:
            return client.read(partial=True).status
        except (ReplyError, OSError):
            return 0


@pytest.mark.parametrize("grace", [0.0, 0.3])
def test_a_server_that_stops_while_requests_wait_lets_none_through(stack: InProcess, grace: float):
    clients = [held(stack) for _ in range(3)]
    assert stack.server is not None
    stack.server.stop_server(grace)
    assert all(status == 0 or status >= 500 for status in map(ends, clients))
    assert stack.upstream.count() == 0
    reply = stack.send("GET", "/open")
    assert reply is not None and reply.status >= 500
    assert stack.upstream.count() == 0


def test_a_server_that_stops_in_the_middle_of_a_stream_cuts_it(stack: InProcess):
    """An event stream whose processor is gone may not go on without it."""
    gate = Gate()
    stack.upstream.on("GET", "/stream", sse_reply(gate))
    client = stack.client()
    client.send(stack.raw("GET", "/stream", token=None, headers=[("authorization", "alice")]))
    client.read_head()
    gate.release(b"data: 1\n\n")
    client.read_until(b"data: 1\n\n")
    assert stack.server is not None
    stack.server.stop_server(0.0)
    gate.release(b"data: AFTER\n\n")
    gate.finish()
    with client, pytest.raises(ReplyError) as cut:
        client.read_until(b"0\r\n\r\n")
    assert b"AFTER" not in cut.value.received


def test_a_message_over_grpcs_limit_reaches_nobody(tmp_path: Path):
    class Small(InProcess):
        def start_service(self) -> None:
            made = service(
                governance(POLICY, credential=credential()), ledger=self.ledger, max_message=64 << 10
            )
            self.server = ServerThread(made, f"unix:{self.directory}/p.sock")
            self.server.start()

    with Small(tmp_path) as stack:
        stack.upstream.on("GET", "/open", Reply(200, (JSON,), b'"' + SECRET * 20000 + b'"'))
        reply = stack.send("POST", "/pay", JSON, body=b'{"amount":5,"x":"' + b"x" * 200000 + b'"}')
        assert reply is not None and reply.status >= 500
        assert stack.upstream.count() == 0
        reply = stack.send("GET", "/open")
        assert reply is None or reply.status >= 500
        assert reply is None or SECRET not in reply.body
