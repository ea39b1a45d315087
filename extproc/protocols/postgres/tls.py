"""TLS as Postgres begins it: by SSLRequest, or directly with ALPN."""

from __future__ import annotations

import hashlib
import ssl

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from extproc.domain.errors import ProtocolError
from extproc.protocols import tls
from extproc.protocols.postgres.messages import SSL_REQUEST_PACKET

ALPN = "postgresql"


class ClientTls(tls.ClientTls):
    """The server's side of TLS with a client."""

    def __init__(self, context: ssl.SSLContext, *, direct: bool) -> None:
        """`direct`: the client began with TLS instead of SSLRequest, and then has to name the protocol by ALPN."""
        super().__init__(context)
        self._direct = direct

    def _shake(self) -> None:
        super()._shake()
        if self._direct and self._tls.selected_alpn_protocol() != ALPN:
            raise ProtocolError("tls-failed", "direct TLS needs the ALPN protocol postgresql")


class ServerTls(tls.ServerTls):
    """The client's side of TLS with the server, begun by SSLRequest."""

    def __init__(self, plan: tls.ServerTlsPlan) -> None:
        super().__init__(plan)
        self._asks = b""
        self._asked = False
        self._agreed = False

    def begin(self) -> None:
        """Ask the server for TLS (SSLRequest)."""
        self._asks, self._asked = SSL_REQUEST_PACKET, True

    def receive(self, ciphertext: bytes) -> bytes:
        """As of every TLS connection; before it begins the server answers one byte in the clear."""
        if not self._asked:
            raise ProtocolError("unexpected-message", "the server spoke before it was spoken to")
        if self._agreed:
            return super().receive(ciphertext)
        if not ciphertext:
            return b""
        if ciphertext[:1] != b"S":
            raise ProtocolError("upstream-tls-refused", "the database does not speak TLS")
        if len(ciphertext) > 1:  # it would be taken for something said under TLS (CVE-2021-23222)
            raise ProtocolError("upstream-tls-failed", "the database sent more before TLS began")
        self._agreed = True
        return super().receive(b"")

    def bytes_to_send(self) -> bytes:
        """SSLRequest, then what TLS has to say."""
        asks, self._asks = self._asks, b""
        return asks + super().bytes_to_send()

    @property
    def end_point(self) -> bytes | None:
        """What SCRAM is bound to: `tls-server-end-point` (RFC 5929, section 4.1); None where it is not defined."""
        certificate = self.peer_certificate
        return _end_point(certificate) if certificate is not None else None


def _end_point(certificate: bytes) -> bytes | None:
    """The certificate's hash by its own signature's algorithm, SHA-256 in place of MD5 and SHA-1."""
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None
    if algorithm is None:
        return None
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    try:
        return hashlib.new(name, certificate, usedforsecurity=True).digest()
    except ValueError:
        return None
