"""Where locks are kept: the supervisor writes them, workers read them."""

from __future__ import annotations

from extproc.adapters.lock_file import LockFile
from extproc.config import Settings


def lock_file(settings: Settings) -> LockFile:
    """Where locks are kept."""
    return LockFile(settings.state / "locks.json")
