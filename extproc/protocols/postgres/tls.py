"""TLS with the client, ended here: ciphertext in, plaintext out, and back. The context comes from outside.

Stock Envoy cannot answer Postgres' SSLRequest; a client with `sslmode=require` can still be served this way.
"""

from __future__ import annotations

import ssl
from typing import Any

from extproc.domain.errors import ProtocolError

ALPN = "postgresql"
_PIECE = 65536


class ClientTls:
    """The server's side of one TLS connection over memory (`ssl.MemoryBIO`)."""

    def __init__(self, context: ssl.SSLContext, *, direct: bool) -> None:
        """`direct`: the client began with TLS instead of SSLRequest, and then has to name the protocol by ALPN."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._direct = direct
        self._shaken = False
        self._failed = False
        self._closed = False
        self.has_ended = False
        """The client said close_notify."""

    def receive(self, ciphertext: bytes) -> bytes:
        """The plaintext that these bytes complete. Raises ProtocolError("tls-failed")."""
        if self._failed or self.has_ended:
            return b""
        self._incoming.write(ciphertext)
        plain = []
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
                if self._direct and self._tls.selected_alpn_protocol() != ALPN:
                    raise ProtocolError("tls-failed", "direct TLS needs the ALPN protocol postgresql")
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
        except ssl.SSLError:
            self._failed = True
            raise ProtocolError("tls-failed", "the TLS connection with the client failed") from None
        return b"".join(plain)

    def send(self, plaintext: bytes) -> None:
        """Encrypt it; nothing while there is no TLS connection to send it on."""
        if plaintext and self._shaken and not self._failed:
            try:
                self._tls.write(plaintext)
            except ssl.SSLError:
                self._failed = True

    def close(self) -> None:
        """Say close_notify, once."""
        if self._shaken and not self._failed and not self._closed:
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
        return (self._tls.version() or "") if self._shaken else ""

    @property
    def peer_certificate(self) -> bytes | None:
        """The client's certificate (DER), verified by the context if it asks for one."""
        return self._tls.getpeercert(binary_form=True) if self._shaken else None

    @property
    def peer_uris(self) -> tuple[str, ...]:
        """URI names of the client's certificate; none unless the context verified it."""
        told = self._tls.getpeercert() if self._shaken else None  # empty where nothing was verified
        names: Any = (told or {}).get("subjectAltName", ())
        return tuple(value for kind, value in names if kind == "URI")
