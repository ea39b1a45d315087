"""The lean transport, called by grpcio as Envoy would, and by hand where that shows more."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.record import Record
from extproc.protocols.h2 import CallHead, Limits
from extproc.servers import grpc_transport, lean_health, lean_transport
from extproc.servers.envoy_proto import CHECK_METHOD, PROCESS_METHOD, TARGET_KEY, CallMetadata
from extproc.servers.half_close import OK, UNAVAILABLE, how_to_end
from extproc.servers.lean_calls import METHODS, Call, Context, Wire, _metadata, _StreamCall, open_process
from extproc.servers.lean_listening import bind_tcp
from extproc.servers.lean_transport import LeanConnection, LeanServer
from extproc.servers.service import Service
from extproc.servers.wire import ext_authz_pb2 as az
from extproc.servers.wire import ext_proc_pb2 as pb
from tests.protocols.h2.support import (
    DATA,
    GOAWAY,
    HEADERS_FRAME,
    PREFACE,
    RST,
    ack,
    block,
    data,
    frames_in,
    head,
    message,
    rst,
    settings,
    window_update,
)
from tests.support.governed import Believes, denying, governance
from tests.support.streams import SlowKeys

UNAVAILABLE_TEXT = b"grpc-status\x0214"
STATUS_OK = b"grpc-status\x010"
LARGE = [("grpc.max_receive_message_length", 1 << 25), ("grpc.max_send_message_length", 1 << 25)]


class Books:
    """A ledger that counts."""

    def __init__(self) -> None:
        self.buffered: list[object] = []
        self.kept: list[object] = []
        self.commits = 0
        self.broken = False

    def append(self, record: object) -> None:
        self.buffered.append(record)

    def commit(self) -> None:
        self.commits += 1
        batch, self.buffered = self.buffered, []
        if self.broken:
            raise LedgerUnavailableError("full")
        self.kept += batch


def a_service(**changes: Any) -> Service:
    made = Service(
        governance=denying(),  # the stand-in stream needs none
        ledger=Books(),
        desk=None,  # type: ignore[arg-type]
        keys=None,  # type: ignore[arg-type]
        now=time.time,
        new_hex=lambda n: os.urandom(n).hex(),
        max_message=1 << 25,
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


class Posted:
    def __init__(self, channel: Any, payload: bytes) -> None:
        self.channel, self.payload = channel, payload

    def send(self) -> None:
        self.channel.send(self.payload)

    def refuse(self) -> None:
        self.channel.send(b"refused")


class EchoStream:
    """Stands in for ProcessStream: answers with what it got; some words make it do other things."""

    alive: ClassVar[list[EchoStream]] = []

    def __init__(self, service: Service, call: CallMetadata, channel: Any) -> None:
        self.service, self.call, self.channel = service, call, channel
        self.closed_as: list[str] = []
        self.received: list[bytes] = []
        EchoStream.alive.append(self)

    def receive(self, data: bytes) -> None:
        self.received.append(data)
        match data:
            case b"abort":
                self.channel.abort("asked to")
            case b"abort without a reason":
                self.channel.abort("")
            case b"raise":
                raise RuntimeError("secret in here")
            case b"silence":
                pass
            case b"later":
                self.service.spawn(self._later())
            case b"target":
                self.service.post(Posted(self.channel, self.call.target.encode()))
            case _:
                self.service.ledger.append(data)  # type: ignore[arg-type]
                self.service.post(Posted(self.channel, data))

    async def _later(self) -> None:
        await asyncio.sleep(0)
        self.service.post(Posted(self.channel, b"here it is"))
        self.service.flush()

    def closed(self, reason: str) -> None:
        self.closed_as.append(reason)


def open_echo(context: Context, wire: Wire, stream_id: int, head: CallHead) -> Call:
    call = _StreamCall(context.service, wire, stream_id)
    return call.carry(EchoStream(context.service, _metadata(head), call))


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    EchoStream.alive.clear()
    monkeypatch.setitem(METHODS, PROCESS_METHOD, open_echo)
    yield
    EchoStream.alive.clear()


class Served:
    """A server on a unix socket, and channels to it."""

    def __init__(self, server: LeanServer, path: str) -> None:
        self.server, self.path = server, path
        self.channels: list[grpc.aio.Channel] = []

    def channel(self, *options: tuple[str, Any]) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(
            f"unix:{self.path}", options=[("grpc.use_local_subchannel_pool", 1), *LARGE, *options]
        )
        self.channels.append(channel)
        return channel

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path, limit=1 << 20)


@asynccontextmanager
async def serving(service: Service | None = None, **options: Any):
    with tempfile.TemporaryDirectory(prefix="lean-") as folder:
        path = f"{folder}/s"
        server = LeanServer(service or a_service(), **options)
        assert server.listen(f"unix:{path}") == 1
        await server.start()
        served = Served(server, path)
        try:
            yield served
        finally:
            for channel in served.channels:
                await channel.close()
            await server.stop(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def process(channel: grpc.aio.Channel, **options: Any) -> Any:
    return channel.stream_stream(PROCESS_METHOD)(**options)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something that is bound to happen has happened."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


# ---------------------------------------------------------------------- calls by grpcio


def test_a_bidirectional_call():
    async def main() -> None:
        async with serving() as served:
            call = process(served.channel())
            for word in (b"one", b"two", b""):
                await call.write(word)
                assert await call.read() == word
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() == grpc.StatusCode.OK
            assert EchoStream.alive[0].closed_as == ["half-closed"]

    run(main)


def test_metadata_of_the_call_reaches_its_exchange():
    async def main() -> None:
        async with serving() as served:
            channel = served.channel()
            for _ in range(3):
                call = process(channel, metadata=((TARGET_KEY, "customers-api"),))
                await call.write(b"target")
                assert await call.read() == b"customers-api"
            call = process(channel, metadata=((TARGET_KEY, "a"), (TARGET_KEY, "b")))
            await call.write(b"target")
            assert await call.read() == b""

    run(main)


def test_messages_of_16_mb_both_ways():
    async def main() -> None:
        large = os.urandom(1 << 20) * 16
        async with serving() as served:
            call = process(served.channel())
            await call.write(large)
            assert await call.read() == large
            await call.write(b"small")
            assert await call.read() == b"small"

    run(main)


def test_a_message_over_the_limit_is_resource_exhausted():
    async def main() -> None:
        service = a_service(max_message=1000)
        async with serving(service) as served:
            channel = served.channel()
            call = process(channel)
            await call.write(b"x" * 1001)
            assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert EchoStream.alive[0].closed_as == ["cancelled"]
            assert EchoStream.alive[0].received == []
            again = process(channel)
            await again.write(b"x" * 1000)
            assert await again.read() == b"x" * 1000

    run(main)


def test_a_thousand_calls_at_once_on_one_connection():
    async def main() -> None:
        async with serving() as served:
            channel = served.channel()
            calls = [process(channel) for _ in range(1000)]
            await asyncio.gather(*(call.write(b"%d" % i) for i, call in enumerate(calls)))
            assert await asyncio.gather(*(call.read() for call in calls)) == [b"%d" % i for i in range(1000)]
            assert len(served.server.connections) == 1
            for call in calls:
                await call.done_writing()
            codes = await asyncio.gather(*(call.code() for call in calls))
            assert set(codes) == {grpc.StatusCode.OK}
            assert all(stream.closed_as == ["half-closed"] for stream in EchoStream.alive)

    run(main)


def test_many_connections():
    async def main() -> None:
        async with serving() as served:
            calls = [process(served.channel()) for _ in range(60)]
            await asyncio.gather(*(call.write(b"hi") for call in calls))
            assert await asyncio.gather(*(call.read() for call in calls)) == [b"hi"] * 60
            assert len(served.server.connections) == 60

    run(main)


def test_a_deadline_cuts_the_call_on_both_sides():
    async def main() -> None:
        async with serving() as served:
            call = process(served.channel(), timeout=0.2)
            await call.write(b"silence")
            assert await call.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
            await until(lambda: bool(EchoStream.alive[0].closed_as))
            assert EchoStream.alive[0].closed_as in (["cut"], ["cancelled"])

    run(main)


def test_a_cancelled_call_is_closed():
    async def main() -> None:
        async with serving() as served:
            call = process(served.channel())
            await call.write(b"x")
            await call.read()
            call.cancel()
            await until(lambda: EchoStream.alive[0].closed_as == ["cancelled"])

    run(main)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_lost_connection_closes_all_its_calls(how):
    async def main() -> None:
        async with serving() as served:
            reader, writer = await served.raw()
            writer.write(PREFACE + settings() + ack())
            for stream in (1, 3, 5):
                writer.write(head(stream) + data(stream, message(b"x")))
            await reader.readuntil(message(b"x"))
            assert len(EchoStream.alive) == 3
            getattr(writer.transport, how)()
            await until(lambda: [s.closed_as for s in EchoStream.alive] == [["cancelled"]] * 3)
            await until(lambda: not served.server.connections)

    run(main)


def test_a_reply_that_comes_later_is_written_too():
    async def main() -> None:
        async with serving() as served:
            call = process(served.channel())
            await call.write(b"later")
            assert await call.read() == b"here it is"

    run(main)


@pytest.mark.parametrize(
    "method", ["/no.Such/Method", "/envoy.service.ext_proc.v3.ExternalProcessor/Other", "/"]
)
def test_an_unknown_method_is_unimplemented(method):
    async def main() -> None:
        async with serving() as served:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await served.channel().unary_unary(method)(b"")
            assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED

    run(main)


def test_compression_is_refused_as_unimplemented():
    async def main() -> None:
        async with serving() as served:
            call = process(served.channel(), compression=grpc.Compression.Gzip)
            assert await call.code() == grpc.StatusCode.UNIMPLEMENTED
            assert not EchoStream.alive

    run(main)


# ---------------------------------------------------------------------- health


def health(channel: grpc.aio.Channel, service: str) -> Any:
    return channel.unary_unary(
        lean_health.HEALTH_CHECK_METHOD, response_deserializer=health_pb2.HealthCheckResponse.FromString
    )(health_pb2.HealthCheckRequest(service=service).SerializeToString())


def test_health_is_told_for_our_services_alone():
    async def main() -> None:
        async with serving() as served:
            channel = served.channel()
            for name in lean_health.SERVICES:
                assert (await health(channel, name)).status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await health(channel, "other")
            assert error.value.code() == grpc.StatusCode.NOT_FOUND
            await served.server.set_healthy(False)
            assert (await health(channel, "")).status == health_pb2.HealthCheckResponse.NOT_SERVING

    run(main)


def test_who_watches_is_told_of_every_change():
    async def main() -> None:
        status = health_pb2.HealthCheckResponse
        async with serving() as served:
            watch = served.channel().unary_stream(
                lean_health.HEALTH_WATCH_METHOD, response_deserializer=status.FromString
            )
            ours, other = watch(b""), watch(health_pb2.HealthCheckRequest(service="x").SerializeToString())
            assert (await ours.read()).status == status.SERVING
            assert (await other.read()).status == status.SERVICE_UNKNOWN
            await served.server.set_healthy(False)
            assert (await ours.read()).status == status.NOT_SERVING
            await served.server.set_healthy(True)
            assert (await ours.read()).status == status.SERVING
            ours.cancel()
            other.cancel()
            await until(lambda: not served.server.board._watchers)

    run(main)


def test_both_transports_answer_for_the_same_services():
    assert lean_health.SERVICES == grpc_transport.SERVICES


# ---------------------------------------------------------------------- ext_authz

POLICY = """\
default: deny
rules:
  - {name: read, when: 'request.method == "GET"', then: {allow: {}}}
"""


def governed_service() -> Service:
    return a_service(governance=governance(POLICY))


def check_request(method: str) -> bytes:
    request = az.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host, http.scheme = method.encode(), b"/", b"api", b"http"
    http.headers["authorization"] = "alice"
    request.attributes.context_extensions["extproc.target"] = "api"
    return request.SerializeToString()


def test_check_allows_denies_and_records():
    async def main() -> None:
        service = governed_service()
        async with serving(service) as served:
            ask = served.channel().unary_unary(
                CHECK_METHOD, response_deserializer=az.CheckResponse.FromString
            )
            assert (await ask(check_request("GET"))).status.code == 0
            denied = await ask(check_request("DELETE"))
            assert denied.status.code == 7 and denied.denied_response.status.code == 403
            kept = service.ledger.kept  # type: ignore[attr-defined]
            assert [r.kind for r in kept if isinstance(r, Record)].count("intent") == 2

    run(main)


def test_a_check_that_does_not_parse_is_internal():
    async def main() -> None:
        async with serving(governed_service()) as served:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await served.channel().unary_unary(CHECK_METHOD)(b"\xff\xff\xff")
            assert error.value.code() == grpc.StatusCode.INTERNAL

    run(main)


@pytest.mark.parametrize(
    "method", [CHECK_METHOD, lean_health.HEALTH_CHECK_METHOD, lean_health.HEALTH_WATCH_METHOD]
)
@pytest.mark.parametrize("words", [[], [b"", b""]], ids=["none", "two"])
def test_a_unary_call_has_exactly_one_message(method, words):
    async def main() -> None:
        async with serving(governed_service()) as served:
            call = served.channel().stream_stream(method)()
            for word in words:
                try:
                    await call.write(word)
                except asyncio.InvalidStateError:
                    pass  # refused already
            try:
                await call.done_writing()
            except asyncio.InvalidStateError:
                pass
            assert await call.code() == grpc.StatusCode.INTERNAL

    run(main)


def test_a_check_whose_caller_left_is_cancelled():
    async def main() -> None:
        believes, keys = Believes(), SlowKeys()
        believes.keys_missing = True
        service = a_service(governance=governance(POLICY, identifier=believes), keys=keys)
        async with serving(service) as served:
            call = served.channel().unary_unary(CHECK_METHOD)(check_request("GET"), timeout=0.2)
            assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await keys.given_up.wait()
            assert service.open_checks == 0

    run(main)


def test_a_check_that_breaks_is_internal_and_tells_nothing():
    async def main() -> None:
        async with serving(a_service(governance=governance(POLICY), new_hex=broken)) as served:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await served.channel().unary_unary(CHECK_METHOD)(check_request("GET"))
            assert error.value.code() == grpc.StatusCode.INTERNAL
            assert "secret" not in str(error.value)

    def broken(_: int) -> str:
        raise RuntimeError("secret in here")

    run(main)


# ---------------------------------------------------------------------- the first invariant


@given(st.booleans(), st.one_of(st.none(), st.text()))
def test_a_stream_ends_with_ok_only_after_a_half_close_without_trouble(half_closed, trouble):
    status, reason = how_to_end(half_closed, trouble)
    assert (status == OK) == (half_closed and trouble is None)
    assert status in (OK, UNAVAILABLE) and (status == OK or reason)


class Pipe(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self._reads = True
        self.closed = self.aborted = False
        self._pair = socket.socketpair(socket.AF_UNIX)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._pair[0] if name == "socket" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True

    def is_reading(self) -> bool:
        return self._reads

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        written, self.writes = b"".join(self.writes), []
        return frames_in(written)


class Wired:
    """A LeanConnection on a Pipe, after the handshake."""

    def __init__(
        self, service: Service | None = None, limits: Limits | None = None, greeting: bytes = b""
    ) -> None:
        self.server = LeanServer(service or a_service(), limits=limits)
        self.connection = LeanConnection(self.server)
        self.pipe = Pipe()
        self.connection.connection_made(self.pipe)
        self.connection.data_received(PREFACE + (greeting or settings()) + ack())
        self.pipe.writes.clear()

    def __call__(self, wire: bytes) -> list[tuple[int, int, int, bytes]]:
        self.connection.data_received(wire)
        return self.pipe.frames()

    def close(self) -> None:
        self.connection.connection_lost(None)
        for end in self.pipe._pair:
            end.close()


def wired(test: Callable[[Wired], Any], **options: Any) -> None:
    async def main() -> None:
        wire = Wired(**options)
        try:
            result = test(wire)
            if result is not None:
                await result
        finally:
            wire.close()

    run(main)


def is_ok(frames: list[tuple[int, int, int, bytes]]) -> bool:
    """Some HEADERS with END_STREAM say grpc-status 0."""
    return any(f[0] == HEADERS_FRAME and f[1] & 1 and STATUS_OK in f[3] for f in frames)


ENDS: dict[str, Callable[[Wired], Any]] = {
    "abort": lambda wire: wire(data(1, message(b"abort"))),
    "abort without a reason": lambda wire: wire(data(1, message(b"abort without a reason"))),
    "an exception": lambda wire: wire(data(1, message(b"raise"))),
    "abort, and the half-close in the same read": lambda wire: wire(data(1, message(b"abort"), end=True)),
    "an exception, and the half-close in the same read": lambda wire: wire(data(1, message(b"raise"), end=True)),
    "the deadline": lambda wire: wire.connection._expire(1),
    "the server stops": lambda wire: wire.connection.cut_all("stop"),
    "a message too large": lambda wire: wire(data(1, b"\0\x7f\xff\xff\xff")),
    "a compressed message": lambda wire: wire(data(1, b"\x01\0\0\0\0")),
    "half a message, then the half-close": lambda wire: wire(data(1, b"\0\0", end=True)),
    "DATA beyond the window": lambda wire: wire(window_update(1, 2**31 - 1)),
    "trailers with a pseudo-header": lambda wire: wire(head(1, flags=5)),
    "a reset": lambda wire: wire(rst(1)),
    "a broken connection": lambda wire: wire(b"\xff" * 30),
    "end of file": lambda wire: (wire.connection.eof_received(), wire.connection.connection_lost(None)),  # type: ignore[func-returns-value]
    "drain, then stop": lambda wire: (wire.connection.drain(), wire.connection.cut_all("stop")),  # type: ignore[func-returns-value]
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("before", [b"", message(b"x"), message(b"x") * 3], ids=["new", "once", "thrice"])
def test_no_other_end_is_ok(name, before):
    async def main(wire: Wired) -> None:
        wire(head(1) + (data(1, before) if before else b""))
        ENDS[name](wire)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        frames = wire.pipe.frames()
        assert not is_ok(frames)
        # whatever comes afterwards cannot turn it into OK
        if not wire.connection._h2.failed:
            assert not is_ok(wire(data(1, b"", end=True)))
        wire.connection.cut_all("stop")
        assert not is_ok(wire.pipe.frames())

    wired(main)


@pytest.mark.parametrize("name", ["abort", "an exception", "the deadline", "the server stops"])
def test_our_own_ends_say_unavailable(name):
    async def main(wire: Wired) -> None:
        wire(head(1) + data(1, message(b"x")))
        frames = ENDS[name](wire) or []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        frames += wire.pipe.frames()
        (end,) = [f for f in frames if f[0] == HEADERS_FRAME]
        assert end[1] & 1 and UNAVAILABLE_TEXT in end[3] and b"secret" not in end[3]

    wired(main)


def test_a_half_close_is_answered_with_ok():
    wired(lambda wire: _assert_ok(wire(head(1) + data(1, message(b"x")) + data(1, b"", end=True))))
    wired(lambda wire: _assert_ok(wire(head(1, flags=5))))
    wired(lambda wire: _assert_ok(wire(head(1) + head(1, flags=5, headers=block([("a", "b")])))))


def _assert_ok(frames: list[Any]) -> None:
    assert is_ok(frames)


def test_a_cut_does_not_wait_for_a_peer_that_takes_no_replies():
    def check(wire: Wired) -> None:
        wire(head(1) + data(1, message(b"x" * 100)))
        wire.connection.cut_all("stop")
        frames = wire.pipe.frames()
        assert [f[0] for f in frames if f[2] == 1] == [RST]

    wired(check, greeting=settings((4, 0)))


def test_a_half_close_before_replies_could_leave_ends_with_ok_after_them():
    def check(wire: Wired) -> None:
        frames = wire(head(1) + data(1, message(b"hello"), end=True))
        assert not is_ok(frames)
        frames = wire(window_update(1, 100))
        assert [f[0] for f in frames] == [DATA, HEADERS_FRAME] and is_ok(frames)

    wired(check, greeting=settings((4, 0)))


# ---------------------------------------------------------------------- the order of writes


def test_one_ledger_write_and_one_socket_write_per_read():
    def check(wire: Wired) -> None:
        books = wire.server.context.service.ledger
        wire.connection.data_received(
            b"".join(head(s) + data(s, message(b"a") + message(b"b")) for s in range(1, 41, 2))
        )
        assert books.commits == 1 and len(wire.pipe.writes) == 1  # type: ignore[attr-defined]
        assert sum(f[0] == DATA for f in wire.pipe.frames()) == 40

    wired(check)


def test_replies_leave_before_the_trailers_of_their_stream():
    def check(wire: Wired) -> None:
        frames = wire(head(1) + data(1, message(b"a") + message(b"b"), end=True))
        assert [f[0] for f in frames] == [HEADERS_FRAME, DATA, DATA, HEADERS_FRAME]

    wired(check)


def test_a_ledger_that_fails_turns_every_reply_of_the_read_into_a_refusal():
    def check(wire: Wired) -> None:
        wire.server.context.service.ledger.broken = True  # type: ignore[attr-defined]
        frames = wire(b"".join(head(s) + data(s, message(b"a")) for s in (1, 3, 5)))
        assert [f[3] for f in frames if f[0] == DATA] == [message(b"refused")] * 3

    wired(check)


def test_a_reply_never_outlives_its_record_when_another_streams_note_fails():
    service = a_service()
    sent: list[bytes] = []

    class Channel:
        def send(self, reply: bytes) -> None:
            sent.append(reply)

    service.ledger.append(b"intent")
    service.post(Posted(Channel(), b"go on"))
    service.ledger.broken = True
    service.note((Record("outcome", 0.0, {}),))
    service.ledger.broken = False
    service.flush()
    assert sent == [b"refused"]


def test_late_replies_of_one_turn_are_one_write():
    async def main(wire: Wired) -> None:
        wire(b"".join(head(s) + data(s, message(b"later")) for s in (1, 3, 5)))
        await until(lambda: bool(wire.pipe.writes))
        assert len(wire.pipe.writes) == 1
        assert sum(f[0] == DATA for f in wire.pipe.frames()) == 3

    wired(main)


def test_no_task_is_started_on_the_fast_path():
    def check(wire: Wired) -> None:
        before = asyncio.all_tasks()
        wire(b"".join(head(s) + data(s, message(b"a"), end=True) for s in range(1, 101, 2)))
        assert asyncio.all_tasks() == before and not wire.server.context.service._tasks

    wired(check)


def test_the_real_exchange_answers_in_the_read_callback(monkeypatch):
    monkeypatch.setitem(METHODS, PROCESS_METHOD, open_process)
    request, fields = pb.ProcessingRequest(), pb.HeaderMap()
    for name, value in (
        (":method", "DELETE"),
        (":path", "/"),
        (":authority", "a"),
        ("authorization", "alice"),
    ):
        fields.headers.add(key=name.encode(), raw_value=value.encode())
    request.request_headers.headers = fields.SerializeToString()
    request.request_headers.end_of_stream = True
    request.protocol_config.request_body_mode = pb.ProcessingMode.BUFFERED
    request.protocol_config.response_body_mode = pb.ProcessingMode.BUFFERED

    def check(wire: Wired) -> None:
        call = block([(":method", "POST"), (":scheme", "http"), (":path", PROCESS_METHOD),
                      ("content-type", "application/grpc"), (TARGET_KEY, "api")])  # fmt: skip
        frames = wire(head(1, headers=call) + data(1, message(request.SerializeToString())))
        (reply,) = [f[3] for f in frames if f[0] == DATA]
        assert pb.ProcessingResponse.FromString(reply[5:]).immediate_response.status.code == 403
        assert wire.server.context.service.ledger.kept  # type: ignore[attr-defined]
        assert is_ok(wire(data(1, b"", end=True)))

    wired(check, service=governed_service())


# ---------------------------------------------------------------------- back-pressure


def test_while_the_peer_does_not_read_nothing_is_written_and_nothing_read():
    async def main(wire: Wired) -> None:
        wire(head(1))
        wire.connection.pause_writing()
        assert not wire.pipe.is_reading()
        assert wire(data(1, message(b"x"))) == []
        wire.connection.resume_writing()
        assert wire.pipe.is_reading()
        await asyncio.sleep(0)
        assert [f[0] for f in wire.pipe.frames()] == [HEADERS_FRAME, DATA]

    wired(main)


def test_a_peer_that_never_reads_is_not_read_from_for_long():
    async def main() -> None:
        async with serving() as served:
            _, writer = await served.raw()
            writer.transport.pause_reading()
            writer.write(PREFACE + settings((4, 2**31 - 1)) + ack() + window_update(0, 2**30) + head(1))
            taken = 0
            piece = data(1, message(b"x" * 16_000))
            while writer.transport.get_write_buffer_size() < 1 << 20:
                writer.write(piece)
                taken += len(piece)
                await asyncio.sleep(0)
                assert taken < 64 << 20, "it reads on and on"
            (connection,) = served.server.connections
            assert connection._paused
            writer.transport.abort()

    run(main)


def test_calls_wait_for_the_peers_window_and_recover():
    async def main() -> None:
        async with serving() as served:
            call = process(served.channel(("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)))

            async def write() -> None:
                for _ in range(20):
                    await call.write(b"y" * 1_000_000)

            writing = asyncio.create_task(write())
            for _ in range(20):
                assert len(await call.read()) == 1_000_000
            await writing

    run(main)


# ---------------------------------------------------------------------- going away


def test_stop_lets_running_calls_finish_and_cuts_the_rest():
    async def main() -> None:
        async with serving() as served:
            channel = served.channel()
            polite, stubborn = process(channel), process(channel)
            for call in (polite, stubborn):
                await call.write(b"x")
                await call.read()
            stopping = asyncio.create_task(served.server.stop(0.5))
            await asyncio.sleep(0)
            await polite.write(b"still")
            assert await polite.read() == b"still"
            await polite.done_writing()
            assert await polite.code() == grpc.StatusCode.OK
            assert await stubborn.code() == grpc.StatusCode.UNAVAILABLE
            await stopping
            assert not served.server.connections
            assert sorted(s.closed_as[0] for s in EchoStream.alive) == ["cut", "half-closed"]

    run(main)


def test_stop_says_goaway_and_refuses_calls_that_were_not_handled():
    async def main() -> None:
        async with serving() as served:
            reader, writer = await served.raw()
            writer.write(PREFACE + settings() + ack() + head(1) + data(1, message(b"x")) + head(3))
            await until(lambda: len(EchoStream.alive) == 2)
            await served.server.stop(0)
            frames = frames_in(await reader.read())
            assert [f[2] for f in frames if f[0] == RST and f[3][3] == 7] == [3]
            (goaway,) = [f for f in frames if f[0] == GOAWAY]
            assert goaway[3][:4] == b"\0\0\0\1"
            (end,) = [f for f in frames if f[0] == HEADERS_FRAME and f[1] & 1]
            assert end[2] == 1 and UNAVAILABLE_TEXT in end[3]
            writer.close()

    run(main)


def test_handing_over_refuses_nothing_and_tells_late_comers_too():
    async def main() -> None:
        async with serving() as served:
            reader, writer = await served.raw()
            writer.write(PREFACE + settings() + ack() + head(1) + data(1, message(b"x")))
            await until(lambda: len(EchoStream.alive) == 1)
            served.server.hand_over()
            writer.write(head(3) + data(3, message(b"y")))  # sent before the GOAWAY was read
            late, late_writer = await served.raw()
            late_writer.write(PREFACE + settings() + ack() + head(1) + data(1, message(b"z")))
            await until(lambda: len(EchoStream.alive) == 3)
            assert served.server.board.answer("") == lean_health._SERVING
            await served.server.stop(0)
            for each, ends in ((reader, 2), (late, 1)):
                frames = frames_in(await each.read())
                first, *_ = [f for f in frames if f[0] == GOAWAY]
                assert first[3][:4] == b"\x7f\xff\xff\xff"
                assert not [f for f in frames if f[0] == RST and f[3][3] == 7]
                # the replies came, and the ends that `stop` made
                assert len([f for f in frames if f[0] == HEADERS_FRAME and f[1] & 1]) == ends
            writer.close()
            late_writer.close()

    run(main)


def test_stop_does_not_wait_for_idle_connections_or_watchers():
    async def main() -> None:
        async with serving() as served:
            channel = served.channel()
            watch = channel.unary_stream(lean_health.HEALTH_WATCH_METHOD)(b"")
            await watch.read()
            await asyncio.wait_for(served.server.stop(1000), 10)
            with pytest.raises(OSError):
                await served.raw()

    run(main)


def test_a_peer_that_says_nothing_is_let_go():
    def check(wire: Wired) -> None:
        silent = LeanConnection(wire.server)
        pipe = Pipe()
        silent.connection_made(pipe)
        silent._check_handshake()
        assert pipe.aborted
        wire.connection._check_handshake()
        assert not wire.pipe.aborted
        silent.connection_lost(None)

    wired(check)


def test_a_peer_that_breaks_the_rules_is_told_and_closed():
    async def main() -> None:
        async with serving() as served:
            reader, writer = await served.raw()
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            frames = frames_in(await reader.read())
            assert frames[-1][0] == GOAWAY and frames[-1][3][4:8] == b"\0\0\0\1"
            writer.close()

    run(main)


# ---------------------------------------------------------------------- who may connect


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 0o600), ({"uids": [os.geteuid()]}, 0o600), ({"uids": [54321]}, 0o666),
     ({"uids": [54321], "gid": os.getegid()}, 0o660)],
)  # fmt: skip
def test_the_socket_is_as_open_as_it_must_be(options, expected):
    async def main() -> None:
        async with serving(**options) as served:
            assert mode(served.path) == expected

    run(main)


def test_a_stale_socket_is_replaced_and_a_second_server_elsewhere_lives(tmp_path):
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="lean-") as folder:
            for _ in range(2):
                server = LeanServer(a_service())
                server.listen(f"unix:{folder}/s")
                await server.start()
                await server.stop(0)

    run(main)


def test_another_user_is_turned_away_before_a_byte_is_read(monkeypatch):
    async def main() -> None:
        monkeypatch.setattr(lean_transport, "peer_uid", lambda _: 54321)
        async with serving() as served:
            reader, writer = await served.raw()
            writer.write(PREFACE + settings() + head(1) + data(1, message(b"x")))
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            assert not served.server.connections and not EchoStream.alive
            writer.close()

    run(main)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("allowed", "expected"), [((), b""), ((65534,), b"\0")])
def test_the_kernel_says_who_connects(allowed, expected):
    async def main() -> None:
        async with serving(uids=(54321, *allowed)) as served:
            Path(served.path).parent.chmod(0o755)
            code = (
                "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
                "sys.stdout.buffer.write(s.recv(1))"
            )
            child = await asyncio.create_subprocess_exec(
                "python3" if shutil.which("python3") else sys.executable, "-c", code, served.path,
                user=65534, group=65534, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            out, _ = await child.communicate()
            assert out == expected

    run(main)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "10.1.2.3:0", "[::]:0", "example.com:0", "nonsense", ""])
def test_without_tls_only_loopback_is_listened_on(address):
    with pytest.raises(RuntimeError):
        LeanServer(a_service()).listen(address)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:0", "127.0.0.1"), ("localhost:0", "127.0.0.1"), ("0.0.0.0:0", "0.0.0.0")],
)
def test_with_tls_any_address_is_listened_on(address, expected):
    for bound in bind_tcp(address, has_tls=True):
        with bound:
            assert bound.getsockname()[0] == expected


def test_a_name_that_nobody_has_is_told():
    with pytest.raises(OSError):
        bind_tcp("nobody.invalid:0", has_tls=True)


@pytest.mark.parametrize("mode", [ssl.CERT_NONE, ssl.CERT_OPTIONAL])
def test_tls_that_lets_anybody_in_is_refused(mode):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = mode
    with pytest.raises(ValueError, match="prove"):
        LeanServer(a_service()).listen("127.0.0.1:0", context)


def test_loopback_tcp_serves():
    async def main() -> None:
        server = LeanServer(a_service())
        port = server.listen("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert (await health(channel, "")).status == health_pb2.HealthCheckResponse.SERVING
        await server.stop(0)

    run(main)


# ---------------------------------------------------------------------- h2load

H2LOAD = shutil.which("h2load")


@pytest.mark.skipif(H2LOAD is None, reason="h2load is not here (apt install nghttp2-client)")
def test_h2load_finds_nothing_to_complain_about(tmp_path):
    assert H2LOAD is not None, "install nghttp2-client"
    body = tmp_path / "body"
    body.write_bytes(message(b""))

    async def main() -> None:
        server = LeanServer(a_service())
        port = server.listen("127.0.0.1:0")
        await server.start()
        child = await asyncio.create_subprocess_exec(
            str(H2LOAD), "-n", "5000", "-c", "5", "-m", "50", "-d", str(body),
            "-H", "content-type: application/grpc", "-H", "te: trailers",
            f"http://127.0.0.1:{port}{lean_health.HEALTH_CHECK_METHOD}",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await child.communicate()
        await server.stop(0)
        text = out.decode()
        assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in text, text
        assert "5000 2xx" in text, text

    run(main)
