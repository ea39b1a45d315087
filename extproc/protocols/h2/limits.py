"""What a peer may ask of one connection, and the budget that ends a flood."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings of one connection. Sizes in bytes, rates per second."""

    streams: int = 4096
    """Streams open at one time; more are answered with REFUSED_STREAM."""
    message: int = 9 << 20
    """One gRPC message."""
    stream_window: int = 1 << 20
    connection_window: int = 16 << 20
    frame: int = 64 << 10
    """The largest frame we accept (16 KiB is the least HTTP/2 allows)."""
    header_list: int = 32 << 10
    """Decoded header list, counted as RFC 7541 does: name, value and 32 per field."""
    header_block: int = 64 << 10
    """Encoded header block that is kept and decoded; a longer one refuses its stream."""
    header_flood: int = 1 << 20
    """Encoded header block that ends the connection."""
    continuations: int = 64
    """CONTINUATION frames in one block."""
    unfinished: int = 256 << 20
    """Parts of messages kept over all streams; the stream that goes beyond is refused."""
    unsent: int = 256 << 20
    """Replies kept back by flow control over all streams; the stream that goes beyond is cut."""
    control_burst: int = 2000
    control_rate: int = 1000
    """PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown and empty DATA frames."""
    reset_burst: int = 4096
    reset_rate: int = 200
    """Streams that their peer resets before they got any reply."""


class Budget:
    """A bucket of tokens that refills with time, and with useful work."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: int, rate: int) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at = 0.0

    def spend(self, now: float, amount: float = 1) -> bool:
        """False when nothing is left."""
        if now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
        self._left -= amount
        return self._left >= 0

    def credit(self, amount: float) -> None:
        """Useful work was done."""
        self._left = min(self._burst, self._left + amount)
