"""How often somebody may try."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

from starlette.requests import Request

REMEMBERED = 10_000


class RateLimit:
    """A bucket of `burst` tries per key that fills again at `per_minute`."""

    def __init__(self, now: Callable[[], float], *, per_minute: float, burst: int) -> None:
        self._now = now
        self._per_second = per_minute / 60
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, key: str) -> bool:
        """Whether one more is allowed now; it counts if it is."""
        now = self._now()
        left, at = self._buckets.pop(key, (float(self._burst), now))
        left = min(float(self._burst), left + max(0.0, now - at) * self._per_second)
        allowed = left >= 1
        self._buckets[key] = (left - 1 if allowed else left, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return allowed


def peer_of(request: Request) -> str:
    """Who tries: the address the connection comes from, of IPv6 the network of 64 bits, which one host may own.

    Behind a proxy or on a unix socket all are one peer.
    """
    if request.client is None:
        return ""
    try:
        address = ipaddress.ip_address(request.client.host)
    except ValueError:
        return request.client.host
    if address.version == 4:
        return str(address)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
