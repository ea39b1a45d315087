"""C2SP signed notes with Ed25519 (c2sp.org/signed-note)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from extproc.domain.errors import ExtprocError

_ED25519 = b"\x01"
_DASH = "\N{EM DASH} ".encode()
MAX_SIGNATURES = 16
MAX_NOTE = 64 << 20
"""Bytes. Nothing longer is taken for a note."""


class NoteError(ExtprocError):
    """Bytes that are no signed note, or no key."""


class Signer(Protocol):
    """Whoever holds a private key; `key` is its public half."""

    @property
    def key(self) -> NoteKey: ...

    def sign(self, message: bytes) -> bytes:
        """64 bytes of Ed25519 signature."""


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A named Ed25519 public key, 32 bytes."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        """`name+id+base64`, the form keys are handed around in."""
        encoded = base64.b64encode(_ED25519 + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{encoded}"

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Is this signature by this key?"""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: key name, four-byte key id, 64-byte signature."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A signed text. `raw` is text, empty line and signature lines; its SHA-256 names the note."""

    text: bytes
    signatures: tuple[Signature, ...]
    raw: bytes

    def is_signed_by(self, key: NoteKey) -> bool:
        """Does any signature line hold for this key?"""
        return any(
            line.name == key.name and line.key_id == key.id and key.verifies(self.text, line.signature)
            for line in self.signatures
        )


def parse_key(text: str) -> NoteKey:
    """Read `name+id+base64`. Raises NoteError."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError("the key is not base64") from None
    if not is_key_name(name) or len(data) != 33 or data[:1] != _ED25519:
        raise NoteError("not an Ed25519 note key")
    key = NoteKey(name, data[1:])
    if key.id.hex() != key_id:
        raise NoteError("the key's id does not match the key")
    return key


def is_key_name(name: str) -> bool:
    """Key names are not empty and hold neither white space nor a plus sign."""
    return bool(name) and not any(c.isspace() or c == "+" or not c.isprintable() for c in name)


def sign_note(text: bytes, *signers: Signer) -> bytes:
    """The signed note, up to and including its last signature line."""
    if not text.endswith(b"\n"):
        raise NoteError("a note's text ends with a newline")
    lines = [text, b"\n"]
    for signer in signers:
        blob = base64.b64encode(signer.key.id + signer.sign(text))
        lines.append(_DASH + signer.key.name.encode() + b" " + blob + b"\n")
    return b"".join(lines)


def parse_note(raw: bytes) -> Note:
    """Read one note. Raises NoteError."""
    text, gap, tail = raw.partition(b"\n\n")
    if not gap or not tail.endswith(b"\n"):
        raise NoteError("not a signed note")
    lines = tail[:-1].split(b"\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError("too many signatures")
    return Note(text + b"\n", tuple(_parse_signature(line) for line in lines), raw)


def iter_notes(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The notes of a file that comes in pieces; a last one that is not whole comes with False."""
    rest = b""
    for chunk in chunks:
        notes, rest = split_notes(rest + chunk)
        for note in notes:
            yield note, True
        if len(rest) > MAX_NOTE:
            break
    if rest:
        yield rest, False


def split_notes(data: bytes) -> tuple[list[bytes], bytes]:
    """A file of notes, each followed by one empty line → (notes, bytes of a last note that is not whole)."""
    notes: list[bytes] = []
    start = 0
    while (middle := data.find(b"\n\n", start)) >= 0:
        end = data.find(b"\n\n", middle + 2)
        if end < 0:
            break
        notes.append(data[start : end + 1])
        start = end + 2
    return notes, data[start:]


def _parse_signature(line: bytes) -> Signature:
    if not line.startswith(_DASH):
        raise NoteError("a signature line begins with an em dash")
    name, _, encoded = line[len(_DASH) :].partition(b" ")
    try:
        blob = base64.b64decode(encoded, validate=True)
        key_name = name.decode()
    except (binascii.Error, ValueError):
        raise NoteError("a signature is not base64") from None
    if len(blob) != 68 or not is_key_name(key_name):
        raise NoteError("a signature has the wrong form")
    return Signature(key_name, blob[:4], blob[4:])
