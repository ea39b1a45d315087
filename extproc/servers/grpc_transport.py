"""gRPC by grpcio: portable, with TLS. The exchange code is the same for every transport."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2

from extproc.servers.access_log import ACCESS_METHOD, AccessError, AccessStream
from extproc.servers.conversations import conversations_of
from extproc.servers.envoy_proto import CHECK_METHOD, PROCESS_METHOD, call_metadata
from extproc.servers.ext_authz import Check
from extproc.servers.ext_proc import ProcessStream
from extproc.servers.half_close import CutError, run_until_half_closed
from extproc.servers.lean_health import HEALTH_CHECK_METHOD, HEALTH_WATCH_METHOD, SERVICES
from extproc.servers.network_ext_proc import NETWORK_METHOD, NetworkStream, Opener
from extproc.servers.peer_names import certificate_names
from extproc.servers.service import Service

if TYPE_CHECKING:
    from extproc.servers.reflection import Reflection

log = structlog.get_logger()

AGE = 20.0
"""Seconds after which a peer is told to take a new connection. gRPC has no other way to ask for that without refusing
calls that are on their way; calls of the old connection go on."""
QUEUE = 4 << 20
"""Bytes of replies that gRPC has not taken before we stop reading the stream."""


class Stream(Protocol):
    """What a `Process` RPC carries, whichever service it belongs to."""

    def receive(self, data: bytes) -> None: ...

    def closed(self, reason: str) -> None: ...


class GrpcChannel:
    """The way back of one RPC: an ordered queue and one writer at a time."""

    __slots__ = ("_context", "_queue", "cut", "queued", "reason", "writing")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._queue: deque[bytes] = deque()
        self.queued = 0
        self.cut = asyncio.Event()
        self.reason = ""
        self.writing: asyncio.Task[None] | None = None

    def send(self, reply: bytes) -> None:
        self._queue.append(reply)
        self.queued += len(reply)
        if self.writing is None or self.writing.done():
            self.writing = asyncio.get_running_loop().create_task(self._drain())

    def abort(self, reason: str) -> None:
        self.reason = reason
        self.cut.set()

    async def sent(self) -> None:
        """Wait until gRPC has taken every reply, or the call is gone."""
        while self.writing is not None and not self.writing.done():
            await asyncio.wait((self.writing,))

    async def _drain(self) -> None:
        try:
            while self._queue:
                data = self._queue.popleft()
                await self._context.write(data)
                self.queued -= len(data)
        except asyncio.CancelledError:
            raise
        except Exception:
            # the peer is gone; the reader learns it too and closes the stream
            self._queue.clear()
            self.queued = 0


class GrpcServer:
    """Serves both external processors, Authorization and health on one address."""

    def __init__(
        self,
        service: Service,
        *,
        client_sans: frozenset[str] | None = None,
        conversations: Opener | None = None,
        reflection: Reflection | None = None,
    ) -> None:
        """`client_sans`: certificate names (URI or DNS) that may call (mTLS); None where the socket itself decides.

        `conversations` opens what is spoken on a database connection, by default what the service's targets speak.
        """
        self._service = service
        self.settle = AGE * 1.1 + 2.0
        """Seconds after `hand_over` in which peers may still come: gRPC varies the age by a tenth."""
        limit = service.max_message
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.max_connection_age_ms", int(AGE * 1000)),
            ]
        )
        self._health = health.aio.HealthServicer()
        conversations = conversations or conversations_of(service)
        self._methods = _Methods(service, client_sans, conversations, self._health, reflection)
        self._server.add_generic_rpc_handlers((self._methods,))

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Bind; returns the port (1 for a unix socket). Raises RuntimeError when it cannot."""
        if credentials is not None:
            return self._server.add_secure_port(address, credentials)
        return self._server.add_insecure_port(address)

    async def start(self) -> None:
        """Accept calls and report healthy."""
        await self._server.start()
        await self.set_healthy(True)

    async def set_healthy(self, healthy: bool) -> None:
        """What Envoy's health check sees."""
        status = health_pb2.HealthCheckResponse
        for name in SERVICES:
            await self._health.set(name, status.SERVING if healthy else status.NOT_SERVING)

    def hand_over(self) -> None:
        """Another process listens where we did: peers go there as their connections reach their age."""

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give running ones `grace` seconds, then cut them with a status that is not OK."""
        self._methods.leaving.set()
        await self._server.stop(grace)


class _Methods(grpc.GenericRpcHandler):
    def __init__(
        self,
        service: Service,
        client_sans: frozenset[str] | None,
        conversations: Opener,
        board: health.aio.HealthServicer,
        reflection: Reflection | None,
    ) -> None:
        self._service = service
        self._client_sans = client_sans
        self._conversations = conversations
        self._board = board
        self._reflection = reflection
        self._handlers: dict[str, Any] = {
            PROCESS_METHOD: grpc.stream_stream_rpc_method_handler(self._process),
            NETWORK_METHOD: grpc.stream_stream_rpc_method_handler(self._network),
            CHECK_METHOD: grpc.unary_unary_rpc_method_handler(self._check),
            ACCESS_METHOD: grpc.stream_unary_rpc_method_handler(self._access),
            HEALTH_CHECK_METHOD: grpc.unary_unary_rpc_method_handler(self._health_check),
            HEALTH_WATCH_METHOD: grpc.unary_stream_rpc_method_handler(
                self._health_watch, response_serializer=health_pb2.HealthCheckResponse.SerializeToString
            ),
        }
        if reflection is not None:
            reflecting: Any = grpc.stream_stream_rpc_method_handler(self._reflect)
            self._handlers |= dict.fromkeys(reflection.methods, reflecting)
        self.leaving = asyncio.Event()
        """Set when we stop: calls that have no end of their own end now."""

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)

    async def _admit(self, context: Any) -> None:
        """Only certificates on the allow-list may speak (mTLS)."""
        if self._client_sans is None:
            return
        # gRPC also tells the names, but cuts them at a NUL
        (certificate,) = context.auth_context().get("x509_pem_cert", (b"",))
        names = certificate_names(ssl.PEM_cert_to_DER_cert(certificate.decode()) if certificate else b"")
        if names.isdisjoint(self._client_sans):
            log.warning("peer.refused", names=sorted(names))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this certificate may not call")

    async def _process(self, _: Any, context: Any) -> None:
        await self._admit(context)
        channel = GrpcChannel(context)
        call = call_metadata(context.invocation_metadata() or ())
        await self._run(ProcessStream(self._service, call, channel), channel, context)

    async def _network(self, _: Any, context: Any) -> None:
        await self._admit(context)
        channel = GrpcChannel(context)
        call = call_metadata(context.invocation_metadata() or ())
        stream = NetworkStream(self._service, call, channel, self._conversations)
        await self._run(stream, channel, context)

    async def _run(self, stream: Stream, channel: GrpcChannel, context: Any) -> None:
        """Read until Envoy has half-closed; every other end is an abort."""
        how = "cancelled"
        self._service.open_streams += 1

        async def serve() -> bool:
            nonlocal how
            cut = asyncio.ensure_future(channel.cut.wait())
            read: asyncio.Future[Any] | None = None
            try:
                while True:
                    read = asyncio.ensure_future(context.read())
                    await asyncio.wait((read, cut), return_when=asyncio.FIRST_COMPLETED)
                    if cut.done():
                        read.cancel()
                        how = "cut"
                        raise CutError(channel.reason)
                    data = read.result()
                    if data is grpc.aio.EOF:
                        how = "half-closed"
                        stream.closed(how)
                        if channel.writing is not None:
                            await channel.writing
                        return True
                    stream.receive(data)
                    self._service.flush()
                    if channel.queued > QUEUE and channel.writing is not None:
                        await asyncio.wait((channel.writing, cut), return_when=asyncio.FIRST_COMPLETED)
            finally:
                cut.cancel()
                if read is not None:
                    read.add_done_callback(_forget)
                stream.closed(how)

        async def abort(reason: str) -> NoReturn:
            # a status would overtake replies, and beside the first one gRPC refuses it (both would carry the initial
            # metadata): then the peer gets none and waits
            await channel.sent()
            await context.abort(grpc.StatusCode.UNAVAILABLE, reason)
            raise AssertionError("abort returned")

        try:
            await run_until_half_closed(serve, abort)
        finally:
            self._service.open_streams -= 1

    async def _access(self, _: Any, context: Any) -> bytes:
        await self._admit(context)
        stream = AccessStream(self._service)
        leaving = asyncio.ensure_future(self.leaving.wait())
        reason = "extproc is going away"
        try:
            while True:
                read = asyncio.ensure_future(context.read())
                read.add_done_callback(_forget)
                await asyncio.wait((read, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not read.done():
                    read.cancel()
                    break
                data = read.result()
                if data is grpc.aio.EOF:
                    return b""
                stream.receive(data)
        except AccessError as error:
            reason = str(error)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("access.failed")
            reason = "internal error"
        finally:
            leaving.cancel()
        await context.abort(grpc.StatusCode.UNAVAILABLE, reason)
        return b""

    async def _health_check(self, data: bytes, context: Any) -> bytes:
        await self._admit(context)
        answer = await self._board.Check(health_pb2.HealthCheckRequest.FromString(data), context)
        return bytes(answer.SerializeToString())

    async def _health_watch(self, data: bytes, context: Any) -> None:
        await self._admit(context)
        await self._board.Watch(health_pb2.HealthCheckRequest.FromString(data), context)

    async def _reflect(self, _: Any, context: Any) -> None:
        await self._admit(context)
        while (data := await context.read()) is not grpc.aio.EOF:
            answer = self._reflection.answer(data) if self._reflection is not None else None
            if answer is None:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message does not parse")
            await context.write(answer)

    async def _check(self, data: bytes, context: Any) -> bytes:
        await self._admit(context)
        metadata = call_metadata(context.invocation_metadata() or ())
        answered: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

        def answer(reply: bytes | None) -> None:
            if not answered.done():  # cancelled, and not told us yet
                answered.set_result(reply)

        check = Check(self._service, metadata, answer)
        check.receive(data)
        self._service.flush()
        try:
            reply = await answered
        finally:
            check.gone()
        if reply is None:
            await context.abort(grpc.StatusCode.INTERNAL, "the check could not be made")
        return reply or b""


def _forget(read: asyncio.Future[Any]) -> None:
    """A read that nobody waits for any more: how it ended is the end of the call, which is known already."""
    if not read.cancelled():
        read.exception()
