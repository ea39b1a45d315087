"""TLS that ends here: ciphertext in, plaintext out, and back. Contexts come from outside.

Stock Envoy cannot begin TLS in the middle of a protocol: a client that asks for it there, and a server that wants it,
can still be served this way.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from extproc.domain.errors import ProtocolError

_PIECE = 65536


class Tls(ABC):
    """One TLS connection over memory (`ssl.MemoryBIO`)."""

    peer = ""

    def __init__(self, context: ssl.SSLContext, server_name: str | None) -> None:
        """A `server_name` makes it the client's side."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
        )
        self._failed = False
        self._closed = False
        self.is_open = False
        """The handshake is done."""
        self.has_ended = False
        """The peer said close_notify."""

    def receive(self, ciphertext: bytes) -> bytes:
        """The plaintext that these bytes complete. Raises ProtocolError."""
        if self._failed or self.has_ended:
            return b""
        self._incoming.write(ciphertext)
        plain = []
        try:
            if not self.is_open:
                self._shake()
            while True:
                piece = self._tls.read(_PIECE)
                if not piece:
                    self.has_ended = True
                    break
                plain.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.has_ended = True
        except ssl.SSLError as error:
            self._failed = True
            raise self._failure(error) from None
        return b"".join(plain)

    def send(self, plaintext: bytes) -> None:
        """Encrypt it; nothing while there is no TLS connection to send it on."""
        if plaintext and self.is_open and not self._failed:
            try:
                self._tls.write(plaintext)
            except ssl.SSLError:
                self._failed = True

    def close(self) -> None:
        """Say close_notify, once."""
        if self.is_open and not self._failed and not self._closed:
            self._closed = True
            try:
                self._tls.unwrap()
            except ssl.SSLError:  # the peer's own close_notify need not be waited for
                pass

    def bytes_to_send(self) -> bytes:
        """Handshake, records, alerts."""
        return self._outgoing.read()

    @property
    def version(self) -> str:
        """`TLSv1.3`, or empty before the handshake is done."""
        return (self._tls.version() or "") if self.is_open else ""

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's certificate (DER), verified by the context if it asks for one."""
        return self._tls.getpeercert(binary_form=True) if self.is_open else None

    def _shake(self) -> None:
        self._tls.do_handshake()
        self.is_open = True

    @abstractmethod
    def _failure(self, error: ssl.SSLError) -> ProtocolError:
        """What broke it, in words that quote nothing of the peer."""


class ClientTls(Tls):
    """The server's side of TLS with a client."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context, None)

    @property
    def peer_uris(self) -> tuple[str, ...]:
        """URI names of the client's certificate; none unless the context verified it."""
        told = self._tls.getpeercert() if self.is_open else None  # empty where nothing was verified
        names: Any = (told or {}).get("subjectAltName", ())
        return tuple(value for kind, value in names if kind == "URI")

    def _failure(self, error: ssl.SSLError) -> ProtocolError:
        return ProtocolError("tls-failed", "the TLS connection with the client failed")


@dataclass(frozen=True, slots=True)
class ServerTlsPlan:
    """How to prove a server: `context` has the authorities, `server_name` is what its certificate must carry."""

    context: ssl.SSLContext = field(repr=False)
    server_name: str


class ServerTls(Tls):
    """The client's side of TLS with a server."""

    def __init__(self, plan: ServerTlsPlan) -> None:
        super().__init__(plan.context, plan.server_name)

    def _failure(self, error: ssl.SSLError) -> ProtocolError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return ProtocolError("upstream-tls-unverified", "the database did not prove who it is")
        return ProtocolError("upstream-tls-failed", "the TLS connection with the database failed")
