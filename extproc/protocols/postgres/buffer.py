"""Bytes that arrived and were not yet used, seen as messages."""

from __future__ import annotations

from extproc.protocols.incoming import Incoming
from extproc.protocols.postgres.messages import HEAD


class Buffer(Incoming):
    """What is at the front, as messages with a type and a length."""

    __slots__ = ()

    def head(self) -> tuple[bytes, int] | None:
        """Type and whole size of the message in front, or None while its first five bytes are not here."""
        if len(self._bytes) - self._start < 5:
            if len(self) < 5:
                return None
            self._join()
        kind, length = HEAD.unpack_from(self._bytes, self._start)
        return kind, length + 1

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
