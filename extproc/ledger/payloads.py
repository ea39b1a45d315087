"""Payload entries: masked bytes beside the line that commits to them (docs/ledger.md, section 3)."""

from __future__ import annotations

import hmac
import re
import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

HEADER_SIZE = 48
SALT_SIZE = 32
SEAL_SIZE = 48
"""How much longer a sealed body is than its payload: the salt and the tag."""
MAX_PAYLOAD = 1 << 30
"""Bytes. No length read from a file is believed beyond it."""

_HEADER = struct.Struct(">4sB3xQ32s")
_MAGIC = b"XPE1"
_PLAIN, _SEALED, _ERASED = 0, 1, 255
_REF = re.compile(r"(\d{12}\.payloads):(0|[1-9]\d{0,14})\Z")

EntryState = Literal["good", "mismatch", "malformed", "erased", "sealed"]


@dataclass(frozen=True, slots=True)
class EntryHeader:
    """The first 48 bytes of an entry. `size` is the length of the stored body.

    `salt` are the last 32 bytes; in a sealed entry they say where its key is.
    """

    scheme: int
    size: int
    salt: bytes


def build_entry(payload: bytes, salt: bytes) -> bytes:
    """A plain entry. `salt` is 32 random bytes."""
    return _HEADER.pack(_MAGIC, _PLAIN, len(payload), salt) + payload


def build_erased_header(size: int) -> bytes:
    """The header of an entry whose salt and body of `size` bytes are gone."""
    return _HEADER.pack(_MAGIC, _ERASED, size, bytes(SALT_SIZE))


def is_erased(header: EntryHeader) -> bool:
    """Is its body gone?"""
    return header.scheme == _ERASED


def is_sealed(header: EntryHeader) -> bool:
    """Is its body encrypted?"""
    return header.scheme == _SEALED


def key_offset_of(header: EntryHeader) -> int | None:
    """Where a sealed entry's data key lies in the key segment; None if the header says no such place."""
    offset = int.from_bytes(header.salt[:8], "big")
    whole = header.scheme == _SEALED and not any(header.salt[8:]) and offset < 1 << 53
    return offset if whole else None


def parse_header(data: bytes) -> EntryHeader | None:
    """None if these are not 48 bytes of a header."""
    if len(data) < HEADER_SIZE or data[:4] != _MAGIC or data[5:8] != b"\0\0\0":
        return None
    _, scheme, size, salt = _HEADER.unpack_from(data)
    return EntryHeader(scheme, size, salt) if size <= MAX_PAYLOAD else None


def commitment_of(payload: bytes, salt: bytes) -> str:
    """HMAC-SHA256 under the entry's own salt, in hex."""
    return hmac.digest(salt, payload, "sha256").hex()


def check_entry(data: bytes, size: int, commitment: str, sealed: str = "") -> EntryState:
    """Compare an entry's bytes (header and body) with what its line says.

    `sealed` is the digest of the whole entry where the line says that it is encrypted; the state is then
    `sealed` at best, for the commitment is to what is inside.
    """
    header = parse_header(data)
    if header is None:
        return "malformed"
    if header.scheme == _ERASED:
        return "erased"
    if header.scheme not in (_PLAIN, _SEALED):
        return "malformed"
    body = data[HEADER_SIZE : HEADER_SIZE + header.size]
    if sealed:
        whole = header.scheme == _SEALED and header.size == size + SEAL_SIZE == len(body)
        return (
            "sealed"
            if whole and sha256(data[: HEADER_SIZE + header.size]).hexdigest() == sealed
            else "mismatch"
        )
    if header.scheme != _PLAIN or header.size != size or len(body) != size:
        return "mismatch"
    return "good" if hmac.compare_digest(commitment_of(body, header.salt), commitment) else "mismatch"


def build_ref(segment: str, offset: int) -> str:
    """Where an entry lies: payload segment name and byte offset."""
    return f"{segment}:{offset}"


def parse_ref(ref: str) -> tuple[str, int] | None:
    """(segment name, offset), or None if it is no place in a payload segment."""
    found = _REF.match(ref)
    return (found[1], int(found[2])) if found is not None and ref.isascii() else None
