"""Getting the caller's token, which it gives as its password, out of plugins made to hide passwords.

Under TLS the client is asked for full authentication (`caching_sha2_password`), which it answers with the password
as it is. Without TLS it is asked by `mysql_clear_password` where the way is protected otherwise, or for the password
under our RSA key, whose size bounds it. Where neither may be, nothing is asked: some clients would send the password
in the clear at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from cryptography.hazmat.primitives.asymmetric import rsa

from extproc.domain.errors import ProtocolError
from extproc.protocols.mysql.handshake import Response
from extproc.protocols.mysql.passwords import CACHING_SHA2, CLEAR, decrypt, public_pem

FULL_AUTHENTICATION = b"\x01\x04"
ASK_FOR_KEY = b"\x02"


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this payload and bring the answer."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """The token."""

    token: str = field(repr=False)


class _Expects(Enum):
    RESPONSE = "response"
    SCRAMBLE = "scramble"
    CLEAR = "clear"
    ENCRYPTED = "encrypted"


class ClientLogin:
    """One client's login. `under_tls` is TLS that the client knows of; `is_protected`, that clear text may come."""

    def __init__(
        self, nonce: bytes, *, under_tls: bool, is_protected: bool, rsa_key: rsa.RSAPrivateKey | None
    ) -> None:
        self._nonce = nonce
        self._under_tls = under_tls
        self._is_protected = is_protected or under_tls
        self._key = rsa_key
        self._expects = _Expects.RESPONSE

    def begin(self, response: Response, *, again: bool = False) -> Ask | Told:
        """Raises ProtocolError where the client may not say its token. `again`: it is logged in already, and waits to
        be told which plugin (COM_CHANGE_USER)."""
        if not self._is_protected and self._key is None:
            raise ProtocolError("tls-required", "this listener takes tokens under TLS alone")
        if response.plugin == CLEAR and self._is_protected and response.proof:
            return _told(response.proof)
        if self._under_tls or self._key is not None:
            if response.plugin == CACHING_SHA2 and not again:
                return self._full(response.proof)
            self._expects = _Expects.SCRAMBLE
            return Ask(b"\xfe" + CACHING_SHA2.encode() + b"\x00" + self._nonce + b"\x00")
        self._expects = _Expects.CLEAR
        return Ask(b"\xfe" + CLEAR.encode() + b"\x00")

    def receive(self, payload: bytes) -> Ask | Told:
        """The client's next answer. Raises ProtocolError."""
        if self._expects is _Expects.SCRAMBLE:
            return self._full(payload)
        if self._expects is _Expects.CLEAR:
            return _told(payload)
        key = self._key
        assert key is not None  # noqa: S101  (else it was not asked for it)
        if payload == ASK_FOR_KEY:
            return Ask(b"\x01" + public_pem(key))
        if len(payload) != key.key_size // 8:
            # a client that has no RSA and says the password as it is
            raise ProtocolError("tls-required", "the token must come under TLS or under the RSA key")
        try:
            return _told(decrypt(payload, self._nonce, key))
        except ValueError:
            raise ProtocolError("malformed-packet", "the token cannot be decrypted") from None

    def _full(self, proof: bytes) -> Ask | Told:
        if proof in (b"", b"\x00"):  # it has no password
            return Told("")
        self._expects = _Expects.CLEAR if self._under_tls else _Expects.ENCRYPTED
        return Ask(FULL_AUTHENTICATION)


def _told(password: bytes) -> Told:
    return Told(password.split(b"\x00", 1)[0].decode("utf-8", "replace"))
