"""The Postgres of the tests: the demo's, and where an installed one is."""

from __future__ import annotations

from pathlib import Path

from extproc.demo.postgres import ADMIN, OWNER, Postgres, binaries

__all__ = ["ADMIN", "OWNER", "Postgres", "binaries", "system_binaries"]


def system_binaries() -> Path | None:
    """The folder of an installed server's programs (Debian's places), the newest; it speaks TLS, the wheel does not."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[4]))
    return found[-1].parent if found else None
