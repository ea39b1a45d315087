"""Bytes that arrived and were not yet used. Taking from the front moves no memory."""

from __future__ import annotations


class Incoming:
    """Append at the end, look at and take from the front."""

    __slots__ = ("_bytes", "_start", "_tail")

    def __init__(self) -> None:
        self._bytes = b""
        self._start = 0
        self._tail = bytearray()

    def __len__(self) -> int:
        return len(self._bytes) - self._start + len(self._tail)

    def append(self, data: bytes) -> None:
        if not data:
            return
        if self._start == len(self._bytes) and not self._tail:
            self._bytes = bytes(data)
            self._start = 0
        else:  # joined once somebody takes it, so that a long message is not copied for each of its chunks
            self._tail += data

    def _join(self) -> None:
        if self._tail:
            self._bytes = b"".join((self._bytes[self._start :], self._tail))
            self._start = 0
            self._tail = bytearray()

    def peek(self, size: int) -> bytes:
        self._join()
        return self._bytes[self._start : self._start + size]

    def take(self, size: int) -> bytes:
        """Up to `size` bytes from the front."""
        if len(self._bytes) - self._start < size:
            self._join()
        start = self._start
        end = min(start + size, len(self._bytes))
        self._start = end
        if start == 0 and end == len(self._bytes):
            return self._bytes
        return self._bytes[start:end]

    def clear(self) -> None:
        self._bytes = b""
        self._start = 0
        self._tail = bytearray()
