"""Our login at the server, in the place of the caller's."""

from __future__ import annotations

from extproc.domain.errors import ProtocolError
from extproc.protocols.mysql.capabilities import CONNECT_WITH_DB, PLUGIN_AUTH, PLUGIN_AUTH_LENENC, SSL
from extproc.protocols.mysql.handshake import (
    Greeting,
    Response,
    build_change_user,
    build_opening,
    build_response,
)
from extproc.protocols.mysql.limits import UpstreamLogin
from extproc.protocols.mysql.passwords import (
    CACHING_SHA2,
    ED25519,
    NATIVE,
    caching_sha2,
    ed25519,
    encrypt,
    native,
)
from extproc.protocols.mysql.replies import parse_error

UNPROTECTED = frozenset({CACHING_SHA2, ED25519})
"""Plugins that show a listener on the way nothing that it could use."""
PROTECTED = UNPROTECTED | {NATIVE}
PROOFS = {NATIVE: native, CACHING_SHA2: caching_sha2, ED25519: ed25519}
NONCES = {NATIVE: 20, CACHING_SHA2: 20, ED25519: 32}
"""Bytes of what the server gives to be proven with."""
MOST_STEPS = 8


class LoginFailedError(Exception):
    """The server turned us away. `code` is its error."""

    def __init__(self, code: int, sqlstate: str) -> None:
        super().__init__(code)
        self.code = code
        self.sqlstate = sqlstate


class ServerLogin:
    """From the server's greeting to its OK. Raises ProtocolError for what may not be, LoginFailedError."""

    def __init__(
        self, login: UpstreamLogin, greeting: Greeting, *, capabilities: int, charset: int, tls: bool
    ) -> None:
        """`capabilities` are those agreed on with the client; `tls`: the rest is said under TLS."""
        self._login = login
        self._password = login.password.encode()
        self._nonce = greeting.nonce
        self._allowed = PROTECTED if login.protected else UNPROTECTED
        fits = greeting.plugin in self._allowed and len(greeting.nonce) == NONCES[greeting.plugin]
        self._plugin = greeting.plugin if fits else CACHING_SHA2
        self._charset = charset
        self._awaits_key = False
        self._steps = 0
        self.has_begun = False
        """Our response was said."""
        offered = greeting.capabilities
        self._capabilities = (
            capabilities
            | PLUGIN_AUTH
            | (offered & PLUGIN_AUTH_LENENC)
            | (CONNECT_WITH_DB if login.database else 0)
            | (SSL if tls else 0)
        )

    def ssl_request(self) -> bytes:
        """The payload that asks for TLS."""
        return build_opening(self._capabilities, 1 << 24, self._charset)

    def opening(self) -> bytes:
        """The payload of our HandshakeResponse41."""
        return build_response(self._response(self._proof()))

    def _response(self, proof: bytes) -> Response:
        return Response(
            capabilities=self._capabilities,
            max_packet=1 << 24,
            charset=self._charset,
            user=self._login.user.encode(),
            proof=proof,
            database=self._login.database.encode(),
            plugin=self._plugin,
            attributes={},
        )

    def change_user(self) -> bytes:
        """The payload of our COM_CHANGE_USER."""
        return build_change_user(self._response(b""))

    def _proof(self) -> bytes:
        return PROOFS[self._plugin](self._password, self._nonce)

    def receive(self, payload: bytes) -> list[bytes] | None:
        """The payloads to answer with, none for nothing yet; None when the server let us in with this OK."""
        self._steps += 1
        if not payload or self._steps > MOST_STEPS:
            raise ProtocolError("upstream-login", "the database's login goes on and on")
        kind = payload[0]
        if kind == 0x00:
            return None
        if kind == 0xFF:
            code, sqlstate, _ = parse_error(payload)
            raise LoginFailedError(code, sqlstate)
        if kind == 0xFE:
            return self._switch(payload)
        if kind == 0x01 and self._plugin == CACHING_SHA2:
            return self._more(payload[1:])
        raise ProtocolError("upstream-login", "the database's login cannot be followed")

    def _switch(self, payload: bytes) -> list[bytes]:
        name, _, nonce = payload[1:].partition(b"\x00")
        plugin = name.decode("ascii", "replace")
        if plugin not in PROTECTED:
            raise ProtocolError(
                "upstream-login", "the database asks for the password in a way that is not supported"
            )
        if plugin not in self._allowed:
            raise ProtocolError(
                "upstream-login", f"{plugin} needs TLS or a unix socket on the way to the database"
            )
        self._plugin = plugin
        self._nonce = nonce[: NONCES[plugin]]
        return [self._proof()]

    def _more(self, data: bytes) -> list[bytes]:
        if data == b"\x03":  # what it had cached fits; OK follows
            return []
        if data == b"\x04":  # it wants the password itself
            if self._login.protected:  # TLS, or a unix socket, which servers take for safe as well
                return [self._password + b"\x00"]
            self._awaits_key = True
            return [b"\x02"]
        if self._awaits_key:
            self._awaits_key = False
            return [encrypt(self._password, self._nonce, data)]
        raise ProtocolError("upstream-login", "the database's login cannot be followed")
