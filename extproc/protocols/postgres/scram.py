"""The client's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677) as PostgreSQL speaks it.

The user name is empty: the server takes the one of the startup message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import stringprep
import unicodedata
from functools import lru_cache
from typing import Literal

from extproc.domain.errors import ProtocolError

MECHANISM = "SCRAM-SHA-256"
PLUS = "SCRAM-SHA-256-PLUS"
_GS2_HEADERS = {"n": "n,,", "y": "y,,", "p": "p=tls-server-end-point,,"}
_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


class ScramClient:
    """`first()`, then `final(server_first)`, then `check(server_final)`: the server must prove itself as well."""

    def __init__(
        self,
        password: str,
        nonce: str,
        most_iterations: int,
        flag: Literal["n", "y", "p"] = "n",
        end_point: bytes = b"",
    ) -> None:
        """`flag` is gs2-cbind-flag; with "p" the proof is bound to `end_point` (tls-server-end-point)."""
        if not nonce or "," in nonce or not nonce.isascii() or not nonce.isprintable():
            raise ValueError("a SCRAM nonce is printable ASCII without a comma")
        self._password = password
        self._nonce = nonce
        self._most = most_iterations
        self._header = _GS2_HEADERS[flag]
        self._binding = base64.b64encode(self._header.encode() + end_point).decode()
        self._bare = f"n=,r={nonce}"
        self._server_signature = b""

    def first(self) -> bytes:
        """client-first-message"""
        return (self._header + self._bare).encode()

    def final(self, server_first: bytes) -> bytes:
        """client-final-message for `r=…,s=…,i=…`. Raises ProtocolError for a server that does not play fair."""
        try:
            text = server_first.decode("ascii")
            nonce, salt, iterations = (
                part.removeprefix(name)
                for part, name in zip(text.split(","), ("r=", "s=", "i="), strict=True)
            )
            if not (text.startswith("r=") and ",s=" in text and ",i=" in text):
                raise ValueError
            salt_bytes = base64.b64decode(salt, validate=True)
            count = int(iterations)
        except (ValueError, binascii.Error):
            raise ProtocolError("upstream-login", "the server's SCRAM message is malformed") from None
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ProtocolError("upstream-login", "the server's SCRAM nonce does not continue ours")
        if not 1 <= count <= self._most:
            raise ProtocolError("upstream-login", "the server asks for too many SCRAM iterations")
        client_key, server_key = _keys(self._password, salt_bytes, count)
        without_proof = f"c={self._binding},r={nonce}"
        message = f"{self._bare},{text},{without_proof}".encode()
        signature = _hmac(hashlib.sha256(client_key).digest(), message)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._server_signature = _hmac(server_key, message)
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def check(self, server_final: bytes) -> None:
        """Raises ProtocolError unless `v=…` proves that the server knows the password too."""
        expected = b"v=" + base64.b64encode(self._server_signature)
        if not self._server_signature or not hmac.compare_digest(server_final, expected):
            raise ProtocolError("upstream-login", "the server did not prove that it knows the password")


@lru_cache(maxsize=128)
def _keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """ClientKey and ServerKey: costly, and the same for every login with one stored password."""
    salted = hashlib.pbkdf2_hmac("sha256", normalise(password), salt, iterations)
    return _hmac(salted, b"Client Key"), _hmac(salted, b"Server Key")


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def normalise(password: str) -> bytes:
    """SASLprep (RFC 4013); what it prohibits is taken as it is, as the server does (pg_saslprep)."""
    if password.isascii():
        return password.encode()
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in password
        if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    randal = [stringprep.in_table_d1(char) for char in prepared]
    bad = not prepared or any(check(char) for char in prepared for check in _PROHIBITED)
    if any(randal) and (
        any(stringprep.in_table_d2(char) for char in prepared) or not (randal[0] and randal[-1])
    ):
        bad = True
    return (password if bad else prepared).encode()


def md5_response(user: str, password: str, salt: bytes) -> bytes:
    """AuthenticationMD5Password: `md5` and md5(md5(password + user) + salt) in hex."""
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()
