"""The sending half: frames waiting to be written, and replies kept back until the peer's windows open."""

from __future__ import annotations

from collections import deque
from typing import Final

from extproc.protocols.h2 import blocks
from extproc.protocols.h2.frames import (
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    HEADERS,
    LARGEST_WINDOW,
    MESSAGE_HEAD,
)
from extproc.protocols.h2.stream import PREFIX, Stream

_RESPONSE_HEAD: Final = FRAME_HEAD.pack(len(blocks.RESPONSE) << 8 | HEADERS, END_HEADERS, 0)[:-4]
"""How a HEADERS frame begins that holds our response headers: everything before its stream's id."""


class WindowOverflowError(Exception):
    """A window grew beyond 2^31-1 (FLOW_CONTROL_ERROR, RFC 9113 section 6.9.1)."""


class Sender:
    """Writes frames in order; DATA only as far as both windows allow."""

    __slots__ = ("_ready", "_spoken", "backlog", "initial_window", "largest_frame", "out", "window")

    def __init__(self) -> None:
        self.out: list[bytes | memoryview] = []
        self.window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self.largest_frame = DEFAULT_FRAME
        self.backlog = 0
        """Bytes kept back over all streams."""
        self._ready: dict[int, Stream] = {}
        """Streams that only the connection's window keeps waiting; served in turns."""
        self._spoken = False

    def headers(self, stream: Stream, block: bytes, *, end: bool) -> None:
        """A HEADERS frame; every block here is far smaller than any frame limit."""
        if not self._spoken:
            self._spoken = True
            block = blocks.TABLE_SIZE_ZERO + block
        flags = END_HEADERS | END_STREAM if end else END_HEADERS
        head = len(block) << 16 | HEADERS << 8 | flags
        self.out += (head.to_bytes(5, "big"), stream.name, block)

    def message(self, stream: Stream, payload: bytes) -> None:
        """One gRPC message; at once, or as the windows open."""
        if not stream.headers_sent:
            stream.headers_sent = True
            if self._spoken:
                self.out += (_RESPONSE_HEAD, stream.name, blocks.RESPONSE)
            else:
                self.headers(stream, blocks.RESPONSE, end=False)
        stream.replied = True
        length = len(payload)
        size = length + PREFIX
        if (
            size <= stream.send_window
            and size <= self.window
            and size <= self.largest_frame
            and not stream.backlog
        ):
            # frame length, type DATA and no flags; then the message's prefix: not compressed, its length
            head = size << 16 | DATA << 8
            self.out += (head.to_bytes(5, "big"), stream.name, length.to_bytes(5, "big"), payload)
            stream.send_window -= size
            self.window -= size
            return
        if stream.queue is None:
            stream.queue = deque()
        stream.queue.append(memoryview(MESSAGE_HEAD.pack(0, length)))
        if length:
            stream.queue.append(memoryview(payload))
        stream.backlog += size
        self.backlog += size
        self.resume(stream)

    def grow(self, increment: int) -> list[Stream]:
        """The connection's window grew. Returns streams with nothing left to send. Raises WindowOverflowError."""
        if self.window + increment > LARGEST_WINDOW:
            raise WindowOverflowError
        self.window += increment
        return self._pump()

    def grow_stream(self, stream: Stream, increment: int) -> bool:
        """True if the stream has nothing left to send now. Raises WindowOverflowError."""
        if stream.send_window + increment > LARGEST_WINDOW:
            raise WindowOverflowError
        stream.send_window += increment
        return self.resume(stream) if stream.backlog else False

    def resume(self, stream: Stream) -> bool:
        """Send what may be sent of one stream's queue. True if it ran empty."""
        while self.window > 0 and stream.send_window > 0 and stream.backlog:
            self._send_some(stream)
        if not stream.backlog:
            self._ready.pop(stream.id, None)
            return True
        if stream.send_window > 0:
            self._ready[stream.id] = stream
        else:
            self._ready.pop(stream.id, None)
        return False

    def drop(self, stream: Stream) -> None:
        """The stream ended: forget what it still had to send."""
        if stream.backlog:
            self.backlog -= stream.backlog
            stream.backlog = 0
            stream.queue = None
            self._ready.pop(stream.id, None)

    def _pump(self) -> list[Stream]:
        emptied: list[Stream] = []
        ready = self._ready
        while self.window > 0 and ready:
            # one frame each, in turns: a large reply does not keep the others waiting
            stream_id = next(iter(ready))
            stream = ready.pop(stream_id)
            self._send_some(stream)
            if not stream.backlog:
                emptied.append(stream)
            elif stream.send_window > 0:
                ready[stream_id] = stream
        return emptied

    def _send_some(self, stream: Stream) -> None:
        """One DATA frame."""
        room = min(self.window, stream.send_window, self.largest_frame, stream.backlog)
        self.out.append(FRAME_HEAD.pack(room << 8 | DATA, 0, stream.id))
        stream.send_window -= room
        self.window -= room
        stream.backlog -= room
        self.backlog -= room
        queue = stream.queue
        assert queue is not None  # noqa: S101  (it holds what `backlog` counts)
        while room:
            part = queue[0]
            if len(part) <= room:
                self.out.append(queue.popleft())
                room -= len(part)
            else:
                self.out.append(part[:room])
                queue[0] = part[room:]
                room = 0
