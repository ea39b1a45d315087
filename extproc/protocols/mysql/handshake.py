"""The two openings: the server's greeting (version 10) and the client's answer (HandshakeResponse41)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from extproc.domain.errors import ProtocolError
from extproc.protocols.mysql.capabilities import (
    CONNECT_ATTRS,
    CONNECT_WITH_DB,
    GOVERNED,
    NEEDED_OF_CLIENT,
    NEEDED_OF_SERVER,
    OWN,
    PLUGIN_AUTH,
    PLUGIN_AUTH_LENENC,
    SSL,
)
from extproc.protocols.mysql.values import (
    lenenc_bytes,
    malformed,
    read_bytes,
    read_cstring,
    read_int,
    read_lenenc_bytes,
)

NONCE_BYTES = 20
SSL_REQUEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server says first."""

    version: bytes
    thread: int
    nonce: bytes = field(repr=False)
    capabilities: int
    charset: int
    status: int
    plugin: str

    @property
    def offered(self) -> int:
        """What we let client and server agree on."""
        return self.capabilities & GOVERNED


def parse_greeting(payload: bytes) -> Greeting:
    """Raises ProtocolError for another version and for a server that cannot do what we need."""
    what = "greeting"
    if payload[:1] != b"\x0a":
        raise ProtocolError("unsupported-version", "the server does not speak version 10 of the protocol")
    version, at = read_cstring(payload, 1, what)
    thread, at = read_int(payload, at, 4, what)
    nonce, at = read_bytes(payload, at, 8, what)
    low, at = read_int(payload, at + 1, 2, what)
    charset, at = read_int(payload, at, 1, what)
    status, at = read_int(payload, at, 2, what)
    high, at = read_int(payload, at, 2, what)
    capabilities = low | high << 16
    if capabilities & NEEDED_OF_SERVER != NEEDED_OF_SERVER:
        raise ProtocolError("unsupported-version", "the server is too old")
    size, at = read_int(payload, at, 1, what)
    _, at = read_bytes(payload, at, 10, what)
    rest, at = read_bytes(payload, at, max(13, size - 8), what)
    nonce = (nonce + rest)[:NONCE_BYTES]
    plugin = payload[at:].split(b"\x00", 1)[0]
    return Greeting(version, thread, nonce, capabilities, charset, status, plugin.decode("ascii", "replace"))


def build_greeting(greeting: Greeting, nonce: bytes, plugin: str, *, tls: bool) -> bytes:
    """The server's greeting as our clients see it. The reserved bytes, where MariaDB has capabilities of its own, are
    zero."""
    capabilities = (
        greeting.offered | CONNECT_WITH_DB | CONNECT_ATTRS | PLUGIN_AUTH_LENENC | (SSL if tls else 0)
    )
    return b"".join(
        (
            b"\x0a" + greeting.version + b"\x00",
            greeting.thread.to_bytes(4, "little"),
            nonce[:8] + b"\x00",
            (capabilities & 0xFFFF).to_bytes(2, "little"),
            bytes((greeting.charset,)),
            greeting.status.to_bytes(2, "little"),
            (capabilities >> 16).to_bytes(2, "little"),
            bytes((len(nonce) + 1,)),
            b"\x00" * 10,
            nonce[8:] + b"\x00",
            plugin.encode("ascii") + b"\x00",
        )
    )


@dataclass(frozen=True, slots=True)
class Response:
    """HandshakeResponse41. `capabilities` are what the client asked for, offered or not."""

    capabilities: int
    max_packet: int
    charset: int
    user: bytes
    proof: bytes = field(repr=False)
    database: bytes
    plugin: str
    attributes: Mapping[str, str]


def is_ssl_request(payload: bytes) -> bool:
    """The first half of a response, which asks for TLS before the rest (SSLRequest)."""
    return len(payload) == SSL_REQUEST_BYTES and int.from_bytes(payload[:4], "little") & SSL != 0


def parse_response(payload: bytes) -> Response:
    """Raises ProtocolError, also for a client that cannot do what we need."""
    what = "login"
    capabilities, at = read_int(payload, 0, 4, what)
    if capabilities & NEEDED_OF_CLIENT != NEEDED_OF_CLIENT:
        raise ProtocolError("unsupported-version", "the client is too old: it needs authentication plugins")
    max_packet, at = read_int(payload, at, 4, what)
    charset, at = read_int(payload, at, 1, what)
    _, at = read_bytes(payload, at, 23, what)
    user, at = read_cstring(payload, at, what)
    if capabilities & PLUGIN_AUTH_LENENC:
        proof, at = read_lenenc_bytes(payload, at, what)
    else:
        size, at = read_int(payload, at, 1, what)
        proof, at = read_bytes(payload, at, size, what)
    database = b""
    if capabilities & CONNECT_WITH_DB and at < len(payload):
        database, at = read_cstring(payload, at, what)
    plugin = b""
    if capabilities & PLUGIN_AUTH and at < len(payload):
        # some clients leave out the NUL at the very end
        end = payload.find(b"\x00", at)
        end = len(payload) if end < 0 else end
        plugin, at = payload[at:end], end + 1
    attributes: dict[str, str] = {}
    if capabilities & CONNECT_ATTRS and at < len(payload):
        block, at = read_lenenc_bytes(payload, at, what)
        attributes = _attributes(block)
    return Response(
        capabilities,
        max_packet,
        charset,
        user,
        proof,
        database,
        plugin.decode("ascii", "replace"),
        attributes,
    )


def parse_change_user(payload: bytes, capabilities: int) -> Response:
    """COM_CHANGE_USER under the capabilities agreed on: a login on a connection that had one. Raises ProtocolError."""
    what = "COM_CHANGE_USER"
    user, at = read_cstring(payload, 1, what)
    size, at = read_int(payload, at, 1, what)
    proof, at = read_bytes(payload, at, size, what)
    database, at = read_cstring(payload, at, what)
    charset, at = read_int(payload, at, 2, what)
    plugin = payload[at:].split(b"\x00", 1)[0]
    return Response(
        capabilities, 1 << 24, charset, user, proof, database, plugin.decode("ascii", "replace"), {}
    )


def build_change_user(login: Response) -> bytes:
    """Ours. It carries no proof: the server asks for one with a nonce of its own."""
    return b"".join(
        (
            b"\x11" + login.user + b"\x00\x00" + login.database + b"\x00",
            login.charset.to_bytes(2, "little") + login.plugin.encode("ascii") + b"\x00",
        )
    )


def _attributes(block: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(block):
        name, at = read_lenenc_bytes(block, at, "login")
        value, at = read_lenenc_bytes(block, at, "login")
        found[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return found


def build_opening(capabilities: int, max_packet: int, charset: int) -> bytes:
    """The first 32 bytes of a response: SSLRequest, if `capabilities` ask for TLS."""
    return (
        capabilities.to_bytes(4, "little")
        + max_packet.to_bytes(4, "little")
        + bytes((charset,))
        + b"\x00" * 23
    )


def build_response(response: Response) -> bytes:
    """Ours, towards the server. Attributes are not sent."""
    if response.capabilities & CONNECT_ATTRS:
        raise malformed("login")
    proof = response.proof
    return b"".join(
        (
            build_opening(response.capabilities, response.max_packet, response.charset),
            response.user + b"\x00",
            lenenc_bytes(proof)
            if response.capabilities & PLUGIN_AUTH_LENENC
            else bytes((len(proof),)) + proof,
            response.database + b"\x00" if response.capabilities & CONNECT_WITH_DB else b"",
            response.plugin.encode("ascii") + b"\x00",
        )
    )


def agreed(response: Response, greeting: Greeting) -> int:
    """The capabilities in force on both sides after the login: asked for, offered, and governed."""
    return response.capabilities & greeting.offered & ~OWN
