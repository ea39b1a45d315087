"""The kinds of calls the lean transport serves. Each is told what comes in and answers through its `Wire`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import structlog

from extproc.protocols.h2 import CallHead
from extproc.protocols.h2.blocks import (
    DEADLINE_EXCEEDED,
    INTERNAL,
    NOT_FOUND,
    OK,
    PERMISSION_DENIED,
    UNAVAILABLE,
)
from extproc.servers.access_log import ACCESS_METHOD, AccessError, AccessStream
from extproc.servers.envoy_proto import (
    CHECK_METHOD,
    PROCESS_METHOD,
    CallMetadata,
    call_metadata,
)
from extproc.servers.ext_authz import Check
from extproc.servers.ext_proc import ProcessStream
from extproc.servers.half_close import how_to_end
from extproc.servers.lean_health import (
    HEALTH_CHECK_METHOD,
    HEALTH_WATCH_METHOD,
    HealthBoard,
    asked_service,
)
from extproc.servers.network_ext_proc import NETWORK_METHOD, NetworkStream, Opener
from extproc.servers.service import Service

log = structlog.get_logger()


class Wire(Protocol):
    """The connection as a call sees it. Both do nothing for a call that is over."""

    def reply(self, stream_id: int, payload: bytes) -> None: ...

    def finish(self, stream_id: int, status: int, message: str = "") -> None: ...


class Call(Protocol):
    """One call. `gone` and `cut` come at most once, and nothing comes after them."""

    def message(self, data: bytes) -> None: ...

    def half_closed(self) -> None:
        """The peer's END_STREAM. Replies to what came before it have been sent."""

    def gone(self) -> None:
        """The stream is no more: reset, or its connection is lost."""

    def cut(self, reason: str) -> None:
        """We must end it now, with a status that is not OK."""

    def expire(self) -> None:
        """Its deadline (grpc-timeout) has passed."""


class Stream(Protocol):
    """What a `Process` RPC carries, whichever service it belongs to."""

    def receive(self, data: bytes) -> None: ...

    def closed(self, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What calls are served with."""

    service: Service
    board: HealthBoard
    conversations: Opener


CallOpener = Callable[[Context, Wire, int, CallHead], Call]


class _Ended:
    """A stream that is over."""

    def receive(self, data: bytes) -> None:
        """Nobody listens."""

    def closed(self, reason: str) -> None:
        """It was closed before."""


ENDED: Final = _Ended()
NOBODY: Final[Callable[[bytes], None]] = ENDED.receive


class _StreamCall:
    """A `Process` RPC, of either external processor: the way between its stream and the wire."""

    __slots__ = ("_service", "_stream", "_stream_id", "_wire", "message")

    def __init__(self, service: Service, wire: Wire, stream_id: int) -> None:
        self._service = service
        self._wire = wire
        self._stream_id = stream_id
        self._stream: Stream = ENDED
        self.message = NOBODY

    def carry(self, stream: Stream) -> _StreamCall:
        """From here on messages go to this stream."""
        self._stream = stream
        self.message = stream.receive
        self._service.open_streams += 1
        return self

    def send(self, reply: bytes) -> None:
        """A reply whose records are written (`Channel`)."""
        self._wire.reply(self._stream_id, reply)

    def abort(self, reason: str) -> None:
        """The stream gives up (`Channel`)."""
        self._end(False, reason)

    def half_closed(self) -> None:
        self._stream.closed("half-closed")
        self._end(True)

    def gone(self) -> None:
        self._stream.closed("cancelled")
        self._let_go()

    def cut(self, reason: str) -> None:
        self._stream.closed("cut")
        self._end(False, reason)

    def expire(self) -> None:
        self.cut("the call's own deadline has passed")

    def _end(self, half_closed: bool, trouble: str | None = None) -> None:
        """The only way a Process stream is ended from our side."""
        status, message = how_to_end(half_closed, trouble)
        self._wire.finish(self._stream_id, status, message)
        self._let_go()

    def _let_go(self) -> None:
        """The stream and this hold each other; apart, both are freed at once, without the garbage collector."""
        if self._stream is not ENDED:
            self._service.open_streams -= 1
        self._stream = ENDED
        self.message = NOBODY


def open_process(context: Context, wire: Wire, stream_id: int, head: CallHead) -> Call:
    """`ExternalProcessor/Process`: one HTTP exchange."""
    call = _StreamCall(context.service, wire, stream_id)
    return call.carry(ProcessStream(context.service, _metadata(head), call))


def open_network(context: Context, wire: Wire, stream_id: int, head: CallHead) -> Call:
    """`NetworkExternalProcessor/Process`: one connection."""
    call = _StreamCall(context.service, wire, stream_id)
    return call.carry(NetworkStream(context.service, _metadata(head), call, context.conversations))


class _Unary(ABC):
    """A call of one message: what is common to Check and health."""

    __slots__ = ("_request", "_stream_id", "_wire")

    def __init__(self, wire: Wire, stream_id: int) -> None:
        self._wire = wire
        self._stream_id = stream_id
        self._request: bytes | None = None

    def message(self, data: bytes) -> None:
        if self._request is not None:
            self._wire.finish(self._stream_id, INTERNAL, "two messages in a unary call")
        self._request = data

    def half_closed(self) -> None:
        if self._request is None:
            self._wire.finish(self._stream_id, INTERNAL, "no message in a unary call")
        else:
            self.serve(self._request)

    @abstractmethod
    def serve(self, request: bytes) -> None:
        """The one message is complete."""

    def gone(self) -> None:  # noqa: B027  (most calls leave nothing behind)
        """Nothing is left behind."""

    def cut(self, reason: str) -> None:
        self.gone()
        self._wire.finish(self._stream_id, UNAVAILABLE, reason)

    def expire(self) -> None:
        self.gone()
        self._wire.finish(self._stream_id, DEADLINE_EXCEEDED, "the deadline has passed")


class CheckCall(_Unary):
    """`Authorization/Check`."""

    __slots__ = ("_check",)

    def __init__(self, context: Context, wire: Wire, stream_id: int, head: CallHead) -> None:
        super().__init__(wire, stream_id)
        self._check = Check(context.service, _metadata(head), partial(_answer_check, wire, stream_id))

    def serve(self, request: bytes) -> None:
        self._check.receive(request)

    def gone(self) -> None:
        self._check.gone()


def _answer_check(wire: Wire, stream_id: int, reply: bytes | None) -> None:
    if reply is None:
        wire.finish(stream_id, INTERNAL, "the check could not be made")
        return
    wire.reply(stream_id, reply)
    wire.finish(stream_id, OK)


class AccessCall:
    """`AccessLogService/StreamAccessLogs`: Envoy tells, and we have nothing to say."""

    __slots__ = ("_stream", "_stream_id", "_wire")

    def __init__(self, context: Context, wire: Wire, stream_id: int, head: CallHead) -> None:
        self._stream = AccessStream(context.service)
        self._stream_id = stream_id
        self._wire = wire

    def message(self, data: bytes) -> None:
        try:
            self._stream.receive(data)
        except AccessError as error:
            self.cut(str(error))
        except Exception:
            log.exception("access.failed")
            self.cut("internal error")

    def half_closed(self) -> None:
        self._wire.reply(self._stream_id, b"")
        self._wire.finish(self._stream_id, OK)

    def gone(self) -> None:
        """Nothing is left behind."""

    def cut(self, reason: str) -> None:
        self._wire.finish(self._stream_id, UNAVAILABLE, reason)

    def expire(self) -> None:
        self._wire.finish(self._stream_id, DEADLINE_EXCEEDED, "the deadline has passed")


class HealthCheckCall(_Unary):
    """`Health/Check`."""

    __slots__ = ("_board",)

    def __init__(self, context: Context, wire: Wire, stream_id: int, head: CallHead) -> None:
        super().__init__(wire, stream_id)
        self._board = context.board

    def serve(self, request: bytes) -> None:
        service = asked_service(request)
        if service is None:
            self._wire.finish(self._stream_id, INTERNAL, "the message does not parse")
            return
        answer = self._board.answer(service)
        if answer is None:
            self._wire.finish(self._stream_id, NOT_FOUND, "no such service")
            return
        self._wire.reply(self._stream_id, answer)
        self._wire.finish(self._stream_id, OK)


class HealthWatchCall(_Unary):
    """`Health/Watch`: tells until the peer leaves."""

    __slots__ = ("_board",)

    def __init__(self, context: Context, wire: Wire, stream_id: int, head: CallHead) -> None:
        super().__init__(wire, stream_id)
        self._board = context.board

    def serve(self, request: bytes) -> None:
        service = asked_service(request)
        if service is None:
            self._wire.finish(self._stream_id, INTERNAL, "the message does not parse")
            return
        self._board.watch(self, service)

    def tell(self, answer: bytes) -> None:
        """The status, now or changed."""
        self._wire.reply(self._stream_id, answer)

    def gone(self) -> None:
        self._board.leave(self)


METHODS: Final[dict[str, CallOpener]] = {
    PROCESS_METHOD: open_process,
    NETWORK_METHOD: open_network,
    CHECK_METHOD: CheckCall,
    ACCESS_METHOD: AccessCall,
    HEALTH_CHECK_METHOD: HealthCheckCall,
    HEALTH_WATCH_METHOD: HealthWatchCall,
}


class RefusedCall:
    """Any call of a peer that may not call (mTLS): refused at once, whatever it says."""

    __slots__ = ("_stream_id", "_wire")

    def __init__(self, context: Context, wire: Wire, stream_id: int, head: CallHead) -> None:
        self._wire = wire
        self._stream_id = stream_id
        # its connection keeps the call once this returns, and forgets it when it is finished
        asyncio.get_running_loop().call_soon(self._refuse)

    def _refuse(self) -> None:
        self._wire.finish(self._stream_id, PERMISSION_DENIED, "this certificate may not call")

    def message(self, data: bytes) -> None:
        """Nobody listens."""

    def half_closed(self) -> None:
        """It is refused all the same."""

    def gone(self) -> None:
        """Nothing is left behind."""

    def cut(self, reason: str) -> None:
        self._refuse()

    def expire(self) -> None:
        self._refuse()


def _metadata(head: CallHead) -> CallMetadata:
    found = head.memo
    if found is None:
        head.memo = found = call_metadata(head.metadata)
    return found  # type: ignore[no-any-return]
