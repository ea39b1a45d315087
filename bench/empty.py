"""An empty processor, on grpcio.aio or the lean transport: `python -m bench.empty --listen unix:/path`.

It looks at the first byte of a message (the field number of its `request` part) and answers as extproc would
if it had nothing to do: the same number of messages, the same mode overrides, the verdict the guard filter asks
for. What it costs is what the transport costs; what extproc costs beyond it is ours.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from bench.cases import TARGETS
from bench.hotspots import Bench
from extproc.app.loops import request_loop
from extproc.domain.decision import HeaderChange
from extproc.domain.steps import BodyMode, BodyModes, Forward, Refuse
from extproc.protocols.h2 import CallHead
from extproc.protocols.h2.blocks import OK, UNAVAILABLE
from extproc.servers.envoy_proto import (
    CHECK_METHOD,
    PROCESS_METHOD,
    TARGET_KEY,
    check_reply,
    forward_reply,
    refuse_reply,
)
from extproc.servers.lean_calls import METHODS, Call, Context, Wire
from extproc.servers.lean_transport import LeanServer
from extproc.servers.service import Service
from extproc.servers.wire import ext_proc_pb2 as pb

TAGS = {
    field.number << 3 | 2: field.name
    for field in pb.ProcessingRequest.DESCRIPTOR.oneofs_by_name["request"].fields
}
"""First byte of a message to what it holds: Envoy writes fields in the order of their numbers."""
ALLOWED = {"session_id": "ses_" + "0" * 32, "decision_id": "dec_" + "0" * 32, "verdict": "allow"}
UNSEEN = BodyModes(BodyMode.NONE, BodyMode.NONE)
CHECK_REPLY = check_reply(Forward(headers=HeaderChange(remove=("authorization",)), metadata=ALLOWED))


def script(target: str) -> dict[int, bytes]:
    """Replies by first byte."""
    if target == "denied":
        refusal = Refuse(403, (("content-type", "application/problem+json"),), b'{"status": 403}', "bench")
        return {tag: refuse_reply(refusal) for tag in TAGS}
    allow = Forward(headers=HeaderChange(remove=("authorization",)), metadata=ALLOWED)
    steps = {kind: Forward() for kind in TAGS.values()}
    steps["request_body" if target == "write" else "request_headers"] = allow
    if target in ("read", "write", "read-1", "read-200"):  # nobody needs the response's body
        steps["response_headers"] = Forward(modes=UNSEEN)
    return {tag: forward_reply(kind, steps[kind]) for tag, kind in TAGS.items()}


def scripts() -> dict[str, dict[int, bytes]]:
    """What is answered, by target."""
    return {name: script(name) for name, target in TARGETS.items() if target.mode == "ext_proc"}


class Empty(grpc.GenericRpcHandler):
    """Process and Check, without protobuf."""

    def __init__(self) -> None:
        self._scripts = scripts()
        self._process_handler: Any = grpc.stream_stream_rpc_method_handler(self._process)
        self._check_handler: Any = grpc.unary_unary_rpc_method_handler(self._check)

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method == PROCESS_METHOD:
            return self._process_handler
        return self._check_handler if method == CHECK_METHOD else None

    async def _process(self, _: Any, context: Any) -> None:
        target = next(value for key, value in context.invocation_metadata() if key == TARGET_KEY)
        replies = self._scripts[target]
        while (data := await context.read()) is not grpc.aio.EOF:
            await context.write(replies[data[0]])

    async def _check(self, _: bytes, __: Any) -> bytes:
        return CHECK_REPLY


class EmptyCall:
    """The same on the lean transport."""

    __slots__ = ("_replies", "_stream_id", "_wire")

    def __init__(self, wire: Wire, stream_id: int, replies: dict[int, bytes]) -> None:
        self._wire = wire
        self._stream_id = stream_id
        self._replies = replies

    def message(self, data: bytes) -> None:
        self._wire.reply(self._stream_id, self._replies[data[0]])

    def half_closed(self) -> None:
        self._wire.finish(self._stream_id, OK)

    def gone(self) -> None:
        """Nothing is left behind."""

    def cut(self, reason: str) -> None:
        self._wire.finish(self._stream_id, UNAVAILABLE, reason)

    def expire(self) -> None:
        self.cut("the deadline has passed")


@contextmanager
def idle_service() -> Iterator[Service]:
    """A real service for calls that decide nothing and record nothing: a compiled transport takes no stand-in."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), ["read"])
        try:
            yield bench.service
        finally:
            bench.close()


def lean_server(service: Service) -> LeanServer:
    """The lean transport with calls that decide nothing. For a process of its own: it changes what calls are served."""
    by_target = scripts()
    check = dict.fromkeys(range(256), CHECK_REPLY)

    def process(_: Context, wire: Wire, stream_id: int, head: CallHead) -> Call:
        replies = head.memo
        if replies is None:
            head.memo = replies = by_target[dict(head.metadata)[TARGET_KEY]]
        return EmptyCall(wire, stream_id, replies)

    METHODS[PROCESS_METHOD] = process
    METHODS[CHECK_METHOD] = lambda _, wire, stream_id, __: EmptyCall(wire, stream_id, check)
    return LeanServer(service)


async def serve_lean(address: str, service: Service) -> None:
    """Until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = lean_server(service)
    server.listen(address)
    await server.start()
    print("ready", flush=True)
    await stopping.wait()
    await server.stop(0.5)


async def serve(address: str) -> None:
    """Until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.http2.max_ping_strikes", 0)])
    server.add_generic_rpc_handlers((Empty(),))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    server.add_insecure_port(address)
    await server.start()
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    print("ready", flush=True)
    await stopping.wait()
    await server.stop(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.empty")
    parser.add_argument("--listen", required=True, help="unix:/path")
    parser.add_argument("--transport", choices=("grpcio", "lean"), default="grpcio")
    given = parser.parse_args()
    if given.transport == "lean":
        with idle_service() as service, asyncio.Runner(loop_factory=request_loop()) as runner:
            runner.run(serve_lean(given.listen, service))
    else:
        asyncio.run(serve(given.listen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
