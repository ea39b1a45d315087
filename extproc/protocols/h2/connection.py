"""The server side of an HTTP/2 connection that carries gRPC (RFC 9113; gRPC over HTTP/2). No I/O, no clock.

events = connection.receive(data, now)
connection.send_message(stream_id, reply)
connection.finish(stream_id)
write(connection.bytes_to_send())
"""

from __future__ import annotations

from typing import Final

from extproc.protocols.h2 import blocks
from extproc.protocols.h2.decoder import CompressionError, HeaderDecoder, HeaderListTooLargeError
from extproc.protocols.h2.events import CallEnded, CallStarted, ConnectionFailed, Event, HalfClosed
from extproc.protocols.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    ENABLE_PUSH,
    END_STREAM,
    HEAD_BYTES,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_FRAME,
    LARGEST_WINDOW,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    NUMBER,
    PADDED,
    PING,
    PREFACE,
    PUSH_PROMISE,
    SETTINGS,
    SETTINGS_ACK,
    ErrorCode,
    LostConnectionError,
    build_frame,
    build_goaway,
    build_rst,
    build_settings,
    build_window_update,
    expect,
    parse_settings,
    unpadded,
)
from extproc.protocols.h2.head import CallHead, MalformedError, check_trailers
from extproc.protocols.h2.header_blocks import HeaderBlocks
from extproc.protocols.h2.limits import Budget, Limits
from extproc.protocols.h2.sending import Sender, WindowOverflowError
from extproc.protocols.h2.stream import BadMessageError, Stream

_REMEMBERED: Final = 1024
"""Streams we ended before their peer did, kept so that what was on its way is no offence."""


_PER_REPLY: Final = 4
"""Control frames a reply of ours may cause (window updates, a ping) without counting as a flood."""

LAST_STREAM_ID: Final = 2**31 - 1


class Connection:
    """One connection. After `ConnectionFailed` it reads nothing more and only says goodbye."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits = limits or Limits()
        self._decoder = HeaderDecoder(limits.header_list)
        self._sender = Sender()
        self._streams: dict[int, Stream] = {}
        self._ended_early: dict[int, None] = {}
        self._last_id = 0
        self._last_heard = 0
        self._unread = bytearray()
        self._need = len(PREFACE)
        self._preface_seen = False
        self._settings_seen = False
        self._blocks = HeaderBlocks(limits)
        self._receive_window = limits.connection_window
        self._ungranted = 0
        self._unfinished = 0
        self._control = Budget(limits.control_burst, limits.control_rate)
        self._resets = Budget(limits.reset_burst, limits.reset_rate)
        self._now = 0.0
        self._announced = False
        self._goodbye = False
        self.failed = False
        """The connection is lost; close it once `bytes_to_send` is written."""
        self._sender.out.append(
            build_settings(
                {
                    HEADER_TABLE_SIZE: 0,
                    MAX_CONCURRENT_STREAMS: limits.streams,
                    INITIAL_WINDOW_SIZE: limits.stream_window,
                    MAX_FRAME_SIZE: limits.frame,
                    MAX_HEADER_LIST_SIZE: limits.header_list,
                }
            )
        )
        if limits.connection_window > DEFAULT_WINDOW:
            self._sender.out.append(build_window_update(0, limits.connection_window - DEFAULT_WINDOW))

    # ------------------------------------------------------------------ for the owner

    @property
    def open_calls(self) -> int:
        """Streams that are not over yet."""
        return len(self._streams)

    @property
    def buffered(self) -> int:
        """Bytes kept: of unread frames, unfinished messages, unsent replies."""
        return len(self._unread) + self._blocks.buffered + self._unfinished + self._sender.backlog

    @property
    def is_spoken_to(self) -> bool:
        """The peer has sent its preface and settings."""
        return self._settings_seen

    def receive(self, data: bytes, now: float = 0.0) -> list[Event]:
        """What these bytes mean. Never raises for what a peer sends; `now` is in seconds, of any clock."""
        events: list[Event] = []
        if self.failed:
            return events
        self._now = now
        if self._unread:
            self._unread += data
            if len(self._unread) < self._need:
                return events
            data = bytes(self._unread)
            self._unread.clear()
        try:
            position = self._frames(data, events)
        except LostConnectionError as error:
            self._fail(error.code, error.reason, events)
            return events
        if position < len(data):
            self._unread += memoryview(data)[position:]
        return events

    def send_message(self, stream_id: int, payload: bytes) -> bool:
        """One reply. False if the call is over already, or is cut because too much is waiting to be sent."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.trailers is not None:
            return False
        self._sender.message(stream, payload)
        self._control.credit(_PER_REPLY)
        if self._sender.backlog > self._limits.unsent and stream.backlog:
            self.reset(stream_id, ErrorCode.ENHANCE_YOUR_CALM)
            return False
        return True

    def finish(self, stream_id: int, status: int = 0, message: str = "") -> None:
        """End a call with a gRPC status. Nothing happens if it is over already.

        OK is possible only after the peer's END_STREAM: ValueError otherwise. A status that is not OK does not wait
        for replies that flow control keeps back: the stream is reset instead.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.trailers is not None:
            return
        if status == blocks.OK and not stream.remote_closed:
            raise ValueError("a call may end with OK only after its peer has half-closed it")
        if stream.backlog:
            if status != blocks.OK:
                self.reset(stream_id, ErrorCode.CANCEL)
                return
            stream.trailers = blocks.trailers(status, message)
            return
        if stream.headers_sent:
            well = status == blocks.OK and not message
            self._end(stream, blocks.TRAILERS_OK if well else blocks.trailers(status, message))
        else:
            self._end(stream, blocks.trailers_only(status, message))

    def reset(self, stream_id: int, code: int = ErrorCode.CANCEL) -> None:
        """Cut a call."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._sender.out.append(build_rst(stream_id, code))
            self._forget(stream, early=True)

    def announce_drain(self) -> None:
        """Say that we are going to go (RFC 9113, 6.8): a GOAWAY that excludes no stream. Nothing is refused, so what
        the peer has sent before it knew is not lost; `drain` comes once it has had the time to know.
        """
        if not (self.failed or self._goodbye or self._announced):
            self._announced = True
            self._sender.out.append(build_goaway(LAST_STREAM_ID, ErrorCode.NO_ERROR))

    def drain(self) -> list[int]:
        """Say that we are going (GOAWAY). Calls of which no message was handled are refused, so that their peer may
        try them elsewhere; their ids are returned. New ones are refused too."""
        refused = [stream.id for stream in self._streams.values() if not stream.heard]
        if self.failed or self._goodbye:
            return []
        self._goodbye = True
        self._sender.out.append(build_goaway(self._last_heard, ErrorCode.NO_ERROR))
        for stream_id in refused:
            self.reset(stream_id, ErrorCode.REFUSED_STREAM)
        return refused

    def bytes_to_send(self) -> bytes:
        """Everything to be written now."""
        out = self._sender.out
        if not out:
            return b""
        first = out[0]
        data = first if len(out) == 1 and isinstance(first, bytes) else b"".join(out)
        out.clear()
        return data

    # ------------------------------------------------------------------ frames

    def _frames(self, data: bytes, events: list[Event]) -> int:
        """Handle every whole frame; returns where the first incomplete one begins."""
        position, end = 0, len(data)
        if not self._preface_seen:
            seen = data[: len(PREFACE)]
            if not PREFACE.startswith(seen):
                raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "not an HTTP/2 preface")
            if len(seen) < len(PREFACE):
                return 0
            self._preface_seen = True
            position = len(PREFACE)
        largest = self._limits.frame
        blocks_in = self._blocks
        while end - position >= HEAD_BYTES:
            # section 4.1: length (24 bits), type, flags, stream id (31 bits); compiled, this is faster than struct
            length = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
            if length > largest:
                raise LostConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a frame larger than allowed")
            start = position + HEAD_BYTES
            stop = start + length
            if stop > end:
                self._need = HEAD_BYTES + length
                return position
            kind, flags = data[position + 3], data[position + 4]
            stream_id = (
                (data[position + 5] & 0x7F) << 24
                | data[position + 6] << 16
                | data[position + 7] << 8
                | data[position + 8]
            )
            position = stop
            if blocks_in.is_open:
                if kind != CONTINUATION or stream_id != blocks_in.stream_id:
                    raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
                block = blocks_in.add(data, start, stop, flags, may_skip=self._decoder.may_skip)
                if block is not None:
                    self._whole_block(block, events)
            elif kind == DATA and self._settings_seen:
                self._data(data, start, stop, flags, stream_id, events)
            elif kind == HEADERS and self._settings_seen:
                block = blocks_in.start(data, start, stop, flags, stream_id, may_skip=self._decoder.may_skip)
                if block is not None:
                    self._whole_block(block, events)
            else:
                self._other(kind, data[start:stop], flags, stream_id, events)
        self._need = HEAD_BYTES
        return position

    def _data(
        self, data: bytes, start: int, stop: int, flags: int, stream_id: int, events: list[Event]
    ) -> None:
        size = stop - start
        self._receive_window -= size
        if self._receive_window < 0:
            raise LostConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window was overrun")
        self._ungranted += size
        if flags & PADDED:
            start, stop = unpadded(data, start, stop)
        if start == stop and not flags & END_STREAM:
            self._spend()
        stream = self._streams.get(stream_id)
        if stream is None:
            self._on_closed(stream_id)
        elif stream.remote_closed:
            self._violation(stream, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM", events)
        else:
            stream.receive_window -= size
            if stream.receive_window < 0:
                self._violation(stream, ErrorCode.FLOW_CONTROL_ERROR, "the window was overrun", events)
            else:
                stream.ungranted += size
                if start != stop:
                    self._take(stream, data, start, stop, events)
                if flags & END_STREAM:
                    self._half_closed(stream, events)
                elif stream.ungranted >= self._limits.stream_window >> 1 and stream_id in self._streams:
                    self._grant_stream(stream)
        if self._ungranted >= self._limits.connection_window >> 1:
            self._grant()

    def _take(self, stream: Stream, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        before = len(stream.partial)
        if before == 0 and stream.take_one(data, start, stop, self._limits.message, events):
            # nearly always a frame is a message
            if stream.id > self._last_heard:
                self._last_heard = stream.id
            return
        try:
            stream.take(data, start, stop, self._limits.message, events)
        except BadMessageError as bad:
            # the events of whole messages before it stand
            self._unfinished += len(stream.partial) - before
            self._refuse(stream, bad.status, bad.reason, events)
            return
        self._unfinished += len(stream.partial) - before
        if stream.heard and stream.id > self._last_heard:
            self._last_heard = stream.id
        if self._unfinished > self._limits.unfinished and stream.partial:
            self._refuse(stream, blocks.RESOURCE_EXHAUSTED, "too many unfinished messages", events)

    def _half_closed(self, stream: Stream, events: list[Event]) -> None:
        if stream.id not in self._streams:
            return
        if stream.partial:
            self._violation(stream, ErrorCode.PROTOCOL_ERROR, "the last message was cut short", events)
            return
        stream.remote_closed = True
        events.append(HalfClosed(stream.id))

    # ------------------------------------------------------------------ header blocks

    def _whole_block(self, block: bytes, events: list[Event]) -> None:
        stream_id, flags, too_large = self._blocks.stream_id, self._blocks.flags, self._blocks.too_large
        if stream_id <= self._last_id:
            self._trailers(stream_id, flags, block, too_large, events)
            return
        self._last_id = stream_id
        head: CallHead | None = None
        malformed = False
        try:
            if not too_large:
                head = self._decoder.head(block)
        except CompressionError as error:
            raise LostConnectionError(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        except HeaderListTooLargeError:
            pass
        except MalformedError:
            malformed = True
        if self._goodbye or len(self._streams) >= self._limits.streams:
            self._spend_reset()
            self._sender.out.append(build_rst(stream_id, ErrorCode.REFUSED_STREAM))
            self._remember(stream_id)
            return
        stream = Stream(stream_id, self._sender.initial_window, self._limits.stream_window)
        stream.remote_closed = bool(flags & END_STREAM)
        self._streams[stream_id] = stream
        if malformed:
            self._spend_reset()
            self.reset(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif head is None:
            self.finish(stream_id, blocks.RESOURCE_EXHAUSTED, "the metadata is larger than allowed")
        elif head.refusal is not None:
            self._end(stream, head.refusal)
        else:
            events.append(CallStarted(stream_id, head))
            if stream.remote_closed:
                events.append(HalfClosed(stream_id))

    def _trailers(
        self, stream_id: int, flags: int, block: bytes, too_large: bool, events: list[Event]
    ) -> None:
        """A second block of a stream: its trailers, or a mistake. Decoded in any case, to stay in step."""
        fault = "trailers larger than allowed" if too_large else ""
        try:
            if not too_large:
                check_trailers(self._decoder.fields(block))
        except CompressionError as error:
            raise LostConnectionError(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        except HeaderListTooLargeError:
            fault = "trailers larger than allowed"
        except MalformedError as malformed:
            fault = str(malformed)
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id not in self._ended_early:
                raise LostConnectionError(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
            self._spend()
        elif stream.remote_closed:
            self._violation(stream, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM", events)
        elif fault or not flags & END_STREAM:
            self._violation(stream, ErrorCode.PROTOCOL_ERROR, fault or "trailers without END_STREAM", events)
        else:
            self._half_closed(stream, events)

    # ------------------------------------------------------------------ everything else

    def _other(self, kind: int, payload: bytes, flags: int, stream_id: int, events: list[Event]) -> None:
        if not self._settings_seen and (kind != SETTINGS or flags & ACK):
            raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        match kind:
            case 8:  # WINDOW_UPDATE
                self._window_update(payload, stream_id, events)
            case 3:  # RST_STREAM
                self._rst(payload, stream_id, events)
            case 4:  # SETTINGS
                self._settings(payload, flags, stream_id, events)
            case 6:  # PING
                expect(payload, 8, stream_id, connection=True)
                self._spend()
                if not flags & ACK:
                    self._sender.out.append(build_frame(PING, ACK, 0, payload))
            case 2:  # PRIORITY is deprecated; only its form is checked
                expect(payload, 5, stream_id, connection=False)
                self._spend()
            case 7:  # GOAWAY: the peer opens no more streams; those that are open go on
                if stream_id or len(payload) < 8:
                    code = ErrorCode.PROTOCOL_ERROR if stream_id else ErrorCode.FRAME_SIZE_ERROR
                    raise LostConnectionError(code, "malformed GOAWAY")
                self._spend()
            case 5 | 9:
                what = "PUSH_PROMISE" if kind == PUSH_PROMISE else "CONTINUATION"
                raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, f"an unexpected {what}")
            case _:  # unknown frames are ignored (section 5.5)
                self._spend()

    def _window_update(self, payload: bytes, stream_id: int, events: list[Event]) -> None:
        if len(payload) != 4:
            raise LostConnectionError(ErrorCode.FRAME_SIZE_ERROR, "malformed WINDOW_UPDATE")
        self._spend()
        increment = NUMBER.unpack(payload)[0] & LARGEST_WINDOW
        if stream_id == 0:
            if increment == 0:
                raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
            try:
                emptied = self._sender.grow(increment)
            except WindowOverflowError:
                raise LostConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window too large") from None
            self._control.credit(increment >> 10)
            for stream in emptied:
                self._sent_all(stream)
            return
        if stream_id > self._last_id or not stream_id & 1:
            raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "a frame on an idle stream")
        found = self._streams.get(stream_id)
        if found is None:
            return
        if increment == 0:
            self._violation(found, ErrorCode.PROTOCOL_ERROR, "a window grows by nothing", events)
            return
        try:
            if self._sender.grow_stream(found, increment):
                self._sent_all(found)
        except WindowOverflowError:
            self._violation(found, ErrorCode.FLOW_CONTROL_ERROR, "a window too large", events)

    def _rst(self, payload: bytes, stream_id: int, events: list[Event]) -> None:
        expect(payload, 4, stream_id, connection=False)
        if stream_id > self._last_id or not stream_id & 1:
            raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "a frame on an idle stream")
        stream = self._streams.get(stream_id)
        if stream is None:
            self._spend()
            return
        if not stream.replied:
            # a stream that got a reply was real work; one reset before is how floods look
            self._spend_reset()
        self._forget(stream, early=False)
        events.append(CallEnded(stream_id, f"reset by the peer ({NUMBER.unpack(payload)[0]})"))

    def _settings(self, payload: bytes, flags: int, stream_id: int, events: list[Event]) -> None:
        if stream_id:
            raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise LostConnectionError(ErrorCode.FRAME_SIZE_ERROR, "malformed SETTINGS")
        if flags & ACK:
            self._spend()
            self._decoder.forbid_table()
            return
        # adjusting windows costs as much as there are streams
        self._spend(1 + len(payload) // 6 + (len(self._streams) >> 4) if self._settings_seen else 1)
        self._settings_seen = True
        before = self._sender.initial_window
        for name, value in parse_settings(payload):
            if name == INITIAL_WINDOW_SIZE:
                if value > LARGEST_WINDOW:
                    raise LostConnectionError(
                        ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE out of range"
                    )
                self._sender.initial_window = value
            elif name == MAX_FRAME_SIZE:
                if not DEFAULT_FRAME <= value <= LARGEST_FRAME:
                    raise LostConnectionError(
                        ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range"
                    )
                self._sender.largest_frame = value
            elif name == ENABLE_PUSH and value > 1:
                raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH out of range")
        # first of all: until the peer reads it, its old windows and frame sizes hold (RFC 9113 section 6.5.3)
        self._sender.out.append(SETTINGS_ACK)
        if self._sender.initial_window != before:
            self._move_windows(self._sender.initial_window - before)

    def _move_windows(self, change: int) -> None:
        for stream in list(self._streams.values()):
            try:
                if self._sender.grow_stream(stream, change):
                    self._sent_all(stream)
            except WindowOverflowError:
                raise LostConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window too large") from None

    # ------------------------------------------------------------------ windows we grant

    def _grant(self) -> None:
        """Give the connection's window back, unless the peer leaves our replies waiting."""
        if self._ungranted and self._sender.backlog <= self._limits.connection_window:
            self._sender.out.append(build_window_update(0, self._ungranted))
            self._receive_window += self._ungranted
            self._ungranted = 0

    def _grant_stream(self, stream: Stream) -> None:
        if stream.ungranted and not stream.backlog and not stream.remote_closed:
            self._sender.out.append(build_window_update(stream.id, stream.ungranted))
            stream.receive_window += stream.ungranted
            stream.ungranted = 0

    def _sent_all(self, stream: Stream) -> None:
        """A stream's queue ran empty: end it, or let its peer go on."""
        if stream.trailers is not None:
            self._end(stream, stream.trailers)
            return
        if stream.ungranted >= self._limits.stream_window >> 1:
            self._grant_stream(stream)
        if self._ungranted >= self._limits.connection_window >> 1:
            self._grant()

    # ------------------------------------------------------------------ ends

    def _end(self, stream: Stream, block: bytes) -> None:
        """Trailers, and the stream is over for us."""
        self._sender.headers(stream, block, end=True)
        early = not stream.remote_closed
        if early:
            # the answer is complete, the rest of the request is not wanted (section 8.1)
            self._sender.out.append(build_rst(stream.id, ErrorCode.NO_ERROR))
        self._forget(stream, early=early)

    def _violation(self, stream: Stream, code: ErrorCode, reason: str, events: list[Event]) -> None:
        """A stream error: this call is lost, the others go on."""
        self._spend_reset()
        self.reset(stream.id, code)
        events.append(CallEnded(stream.id, reason))

    def _refuse(self, stream: Stream, status: int, reason: str, events: list[Event]) -> None:
        """A call that broke a rule of gRPC: it ends with a status that says so."""
        self.finish(stream.id, status, reason)
        if stream.id in self._streams:
            self.reset(stream.id, ErrorCode.CANCEL)  # its end was waiting for flow control
        events.append(CallEnded(stream.id, reason))

    def _forget(self, stream: Stream, *, early: bool) -> None:
        del self._streams[stream.id]
        self._unfinished -= len(stream.partial)
        self._sender.drop(stream)
        if early:
            self._remember(stream.id)
        if self._ungranted >= self._limits.connection_window >> 1:
            self._grant()

    def _remember(self, stream_id: int) -> None:
        ended = self._ended_early
        ended[stream_id] = None
        if len(ended) > _REMEMBERED:
            del ended[next(iter(ended))]

    def _on_closed(self, stream_id: int) -> None:
        """DATA for a stream that is not there."""
        if stream_id > self._last_id or not stream_id & 1:
            raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "a frame on an idle stream")
        if stream_id not in self._ended_early:
            self._spend_reset()
            self._sender.out.append(build_rst(stream_id, ErrorCode.STREAM_CLOSED))
            self._remember(stream_id)

    def _fail(self, code: ErrorCode, reason: str, events: list[Event]) -> None:
        self.failed = True
        self._sender.out.append(build_goaway(self._last_id, code, reason))
        for stream in list(self._streams.values()):
            self._forget(stream, early=False)
        self._unread.clear()
        self._blocks.drop()
        events.append(ConnectionFailed(code, reason))

    # ------------------------------------------------------------------ checks

    def _spend(self, amount: float = 1) -> None:
        if not self._control.spend(self._now, amount):
            raise LostConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")

    def _spend_reset(self) -> None:
        if not self._resets.spend(self._now):
            raise LostConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many streams were reset")
