"""An empty grpcio.aio processor: raw bytes in, prepared replies out: `python -m bench.empty`.

It looks at the first byte of a message (the field number of its `request` part) and answers as extproc would
if it had nothing to do: the same number of messages, the same mode overrides, the verdict the guard filter asks
for. What it costs is what grpcio costs; what extproc costs beyond it is ours.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from bench.cases import TARGETS
from extproc.domain.decision import HeaderChange
from extproc.domain.steps import BodyMode, BodyModes, Forward, Refuse
from extproc.servers.envoy_proto import (
    CHECK_METHOD,
    PROCESS_METHOD,
    TARGET_KEY,
    check_reply,
    forward_reply,
    refuse_reply,
)
from extproc.servers.wire import ext_proc_pb2 as pb

TAGS = {
    field.number << 3 | 2: field.name
    for field in pb.ProcessingRequest.DESCRIPTOR.oneofs_by_name["request"].fields
}
"""First byte of a message to what it holds: Envoy writes fields in the order of their numbers."""
ALLOWED = {"session_id": "ses_" + "0" * 32, "decision_id": "dec_" + "0" * 32, "verdict": "allow"}
UNSEEN = BodyModes(BodyMode.NONE, BodyMode.NONE)
CHECK_REPLY = check_reply(
    Forward(headers=HeaderChange(remove=("authorization",)), metadata=ALLOWED)
).SerializeToString()


def script(target: str) -> dict[int, bytes]:
    """Replies by first byte."""
    if target == "denied":
        refusal = Refuse(403, (("content-type", "application/problem+json"),), b'{"status": 403}', "bench")
        return {tag: refuse_reply(refusal).SerializeToString() for tag in TAGS}
    allow = Forward(headers=HeaderChange(remove=("authorization",)), metadata=ALLOWED)
    steps = {kind: Forward() for kind in TAGS.values()}
    steps["request_body" if target == "write" else "request_headers"] = allow
    if target in ("read", "write", "read-1", "read-200"):  # nobody needs the response's body
        steps["response_headers"] = Forward(modes=UNSEEN)
    return {tag: forward_reply(kind, steps[kind]).SerializeToString() for tag, kind in TAGS.items()}


class Empty(grpc.GenericRpcHandler):
    """Process and Check, without protobuf."""

    def __init__(self) -> None:
        self._scripts = {name: script(name) for name, target in TARGETS.items() if target.mode == "ext_proc"}
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
    asyncio.run(serve(parser.parse_args().listen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
