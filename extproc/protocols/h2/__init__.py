"""HTTP/2 as far as a gRPC server needs it: bytes in, events and bytes out."""

from extproc.protocols.h2.connection import Connection
from extproc.protocols.h2.events import (
    CallEnded,
    CallStarted,
    ConnectionFailed,
    Event,
    HalfClosed,
    MessageReceived,
)
from extproc.protocols.h2.frames import ErrorCode
from extproc.protocols.h2.head import CallHead
from extproc.protocols.h2.limits import Limits

__all__ = [
    "CallEnded",
    "CallHead",
    "CallStarted",
    "Connection",
    "ConnectionFailed",
    "ErrorCode",
    "Event",
    "HalfClosed",
    "Limits",
    "MessageReceived",
]
