"""PROXY protocol version 2 as Envoy writes it: where a connection comes from, before its first byte.

The specification is HAProxy's "The PROXY protocol", section 2.2. Read strictly: what it does not know is an error.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from extproc.domain.errors import ProtocolError

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL_HEADER = SIGNATURE + b"\x20\x00\x00\x00"
"""Of a connection that the proxy makes for itself."""
LARGEST = 8 << 10
"""Bytes after the first sixteen. Addresses are 216 at most; a URI in a certificate is the only long thing behind."""
_FIXED = 16
_LOCAL, _PROXY = 0x20, 0x21
_ADDRESSES = {0x11: 12, 0x21: 36}
"""TCP over IPv4 and over IPv6, and how many bytes their two addresses take."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Who connected. `is_local` is the proxy itself (a health check): it speaks for nobody."""

    is_local: bool
    source: str = ""
    """`address:port` of the caller."""
    values: dict[int, bytes] = field(default_factory=dict)
    """Type-length-values by their type; each type at most once."""


class ProxyHeaderReader:
    """Takes the bytes of a new connection until its header is whole."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = b""

    def receive(self, data: bytes) -> tuple[ProxyHeader, bytes] | None:
        """The header and what came behind it, or None while it is not whole. Raises ProtocolError."""
        held = self._bytes = self._bytes + data
        if held[:12] != SIGNATURE[: len(held)]:
            raise ProtocolError("proxy-header", "the connection does not begin with a PROXY header")
        if len(held) < _FIXED:
            return None
        size = int.from_bytes(held[14:16], "big")
        if size > LARGEST:
            raise ProtocolError("proxy-header", "the PROXY header is too long")
        if held[12] not in (_LOCAL, _PROXY):
            raise ProtocolError("proxy-header", "the PROXY header has another version or command")
        if len(held) < _FIXED + size:
            return None
        self._bytes = b""
        body = held[_FIXED : _FIXED + size]
        return _parse(held[12] == _LOCAL, held[13], body), held[_FIXED + size :]


def _parse(is_local: bool, family: int, body: bytes) -> ProxyHeader:
    if is_local:  # a receiver must take the connection as its own and skip the rest (section 2.2)
        return ProxyHeader(True)
    length = _ADDRESSES.get(family)
    if length is None:
        raise ProtocolError("proxy-header", "the PROXY header is of no TCP connection")
    if len(body) < length:
        raise ProtocolError("proxy-header", "the PROXY header lacks its addresses")
    half = (length - 4) // 2
    host = ipaddress.ip_address(body[:half])
    port = int.from_bytes(body[2 * half : 2 * half + 2], "big")
    source = f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"
    return ProxyHeader(False, source, _values(body, length))


def _values(body: bytes, at: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at < len(body):
        end = at + 3 + int.from_bytes(body[at + 1 : at + 3], "big")
        if at + 3 > len(body) or end > len(body):
            raise ProtocolError("proxy-header", "a value of the PROXY header is longer than the header")
        if body[at] in found:
            raise ProtocolError("proxy-header", "the PROXY header says something twice")
        found[body[at]] = body[at + 3 : end]
        at = end
    return found
