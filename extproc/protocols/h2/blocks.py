"""Header blocks a gRPC server sends, as static bytes: nothing here uses HPACK's dynamic table.

So a block is the same on every connection and for every stream (RFC 7541 section 6.2.2: literals without indexing).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

OK, CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 1, 3, 4, 5
PERMISSION_DENIED, RESOURCE_EXHAUSTED = 7, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14
"""gRPC status codes in use here."""

TABLE_SIZE_ZERO: Final = b"\x20"
"""The first block we send says that our dynamic table has size 0, whatever the peer allows (section 6.3)."""

_STATUS_200: Final = b"\x88"
_STATUS_INDEX: Final = 8
_CONTENT_TYPE_INDEX: Final = 31


def _string(value: bytes) -> bytes:
    """A string literal without Huffman code (RFC 7541 section 5.2)."""
    return _integer(len(value), 7, 0) + value


def _integer(value: int, prefix_bits: int, first: int) -> bytes:
    """RFC 7541 section 5.1."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([first | value])
    out = bytearray([first | most])
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _indexed_name(index: int, value: bytes) -> bytes:
    return _integer(index, 4, 0) + _string(value)


def _field(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _string(name) + _string(value)


RESPONSE: Final = _STATUS_200 + _indexed_name(_CONTENT_TYPE_INDEX, b"application/grpc")
TRAILERS_OK: Final = _field(b"grpc-status", b"0")
_ACCEPT: Final = _field(b"grpc-accept-encoding", b"identity")


@lru_cache(maxsize=256)
def trailers(status: int, message: str = "") -> bytes:
    """The block that ends a call after its messages."""
    if status == OK and not message:
        return TRAILERS_OK
    block = _field(b"grpc-status", b"%d" % status)
    if message:
        block += _field(b"grpc-message", percent_encode(message))
    return block


@lru_cache(maxsize=256)
def trailers_only(status: int, message: str = "", *, accept_encoding: bool = False) -> bytes:
    """The one block of a call that has no messages."""
    return RESPONSE + trailers(status, message) + (_ACCEPT if accept_encoding else b"")


def http_error(status: int) -> bytes:
    """The one block for what is not gRPC at all."""
    return _indexed_name(_STATUS_INDEX, b"%d" % status)


def percent_encode(message: str) -> bytes:
    """Status-Message of the gRPC wire specification: printable ASCII but `%`, the rest as %XX of its UTF-8."""
    return b"".join(
        bytes([byte]) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in message.encode("utf-8", "replace")[:1024]
    )
