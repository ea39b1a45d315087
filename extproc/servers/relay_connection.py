"""One connection of the relay: Envoy's side, the database's side, and a `Conversation` between them.

Everything happens in the read callbacks: decide, write the ledger once, write the sockets (DESIGN: order of writes).
A side that does not read stops the other from being read, so nothing piles up here. The database is dialled when there
is first something to say to it: whoever is not let in never causes a connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Protocol, cast

import structlog

from extproc.domain.errors import LedgerUnavailableError, ProtocolError
from extproc.domain.relay import ABSENT, PING, PONG, TLV_CERTIFICATE, TLV_LISTENER, TLV_PEER, TLV_TARGET
from extproc.domain.request import Source
from extproc.protocols.proxy_header import ProxyHeader, ProxyHeaderReader
from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.network_ext_proc import Conversation, Opener, Output, Posted
from extproc.servers.peer_gate import peer_uid
from extproc.servers.service import Service
from extproc.servers.upstreams import Upstream

log = structlog.get_logger()

WRITE_BUFFER = 256 << 10
"""Bytes that one side has not taken from us before we stop reading the other."""
HEADER_TIME = 10.0
"""Seconds for the PROXY header to come."""
LOGIN_TIME = 60.0
"""Seconds for a caller to be let in, so that the database is dialled; what then is too slow the database ends."""
FAREWELL = 3.0
"""Seconds for the last bytes to leave, and for the peers to close."""


class Relay(Protocol):
    """What a connection needs to know of the server that accepted it."""

    service: Service
    opener: Opener
    upstreams: Mapping[str, Upstream]
    uids: frozenset[int]
    is_healthy: bool

    def joined(self, connection: RelayConnection) -> None: ...

    def left(self, connection: RelayConnection) -> None: ...


class RelayConnection(asyncio.Protocol):
    """Envoy's side, which owns the other."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._service = relay.service
        self._loop = asyncio.get_running_loop()
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._header: ProxyHeaderReader | None = ProxyHeaderReader()
        self._is_health_check = False
        self._conversation: Conversation | None = None
        self._upstream: Upstream | None = None
        self._target = ""
        self._dialling: asyncio.Task[None] | None = None
        self._to_server: list[bytes] = []
        """What is to be said once the database is reached."""
        self._end_server = False
        self._server_ended = False
        self._client_paused = False
        self._client_ended = False
        self._closing = False
        """Nothing that comes any more goes anywhere."""
        self._timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ asyncio.Protocol: Envoy's side

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, made)  # uvloop's are no subclass of it
        sock: socket.socket = transport.get_extra_info("socket")
        uid = peer_uid(sock)
        if uid not in self._relay.uids:
            log.warning("peer.refused", uid=uid)
            transport.abort()
            return
        self._client = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._relay.joined(self)
        self._timer = self._loop.call_later(HEADER_TIME, self.abandon)

    def data_received(self, data: bytes) -> None:
        if self._closing or self._client is None:
            return
        try:
            conversation = self._conversation
            if conversation is not None:
                self._post(conversation.client_data(data, False))
            elif self._header is not None:
                self._read_header(data)
            elif self._is_health_check:
                self._answer_health(data)
        except Exception as error:
            self._failed(error)

    def eof_received(self) -> bool:
        """The caller will say no more; it may still listen, so the transport stays."""
        conversation = self._conversation
        if conversation is None or self._closing:
            return False
        self._client_ended = True
        try:
            self._post(conversation.client_data(b"", True))
        except Exception as error:
            self._failed(error)
        return True

    def pause_writing(self) -> None:
        """The caller does not read: stop reading what the database says."""
        self._client_paused = True
        if self._server is not None:
            self._server.pause_reading()

    def resume_writing(self) -> None:
        self._client_paused = False
        if self._server is not None:
            self._server.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._client is None:
            return
        self._client = None
        self._stop_timer()
        self._over("cancelled")
        self._conversation = (
            None  # which knows us: what nobody needs any more is freed now, not by the collector
        )
        self._relay.left(self)

    # ------------------------------------------------------------------ the database's side

    def server_data(self, data: bytes) -> None:
        conversation = self._conversation
        if self._closing or conversation is None:
            return
        try:
            self._post(conversation.server_data(data, False))
        except Exception as error:
            self._failed(error)

    def server_ended(self) -> None:
        """It will say no more, or could not be reached."""
        conversation = self._conversation
        if self._closing or self._server_ended or conversation is None:
            return
        self._server_ended = True
        try:
            self._post(conversation.server_data(b"", True))
        except Exception as error:
            self._failed(error)

    def server_lost(self) -> None:
        """The connection to it is gone."""
        self._server = None
        self.server_ended()

    def pause_client(self) -> None:
        """The database does not read: stop reading what the caller says."""
        if self._client is not None and not self._closing:
            self._client.pause_reading()

    def resume_client(self) -> None:
        if self._client is not None and not self._closing:
            self._client.resume_reading()

    # ------------------------------------------------------------------ for the relay

    @property
    def is_session(self) -> bool:
        """A caller and a database, not a health check."""
        return self._conversation is not None

    def go_away(self, *, at_once: bool) -> None:
        """We are about to stop: end as soon as nothing runs here, or now."""
        if self._conversation is None:
            self.abandon()
        elif not self._closing:
            self._conversation.go_away(at_once=at_once)

    def abandon(self) -> None:
        """Close at once, whatever is still to be said."""
        if self._client is not None:
            self._client.abort()

    # ------------------------------------------------------------------ the beginning

    def _read_header(self, data: bytes) -> None:
        assert self._header is not None  # noqa: S101
        try:
            found = self._header.receive(data)
        except ProtocolError as error:
            log.warning("relay.refused", reason=error.message)
            self.abandon()
            return
        if found is None:
            return
        self._header = None
        self._stop_timer()
        header, rest = found
        if header.is_local:
            self._is_health_check = True
            self._answer_health(rest)
            return
        self._target = header.values.get(TLV_TARGET, b"").decode("ascii", "replace")
        listener = header.values.get(TLV_LISTENER, b"").decode("ascii", "replace")
        self._upstream = self._relay.upstreams.get(self._target)
        if self._upstream is not None:
            self._conversation = self._relay.opener(
                self._service, CallMetadata(self._target, listener=listener), _source(header), self._later
            )
        if self._conversation is None:
            log.warning("connection.without_target", target=self._target[:64])
            self.abandon()
        else:
            self._timer = self._loop.call_later(LOGIN_TIME, self._look_whether_dialled)
            self._post(self._conversation.opened())
            if rest:
                self._post(self._conversation.client_data(rest, False))

    def _look_whether_dialled(self) -> None:
        if self._server is None and self._dialling is None:
            self.abandon()

    def _answer_health(self, data: bytes) -> None:
        assert self._client is not None  # noqa: S101
        whole, rest = divmod(len(data), len(PING))
        if rest or data != PING * whole or not self._relay.is_healthy:
            self.abandon()
        elif whole:
            self._client.write(PONG * whole)

    # ------------------------------------------------------------------ outputs

    def _later(self, output: Output) -> None:
        """What a conversation says by itself: an approval came, a notice is due."""
        if self._closing or self._client is None:
            self._service.note(output.records)
            return
        self._post(output)

    def _post(self, output: Output) -> None:
        records = output.records
        if not records:
            self.carry_out(output)
            return
        service = self._service
        try:
            for record in records:
                service.ledger.append(record)
        except LedgerUnavailableError:
            self.unrecorded()
            return
        service.post(Posted(self, output))
        service.flush()

    def carry_out(self, output: Output) -> None:
        """Send what was decided; its records are written."""
        if self._closing or self._client is None:
            return
        if output.to_client:
            self._client.write(output.to_client)
        if output.to_server:
            self._say_to_server(output.to_server)
        elif output.reach_server:
            self._reach_server()
        if output.close:
            self._close("closed")
            return
        if output.end_server:
            self._end_server = True
            if self._server is None and self._dialling is None:  # nobody there who could hear it
                self._loop.call_soon(self.server_ended)
            self._hand_on_end()
        if output.end_client:
            self._client.write_eof()

    def unrecorded(self) -> None:
        """What this connection decided could not be written down, so none of it happens."""
        if self._closing or self._client is None:
            return
        if self._conversation is not None:
            self._client.write(self._conversation.unrecorded())
        self._to_server.clear()
        self._close("closed")

    def _say_to_server(self, data: bytes) -> None:
        if self._server is not None:
            self._server.write(data)
            return
        self._to_server.append(data)
        self._reach_server()

    def _reach_server(self) -> None:
        if self._server is None and self._dialling is None and not self._server_ended:
            self._dialling = self._service.spawn(self._dial())

    async def _dial(self) -> None:
        upstream = self._upstream
        assert upstream is not None  # noqa: S101  (set before anything is said)
        try:
            server = await upstream.dial(lambda: ServerSide(self))
        except (OSError, ProtocolError, TimeoutError) as error:
            log.warning("upstream.unreachable", target=self._target, error=type(error).__name__)
            self._to_server.clear()
            self.server_ended()
            self._finish_closing()
            return
        finally:
            self._dialling = None
        self._server = server
        server.set_write_buffer_limits(high=WRITE_BUFFER)
        if self._client is None and not self._to_server:
            server.abort()
            return
        server.writelines(self._to_server)
        self._to_server.clear()
        if self._closing:
            self._finish_closing()
            return
        if self._client_paused:
            server.pause_reading()
        self._hand_on_end()

    def _hand_on_end(self) -> None:
        """Half close. Under TLS there is none: Terminate, which was sent before, ends the session there."""
        server = self._server
        if self._end_server and server is not None and server.can_write_eof() and not server.is_closing():
            server.write_eof()

    # ------------------------------------------------------------------ the end

    def _close(self, reason: str) -> None:
        """The last bytes are written. The caller hears the end, and gets a while to go."""
        self._closing = True
        if self._conversation is not None:
            self._service.note(self._conversation.gone(reason))
        self._finish_closing()
        client = self._client
        if client is None:
            return
        self._stop_timer()
        if self._client_ended:
            client.close()
        else:  # closing with bytes unread would reset the connection and could lose what we said last
            client.resume_reading()
            client.write_eof()
        self._timer = self._loop.call_later(FAREWELL, self.abandon)

    def _finish_closing(self) -> None:
        server = self._server
        if self._closing and server is not None and not server.is_closing():
            server.close()
            self._loop.call_later(FAREWELL, server.abort)

    def _over(self, reason: str) -> None:
        """Envoy is gone: nothing can be said to the caller any more."""
        if not self._closing:
            self._closing = True
            if self._conversation is not None:
                self._service.note(self._conversation.gone(reason))
            self._to_server.clear()
        if self._dialling is not None and not self._to_server:
            self._dialling.cancel()
        self._finish_closing()

    def _failed(self, error: Exception) -> None:
        """Our own fault: both connections end, nothing more goes anywhere."""
        log.error("conversation.failed", error=type(error).__name__, exc_info=error)
        self._over("internal error")
        if self._server is not None:
            self._server.abort()
        self.abandon()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ServerSide(asyncio.Protocol):
    """What the database says, for the connection that dialled it."""

    def __init__(self, connection: RelayConnection) -> None:
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        self._connection.server_data(data)

    def pause_writing(self) -> None:
        self._connection.pause_client()

    def resume_writing(self) -> None:
        self._connection.resume_client()

    def eof_received(self) -> bool:
        """Under TLS the answer is ignored, and the transport closes."""
        self._connection.server_ended()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.server_lost()


def _source(header: ProxyHeader) -> Source:
    peer = header.values.get(TLV_PEER, ABSENT)
    # several names would be joined by commas: which of them the caller is, nobody can say
    is_one = peer != ABSENT and b"," not in peer
    return Source(
        address=header.source,
        mtls=header.values.get(TLV_CERTIFICATE, ABSENT) not in (ABSENT, b""),
        peer_uri_san=peer.decode("utf-8", "replace") if is_one else "",
    )
