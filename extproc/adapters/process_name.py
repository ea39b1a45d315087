"""A name for this process that no later one gets, and whether the process behind a name is gone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def process_name() -> str:
    """`<pid namespace>:<pid>:<start time in ticks>:<random>`; a reused pid has another start time."""
    return f"{_namespace()}:{os.getpid()}:{_started(os.getpid())}:{secrets.token_hex(4)}"


def is_gone(name: str) -> bool:
    """True only for sure: processes of another pid namespace cannot be seen from here."""
    namespace, pid, started, _ = name.split(":")
    if not started or namespace != _namespace():
        return False
    return _started(int(pid)) != started


def _namespace() -> str:
    try:
        return Path("/proc/self/ns/pid").readlink().name.removeprefix("pid:").strip("[]")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat (proc(5)); the name in field 2 may hold blanks and parentheses."""
    try:
        return (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="ascii", errors="replace")
            .rpartition(")")[2]
            .split()[19]
        )
    except (OSError, IndexError):
        return ""
