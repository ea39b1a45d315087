"""What a connection tells its owner. Plain classes, because one request makes several of them."""

from __future__ import annotations

from typing import Final

from extproc.protocols.h2.head import CallHead


class Told:
    """Compared and shown by its parts."""

    __slots__ = ()

    def parts(self) -> tuple[object, ...]:
        """What it says, in order."""
        return ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Told) and type(other) is type(self) and other.parts() == self.parts()

    def __hash__(self) -> int:
        return hash(self.parts())

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.parts()!r}"


class CallStarted(Told):
    """A call has begun; its head may be shared with other calls."""

    __slots__ = ("head", "stream_id")

    def __init__(self, stream_id: int, head: CallHead) -> None:
        self.stream_id: Final = stream_id
        self.head: Final = head

    def parts(self) -> tuple[object, ...]:
        return self.stream_id, self.head


class MessageReceived(Told):
    """One whole gRPC message."""

    __slots__ = ("data", "stream_id")

    def __init__(self, stream_id: int, data: bytes) -> None:
        self.stream_id: Final = stream_id
        self.data: Final = data

    def parts(self) -> tuple[object, ...]:
        return self.stream_id, self.data


class HalfClosed(Told):
    """The peer ended its side (END_STREAM): no more messages come, and the call may end with OK."""

    __slots__ = ("stream_id",)

    def __init__(self, stream_id: int) -> None:
        self.stream_id: Final = stream_id

    def parts(self) -> tuple[object, ...]:
        return (self.stream_id,)


class CallEnded(Told):
    """The call is over and nothing more can be sent: the peer reset it, or broke a rule of its stream."""

    __slots__ = ("reason", "stream_id")

    def __init__(self, stream_id: int, reason: str) -> None:
        self.stream_id: Final = stream_id
        self.reason: Final = reason

    def parts(self) -> tuple[object, ...]:
        return self.stream_id, self.reason


class ConnectionFailed(Told):
    """The peer broke a rule of the connection. GOAWAY is in `bytes_to_send`; then the connection is closed."""

    __slots__ = ("code", "reason")

    def __init__(self, code: int, reason: str) -> None:
        self.code: Final = code
        self.reason: Final = reason

    def parts(self) -> tuple[object, ...]:
        return self.code, self.reason


Event = CallStarted | MessageReceived | HalfClosed | CallEnded | ConnectionFailed
