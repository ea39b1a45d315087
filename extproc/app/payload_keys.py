"""The key-encryption keys of the settings, for whoever seals or opens payloads."""

from __future__ import annotations

from extproc.config import Settings
from extproc.domain.errors import ConfigError
from extproc.ledger.sealing import KEY_BYTES, KeyRing


def payload_ring(settings: Settings) -> KeyRing | None:
    """None where payloads are plain. Raises ConfigError for a key that is missing or is none."""
    encryption = settings.ledger.encryption
    if encryption is None:
        return None
    keys: dict[str, bytes] = {}
    for number, one in enumerate(encryption.keys):
        try:
            key = bytes.fromhex(one.key.resolve())
        except ConfigError as mistake:
            raise ConfigError(f"ledger.encryption.keys[{number}].key: {mistake}") from None
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            place = f"ledger.encryption.keys[{number}].key: {one.key}"
            raise ConfigError(f"{place}: is not {KEY_BYTES} bytes in hexadecimal")
        keys[one.id] = key
    return KeyRing(encryption.keys[0].id, keys)
