"""What every database's connection has in common: TLS on either side that ends here, and what waits to be taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Generic, Protocol, TypeVar

from extproc.domain.errors import ProtocolError
from extproc.protocols.tls import ClientTls, ServerTls

Event = TypeVar("Event")


class Outlet(Protocol[Event]):
    """What both sides of a connection share, as far as this base reads it."""

    events: deque[Event]
    to_client: list[bytes]
    to_server: list[bytes]
    waiting: Any


class Connection(ABC, Generic[Event]):
    """Bytes in, events and bytes out. No I/O, no clock."""

    def __init__(self, outlet: Outlet[Event]) -> None:
        self._outlet = outlet
        self._tls: ClientTls | None = None
        self._server_tls: ServerTls | None = None
        self._clear: list[bytes] = []
        """What still has to go to the client before TLS begins, and to the server."""
        self._clear_to_server: list[bytes] = []

    # what differs

    @property
    @abstractmethod
    def has_ended(self) -> bool:
        """`Ended` was raised."""

    @abstractmethod
    def _receive_plain(self, data: bytes) -> None:
        """The client's bytes, out of TLS where there is some. Raises ProtocolError."""

    @abstractmethod
    def _client_end(self) -> None:
        """The client will send no more."""

    @abstractmethod
    def _fail(self, error: ProtocolError) -> None:
        """End the connection, with an error for the client where one can be said."""

    # what does not

    def receive_from_client(self, data: bytes, end: bool = False) -> None:
        """Bytes of the client; `end` when it will send no more (its close looks the same)."""
        if self.has_ended:
            return
        try:
            if self._tls is not None:
                data = self._tls.receive(data)
                end = end or self._tls.has_ended
            self._receive_plain(data)
        except ProtocolError as error:
            self._fail(error)
        if end:
            self._client_end()

    def next_event(self) -> Event | None:
        """The oldest event not yet taken."""
        events = self._outlet.events
        return events.popleft() if events else None

    def bytes_to_client(self) -> bytes:
        """What to send to the client now. Taking it empties it."""
        return self._taken(self._tls, self._clear, self._outlet.to_client)

    def bytes_to_server(self) -> bytes:
        """What to send to the server now. Taking it empties it."""
        return self._taken(self._server_tls, self._clear_to_server, self._outlet.to_server)

    def _taken(self, tls: ClientTls | ServerTls | None, clear: list[bytes], plain: list[bytes]) -> bytes:
        if tls is None:
            return _drain(plain)
        tls.send(_drain(plain))
        if self.has_ended:
            tls.close()
        return _drain(clear) + tls.bytes_to_send()

    def _begin_tls(self, tls: ClientTls, early: bytes) -> bytes:
        """What was said so far goes out in the clear; `early` is the client's first under TLS. Gives its plaintext."""
        self._clear.extend(self._outlet.to_client)
        self._outlet.to_client.clear()
        self._tls = tls
        return tls.receive(early)

    @property
    def peer_certificate(self) -> bytes | None:
        """The client's certificate (DER) where TLS ended here and the context verified one."""
        return self._tls.peer_certificate if self._tls is not None else None

    @property
    def peer_uris(self) -> tuple[str, ...]:
        """URI names in the client's certificate, where TLS ended here and the context verified one."""
        return self._tls.peer_uris if self._tls is not None else ()

    @property
    def waiting_for(self) -> int | None:
        """The id of the statement that waits for an answer, if one does."""
        waiting = self._outlet.waiting
        return waiting.id if waiting is not None else None


def _drain(parts: list[bytes]) -> bytes:
    if not parts:
        return b""
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    parts.clear()
    return data
