"""Refusals of the approvals API as RFC 9457 problem details, and what every answer carries."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from extproc.domain.errors import (
    ConfigError,
    LedgerUnavailableError,
    PolicyError,
    StoreUnavailableError,
    TokenError,
)
from extproc.domain.hold import HoldError

log = structlog.get_logger("extproc.approvals")

Handler = Callable[[Request], Awaitable[Response]]

TYPE_PREFIX = "urn:extproc:problem:"

STATUS_OF: dict[str, int] = {
    "not_found": 404,
    "not_open": 409,
    "self_approval": 403,
    "not_human": 403,
    "not_a_member": 403,
    "conflict_of_interest": 403,
    "already_voted": 409,
    "reason_required": 400,
    "too_many": 429,
    "not_shown_in_full": 409,
    "reason_pattern": 409,
    "too_wide": 409,
    "unknown_pin": 409,
    "conflict": 409,
    "not_allowed": 403,
    "not_requester": 403,
    "not_broken": 409,
    "already_reviewed": 409,
}
"""HoldError codes on the wire."""

CHALLENGE = 'Bearer realm="extproc-approvals"'

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""On every answer. There is no Access-Control-Allow-Origin: no other origin may read anything."""


class ProblemError(Exception):
    """A refusal. `code` is stable; `detail` never quotes what the caller sent."""

    def __init__(
        self, status: int, code: str, title: str, detail: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.headers = headers


NOT_FOUND = (404, "not_found", "There is no such hold, or it is not for you to see")
NO_GRANT = (404, "not_found", "There is no such grant, or it is not for you to see")


def problem(error: ProblemError) -> Response:
    """`application/problem+json` (RFC 9457 §3) with our `code`."""
    body = {
        "type": TYPE_PREFIX + error.code,
        "title": error.title,
        "status": error.status,
        "code": error.code,
    }
    if error.detail:
        body["detail"] = error.detail
    return JSONResponse(
        body, status_code=error.status, headers=error.headers, media_type="application/problem+json"
    )


def unauthorized(code: str, title: str, *, challenge: str = "invalid_token") -> ProblemError:
    """401 (RFC 6750 §3): a request without a token is told of no error."""
    value = f'{CHALLENGE}, error="{challenge}"' if challenge else CHALLENGE
    return ProblemError(401, code, title, headers={"www-authenticate": value})


def as_problem(error: Exception) -> ProblemError:
    """The one place where trouble becomes a status. Anything unexpected is our own fault and says nothing."""
    match error:
        case ProblemError():
            return error
        case HoldError(code="not_found"):
            return ProblemError(*NOT_FOUND)
        case HoldError():
            return ProblemError(
                STATUS_OF.get(error.code, 409), error.code, "It cannot be done", error.message
            )
        case TokenError():
            return unauthorized(error.code, "The token does not prove who you are")
        case ConfigError():
            return ProblemError(409, "settings_refused", "The settings are as before", str(error))
        case PolicyError():
            return ProblemError(
                409, "policy_refused", "The policies are as before: the new ones have mistakes", str(error)
            )
        case LedgerUnavailableError():
            return ProblemError(503, "ledger_unavailable", "Nothing can be recorded now, so nothing was done")
        case StoreUnavailableError():
            return ProblemError(503, "store_unavailable", "The store cannot answer now")
        case HTTPException(status_code=405):
            return ProblemError(
                405, "method_not_allowed", "Not with this method", headers=dict(error.headers or {})
            )
        case HTTPException(status_code=404):
            return ProblemError(404, "no_such_path", "There is nothing here")
        case _:
            # the type alone: an exception's text may quote what nobody should read
            log.error("approvals_api_failed", error=type(error).__name__)
            return ProblemError(500, "internal", "Something went wrong on our side")


def guarded(handler: Handler) -> Handler:
    """`handler`, whose exceptions are answers."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:
            return problem(as_problem(error))

    return answer


async def answer_exception(_: Request, error: Exception) -> Response:
    """For what Starlette raises before a handler is reached."""
    return problem(as_problem(error))


class FixedHeaders:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
