"""Envoy's external authorization: the same exchange, without its response. Allow, deny or hold only.

A unary call may end with OK: Envoy reads the verdict, not the status. What fails is denied in-band.
"""

from __future__ import annotations

import asyncio

import structlog
from google.protobuf.message import DecodeError

from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.steps import BodyMode, BodyModes, Forward, NeedBody, NeedKeys, Refuse, Step, Wait
from extproc.pipeline import HttpExchange
from extproc.pipeline.problems import problem
from extproc.servers.envoy_proto import CallMetadata, authz_head, check_reply
from extproc.servers.service import Service
from extproc.servers.wire import ext_authz_pb2 as az

log = structlog.get_logger()

IN_FORCE = BodyModes(BodyMode.BUFFERED, BodyMode.NONE)
PARTIAL = "x-envoy-auth-partial-body"
KEYS_WAIT = 8.0
UNRECORDED = Refuse(
    503,
    (("content-type", "application/problem+json"), ("retry-after", "5")),
    problem(503, "ledger-unavailable", "The audit ledger cannot be written."),
    "extproc_ledger_unavailable",
)


async def check(service: Service, data: bytes, call: CallMetadata) -> az.CheckResponse | None:
    """One Check call; None when not even a denial can be built."""
    service.open_checks += 1
    try:
        return await _check(service, data, call)
    finally:
        service.open_checks -= 1


async def _check(service: Service, data: bytes, call: CallMetadata) -> az.CheckResponse | None:
    exchange = HttpExchange(service.current, service.new_hex, IN_FORCE, service.now())
    try:
        try:
            message = az.CheckRequest.FromString(data)
        except DecodeError:
            return None
        step = await _decide(service, exchange, message, call)
        if isinstance(step, Forward):
            step = exchange.without_response(step, service.now())
    except asyncio.CancelledError:
        service.note(exchange.aborted(service.now(), "cancelled"))
        raise
    except Exception:
        log.exception("check.failed")
        step = exchange.failed(service.now())
    assert isinstance(step, Forward | Refuse)  # noqa: S101  (_decide returns nothing else)
    try:
        for record in step.records:
            service.ledger.append(record)
        service.ledger.commit()
    except LedgerUnavailableError:
        log.error("ledger.unavailable", refused=1)
        step = UNRECORDED
    return check_reply(step)


async def _decide(
    service: Service, exchange: HttpExchange, message: az.CheckRequest, call: CallMetadata
) -> Step:
    head, body = authz_head(message, call)
    step = exchange.request_headers(head, service.now())
    if isinstance(step, NeedKeys):
        try:
            await asyncio.wait_for(service.keys.refresh(step.provider, service.now()), KEYS_WAIT)
        except TimeoutError:
            pass  # the exchange sees for itself that the keys are not there
        step = exchange.keys_ready(service.now())
    if isinstance(step, NeedBody):
        if head.headers.get(PARTIAL) == "true":
            return exchange.misconfigured(service.now())
        step = exchange.request_body(body, service.now())
    if isinstance(step, Wait):
        settled = await service.desk.settle(step, exchange.recheck, exchange.joined)
        step = exchange.hold_settled(settled, service.now())
    return step
