"""Packets: three bytes of length, one of sequence, a payload; 16 MiB and more comes in several (MySQL Packets)."""

from __future__ import annotations

import struct

from extproc.domain.errors import ProtocolError
from extproc.protocols.incoming import Incoming
from extproc.protocols.mysql.values import malformed

HEAD_BYTES = 4
LONGEST = 0xFFFFFF
"""Payload bytes of one packet. A payload as long as this goes on in the next one, which may be empty."""


_HEAD = struct.Struct("<I")


def build_packets(payload: bytes, sequence: int) -> bytes:
    """The payload with its header, in as many packets as it needs."""
    size = len(payload)
    if size < LONGEST:
        return (size | (sequence & 0xFF) << 24).to_bytes(4, "little") + payload
    parts = []
    for start in range(0, size + 1, LONGEST):
        piece = payload[start : start + LONGEST]
        parts.append((len(piece) | (sequence & 0xFF) << 24).to_bytes(4, "little"))
        parts.append(piece)
        sequence += 1
    return b"".join(parts)


def packet_count(size: int) -> int:
    """How many packets a payload of this size takes."""
    return size // LONGEST + 1


def out_of_order() -> ProtocolError:
    return ProtocolError("sequence", "packets came out of order")


class PacketBuffer(Incoming):
    """What one peer sent, seen as payloads."""

    __slots__ = ()

    def head(self) -> tuple[int, int] | None:
        """Payload size and sequence id of the packet in front; None while its header is not here."""
        if len(self) < HEAD_BYTES:
            return None
        head = int.from_bytes(self.peek(HEAD_BYTES), "little")
        return head & LONGEST, head >> 24

    def size_in_front(self) -> tuple[int, bool]:
        """Bytes of the payload in front as far as headers have told, and whether its end is known.

        Nothing of it may have been taken before.
        """
        size, at = 0, 0
        while len(self) >= at + HEAD_BYTES:
            part = int.from_bytes(self.peek(at + HEAD_BYTES)[at:], "little") & LONGEST
            size += part
            if part < LONGEST:
                return size, True
            at += HEAD_BYTES + LONGEST
        return size, False

    def payload(self, sequence: int, limit: int) -> tuple[bytes, int] | None:
        """A whole payload and the sequence id after it, or None while it is not whole. Raises ProtocolError.

        `sequence` is the id that its first packet must have; `limit` is in bytes.
        """
        size, known = self.size_in_front()
        if size > limit:
            raise ProtocolError("too-long", "a packet is longer than it may be here")
        head = self.head()
        if head is not None and head[1] != sequence & 0xFF:
            raise out_of_order()
        if not known or len(self) < size + packet_count(size) * HEAD_BYTES:
            return None
        parts = []
        while True:
            part, number = self._take_head()
            if number != sequence & 0xFF:
                raise out_of_order()
            sequence += 1
            parts.append(self.take(part))
            if part < LONGEST:
                return (parts[0] if len(parts) == 1 else b"".join(parts)), sequence & 0xFF

    def _take_head(self) -> tuple[int, int]:
        head = int.from_bytes(self.take(HEAD_BYTES), "little")
        return head & LONGEST, head >> 24

    def run_of_rows(self, sequence: int, end_below: int, most: int) -> tuple[int, int]:
        """Whole rows at the front, each in one packet, up to `most` bytes: their size with headers, and their number.

        `end_below`: a packet that begins with 0xFE and is shorter than this is no row. Raises ProtocolError.
        """
        self._join()
        data, start = self._bytes, self._start
        at, end, count = start, len(data), 0
        while end - at > HEAD_BYTES:
            head = _HEAD.unpack_from(data, at)[0]
            size = head & LONGEST
            mark = data[at + HEAD_BYTES]
            following = at + HEAD_BYTES + size
            if following > end or size == LONGEST or mark == 0xFF or (mark == 0xFE and size < end_below):
                break
            if head >> 24 != (sequence + count) & 0xFF:
                raise out_of_order()
            if not size:
                raise malformed("row")
            if following - start > most and count:
                break
            at = following
            count += 1
        return at - start, count
