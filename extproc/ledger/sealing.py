"""Sealed payloads: each is encrypted with a data key of its own, which lies wrapped in a file apart.

docs/ledger.md, section 3. Erasing a data key erases the payload, in every copy of the payload segment.
"""

from __future__ import annotations

import hmac
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from extproc.ledger.payloads import HEADER_SIZE, SALT_SIZE, commitment_of, key_offset_of, parse_header

KEY_BYTES = 32
KEY_ENTRY_SIZE = 84
RANDOM_BYTES = KEY_BYTES + SALT_SIZE + 12
"""What sealing one payload draws: data key, salt, nonce of the wrapping."""

_KEY_ENTRY = struct.Struct(">4sB3x16s12s48s")
_KEY_MAGIC = b"XKE1"
_HEADER = struct.Struct(">4sB3xQQ24x")
_WRAPPED, _ERASED = 1, 255
_ZERO_NONCE = bytes(12)
_KEY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,15}\Z")

Opening = Literal["good", "mismatch", "malformed", "erased", "key-missing", "unknown-key", "wrong-key"]
"""What came of opening a sealed payload. `unknown-key`: its key-encryption key was not given."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Key-encryption keys by id; new data keys are wrapped under `current`. `repr` shows no key."""

    current: str
    keys: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError for ids or keys that cannot be used; the text names the id alone."""
        if self.current not in self.keys:
            raise ValueError(f"no key {self.current}")
        for name, key in self.keys.items():
            if _KEY_ID.match(name) is None:
                raise ValueError("a key's id must match [a-z0-9][a-z0-9-]*, at most 16 characters")
            if len(key) != KEY_BYTES:
                raise ValueError(f"{name}: not a key of {KEY_BYTES} bytes")


class Sealed(NamedTuple):
    """A payload as it is stored, its wrapped key, and what the line says of both."""

    entry: bytes
    key_entry: bytes
    commitment: str
    digest: str


class Sealer:
    """Seals the payloads of one payload segment."""

    def __init__(self, ring: KeyRing, writer: str, segment: str) -> None:
        """`segment` is the payload segment's file name."""
        self._writer = writer
        self._key_id = ring.current.encode()
        self._wrap = AESGCM(_segment_key(ring.keys[ring.current], writer, segment)).encrypt

    def seal(self, payload: bytes, random: bytes, key_offset: int, seq: int, name: str) -> Sealed:
        """`random` is RANDOM_BYTES long; `key_offset` is where its key entry will lie."""
        key, salt, nonce = random[:32], random[32:64], random[64:]
        body = AESGCM(key).encrypt(_ZERO_NONCE, salt + payload, _label(self._writer, seq, name))
        entry = _HEADER.pack(b"XPE1", 1, len(body), key_offset) + body
        wrapped = self._wrap(nonce, key, b"%d" % key_offset)
        key_entry = _KEY_ENTRY.pack(_KEY_MAGIC, _WRAPPED, self._key_id, nonce, wrapped)
        return Sealed(entry, key_entry, commitment_of(payload, salt), sha256(entry).hexdigest())


class Opened(NamedTuple):
    """An opened payload; body and salt are empty unless the state is `good`."""

    state: Opening
    body: bytes = b""
    salt: bytes = b""


class Place(NamedTuple):
    """Which payload: its record, its name there, its segment, and what the line commits to."""

    writer: str
    seq: int
    name: str
    segment: str
    commitment: str


def open_sealed(entry: bytes, read_key: Callable[[int], bytes], place: Place, ring: KeyRing) -> Opened:
    """Open an entry whose digest was checked. `read_key` gives the key entry at an offset, or less."""
    header = parse_header(entry)
    offset = key_offset_of(header) if header is not None else None
    if offset is None:
        return Opened("malformed")
    key_entry = read_key(offset)
    if is_erased_key(key_entry):
        return Opened("erased")
    if not is_key_entry(key_entry):
        return Opened("key-missing")
    _, _, padded, nonce, wrapped = _KEY_ENTRY.unpack(key_entry)
    kek = ring.keys.get(padded.rstrip(b"\0").decode("ascii", "replace"))
    if kek is None:
        return Opened("unknown-key")
    try:
        key = AESGCM(_segment_key(kek, place.writer, place.segment)).decrypt(nonce, wrapped, b"%d" % offset)
    except InvalidTag:
        return Opened("wrong-key")
    try:
        label = _label(place.writer, place.seq, place.name)
        plain = AESGCM(key).decrypt(_ZERO_NONCE, entry[HEADER_SIZE:], label)
    except InvalidTag:
        return Opened("mismatch")
    salt, body = plain[:SALT_SIZE], plain[SALT_SIZE:]
    if not hmac.compare_digest(commitment_of(body, salt), place.commitment):
        return Opened("mismatch")
    return Opened("good", body, salt)


def build_erased_key() -> bytes:
    """The key entry of a payload that is gone."""
    return _KEY_ENTRY.pack(_KEY_MAGIC, _ERASED, b"", b"", b"")


def is_erased_key(key_entry: bytes) -> bool:
    """Was this data key erased?"""
    return key_entry[:8] == _KEY_MAGIC + b"\xff\0\0\0"


def is_key_entry(key_entry: bytes) -> bool:
    """Does it look like a wrapped key? Only whoever has the key-encryption key can tell more."""
    return len(key_entry) == KEY_ENTRY_SIZE and key_entry[:8] == _KEY_MAGIC + b"\x01\0\0\0"


def key_segment_of(payload_segment: str) -> str:
    """The file of data keys beside a payload segment."""
    return payload_segment.removesuffix(".payloads") + ".keys"


def _segment_key(kek: bytes, writer: str, segment: str) -> bytes:
    # a key per segment: random nonces stay far from the bound of 2^32 wrappings under one key
    return hmac.digest(kek, f"extproc-ledger-keys/v1\n{writer}\n{segment}".encode(), "sha256")


def _label(writer: str, seq: int, name: str) -> bytes:
    """What a sealed body is bound to besides its key."""
    return f"{writer}:{seq}:{name}".encode()
