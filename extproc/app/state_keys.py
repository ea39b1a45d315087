"""Keys this installation made for itself: kept in `state/keys`, one file each, readable by the owner alone."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from extproc.domain.errors import ConfigError

KEY_BYTES = 32
NAMES = ("record", "binding", "hash-salt", "hmac")


@dataclass(frozen=True, slots=True)
class StateKeys:
    """Keys of this installation. `repr` shows none of them."""

    record: bytes = field(repr=False)
    """Keys the digests of unmasked bytes in the ledger."""
    binding: bytes = field(repr=False)
    """Keys what an approval is bound to."""
    hash_salt: bytes = field(repr=False)
    hmac: bytes = field(repr=False)


def load_state_keys(state: Path) -> StateKeys:
    """Read the keys, making what is missing. Raises ConfigError when others can read them."""
    folder = state / "keys"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = [_load(folder / f"{name}.key") for name in NAMES]
    return StateKeys(*made)


def _load(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return _read(path)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return _read(path)


def _read(path: Path) -> bytes:
    status = path.stat()
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(f"{path}: others can read this key; make it mode 0600")
    try:
        key = bytes.fromhex(path.read_text("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path}: not a key of {KEY_BYTES} bytes in hexadecimal")
    return key
