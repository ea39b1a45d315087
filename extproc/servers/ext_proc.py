"""Envoy's HTTP external processing: one `ProcessStream` per RPC, the same for every transport.

`receive` is synchronous. It handles a message, appends records and posts the reply; the transport then flushes.
Only a hold or a key fetch starts a task, so the reader is never blocked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Protocol

import structlog
from google.protobuf.message import DecodeError

from extproc.domain.errors import LedgerUnavailableError, ProtocolError
from extproc.domain.record import Record
from extproc.domain.steps import BodyMode, BodyModes, Forward, NeedBody, NeedKeys, Refuse, Step, Wait
from extproc.pipeline import HttpExchange
from extproc.pipeline.problems import problem
from extproc.servers.asked import Asked, read_asked
from extproc.servers.envoy_proto import (
    UNCHANGED,
    CallMetadata,
    WireHeaders,
    forward_reply,
    is_from_upstream,
    modes_in_force,
    refuse_reply,
    request_head,
    timeout_reply,
)
from extproc.servers.service import KEYS_WAIT, Service

log = structlog.get_logger()

TIMEOUT_MARGIN: Final = 10.0
"""Seconds Envoy is asked to wait beyond our own deadline, so that ours ends the wait."""
BUFFERED: Final = BodyModes(BodyMode.BUFFERED, BodyMode.BUFFERED)


class Channel(Protocol):
    """The way back to Envoy. Messages keep their order; `abort` ends the RPC with a non-OK status."""

    def send(self, reply: bytes) -> None: ...

    def abort(self, reason: str) -> None: ...


class PostedReply:
    """A reply in the outbox: the real one, or the refusal if its records cannot be written."""

    __slots__ = ("_channel", "_message", "_stream")

    def __init__(self, stream: ProcessStream, channel: Channel, message: bytes) -> None:
        self._stream = stream
        self._channel = channel
        self._message = message

    def send(self) -> None:
        self._channel.send(self._message)

    def refuse(self) -> None:
        self._stream.unrecorded()


class ProcessStream:
    """One `Process` RPC: one HTTP exchange."""

    __slots__ = ("_call", "_channel", "_exchange", "_pieces", "_service", "_task", "_time_asked", "ended")

    def __init__(self, service: Service, call: CallMetadata, channel: Channel) -> None:
        self._service = service
        self._call = call
        self._channel = channel
        self._exchange: HttpExchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._pieces = 0
        self._time_asked = False
        self.ended = False

    def receive(self, data: bytes) -> None:
        """One message from Envoy. Never raises: what goes wrong becomes a refusal or an abort."""
        if self.ended:
            return
        try:
            message = read_asked(data)
        except DecodeError:
            self._abort("the message does not parse")
            return
        kind = message.kind
        if not kind:
            self._abort("the message has no request part")
            return
        try:
            self._handle(kind, message)
        except Exception:
            log.exception("exchange.failed", kind=kind)
            self._fail(kind)

    @property
    def _under_way(self) -> bool:
        """A piece of the response has left: all that can still be done is to cut it off."""
        return self._pieces > 1

    def closed(self, reason: str) -> None:
        """Envoy ended the stream, in whatever way: nothing can be answered any more."""
        if self.ended and self._task is None:
            return
        self.ended = True
        self._stop_waiting()
        if self._exchange is not None:
            self._service.note(self._exchange.aborted(self._service.now(), reason))

    # ------------------------------------------------------------------

    def _handle(self, kind: str, message: Asked) -> None:
        service = self._service
        exchange = self._exchange
        self._time_asked = False
        now = service.now()
        if exchange is None:
            in_force = modes_in_force(message)
            self._exchange = exchange = HttpExchange(
                service.current, service.new_hex, in_force or BUFFERED, now
            )
            head = request_head(message, self._call)
            if in_force is None or message.observability_mode:
                exchange.expect_response(head)
                self._reply(kind, exchange.misconfigured(now))
                return
            if kind != "request_headers":
                exchange.expect_response(head)
                if kind.startswith("request"):
                    self._reply(kind, exchange.misconfigured(now))
                    return
            else:
                self._reply(kind, exchange.request_headers(head, now))
                return
        match kind:
            case "request_headers":
                raise ProtocolError("out-of-order", "Request headers came twice.")
            case "request_body":
                self._reply(kind, exchange.request_body(message.content, now))
            case "response_headers":
                self._stop_waiting()  # a local reply of Envoy while the request waits: the wait is over
                headers = WireHeaders(message.content)
                came_from = is_from_upstream(message)
                step = exchange.response_headers(headers, message.end_of_stream, now, from_upstream=came_from)
                self._reply(kind, step)
            case "response_body":
                self._pieces += 1
                self._reply(kind, exchange.response_body(message.content, message.end_of_stream, now))
            case "response_trailers":
                trailers = WireHeaders(message.content)
                self._reply(kind, exchange.response_trailers(trailers, now))
            case _:
                self._reply(kind, Forward())

    def _reply(self, kind: str, step: Step) -> None:
        match step:
            case Forward():
                self._post(step.records, forward_reply(kind, step))
            case Refuse():
                if self._under_way:
                    self._service.note(step.records)
                    self._abort("the response must stop here")
                    return
                self._stop_waiting()  # no approval may be spent on what is refused
                self._post(step.records, refuse_reply(step))
            case NeedBody():
                self._post(step.records, UNCHANGED[kind])
            case Wait():
                self._await(step.wait, self._wait(kind, step))
            case NeedKeys():
                # a hold may follow, and by then it is too late to ask for more
                longest = max(KEYS_WAIT, self._service.current().max_wait)
                self._await(longest, self._fetch(kind, step))

    def _post(self, records: tuple[Record, ...], message: bytes) -> None:
        append = self._service.ledger.append
        try:
            for record in records:
                append(record)
        except LedgerUnavailableError:
            self.unrecorded()
            return
        self._service.post(PostedReply(self, self._channel, message))

    def _await(self, seconds: float, work: Coroutine[Any, Any, None]) -> None:
        """Let `work` bring the answer. Envoy grants more time once per message, so it is asked for at once."""
        if seconds > 0 and not self._time_asked:
            self._time_asked = True
            self._post((), timeout_reply(seconds + TIMEOUT_MARGIN))
        self._task = self._service.spawn(work)

    async def _wait(self, kind: str, wait: Wait) -> None:
        exchange = self._exchange
        assert exchange is not None  # noqa: S101  (a stream waits only for its exchange)
        try:
            settled = await self._service.desk.settle(wait, exchange.recheck, exchange.joined)
            self._task = None
            self._reply(kind, exchange.hold_settled(settled, self._service.now()))
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("hold.failed")
            self._task = None
            self._fail(kind)
        self._service.flush()

    async def _fetch(self, kind: str, need: NeedKeys) -> None:
        exchange = self._exchange
        assert exchange is not None  # noqa: S101
        await self._service.fetch_keys(need.provider)
        self._task = None
        try:
            self._reply(kind, exchange.keys_ready(self._service.now()))
        except Exception:
            log.exception("exchange.failed", kind=kind)
            self._fail(kind)
        self._service.flush()

    # ------------------------------------------------------------------

    def _fail(self, kind: str) -> None:
        """An unexpected fault of ours: refuse in-band while that is possible, otherwise cut."""
        exchange = self._exchange
        if exchange is None or self._under_way:
            self._abort("internal error")
            return
        self._stop_waiting()
        try:
            step = exchange.failed(self._service.now())
        except Exception:
            log.exception("exchange.failed_twice", kind=kind)
            self._abort("internal error")
            return
        try:
            self._post(step.records, refuse_reply(step))
        except Exception:
            log.exception("exchange.failed_twice", kind=kind)
            self._abort("internal error")

    def unrecorded(self) -> None:
        """What this stream decided could not be written down, so none of it may happen."""
        self._stop_waiting()  # an approval must not be spent on what is refused here
        if self.ended:
            return  # one refusal is enough for all its replies of a batch
        if self._under_way:
            self._abort("nothing can be recorded")
            return
        self.ended = True
        has_run = self._exchange is not None and self._exchange.has_run
        body = problem(
            503, "ledger-unavailable", "The audit ledger cannot be written.", extra={"executed": has_run}
        )
        self._channel.send(
            refuse_reply(
                Refuse(
                    503,
                    (("content-type", "application/problem+json"), ("retry-after", "5")),
                    body,
                    "extproc_ledger_unavailable",
                )
            )
        )

    def _stop_waiting(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    def _abort(self, reason: str) -> None:
        self.ended = True
        self._stop_waiting()
        if self._exchange is not None:
            self._service.note(self._exchange.aborted(self._service.now(), reason))
        self._channel.abort(reason)
