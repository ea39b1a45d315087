"""Logging in upstream: the answers to the server's Authentication messages."""

from __future__ import annotations

from typing import Literal

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres.limits import LoginMethod, UpstreamLogin
from extproc.protocols.postgres.messages import UINT32, build, build_startup, malformed
from extproc.protocols.postgres.scram import MECHANISM, PLUS, ScramClient, md5_response

_OK, _CLEARTEXT, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 3, 5, 10, 11, 12


class ServerLogin:
    """One login. `is_done` once the server said AuthenticationOk and, with SCRAM, proved itself."""

    def __init__(
        self, login: UpstreamLogin, minor: int, most_iterations: int, end_point: bytes | None = None
    ) -> None:
        """`end_point` is what SCRAM is bound to, where the server's certificate is known here."""
        self._end_point = end_point
        self._login = login
        self._minor = minor
        self._most_iterations = most_iterations
        self._scram: ScramClient | None = None
        self._used: LoginMethod = "trust"
        self._proven = True
        self._replied = False
        self.is_done = False

    def startup(self) -> bytes:
        """The startup message; names of other parameters than user and database come from the login."""
        given = [("user", self._login.user), ("database", self._login.database), *self._login.parameters]
        return build_startup(self._minor, given)

    def answer(self, body: bytes) -> bytes:
        """What to send for an Authentication message, possibly nothing. Raises ProtocolError."""
        if len(body) < 4:
            raise malformed("Authentication")
        (code,) = UINT32.unpack_from(body)
        rest = body[4:]
        if code == _OK:
            return self._ok(rest)
        if code in (_CLEARTEXT, _MD5, _SASL):
            if self._replied:
                raise ProtocolError("upstream-login", "the server asked for a second login")
            self._replied = True
        if code == _CLEARTEXT:
            self._use("password")
            return build(b"p", self._login.password.encode() + b"\x00")
        if code == _MD5:
            self._use("md5")
            if len(rest) != 4:
                raise malformed("AuthenticationMD5Password")
            return build(b"p", md5_response(self._login.user, self._login.password, rest) + b"\x00")
        if code == _SASL:
            return self._sasl(rest)
        if code == _SASL_CONTINUE and self._scram is not None:
            return build(b"p", self._scram.final(rest))
        if code == _SASL_FINAL and self._scram is not None:
            self._scram.check(rest)
            self._proven = True
            return b""
        raise ProtocolError("upstream-login", "the server asks for a way of logging in we do not have")

    def _sasl(self, mechanisms: bytes) -> bytes:
        offered = mechanisms.split(b"\x00")
        binding = self._end_point if PLUS.encode() in offered else None
        mechanism = (PLUS if binding is not None else MECHANISM).encode()
        if mechanism not in offered:
            raise ProtocolError("upstream-login", "the server offers no SASL mechanism that we know")
        self._use("scram-sha-256")
        # "y": we could bind it, the server says it cannot (RFC 5802, section 6); it will know if that was forged
        flag: Literal["n", "y", "p"] = (
            "p" if binding is not None else "y" if self._end_point is not None else "n"
        )
        self._scram = ScramClient(
            self._login.password, self._login.nonce, self._most_iterations, flag, binding or b""
        )
        self._proven = False
        first = self._scram.first()
        return build(b"p", mechanism + b"\x00" + UINT32.pack(len(first)) + first)

    def _ok(self, rest: bytes) -> bytes:
        if rest or self.is_done:
            raise malformed("AuthenticationOk")
        if not self._proven:
            raise ProtocolError("upstream-login", "the server skipped its part of SCRAM")
        if self._used not in self._login.methods:
            raise ProtocolError("upstream-login", "the server let us in without asking who we are")
        self.is_done = True
        return b""

    def _use(self, method: LoginMethod) -> None:
        if method not in self._login.methods:
            raise ProtocolError("upstream-login", f"the server asks for {method}, which is not allowed here")
        self._used = method
