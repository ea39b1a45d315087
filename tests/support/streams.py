"""Process streams for tests: Envoy's messages, a ledger that fails on command, a service without files or keys."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc.aio

from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.grant import ApprovalStore
from extproc.domain.hold import HoldState
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.pipeline import Governance
from extproc.servers.desk import HoldDesk
from extproc.servers.envoy_proto import PROCESS_METHOD, CallMetadata
from extproc.servers.ext_proc import ProcessStream
from extproc.servers.grpc_transport import GrpcServer
from extproc.servers.service import KeyFetcher, Service
from extproc.servers.wire import ext_proc_pb2 as pb
from tests.support.governed import NOW, Ids, governance
from tests.support.holds import MemoryHoldStore

Pairs = Iterable[tuple[str, str]]
FIONA = Principal("https://issuer", "fiona", "human", "fiona", groups=("finance",))
"""Whose approval `POLICY` wants."""

POLICY = """\
default: deny
rules:
  - name: read
    when: request.method == "GET" && request.url_path.startsWith("/open")
    then: {allow: {}, mask: pii}
  - name: stream
    when: request.method == "GET" && request.url_path.startsWith("/stream")
    then: {allow: {}}
  - name: write
    when: request.method == "POST" && request.json.amount < 1000
    then: {allow: {}}
  - name: wait
    when: request.method == "PUT"
    then:
      hold: {approvers: {all_of: [{group: finance, count: 1}]}, wait: 60s, expires: 1h, use_within: 10m, reason: "Why."}
masks:
  pii: {entities: [EMAIL_ADDRESS], operator: replace}
"""


class MemoryLedger:
    """Keeps committed records. `fail_at` makes the n-th commit from now raise (1 is the next); `broken` all of them."""

    def __init__(self) -> None:
        self.kept: list[Record] = []
        self.commits = 0
        self.broken = False
        self.fail_at = 0
        self._buffer: list[Record] = []

    def append(self, record: Record) -> None:
        self._buffer.append(record)

    def commit(self) -> None:
        """As the real one: what was buffered is gone when it raises."""
        buffered, self._buffer = self._buffer, []
        self.commits += 1
        self.fail_at -= 1
        if self.broken or self.fail_at == 0:
            raise LedgerUnavailableError("the disk is full")
        self.kept += buffered

    @property
    def kinds(self) -> list[str]:
        """Kinds of what was kept, in order."""
        return [record.kind for record in self.kept]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Fields of the records of one kind."""
        return [dict(record.fields) for record in self.kept if record.kind == kind]


class Keys:
    """Fetches nothing; `arrived` runs at each refresh."""

    def __init__(self, arrived: Callable[[], object] = lambda: None) -> None:
        self.arrived = arrived
        self.refreshed = 0

    async def refresh(self, provider: str, now: float) -> object:
        self.refreshed += 1
        self.arrived()
        return True


class SlowKeys:
    """They never come; `given_up` says that nobody waits for them any more."""

    def __init__(self) -> None:
        self.given_up = asyncio.Event()

    async def refresh(self, provider: str, now: float) -> object:
        try:
            return await asyncio.Event().wait()
        finally:
            self.given_up.set()


def service(
    gov: Governance | None = None,
    *,
    ledger: MemoryLedger | None = None,
    holds: ApprovalStore | None = None,
    keys: KeyFetcher | None = None,
    now: Callable[[], float] = lambda: NOW,
    max_message: int = 16 << 20,
) -> Service:
    """A service on fakes. Its ledger is a MemoryLedger unless another is given."""
    return Service(
        governance=gov if gov is not None else governance(POLICY),
        ledger=ledger if ledger is not None else MemoryLedger(),
        desk=HoldDesk(holds if holds is not None else MemoryHoldStore(), now=now, open_waits=10),
        keys=keys if keys is not None else Keys(),
        now=now,
        new_hex=Ids(),
        max_message=max_message,
    )


async def pending(store: MemoryHoldStore) -> str:
    """The hold that is waited for, as soon as there is one."""
    async with asyncio.timeout(10):
        while not (found := await store.find(states=[HoldState.PENDING], now=NOW)):
            await asyncio.sleep(0)
    return found[0].id


# ---------------------------------------------------------------------- messages


def _header_map(pairs: Pairs) -> bytes:
    return pb.HeaderMap(
        headers=[pb.HeaderValue(key=n.encode("latin-1"), raw_value=v.encode("latin-1")) for n, v in pairs]
    ).SerializeToString()


def first(
    message: pb.ProcessingRequest, request: str = "BUFFERED", response: str = "BUFFERED"
) -> pb.ProcessingRequest:
    """What only the first message of a stream carries."""
    config = message.protocol_config
    config.request_body_mode = pb.ProcessingMode.BodySendMode.Value(request)
    config.response_body_mode = pb.ProcessingMode.BodySendMode.Value(response)
    return message


def request_headers(
    method: str = "GET", path: str = "/open", *more: tuple[str, str], end: bool = True, who: str = "alice"
) -> bytes:
    """The first message of an ordinary exchange."""
    pairs = [(":method", method), (":path", path), (":authority", "api.example"), (":scheme", "http")]
    if who:
        pairs.append(("authorization", who))
    headers = pb.HttpHeaders(headers=_header_map([*pairs, *more]), end_of_stream=end)
    return first(pb.ProcessingRequest(request_headers=headers)).SerializeToString()


def request_body(data: bytes) -> bytes:
    """The whole request body."""
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=data, end_of_stream=True)).SerializeToString()


def response_headers(
    status: int = 200, media: str = "application/json", *more: tuple[str, str], end: bool = False
) -> bytes:
    """The response's headers."""
    pairs = [(":status", str(status)), ("content-type", media), *more]
    headers = pb.HttpHeaders(headers=_header_map(pairs), end_of_stream=end)
    return pb.ProcessingRequest(response_headers=headers).SerializeToString()


def response_body(data: bytes, end: bool = True) -> bytes:
    """The whole response body or a piece of it."""
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=data, end_of_stream=end)).SerializeToString()


# ---------------------------------------------------------------------- without a network


class MemoryChannel:
    """The way back, kept."""

    def __init__(self) -> None:
        self.sent: list[pb.ProcessingResponse] = []
        self.aborted: list[str] = []

    def send(self, reply: bytes) -> None:
        assert not self.aborted, "nothing may follow an abort"
        self.sent.append(pb.ProcessingResponse.FromString(reply))

    def abort(self, reason: str) -> None:
        self.aborted.append(reason)


class Played:
    """A stream whose messages a test sends one by one."""

    def __init__(self, of: Service, target: str = "api") -> None:
        self.service = of
        self.channel = MemoryChannel()
        self.stream = ProcessStream(of, CallMetadata(target), self.channel)

    def __call__(self, *messages: bytes) -> Played:
        for message in messages:
            self.stream.receive(message)
            self.service.flush()
        return self

    @property
    def kinds(self) -> list[str]:
        """What every reply was, `timeout` for a bare override of the timeout."""
        return [reply.WhichOneof("response") or "timeout" for reply in self.channel.sent]

    @property
    def status(self) -> int:
        """The code of the immediate response that came last."""
        return int(self.channel.sent[-1].immediate_response.status.code)


# ---------------------------------------------------------------------- with a real server


def channel_to(folder: Path) -> grpc.aio.Channel:
    """Another channel to what `serving` serves there."""
    return grpc.aio.insecure_channel(f"unix:{folder}/s.sock")


@contextlib.asynccontextmanager
async def serving(of: Service, folder: Path) -> AsyncIterator[tuple[GrpcServer, Callable[..., Any]]]:
    """A real gRPC server on a unix socket, and `open()` for a raw Process call by a real client."""
    server = GrpcServer(of)
    server.listen(f"unix:{folder}/s.sock")
    await server.start()
    async with channel_to(folder) as channel:
        method: Any = channel.stream_stream(PROCESS_METHOD)

        def open_call(target: str = "api") -> Any:
            return method(metadata=(("x-extproc-target", target),) if target else ())

        try:
            yield server, open_call
        finally:
            await server.stop(0)


async def read(call: Any) -> pb.ProcessingResponse:
    """The next reply. AssertionError when the stream ended instead."""
    data = await asyncio.wait_for(call.read(), 10)
    assert data is not grpc.aio.EOF, f"the stream ended with {await call.code()}"
    return pb.ProcessingResponse.FromString(data)


class ServerThread:
    """A GrpcServer on an event loop of its own, for tests that drive it with a real Envoy."""

    def __init__(self, of: Service, address: str) -> None:
        self.service = of
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server", daemon=True)
        self._server: GrpcServer | None = None

    def start(self) -> None:
        """Listen and report healthy."""
        self._thread.start()
        self.run(self._start())

    def run(self, work: Any) -> Any:
        """A coroutine on the server's loop, waited for."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def call(self, function: Callable[[], object]) -> None:
        """A function on the server's loop."""

        async def work() -> None:
            function()

        self.run(work())

    async def _start(self) -> None:
        self._server = GrpcServer(self.service)
        self._server.listen(self._address)
        await self._server.start()

    def stop_server(self, grace: float = 0.0) -> None:
        """As the worker does at SIGTERM."""
        assert self._server is not None
        self.run(self._server.stop(grace))

    def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self.stop_server()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
