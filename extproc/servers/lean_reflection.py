"""Server reflection on the lean transport: a call that is answered message by message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from extproc.protocols.h2 import CallHead
from extproc.protocols.h2.blocks import DEADLINE_EXCEEDED, INVALID_ARGUMENT, OK, UNAVAILABLE
from extproc.servers.lean_calls import Call, CallOpener, Context, Wire

if TYPE_CHECKING:
    from extproc.servers.reflection import Reflection


class ReflectionCall:
    """`ServerReflection/ServerReflectionInfo`."""

    __slots__ = ("_reflection", "_stream_id", "_wire")

    def __init__(self, reflection: Reflection, wire: Wire, stream_id: int) -> None:
        self._reflection = reflection
        self._wire = wire
        self._stream_id = stream_id

    def message(self, data: bytes) -> None:
        answer = self._reflection.answer(data)
        if answer is None:
            self._wire.finish(self._stream_id, INVALID_ARGUMENT, "the message does not parse")
        else:
            self._wire.reply(self._stream_id, answer)

    def half_closed(self) -> None:
        self._wire.finish(self._stream_id, OK)

    def gone(self) -> None:
        """Nothing is left behind."""

    def cut(self, reason: str) -> None:
        self._wire.finish(self._stream_id, UNAVAILABLE, reason)

    def expire(self) -> None:
        self._wire.finish(self._stream_id, DEADLINE_EXCEEDED, "the deadline has passed")


def reflection_methods(reflection: Reflection) -> dict[str, CallOpener]:
    """How its calls are opened, by method."""

    def open_call(context: Context, wire: Wire, stream_id: int, head: CallHead) -> Call:
        return ReflectionCall(reflection, wire, stream_id)

    return dict.fromkeys(reflection.methods, open_call)
