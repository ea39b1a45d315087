"""CPU time of other processes to the nanosecond, where `/proc/<pid>/stat` counts ticks of 10 ms."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from bench.loadgen import cpu_seconds

Reading = dict[str, float]


def cpu_now(pid: int) -> float:
    """CPU seconds of all threads of a process so far, without its children; 0 when it is gone."""
    try:
        # The CPU clock of a process, as clock_getcpuclockid(3) builds its number.
        return time.clock_gettime((~pid) << 3 | 2)
    except OSError:
        return cpu_seconds(pid)


def read(pids: Mapping[str, Sequence[int]]) -> Reading:
    """CPU seconds so far by role."""
    return {role: sum(map(cpu_now, members)) for role, members in pids.items()}


def used(before: Reading, after: Reading) -> Reading:
    """CPU seconds between two readings."""
    return {role: max(0.0, after[role] - before[role]) for role in before}
