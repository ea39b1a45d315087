"""gRPC for the hop from Envoy, without a framework: everything happens in the read callback.

Per callback: decide all messages, one ledger write, one socket write (DESIGN: order of writes). No task and no
await on that way; only a hold or a key fetch starts one, and what those answer later is written once per turn of
the loop.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import structlog

from extproc.protocols.h2 import (
    CallEnded,
    CallStarted,
    Connection,
    ConnectionFailed,
    HalfClosed,
    Limits,
    MessageReceived,
)
from extproc.protocols.h2.blocks import UNIMPLEMENTED
from extproc.servers.conversations import conversations_of
from extproc.servers.lean_calls import (
    METHODS,
    AccessCall,
    Call,
    CallOpener,
    Context,
    HealthWatchCall,
    RefusedCall,
)
from extproc.servers.lean_health import HealthBoard
from extproc.servers.lean_listening import (
    NOT_IN_CLEAR,
    TlsListener,
    bind_tcp,
    is_loopback,
    prepare,
    speaks_http2,
)
from extproc.servers.lean_reflection import ReflectionCall, reflection_methods
from extproc.servers.network_ext_proc import Opener
from extproc.servers.peer_gate import BACKLOG, UnixListener, peer_uid
from extproc.servers.peer_names import certificate_names
from extproc.servers.service import Service

if TYPE_CHECKING:
    from extproc.servers.reflection import Reflection

log = structlog.get_logger()

WRITE_BUFFER: Final = 1 << 20
"""Bytes the kernel has not taken from us before we stop reading."""
HANDSHAKE: Final = 10.0
"""Seconds a peer has for its TLS handshake, and again for its preface and settings."""
FAREWELL: Final = 1.0
"""Seconds for the last bytes to leave."""
SETTLE: Final = 1.0
"""Seconds in which a peer has read our GOAWAY, and whoever connected before another took our place is accepted."""


class LeanServer:
    """Serves both external processors, Authorization and health on unix sockets and TCP; off loopback with mTLS."""

    def __init__(
        self,
        service: Service,
        *,
        uids: Collection[int] = (),
        gid: int | None = None,
        client_sans: Collection[str] = (),
        handshake: float = HANDSHAKE,
        limits: Limits | None = None,
        conversations: Opener | None = None,
        reflection: Reflection | None = None,
    ) -> None:
        """`uids`: who may connect to a unix socket beside our own user. `gid`: the group its file belongs to.
        `client_sans`: certificate names (URI or DNS) that may call under TLS; nobody else may. `handshake`: seconds.

        `conversations` opens what is spoken on a database connection, by default what the service's targets speak.
        `reflection` answers about our services, if anything does.
        """
        self.methods: Mapping[str, CallOpener] = METHODS
        if reflection is not None:
            self.methods = {**METHODS, **reflection_methods(reflection)}
        self.refused: Mapping[str, CallOpener] = dict.fromkeys(self.methods, RefusedCall)
        self.board = HealthBoard()
        self.context = Context(service, self.board, conversations or conversations_of(service))
        self.limits = replace(limits or Limits(), message=service.max_message)
        self.uids = frozenset(uids) | {os.geteuid()}
        self.client_sans = frozenset(client_sans)
        self.connections: set[LeanConnection] = set()
        self.handshake = handshake
        self.is_stopping = False
        self.settle = SETTLE
        """Seconds after `hand_over` in which peers that were not told in time may still come."""
        self.is_moving = False
        """Another process listens where we did: who still comes here is sent there."""
        self._gid = gid
        self._sockets: list[tuple[UnixListener | socket.socket, ssl.SSLContext | None]] = []
        self._servers: list[asyncio.Server | TlsListener] = []
        self._on_tcp: list[asyncio.Server | TlsListener] = []
        self._quiet: asyncio.Event | None = None

    def listen(self, address: str, tls: ssl.SSLContext | None = None) -> int:
        """Bind `unix:/path` or `host:port`; returns the port (1 for a unix socket). Raises RuntimeError.

        `tls` must require client certificates; without it TCP is loopback only.
        """
        try:
            if address.startswith("unix:"):
                listener = UnixListener(Path(address.removeprefix("unix:")), self.uids, self._gid)
                self._sockets.append((listener, None))
                return 1
            if tls is not None:
                prepare(tls)
            bound = bind_tcp(address, has_tls=tls is not None)
        except OSError as error:
            raise RuntimeError(f"cannot listen at {address}: {error.strerror}") from error
        self._sockets += [(each, tls) for each in bound]
        return int(bound[0].getsockname()[1])

    def take(self, bound: Sequence[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """TCP sockets that somebody bound for us, and may give to another process after us. `tls` as for `listen`.

        Raises RuntimeError.
        """
        if not bound:
            raise RuntimeError("no socket to listen on")
        if tls is not None:
            prepare(tls)
        elif not all(is_loopback(str(each.getsockname()[0])) for each in bound):
            raise RuntimeError(NOT_IN_CLEAR)
        self._sockets += [(each, tls) for each in bound]

    async def start(self) -> None:
        """Accept connections, in the place of whoever did before, and report healthy."""
        for bound, tls in self._sockets:
            server = await self._open(bound, tls)
            self._servers.append(server)
            if not isinstance(bound, UnixListener):
                self._on_tcp.append(server)
        self._sockets.clear()
        await self.set_healthy(True)

    async def _open(
        self, bound: UnixListener | socket.socket, tls: ssl.SSLContext | None
    ) -> asyncio.Server | TlsListener:
        loop = asyncio.get_running_loop()
        if isinstance(bound, UnixListener):
            listener = bound.open()
            return await loop.create_unix_server(lambda: LeanConnection(self), sock=listener, backlog=BACKLOG)
        if tls is None:
            return await loop.create_server(lambda: LeanConnection(self), sock=bound, backlog=BACKLOG)
        secure = TlsListener(
            bound, tls, lambda: LeanConnection(self), handshake=self.handshake, farewell=FAREWELL
        )
        secure.start()
        return secure

    async def set_healthy(self, healthy: bool) -> None:
        """What Envoy's health check sees."""
        self.board.set(healthy)

    def hand_over(self) -> None:
        """Another process listens where we did. Peers are told to connect again (GOAWAY); nothing is refused here.

        We stay healthy: the place is what Envoy's health check means, and the place is served. A TCP socket is the
        other's too, with whoever waits in it; a unix socket is our own, and whoever still waits there is served here.
        """
        self.is_moving = True
        for server in self._on_tcp:
            server.close()
        for connection in list(self.connections):
            connection.move_on()

    @property
    def has_handshakes(self) -> bool:
        """Somebody has connected who is not through the TLS handshake yet."""
        return any(isinstance(server, TlsListener) and server.unfinished for server in self._servers)

    def renew(self, tls: ssl.SSLContext) -> None:
        """Show this to who connects from now on, and ask those who have connected to do so again."""
        prepare(tls)
        for server in self._servers:
            if isinstance(server, TlsListener):
                server.context = tls
        for connection in list(self.connections):
            connection.move_on()

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give running ones `grace` seconds, then cut them with a status that is not OK."""
        self.is_stopping = True
        self.board.set(False)
        for bound, _ in self._sockets:
            bound.close()
        for server in self._servers:
            server.close()
            if isinstance(server, TlsListener):
                server.break_off()
        for connection in list(self.connections):
            connection.drain()
        await self._until_quiet(grace)
        for connection in list(self.connections):
            connection.cut_all("extproc is going away")
        await self._until_quiet(FAREWELL)
        for connection in list(self.connections):
            connection.abandon()

    def left(self, connection: LeanConnection) -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if self._quiet is not None and not self.connections:
            self._quiet.set()

    async def _until_quiet(self, seconds: float) -> None:
        if not self.connections:
            return
        self._quiet = asyncio.Event()
        try:
            await asyncio.wait_for(self._quiet.wait(), seconds)
        except TimeoutError:
            pass  # those that remain are dealt with by the caller
        finally:
            self._quiet = None


class LeanConnection(asyncio.Protocol):
    """One connection from Envoy."""

    def __init__(self, server: LeanServer) -> None:
        self._server = server
        self._context = server.context
        self._service = server.context.service
        self._h2 = Connection(server.limits)
        self._methods = server.methods
        self._calls: dict[int, Call] = {}
        self._deadlines: dict[int, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._clock: Callable[[], float] = self._loop.time
        self._transport: asyncio.Transport | None = None
        self._reading = False
        self._write_is_due = False
        self._paused = False
        self._draining = False
        self._timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, made)  # uvloop's are no subclass of it
        if self._server.is_stopping or not self._may_speak(transport):
            transport.abort()
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._server.connections.add(self)
        self._timer = self._loop.call_later(self._server.handshake, self._check_handshake)
        if self._server.is_moving:
            self._h2.announce_drain()
        self._write()

    def data_received(self, data: bytes) -> None:
        """Decide everything in `data`, then write the ledger once, then the socket once."""
        if self._transport is None:
            return
        self._reading = True
        calls = self._calls
        ends: list[HalfClosed | CallEnded | ConnectionFailed] = []
        for event in self._h2.receive(data, self._clock()):
            if isinstance(event, MessageReceived):
                call = calls.get(event.stream_id)
                if call is not None:
                    try:
                        call.message(event.data)
                    except Exception:
                        log.exception("call.failed")
                        call.cut("internal error")
            elif isinstance(event, CallStarted):
                self._open(event)
            else:
                ends.append(event)
        self._service.flush()
        # a stream ends after the replies to what it said before, and after their records
        for end in ends:
            if isinstance(end, HalfClosed):
                call = calls.get(end.stream_id)
                if call is not None:
                    call.half_closed()
            elif isinstance(end, CallEnded):
                self._gone(end.stream_id)
            else:
                log.warning("connection.failed", code=end.code, reason=end.reason)
                self._lose_all()
        if ends:
            self._service.flush()  # a unary call is answered when its peer has said all
        self._reading = False
        self._write()

    def eof_received(self) -> None:
        """The peer will say no more: asyncio closes, `connection_lost` cleans up."""

    def pause_writing(self) -> None:
        """The peer does not read. Stop asking for more until it does."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._transport is not None:
            self._transport.resume_reading()
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._lose_all()
        self._server.left(self)

    # ------------------------------------------------------------------ Wire

    def reply(self, stream_id: int, payload: bytes) -> None:
        """One message of a call that may be over."""
        if not self._h2.send_message(stream_id, payload):
            self._gone(stream_id)
        if not self._reading:
            self._wake()

    def finish(self, stream_id: int, status: int, message: str = "") -> None:
        """The end of a call."""
        self._forget(stream_id)
        self._h2.finish(stream_id, status, message)
        if not self._reading:
            self._wake()

    # ------------------------------------------------------------------ for the server

    def move_on(self) -> None:
        """New calls are to take a new connection; those that still come on this one are served."""
        self._h2.announce_drain()
        self._wake()

    def drain(self) -> None:
        """No new calls; calls that were not handled yet may be tried elsewhere."""
        self._draining = True
        for stream_id in self._h2.drain():
            self._gone(stream_id)
        for call in list(self._calls.values()):
            if isinstance(call, HealthWatchCall | AccessCall | ReflectionCall):
                call.cut("extproc is going away")  # it would never end by itself
        self._wake()

    def cut_all(self, reason: str) -> None:
        """End what still runs. None of it ends with OK."""
        for call in list(self._calls.values()):
            call.cut(reason)
        self._write()
        if self._transport is not None:
            self._transport.close()

    def abandon(self) -> None:
        """Close without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------------

    def _may_speak(self, transport: asyncio.Transport) -> bool:
        """What the kernel or TLS says of the peer is good enough. Whose certificate is not listed is refused by call,
        in words that it understands."""
        sock: socket.socket = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            uid = peer_uid(sock)
            if uid not in self._server.uids:
                log.warning("peer.refused", uid=uid)
                return False
            return True
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        if not speaks_http2(tls):
            log.warning("peer.refused", reason="it did not ask for h2 (ALPN)")
            return False
        names = certificate_names(tls.getpeercert(binary_form=True) or b"")
        if names.isdisjoint(self._server.client_sans):
            log.warning("peer.refused", names=sorted(names))
            self._methods = self._server.refused
        return True

    def _open(self, event: CallStarted) -> None:
        stream_id, head = event.stream_id, event.head
        opener = self._methods.get(head.path)
        if opener is None:
            self._h2.finish(stream_id, UNIMPLEMENTED, "no such method")
            return
        self._calls[stream_id] = opener(self._context, self, stream_id, head)
        if head.timeout is not None:
            self._deadlines[stream_id] = self._loop.call_later(head.timeout, self._expire, stream_id)

    def _expire(self, stream_id: int) -> None:
        call = self._calls.get(stream_id)
        if call is not None:
            call.expire()

    def _gone(self, stream_id: int) -> None:
        call = self._forget(stream_id)
        if call is not None:
            call.gone()

    def _forget(self, stream_id: int) -> Call | None:
        deadline = self._deadlines.pop(stream_id, None) if self._deadlines else None
        if deadline is not None:
            deadline.cancel()
        return self._calls.pop(stream_id, None)

    def _lose_all(self) -> None:
        for stream_id in list(self._calls):
            self._gone(stream_id)

    def _wake(self) -> None:
        """Write soon: once for all that is answered in this turn of the loop."""
        if not self._write_is_due:
            self._write_is_due = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._write_is_due = False
        transport = self._transport
        if transport is None or self._paused:
            return
        data = self._h2.bytes_to_send()
        if data:
            transport.write(data)
        if self._h2.failed or (self._draining and not self._h2.open_calls):
            self._say_goodbye(transport)

    def _say_goodbye(self, transport: asyncio.Transport) -> None:
        if not transport.is_closing():
            transport.close()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(FAREWELL, self.abandon)

    def _check_handshake(self) -> None:
        if not self._h2.is_spoken_to:
            log.warning("connection.silent")
            self.abandon()
