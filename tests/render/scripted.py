"""A processor for Envoy that answers by a script, so that a rendered configuration can be watched at work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from extproc.servers.envoy_proto import PROCESS_METHOD
from extproc.servers.wire import ext_proc_pb2 as pb

Answer = Callable[[pb.ProcessingRequest], pb.ProcessingResponse | None]


class ScriptedProcessor:
    """Serves Process on a unix socket. `answer` gets each message; None ends the stream with OK.

    `calls` holds, per stream, the RPC metadata and the messages seen.
    """

    def __init__(self, socket: Path, answer: Answer) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self.calls: list[tuple[list[tuple[str, str]], list[pb.ProcessingRequest]]] = []
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 16 << 20)]
        )
        handler = grpc.stream_stream_rpc_method_handler(
            self._process,
            request_deserializer=pb.ProcessingRequest.FromString,
            response_serializer=pb.ProcessingResponse.SerializeToString,
        )
        _, service, method = PROCESS_METHOD.split("/")
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        checks = health.HealthServicer()
        checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, self._server)
        self._server.add_insecure_port(f"unix:{socket}")

    def __enter__(self) -> ScriptedProcessor:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait(5)

    def kinds(self) -> list[str]:
        """The messages of the last stream, by kind."""
        return [str(message.WhichOneof("request")) for message in self.calls[-1][1]]

    def metadata(self, key: str) -> list[str]:
        """Every value of a metadata key of the last stream."""
        return [value for name, value in self.calls[-1][0] if name == key]

    def _process(
        self, messages: Iterator[pb.ProcessingRequest], context: Any
    ) -> Iterator[pb.ProcessingResponse]:
        seen: list[pb.ProcessingRequest] = []
        with self._lock:
            self.calls.append(([tuple(pair) for pair in context.invocation_metadata()], seen))
        for message in messages:
            seen.append(message)
            reply = self._answer(message)
            if reply is None:
                return
            yield reply


def going_on(
    message: pb.ProcessingRequest,
    *,
    verdict: str = "allow",
    modes: tuple[int, int] | None = None,
    remove: tuple[bytes, ...] = (),
) -> pb.ProcessingResponse:
    """Let a message go on; `modes` are the request and response body modes to ask for, in a headers reply."""
    reply = pb.ProcessingResponse()
    kind = str(message.WhichOneof("request"))
    common = getattr(reply, kind).response
    common.SetInParent()
    common.header_mutation.remove_headers.extend(remove)
    if kind == "request_headers" and verdict:
        reply.dynamic_metadata.update(
            {"extproc": {"verdict": verdict, "session_id": "ses_1", "decision_id": "dec_1"}}
        )
    if modes is not None and kind.endswith("_headers"):
        override = reply.mode_override
        override.request_header_mode = override.response_header_mode = pb.ProcessingMode.SEND
        override.request_body_mode, override.response_body_mode = modes  # type: ignore[assignment]
        override.request_trailer_mode = pb.ProcessingMode.SKIP
        unseen = override.response_body_mode == pb.ProcessingMode.NONE
        override.response_trailer_mode = pb.ProcessingMode.SKIP if unseen else pb.ProcessingMode.SEND
    return reply
