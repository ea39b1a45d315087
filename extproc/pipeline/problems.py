"""Refusals as RFC 9457 problem details: what happened, under which rule, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

TYPE_PREFIX = "urn:extproc:problem:"

TITLES: dict[int, str] = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}

NEXT: dict[str, str] = {
    "held": "Wait for a person to decide, then send the same request again.",
    "hold-rejected": "A person decided against this request. Do not send it again unchanged.",
    "hold-closed": "The hold ended undecided. Send the request again to ask anew.",
    "hold-void": "Policy changed since this was approved. Send the request again to ask anew.",
    "too-many-holds": "Wait until some of the pending holds are decided.",
    "no-rule-matched": "No rule allows this request. Ask the policy's owner if it should.",
    "rule-denied": "A rule forbids this request. Do not send it again unchanged.",
    "rule-error": "A rule could not be evaluated for this request, so it was refused.",
    "ledger-unavailable": "Nothing can be recorded now, so nothing is allowed. Try again later.",
}

NEXT_BY_STATUS: dict[int, str] = {
    400: "Send it in a form that every server reads alike.",
    401: "Send a valid token of an issuer that is trusted here.",
    403: "Ask the policy's owner, naming the decision id.",
    413: "Send less at once.",
    415: "Send it in a form that can be inspected.",
    422: "Correct the request.",
    429: "Wait, then try again.",
    500: "Ask the operator, naming the trace id.",
    502: "Ask the operator, naming the trace id. Do not assume that nothing was executed.",
    503: "Try again later.",
}


def problem(
    status: int, code: str, detail: str, *, extra: Mapping[str, Any] | None = None, title: str = ""
) -> bytes:
    """The body of a refusal (application/problem+json). `executed` is false unless `extra` says that it ran."""
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": title or TITLES.get(status, "Refused"),
        "status": status,
        "code": code,
        "detail": detail,
        "executed": False,
    }
    following = NEXT.get(code) or NEXT_BY_STATUS.get(status)
    if following:
        body["next"] = following
    if extra:
        body.update(extra)
    return orjson.dumps(body)
