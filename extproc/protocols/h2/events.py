"""What a connection tells its owner. Named tuples, because one request makes several of them."""

from __future__ import annotations

from typing import NamedTuple

from extproc.protocols.h2.head import CallHead


class CallStarted(NamedTuple):
    """A call has begun; its head may be shared with other calls."""

    stream_id: int
    head: CallHead


class MessageReceived(NamedTuple):
    """One whole gRPC message."""

    stream_id: int
    data: bytes


class HalfClosed(NamedTuple):
    """The peer ended its side (END_STREAM): no more messages come, and the call may end with OK."""

    stream_id: int


class CallEnded(NamedTuple):
    """The call is over and nothing more can be sent: the peer reset it, or broke a rule of its stream."""

    stream_id: int
    reason: str


class ConnectionFailed(NamedTuple):
    """The peer broke a rule of the connection. GOAWAY is in `bytes_to_send`; then the connection is closed."""

    code: int
    reason: str


Event = CallStarted | MessageReceived | HalfClosed | CallEnded | ConnectionFailed
