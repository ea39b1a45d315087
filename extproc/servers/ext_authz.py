"""Envoy's external authorization: the same exchange, without its response. Allow, deny or hold only.

A unary call may end with OK: Envoy reads the verdict, not the status. What fails is denied in-band.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.request import RequestHead
from extproc.domain.steps import BodyMode, BodyModes, Forward, NeedBody, NeedKeys, Refuse, Step, Wait
from extproc.pipeline import HttpExchange
from extproc.pipeline.problems import problem
from extproc.servers.envoy_proto import CallMetadata, authz_head, check_reply
from extproc.servers.service import Service
from extproc.servers.wire import ext_authz_pb2 as az

log = structlog.get_logger()

IN_FORCE: Final = BodyModes(BodyMode.BUFFERED, BodyMode.NONE)
PARTIAL: Final = "x-envoy-auth-partial-body"
UNRECORDED: Final = check_reply(
    Refuse(
        503,
        (("content-type", "application/problem+json"), ("retry-after", "5")),
        problem(503, "ledger-unavailable", "The audit ledger cannot be written."),
        "extproc_ledger_unavailable",
    )
)

Answer = Callable[[bytes | None], None]


class Check:
    """One Check call. Only a hold or a key fetch starts a task; anything else is decided at once.

    `answer` gets the reply when its records are written, None when not even a denial can be made, and is called
    once at most.
    """

    __slots__ = ("_answer", "_call", "_exchange", "_is_open", "_reply", "_service", "_task")

    def __init__(self, service: Service, call: CallMetadata, answer: Answer) -> None:
        self._service = service
        self._call = call
        self._answer = answer
        self._is_open = False
        self._exchange: HttpExchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._reply: bytes = b""

    def receive(self, data: bytes) -> None:
        """The request. What is decided at once waits in the outbox for the next `flush`. Never raises."""
        service = self._service
        service.open_checks += 1
        self._is_open = True
        try:
            message = az.AskedCheck.FromString(data)
        except DecodeError:
            self._finish(None)
            return
        try:
            now = service.now()
            self._exchange = exchange = HttpExchange(service.current, service.new_hex, IN_FORCE, now)
            head, body = authz_head(message, self._call)
            step = self._with_body(exchange, exchange.request_headers(head, now), head, body)
        except Exception:
            log.exception("check.failed")
            self._fail()
            return
        if isinstance(step, NeedKeys | Wait):
            self._task = service.spawn(self._wait(exchange, step, head, body))
        else:
            self._post(step)

    def gone(self) -> None:
        """Nobody waits for the answer any more."""
        if not self._close():
            return
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if self._exchange is not None:
            self._service.note(self._exchange.aborted(self._service.now(), "cancelled"))

    # ------------------------------------------------------------------ the service's outbox

    def send(self) -> None:
        """The records of the reply are written."""
        self._finish(self._reply)

    def refuse(self) -> None:
        """They could not be."""
        self._finish(UNRECORDED)

    # ------------------------------------------------------------------

    def _with_body(self, exchange: HttpExchange, step: Step, head: RequestHead, body: bytes) -> Step:
        """The body came with the headers, so it is there if it is asked for; unless Envoy cut it."""
        if not isinstance(step, NeedBody):
            return step
        if head.headers.get(PARTIAL) == "true":
            return exchange.misconfigured(self._service.now())
        return exchange.request_body(body, self._service.now())

    async def _wait(self, exchange: HttpExchange, step: Step, head: RequestHead, body: bytes) -> None:
        service = self._service
        try:
            if isinstance(step, NeedKeys):
                await service.fetch_keys(step.provider)
                step = self._with_body(exchange, exchange.keys_ready(service.now()), head, body)
            if isinstance(step, Wait):
                settled = await service.desk.settle(step, exchange.recheck, exchange.joined)
                step = exchange.hold_settled(settled, service.now())
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("check.failed")
            self._task = None
            self._fail()
        else:
            self._task = None
            self._post(step)
        service.flush()

    def _post(self, step: Step) -> None:
        try:
            self._settle(step)
        except Exception:
            log.exception("check.failed")
            self._fail()

    def _fail(self) -> None:
        """An unexpected fault of ours: denied in-band while that is possible."""
        try:
            if self._exchange is not None:
                self._settle(self._exchange.failed(self._service.now()))
                return
        except Exception:
            log.exception("check.failed_twice")
        self._finish(None)

    def _settle(self, step: Step) -> None:
        if isinstance(step, Forward):
            assert self._exchange is not None  # noqa: S101  (a step comes from it)
            step = self._exchange.without_response(step, self._service.now())
        if not isinstance(step, Forward | Refuse):
            raise TypeError(f"{type(step).__name__} is no answer")
        self._reply = check_reply(step)
        append = self._service.ledger.append
        try:
            for record in step.records:
                append(record)
        except LedgerUnavailableError:
            log.error("ledger.unavailable", refused=1)
            self._finish(UNRECORDED)
            return
        self._service.post(self)

    def _finish(self, reply: bytes | None) -> None:
        if self._close():
            self._answer(reply)

    def _close(self) -> bool:
        """False if it was not open any more."""
        was_open, self._is_open = self._is_open, False
        if was_open:
            self._service.open_checks -= 1
        return was_open
