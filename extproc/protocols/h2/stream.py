"""One call on the wire: its flow-control windows, the message being put together, the replies kept back."""

from __future__ import annotations

from collections import deque
from typing import Final

from extproc.protocols.h2 import blocks
from extproc.protocols.h2.events import Event, MessageReceived
from extproc.protocols.h2.frames import MESSAGE_HEAD

PREFIX: Final = MESSAGE_HEAD.size


class BadMessageError(Exception):
    """The call must end with this gRPC status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Stream:
    """State of one open stream."""

    __slots__ = (
        "backlog", "headers_sent", "heard", "id", "name", "need", "partial", "queue", "receive_window",
        "remote_closed", "replied", "send_window", "trailers", "ungranted",
    )  # fmt: skip

    def __init__(self, stream_id: int, send_window: int, receive_window: int) -> None:
        self.id = stream_id
        self.name = stream_id.to_bytes(4, "big")
        """The id as frames carry it."""
        self.send_window = send_window
        self.receive_window = receive_window
        self.ungranted = 0
        """Bytes received that the peer's window was not yet given back for."""
        self.partial: bytes | bytearray = b""
        self.need = PREFIX
        """Bytes `partial` must hold before anything can be taken from it."""
        self.queue: deque[memoryview] | None = None
        """None until a reply has to be kept back, as most never are."""
        self.backlog = 0
        """Bytes in `queue`."""
        self.trailers: bytes | None = None
        """The block that ends the stream once `queue` is empty."""
        self.headers_sent = False
        self.remote_closed = False
        self.heard = False
        """A whole message came."""
        self.replied = False

    def take_one(self, data: bytes, start: int, end: int, largest: int, events: list[Event]) -> bool:
        """The short way for a frame that is just one message; False leaves everything to `take`."""
        if end - start < PREFIX:
            return False
        length = data[start + 1] << 24 | data[start + 2] << 16 | data[start + 3] << 8 | data[start + 4]
        compressed = data[start]
        start += PREFIX
        if compressed or length != end - start or length > largest:
            return False
        events.append(MessageReceived(self.id, data[start:end]))
        self.heard = True
        return True

    def take(self, data: bytes, start: int, end: int, largest: int, events: list[Event]) -> None:
        """Add DATA and append an event per whole message. Raises BadMessageError.

        Linear in the bytes however they are cut; a length is checked before anything is kept for it.
        """
        if self.partial:
            self.partial += memoryview(data)[start:end]
            if len(self.partial) < self.need:
                return
            if self.need == PREFIX:
                self.need = PREFIX + self._length(self.partial, 0, largest)
                if len(self.partial) < self.need:
                    return
            with memoryview(self.partial) as whole:
                events.append(MessageReceived(self.id, bytes(whole[PREFIX : self.need])))
                data = bytes(whole[self.need :])
            self.heard = True
            self.partial = b""
            start, end = 0, len(data)
        self.need = PREFIX
        while end - start >= PREFIX:
            stop = start + PREFIX + self._length(data, start, largest)
            if stop > end:
                self.need = stop - start
                break
            events.append(MessageReceived(self.id, data[start + PREFIX : stop]))
            self.heard = True
            start = stop
        if start < end:
            self.partial = bytearray(memoryview(data)[start:end])

    def _length(self, data: bytes | bytearray, position: int, largest: int) -> int:
        compressed, length = MESSAGE_HEAD.unpack_from(data, position)
        if compressed:
            # grpc-encoding was identity, or the call would have been refused
            raise BadMessageError(blocks.INTERNAL, "a compressed message without a grpc-encoding")
        if length > largest:
            raise BadMessageError(blocks.RESOURCE_EXHAUSTED, "a message larger than allowed")
        return int(length)
