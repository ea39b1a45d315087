"""HTTP/2 frames as bytes: numbers, error codes, and builders for the frames a gRPC server sends (RFC 9113)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME: Final = 16_384
LARGEST_WINDOW: Final = 0x7FFF_FFFF
LARGEST_FRAME: Final = 0xFF_FFFF

FRAME_HEAD: Final = Struct(">IBI")
"""Length and type in one number (length << 8 | type), flags, stream id."""
MESSAGE_HEAD: Final = Struct(">BI")
NUMBER: Final = Struct(">I")
_SETTING: Final = Struct(">HI")
_GOAWAY: Final = Struct(">II")


class ErrorCode(IntEnum):
    """Why a stream or a connection ended (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def build_frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Any frame."""
    return FRAME_HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def build_settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    return build_frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in values.items()))


def build_rst(stream_id: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return build_frame(RST_STREAM, 0, stream_id, NUMBER.pack(code))


def build_window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return build_frame(WINDOW_UPDATE, 0, stream_id, NUMBER.pack(increment))


def build_goaway(last_stream_id: int, code: int, reason: str = "") -> bytes:
    """A GOAWAY frame; `reason` is debug data and names no secret."""
    return build_frame(GOAWAY, 0, 0, _GOAWAY.pack(last_stream_id, code) + reason.encode("ascii", "replace"))


def parse_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Name and value of each setting; the payload's length was checked."""
    return _SETTING.iter_unpack(payload)


SETTINGS_ACK: Final = build_frame(SETTINGS, ACK, 0)


class LostConnectionError(Exception):
    """The peer broke a rule of the connection, which ends with this code (section 5.4.1)."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def unpadded(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Where the content of a padded frame starts and stops (section 6.1). Raises LostConnectionError."""
    if start == stop:
        raise LostConnectionError(ErrorCode.FRAME_SIZE_ERROR, "no room for the padding length")
    padding = data[start]
    if padding >= stop - start:
        raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return start + 1, stop - padding


def expect(payload: bytes, size: int, stream_id: int, *, connection: bool) -> None:
    """A frame of a fixed size that belongs to the connection, or to a stream. Raises LostConnectionError."""
    if connection != (stream_id == 0):
        raise LostConnectionError(ErrorCode.PROTOCOL_ERROR, "a frame on the wrong stream")
    if len(payload) != size:
        raise LostConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a frame of the wrong size")
