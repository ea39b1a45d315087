"""TLS by a filter in front of us: Envoy's contrib `postgres_proxy` with a `starttls` socket.

It answers the client's SSLRequest itself, so none ever comes here. With TLS to the server it sends an SSLRequest of
its own through us before the startup message, and waits for exactly one byte (PostgreSQL, SSL Session Encryption).
"""

from __future__ import annotations

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres.messages import SSL_REQUEST_PACKET
from extproc.protocols.postgres.startup import EncryptionRequest


class FrontFilter:
    """What of the opening is the filter's own."""

    __slots__ = ("_asked", "_asks_server")

    def __init__(self, *, asks_server: bool) -> None:
        self._asks_server = asks_server
        self._asked = False

    def request(self, opening: EncryptionRequest) -> bytes:
        """The bytes to pass on to the server. Raises ProtocolError for what is the client's: the filter must have
        answered that, and whatever made it not do so would let the token come in the clear."""
        if not self._asks_server or self._asked or not opening.is_ssl:
            raise ProtocolError(
                "tls-required", "this connection needs TLS (sslmode=require, gssencmode=disable)"
            )
        self._asked = True
        return SSL_REQUEST_PACKET

    def answer(self, data: bytes) -> bytes:
        """The server's byte, to pass on. Raises ProtocolError for more than one: it was said before TLS began."""
        if len(data) != 1:
            raise ProtocolError("upstream-tls-failed", "the server said more before TLS began")
        return data

    def check_started(self) -> None:
        """A login begins. Raises ProtocolError where the way to the server is not encrypted as it must be."""
        if self._asks_server and not self._asked:
            raise ProtocolError("upstream-tls-failed", "nothing in front asked the server for TLS")
