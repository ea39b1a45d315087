"""Ports for servers that are started a moment later, and that nobody else is given meanwhile.

The kernel gives a port that was asked for and let go to the next who asks, which may be another worker's server. So
each pytest worker takes its own in turn, below those that the kernel gives (32768 and above).
"""

from __future__ import annotations

import os
import random
import socket
from itertools import cycle

from extproc.demo.processes import free_ports as given_by_the_kernel

__all__ = ["free_ports", "given_by_the_kernel"]

LOWEST = 16_000
SHARE = 1000
WORKERS = 16
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw") or 0) % WORKERS
_begin = random.randrange(SHARE)
_turn = cycle(LOWEST + _worker * SHARE + (_begin + number) % SHARE for number in range(SHARE))


def free_ports(count: int) -> list[int]:
    """Different TCP ports on 127.0.0.1 that nobody has. Raises OSError when a worker's thousand are all taken."""
    found: list[int] = []
    for _ in range(SHARE):
        if len(found) == count:
            return found
        port = next(_turn)
        if _is_free(port):
            found.append(port)
    raise OSError("no port is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
