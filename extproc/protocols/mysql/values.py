"""The protocol's small pieces: integers and strings with their lengths in front (Protocol Basics, Data Types).

`read_*` take the data and a position and give the value and the position behind it. They raise ProtocolError.
"""

from __future__ import annotations

from extproc.domain.errors import ProtocolError


def malformed(what: str) -> ProtocolError:
    """A packet whose inside does not fit."""
    return ProtocolError("malformed-packet", f"a malformed {what} packet")


def read_bytes(data: bytes, at: int, size: int, what: str) -> tuple[bytes, int]:
    end = at + size
    if end > len(data):
        raise malformed(what)
    return data[at:end], end


def read_int(data: bytes, at: int, size: int, what: str) -> tuple[int, int]:
    """A little-endian integer of fixed size."""
    value, end = read_bytes(data, at, size, what)
    return int.from_bytes(value, "little"), end


def read_lenenc(data: bytes, at: int, what: str) -> tuple[int, int]:
    """A length-encoded integer. 0xFB (NULL) and 0xFF are none."""
    if at >= len(data):
        raise malformed(what)
    first = data[at]
    if first < 0xFB:
        return first, at + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first)
    if size is None:
        raise malformed(what)
    return read_int(data, at + 1, size, what)


def read_lenenc_bytes(data: bytes, at: int, what: str) -> tuple[bytes, int]:
    size, at = read_lenenc(data, at, what)
    return read_bytes(data, at, size, what)


def read_cstring(data: bytes, at: int, what: str) -> tuple[bytes, int]:
    """Up to a NUL byte, which must be there."""
    end = data.find(b"\x00", at)
    if end < 0:
        raise malformed(what)
    return data[at:end], end + 1


def lenenc(value: int) -> bytes:
    if value < 0xFB:
        return bytes((value,))
    if value < 1 << 16:
        return b"\xfc" + value.to_bytes(2, "little")
    if value < 1 << 24:
        return b"\xfd" + value.to_bytes(3, "little")
    return b"\xfe" + value.to_bytes(8, "little")


def lenenc_bytes(value: bytes) -> bytes:
    return lenenc(len(value)) + value
