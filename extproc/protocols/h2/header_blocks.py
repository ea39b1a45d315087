"""HEADERS and the CONTINUATION frames that follow it, until their block is whole (RFC 9113 sections 6.2, 6.10)."""

from __future__ import annotations

from extproc.protocols.h2.frames import (
    END_HEADERS,
    HAS_PRIORITY,
    PADDED,
    ErrorCode,
    LostConnectionError,
    unpadded,
)
from extproc.protocols.h2.limits import Limits


class HeaderBlocks:
    """Puts one block together at a time; nothing else may come in between."""

    __slots__ = ("_block", "_continuations", "_limits", "_size", "flags", "stream_id", "too_large")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._block: bytearray | None = None
        self._size = 0
        self._continuations = 0
        self.stream_id = 0
        self.flags = 0
        """Of the HEADERS frame."""
        self.too_large = False
        """The block was longer than we keep: what `start` or `add` returned is not all of it."""

    @property
    def is_open(self) -> bool:
        """CONTINUATION must come next."""
        return self._block is not None

    @property
    def buffered(self) -> int:
        """Bytes kept."""
        return len(self._block) if self._block is not None else 0

    def start(
        self, data: bytes, start: int, stop: int, flags: int, stream_id: int, *, may_skip: bool
    ) -> bytes | None:
        """A HEADERS frame. The block if it is whole. Raises LostConnectionError."""
        if not stream_id & 1:
            raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "a stream id that no client may use")
        if flags & PADDED:
            start, stop = unpadded(data, start, stop)
        if flags & HAS_PRIORITY:
            if stop - start < 5:
                raise LostConnectionError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            start += 5
        self.stream_id = stream_id
        self.flags = flags
        self.too_large = False
        if flags & END_HEADERS and stop - start <= self._limits.header_block:
            return data[start:stop]
        self._block = bytearray()
        self._size = 0
        self._continuations = 0
        return self._add(data, start, stop, flags, may_skip)

    def add(self, data: bytes, start: int, stop: int, flags: int, *, may_skip: bool) -> bytes | None:
        """A CONTINUATION frame. The block if it is whole now. Raises LostConnectionError.

        `may_skip`: the decoder stays in step with the peer even if it never sees this block.
        """
        self._continuations += 1
        if self._continuations > self._limits.continuations:
            raise LostConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
        return self._add(data, start, stop, flags, may_skip)

    def drop(self) -> None:
        """The connection is lost."""
        self._block = None

    def _add(self, data: bytes, start: int, stop: int, flags: int, may_skip: bool) -> bytes | None:
        block = self._block
        assert block is not None  # noqa: S101  (set by `start`)
        self._size += stop - start
        if self._size <= self._limits.header_block:
            block += memoryview(data)[start:stop]
        elif self._size > self._limits.header_flood or not may_skip:
            raise LostConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "a header block larger than allowed")
        else:
            self.too_large = True
        if not flags & END_HEADERS:
            return None
        self._block = None
        return bytes(block)
