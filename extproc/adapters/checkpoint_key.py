"""The checkpointer's signing key: a file of its own, mode 0600, made at the first start."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extproc.domain.errors import ConfigError
from extproc.ledger import NoteKey

KEY_NAME = "extproc-ledger"


@dataclass(frozen=True, slots=True)
class FileSigner:
    """Signs with a private key that was read from a file. `repr` shows the public half only."""

    key: NoteKey
    private: Ed25519PrivateKey = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """64 bytes of Ed25519 signature."""
        return self.private.sign(message)


def signer_of(private: Ed25519PrivateKey, name: str = KEY_NAME) -> FileSigner:
    """Give a private key its name."""
    return FileSigner(NoteKey(name, private.public_key().public_bytes_raw()), private)


def load_or_create_key(path: Path, name: str = KEY_NAME) -> FileSigner:
    """Read the key, or make it; the public key is kept beside it as `<path>.pub`. Raises ConfigError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return signer_of(_read(path), name)
    except OSError as failure:
        raise ConfigError(f"{path}: cannot be created: {failure.strerror}") from None
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(fd, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    signer = signer_of(private, name)
    write_public_key(path.with_name(path.name + ".pub"), signer.key)
    return signer


class KeyChange:
    """Another key takes over when somebody asks for it: by a file `<key>.rotate` beside the key.

    The new key waits in `<key>.next` until a checkpoint that hands over to it is on disk. After a crash in between
    the next start finishes what the checkpoint says.
    """

    def __init__(self, path: Path, name: str = KEY_NAME) -> None:
        self._path = path
        self._name = name
        self._next = path.with_name(path.name + ".next")
        self._wish = path.with_name(path.name + ".rotate")

    def ask(self) -> None:
        """Whoever may write beside the key may ask; the key itself is made by whoever signs. Raises OSError."""
        os.close(os.open(self._wish, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))

    @property
    def is_asked(self) -> bool:
        """Not done yet?"""
        return self._wish.exists() or self._next.exists()

    def following(self) -> FileSigner | None:
        """The key that is to take over; None if nobody asked. Raises ConfigError."""
        return load_or_create_key(self._next, self._name) if self.is_asked else None

    def finish(self) -> None:
        """The handover is on disk: the old key goes. Raises OSError."""
        self._wish.unlink(missing_ok=True)
        key = signer_of(_read(self._next), self._name).key
        write_public_key(self._path.with_name(self._path.name + ".pub"), key)
        self._next.replace(self._path)  # last: whoever waits reads the public key as soon as this one is gone
        self._next.with_name(self._next.name + ".pub").unlink(missing_ok=True)
        fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_public_key(path: Path, key: NoteKey) -> None:
    """Keep `name+id+base64` in a file that anybody may read."""
    part = path.with_name(path.name + ".part")
    part.write_text(f"{key}\n", "ascii")
    part.chmod(0o644)
    part.replace(path)


def _read(path: Path) -> Ed25519PrivateKey:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"{path}: others can read this key; make it mode 0600")
        private = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as failure:
        raise ConfigError(f"{path}: cannot be read: {failure.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: not a private key in PEM without a password") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 key")
    return private
