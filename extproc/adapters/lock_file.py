"""Where locks are kept: one small file, replaced whole. What cannot be read stops the start: nobody is let in by it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import orjson

from extproc.domain.errors import StoreUnavailableError
from extproc.domain.lock import Lock, locks_of

MAX_FILE = 8 << 20


class LockFile:
    """`locks.json` below the state folder, mode 0600. No file is no lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[Lock, ...]:
        """Raises StoreUnavailableError when it is there and cannot be read."""
        try:
            with self._path.open("rb") as file:
                raw = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreUnavailableError(f"{self._path}: {error.strerror}") from None
        try:
            if len(raw) > MAX_FILE:
                raise ValueError
            return locks_of(orjson.loads(raw))
        except ValueError:
            raise StoreUnavailableError(f"{self._path}: is no list of locks") from None

    def save(self, locks: Iterable[Lock]) -> None:
        """On disk before it returns. Raises StoreUnavailableError; then the file is as it was."""
        new = self._path.with_suffix(".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps([lock.to_data() for lock in locks]))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StoreUnavailableError(f"{self._path}: {error.strerror}") from None
