"""The first invariant at a real gRPC server: no Process stream ends with OK before its client half-closed it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from extproc.domain.hold import HoldState
from extproc.pipeline import HttpExchange
from extproc.servers.envoy_proto import CHECK_METHOD
from extproc.servers.grpc_transport import GrpcChannel, GrpcServer
from extproc.servers.service import Service
from extproc.servers.wire import ext_authz_pb2 as az
from extproc.servers.wire import ext_proc_pb2 as pb
from tests.servers.test_ext_proc import PHASES
from tests.support.governed import NOW, Believes, governance
from tests.support.holds import MemoryHoldStore, vote
from tests.support.streams import (
    FIONA,
    POLICY,
    MemoryLedger,
    SlowKeys,
    channel_to,
    read,
    request_body,
    request_headers,
    response_body,
    response_headers,
    service,
    serving,
)

OPEN = request_headers()
HOLD = request_headers("PUT", "/x")
OK = grpc.StatusCode.OK
Play = Callable[[GrpcServer, Callable[..., Any]], Awaitable[None]]


def run(folder: Path, of: Service, play: Play) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), serving(of, folder) as (server, open_call):
            await play(server, open_call)

    asyncio.run(main())


async def status(call: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = await asyncio.wait_for(call.code(), 10)
    return code


async def is_open(call: Any) -> bool:
    """Still open after the event loop had every chance to end it."""
    for _ in range(50):
        await asyncio.sleep(0)
    return not call.done()


def test_a_whole_exchange_ends_well_after_the_half_close(tmp_path: Path):
    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        call = open_call()
        for message in (OPEN, response_headers(), response_body(b"{}")):
            await call.write(message)
            assert (await read(call)).WhichOneof("response") != "immediate_response"
            assert await is_open(call)
        await call.done_writing()
        assert await status(call) is OK

    run(tmp_path, service(), play)


REPLACED = pytest.mark.pure_only("puts a fault in place of a method, which compiled code calls directly")


@REPLACED
@pytest.mark.parametrize("phase", PHASES)
def test_a_fault_in_any_phase_does_not_end_the_stream_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase
):
    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        call = open_call()
        *before, last = PHASES[phase]
        for message in before:
            await call.write(message)
            await read(call)

        def fail(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr(HttpExchange, phase, fail)
        await call.write(last)
        assert (await read(call)).immediate_response.status.code == 500
        assert await is_open(call)
        await call.done_writing()
        assert await status(call) is OK

    run(tmp_path, service(), play)


@REPLACED
@pytest.mark.parametrize("phase", PHASES)
def test_a_fault_that_cannot_be_refused_ends_it_badly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase):
    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        call = open_call()
        *before, last = PHASES[phase]
        for message in before:
            await call.write(message)
            await read(call)

        def fail(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr(HttpExchange, phase, fail)
        monkeypatch.setattr(HttpExchange, "failed", fail)
        await call.write(last)
        assert await status(call) is grpc.StatusCode.UNAVAILABLE

    run(tmp_path, service(), play)


@pytest.mark.parametrize("name", ["receive", "closed"])
def test_a_fault_in_the_stream_itself_ends_it_badly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name):
    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr(f"extproc.servers.ext_proc.ProcessStream.{name}", fail)
        call = open_call()
        await call.write(OPEN)
        if name == "closed":
            await read(call)
            await call.done_writing()
        assert await status(call) is not OK

    run(tmp_path, service(), play)


LARGE_REPLIES = 8
"""Of 2 MB: more than a client takes that reads nothing."""


@pytest.mark.parametrize("how", ["fault", "cut", "cancelled"])
def test_a_status_overtakes_no_reply_that_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    """Where the first one is on its way, with the initial metadata, gRPC refuses the status, and none is sent."""
    channels: list[GrpcChannel] = []
    handlers: list[asyncio.Task[Any] | None] = []
    make = GrpcChannel.__init__
    large = pb.ProcessingResponse(immediate_response=pb.ImmediateResponse(body=bytes(2 << 20)))

    def note(self: GrpcChannel, context: Any) -> None:
        make(self, context)
        channels.append(self)
        handlers.append(asyncio.current_task())

    def receive(self: object, data: bytes) -> None:
        (channel,) = channels
        if channel.writing is None:
            for _ in range(LARGE_REPLIES):
                channel.send(large.SerializeToString())
            return
        if how == "fault":
            raise RuntimeError
        if how == "cut":
            channel.abort("of no use any more")

    monkeypatch.setattr(GrpcChannel, "__init__", note)
    monkeypatch.setattr("extproc.servers.ext_proc.ProcessStream.receive", receive)
    monkeypatch.setattr("extproc.servers.grpc_transport.QUEUE", 1 << 30)  # it would not read on

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        call = open_call()
        await call.write(OPEN)
        while not channels or channels[0].writing is None:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # nobody reads, so it is on its way for as long as we like
        (channel,), (handler,) = channels, handlers
        assert channel.writing is not None and not channel.writing.done()
        if how == "cancelled":
            assert handler is not None
            handler.cancel()
        else:
            await call.write(OPEN)
        await asyncio.sleep(0.2)
        for _ in range(LARGE_REPLIES):
            assert await read(call) == large
        assert await status(call) is grpc.StatusCode.UNAVAILABLE

    run(tmp_path, service(), play)


def test_a_flush_that_fails_refuses_in_band(tmp_path: Path):
    ledger = MemoryLedger()

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        for error in (None, ValueError("not what a ledger raises")):
            ledger.broken = error is None
            if error is not None:

                def fail() -> None:
                    raise ValueError

                ledger.commit = fail  # type: ignore[method-assign]
            call = open_call()
            await call.write(OPEN)
            assert (await read(call)).immediate_response.status.code == 503
            assert await is_open(call)
            await call.done_writing()
            assert await status(call) is OK

    run(tmp_path, service(ledger=ledger), play)


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"", pb.ProcessingRequest().SerializeToString()], ids=repr
)
@pytest.mark.parametrize("before", [(), (OPEN,), (OPEN, response_headers())], ids=len)
def test_a_message_that_says_nothing_ends_the_stream_badly(tmp_path: Path, before, data):
    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        call = open_call()
        for message in before:
            await call.write(message)
            await read(call)
        await call.write(data)
        assert await status(call) is grpc.StatusCode.UNAVAILABLE

    run(tmp_path, service(), play)


def test_a_message_over_the_limit_ends_the_stream_badly(tmp_path: Path):
    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        call = open_call()
        await call.write(request_headers("POST", "/pay", ("content-type", "application/json"), end=False))
        await read(call)
        await call.write(request_body(b"x" * (2 << 20)))
        assert await status(call) not in (OK, grpc.StatusCode.DEADLINE_EXCEEDED)

    run(tmp_path, service(max_message=1 << 20), play)


@pytest.mark.parametrize(
    "messages",
    [(), (OPEN,), (OPEN, response_headers()), (HOLD,)],
    ids=["none", "open", "answer", "hold"],
)
def test_an_early_half_close_is_the_only_way_to_an_early_ok(tmp_path: Path, messages):
    ledger = MemoryLedger()

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        call = open_call()
        for message in messages:
            await call.write(message)
            await read(call)
        assert await is_open(call)
        await call.done_writing()
        assert await status(call) is OK

    run(tmp_path, service(ledger=ledger), play)
    if messages:
        assert ledger.of("outcome")[0]["end"] == "aborted"


def test_a_cancelled_handler_ends_badly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    running: list[asyncio.Task[Any] | None] = []
    make = GrpcChannel.__init__

    def note(self: GrpcChannel, context: Any) -> None:
        running.append(asyncio.current_task())
        make(self, context)

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        monkeypatch.setattr(GrpcChannel, "__init__", note)
        for messages in ((OPEN,), (HOLD,), (OPEN, response_headers())):
            call = open_call()
            for message in messages:
                await call.write(message)
                await read(call)
            handler = running.pop()
            assert handler is not None and await is_open(call)
            handler.cancel()
            assert await status(call) is not OK

    run(tmp_path, service(), play)


@pytest.mark.parametrize("grace", [0.0, 0.2])
def test_stopping_ends_every_stream_badly(tmp_path: Path, grace):
    ledger, store = MemoryLedger(), MemoryHoldStore()

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        calls = []
        for messages in ((OPEN,), (HOLD,), (OPEN, response_headers())):
            call = open_call()
            for message in messages:
                await call.write(message)
                await read(call)
            calls.append(call)
        await server.stop(grace)
        assert [await status(call) is OK for call in calls] == [False] * 3
        (held,) = await store.find(now=NOW)
        assert held.state is HoldState.PENDING

    run(tmp_path, service(ledger=ledger, holds=store), play)
    assert len(ledger.of("intent")) == len(ledger.of("outcome")) == 3
    assert {outcome["end"] for outcome in ledger.of("outcome")} == {"aborted"}


def test_a_client_that_is_gone_is_noticed(tmp_path: Path):
    ledger = MemoryLedger()

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        call = open_call()
        await call.write(HOLD)
        await read(call)
        call.cancel()
        async with asyncio.timeout(10):
            while not ledger.of("outcome"):
                await asyncio.sleep(0.01)

    run(tmp_path, service(ledger=ledger), play)
    assert ledger.of("intent")[0]["code"] == "abandoned"


def test_a_hold_does_not_block_its_stream(tmp_path: Path):
    store = MemoryHoldStore()

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        call = open_call()
        await call.write(HOLD)
        assert (await read(call)).WhichOneof("response") is None
        await call.write(response_headers(504, "text/plain"))
        assert (await read(call)).WhichOneof("response") == "response_headers"
        await call.done_writing()
        assert await status(call) is OK

    run(tmp_path, service(holds=store), play)


def test_an_approved_hold_goes_on(tmp_path: Path):
    store = MemoryHoldStore()

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        call = open_call()
        await call.write(HOLD)
        await read(call)
        (held,) = await store.find(now=NOW)
        await store.vote(held.id, vote(FIONA), NOW)
        assert (await read(call)).WhichOneof("response") == "request_headers"
        await call.done_writing()

    run(tmp_path, service(holds=store), play)


@pytest.mark.parametrize("targets", [(), ("api", "api"), ("api", "other")])
def test_no_target_or_two_is_a_denial(tmp_path: Path, targets):
    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        async with channel_to(tmp_path) as channel:
            method: Any = channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process")
            call = method(metadata=tuple(("x-extproc-target", target) for target in targets))
            await call.write(OPEN)
            assert (await read(call)).immediate_response.status.code == 403
            await call.done_writing()

    run(tmp_path, service(), play)


def test_many_streams_on_one_connection_keep_apart(tmp_path: Path):
    ledger = MemoryLedger()

    async def one(open_call: Callable[..., Any], number: int) -> bool:
        call = open_call()
        await call.write(
            request_headers(path=f"/open/{number}") if number % 2 else request_headers("DELETE", f"/{number}")
        )
        reply = await read(call)
        await call.done_writing()
        assert await status(call) is OK
        return (reply.WhichOneof("response") == "request_headers") == bool(number % 2)

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        assert all(await asyncio.gather(*(one(open_call, number) for number in range(80))))

    run(tmp_path, service(ledger=ledger), play)
    paths = [intent["request"]["path"] for intent in ledger.of("intent")]
    assert len(set(paths)) == len(paths) == 80


# ---------------------------------------------------------------------- the other methods


def test_an_unknown_method_is_not_served(tmp_path: Path):
    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        async with channel_to(tmp_path) as channel:
            method: Any = channel.unary_unary("/envoy.service.ext_proc.v3.ExternalProcessor/Other")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await method(b"")
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED

    run(tmp_path, service(), play)


def check_request(method: bytes = b"GET", who: bytes = b"alice", path: bytes = b"/stream") -> bytes:
    request = az.CheckRequest()
    request.attributes.context_extensions["extproc.target"] = "api"
    http = request.attributes.request.http
    http.method, http.path, http.host, http.scheme = method, path, b"api.example", b"http"
    http.header_map.headers.append(pb.HeaderValue(key=b"authorization", raw_value=who))
    return request.SerializeToString()


async def check(folder: Path, data: bytes) -> az.CheckResponse:
    async with channel_to(folder) as channel:
        method: Any = channel.unary_unary(CHECK_METHOD)
        return az.CheckResponse.FromString(await asyncio.wait_for(method(data), 10))


def test_a_check_is_answered_and_recorded(tmp_path: Path):
    ledger = MemoryLedger()

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        assert (await check(tmp_path, check_request())).status.code == 0
        assert (await check(tmp_path, check_request(b"DELETE"))).denied_response.status.code == 403
        assert (await check(tmp_path, check_request(who=b"nobody"))).denied_response.status.code == 401
        assert (
            await check(tmp_path, check_request(path=b"/open"))
        ).denied_response.status.code == 500  # masked

    run(tmp_path, service(ledger=ledger), play)
    assert ledger.kinds == ["intent", "outcome"] * 4


def test_a_check_that_does_not_parse_gets_no_verdict(tmp_path: Path):
    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        for data in (b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f"):
            with pytest.raises(grpc.aio.AioRpcError):
                await check(tmp_path, data)

    run(tmp_path, service(), play)


@REPLACED
def test_a_check_that_breaks_denies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError

        for name in ("request_headers", "without_response"):
            with monkeypatch.context() as patch:
                patch.setattr(HttpExchange, name, fail)
                answer = await check(tmp_path, check_request())
            assert (answer.status.code != 0, answer.denied_response.status.code) == (True, 500)

    run(tmp_path, service(), play)


def test_a_check_whose_caller_left_is_given_up(tmp_path: Path):
    ledger, believes = MemoryLedger(), Believes()
    believes.keys_missing = True

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        keys = slow.keys = SlowKeys()
        async with channel_to(tmp_path) as channel:
            method: Any = channel.unary_unary(CHECK_METHOD)
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await method(check_request(), timeout=0.2)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(keys.given_up.wait(), 10)
        assert slow.open_checks == 0

    slow = service(governance(POLICY, identifier=believes), ledger=ledger)
    run(tmp_path, slow, play)
    assert [outcome["end"] for outcome in ledger.of("outcome")] == ["aborted"]


def test_a_check_that_cannot_be_recorded_denies(tmp_path: Path):
    ledger = MemoryLedger()

    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        ledger.broken = True
        answer = await check(tmp_path, check_request())
        assert (answer.status.code != 0, answer.denied_response.status.code) == (True, 503)

        def fail() -> None:
            raise ValueError

        ledger.commit = fail  # type: ignore[method-assign]
        try:
            answer = await check(tmp_path, check_request())
        except grpc.aio.AioRpcError:
            return
        assert answer.status.code != 0

    run(tmp_path, service(ledger=ledger), play)


def test_health_is_told_by_service(tmp_path: Path):
    async def play(server: GrpcServer, open_call: Callable[..., Any]) -> None:
        async with channel_to(tmp_path) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            names = ("", "envoy.service.ext_proc.v3.ExternalProcessor", "envoy.service.auth.v3.Authorization")
            for healthy, expected in ((True, 1), (False, 2), (True, 1)):
                await server.set_healthy(healthy)
                for name in names:
                    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                    assert answer.status == expected

    run(tmp_path, service(), play)
