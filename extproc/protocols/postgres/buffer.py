"""Bytes that arrived and were not yet used. Taking from the front moves no memory."""

from __future__ import annotations

from extproc.protocols.postgres.messages import HEAD


class Buffer:
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

    def head(self) -> tuple[bytes, int] | None:
        """Type and whole size of the message in front, or None while its first five bytes are not here."""
        if len(self._bytes) - self._start < 5:
            if len(self) < 5:
                return None
            self._join()
        kind, length = HEAD.unpack_from(self._bytes, self._start)
        return kind, length + 1

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

    def run_of(self, kind: int, most: int) -> tuple[int, int, int]:
        """Whole messages of one type at the front, up to `most` bytes: their size, their number, what is too short.

        The third number is the size of a message of that type whose end has not arrived yet, else 0.
        """
        self._join()
        data, start = self._bytes, self._start
        at, end, count = start, len(data), 0
        while end - at >= 5 and data[at] == kind:
            size = 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if size < 5 or at + size > end:
                return at - start, count, size
            if at + size - start > most and count:
                break
            at += size
            count += 1
        return at - start, count, 0

    def clear(self) -> None:
        self._bytes = b""
        self._start = 0
        self._tail = bytearray()
