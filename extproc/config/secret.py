"""Secrets are named in settings, never written there; this is the one place that reads them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from extproc.domain.errors import ConfigError

LONGEST_SECRET = 64 * 1024


class SecretRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a secret is: `{env: NAME}` or `{file: path}`, exactly one. Its text never contains the secret."""

    env: str | None = None
    file: Path | None = None

    def resolve(self) -> str:
        """The secret as text, without its closing newline.

        Raises ConfigError when it is missing, empty, not UTF-8, too large, or in a file others may read.
        """
        try:
            return self.resolve_bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"{self}: is not UTF-8 text") from None

    def resolve_bytes(self) -> bytes:
        """The secret as bytes, without its closing newline; raises as `resolve` does."""
        raw = self._from_file(self.file) if self.file is not None else self._from_environment(self.env or "")
        if raw.endswith(b"\n"):
            raw = raw[:-2] if raw.endswith(b"\r\n") else raw[:-1]
        if not raw:
            raise ConfigError(f"{self}: is empty")
        return raw

    def __str__(self) -> str:
        return f"{{file: {self.file}}}" if self.file is not None else f"{{env: {self.env}}}"

    def __repr__(self) -> str:
        return f"SecretRef({self})"

    def _from_environment(self, name: str) -> bytes:
        value = os.environb.get(os.fsencode(name))
        if value is None:
            raise ConfigError(f"{self}: is not set in the environment")
        return value

    def _from_file(self, path: Path) -> bytes:
        try:
            # Mode and content come from one descriptor, so the file cannot be swapped in between.
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ConfigError(f"{self}: is not a regular file")
                if status.st_mode & 0o077:
                    raise ConfigError(
                        f"{self}: others may use this file (mode {stat.S_IMODE(status.st_mode):04o}); chmod 600 it"
                    )
                if status.st_uid not in (0, os.geteuid()):
                    raise ConfigError(f"{self}: belongs to another user (uid {status.st_uid})")
                raw = file.read(LONGEST_SECRET + 1)
        except OSError as error:
            raise ConfigError(f"{self}: {error.strerror}") from None
        if len(raw) > LONGEST_SECRET:
            raise ConfigError(f"{self}: is larger than {LONGEST_SECRET} bytes")
        return raw
