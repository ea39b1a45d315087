"""What a client says first: startup, SSLRequest, GSSENCRequest or CancelRequest. None of them has a type byte."""

from __future__ import annotations

from dataclasses import dataclass, field

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres.events import BackendKey
from extproc.protocols.postgres.messages import (
    CANCEL_REQUEST,
    GSSENC_REQUEST,
    SSL_REQUEST,
    UINT32,
    cstring,
    malformed,
)

NEWEST_MINOR = 2
_OFF = frozenset({"", "0", "f", "fa", "fal", "fals", "false", "n", "no", "of", "off"})


@dataclass(frozen=True, slots=True)
class Startup:
    """`minor` is what the client asked for; `unknown` are `_pq_.` options, none of which exists yet."""

    minor: int
    user: str
    database: str
    parameters: dict[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def agreed_minor(self) -> int:
        """3.2 with those who ask for it or more, otherwise 3.0 (3.1 was never used)."""
        return NEWEST_MINOR if self.minor >= NEWEST_MINOR else 0


@dataclass(frozen=True, slots=True)
class EncryptionRequest:
    """SSLRequest or GSSENCRequest."""

    is_ssl: bool


Opening = Startup | BackendKey | EncryptionRequest


def parse_opening(packet: bytes) -> Opening:
    """`packet` with its length in front, which the caller has checked. Raises ProtocolError."""
    if len(packet) < 8:
        raise malformed("startup")
    (code,) = UINT32.unpack_from(packet, 4)
    if code in (SSL_REQUEST, GSSENC_REQUEST):
        if len(packet) != 8:
            raise malformed("encryption request")
        return EncryptionRequest(code == SSL_REQUEST)
    if code == CANCEL_REQUEST:
        # 4 bytes in protocol 3.0, 4 to 256 in 3.2 (CancelRequest)
        if not 16 <= len(packet) <= 12 + 256:
            raise malformed("CancelRequest")
        return BackendKey(UINT32.unpack_from(packet, 8)[0], packet[12:])
    if code >> 16 != 3:
        raise ProtocolError("unsupported-version", "only protocol version 3 is supported")
    return _startup(code & 0xFFFF, packet)


def _startup(minor: int, packet: bytes) -> Startup:
    given: dict[str, str] = {}
    unknown = []
    at = 8
    while at < len(packet) and packet[at] != 0:
        name_bytes, at = cstring(packet, at, "startup")
        value_bytes, at = cstring(packet, at, "startup")
        try:
            name, value = name_bytes.decode(), value_bytes.decode()
        except UnicodeDecodeError:
            raise malformed("startup") from None
        if name.startswith("_pq_."):
            unknown.append(name)
            continue
        if name in given:  # two readers could pick different ones
            raise ProtocolError("duplicate-parameter", "a startup parameter was given twice")
        given[name] = value
    if at + 1 != len(packet):
        raise malformed("startup")
    user = given.pop("user", "")
    if not user:
        raise ProtocolError("no-user", "no PostgreSQL user name in the startup message")
    if given.pop("replication", "").strip().lower() not in _OFF:
        raise ProtocolError("replication", "replication connections are not allowed here")
    return Startup(minor, user, given.pop("database", "") or user, given, tuple(unknown))
