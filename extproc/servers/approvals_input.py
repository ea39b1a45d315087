"""What callers of the approvals API send: token, query and body. All of it is checked before it is believed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar, get_args

from starlette.requests import Request

from extproc.domain.hold import REASON_LIMIT
from extproc.domain.lock import MAX_NAME
from extproc.domain.terms import GrantTerms, Scope
from extproc.servers.approvals_problems import ProblemError, unauthorized

MAX_TOKEN = 16 << 10
MAX_BODY = 32 << 10
"""Bytes; the longest reason, every character escaped, still fits."""
MAX_WAIT = 60
"""Seconds a call may be kept open."""
MAX_LIMIT = 500
MAX_SECONDS = 30 * 86400
MAX_USES = 10_000
MAX_PINS = 256
LONGEST_LOCK = 10 * 365 * 86400
"""Seconds."""
HOLD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

_NUMBER = re.compile(r"[0-9]{1,15}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def bearer(request: Request) -> str:
    """The token of the one Authorization header (RFC 6750 §2.1)."""
    values = request.headers.getlist("authorization")
    if not values:
        raise unauthorized("missing", "Send a bearer token of the approvals audience", challenge="")
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise unauthorized("malformed", "Send one bearer token", challenge="invalid_request")
    if len(token) > MAX_TOKEN:
        raise unauthorized("too_large", "The token is too long")
    return token.strip()


def query(
    request: Request, allowed: Collection[str], repeatable: Collection[str] = ()
) -> dict[str, list[str]]:
    """The query's values by name; a name we do not know, or know once, is refused rather than overlooked."""
    found: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed or (name in found and name not in repeatable):
            raise ProblemError(
                400,
                "bad_query",
                "The query is not understood",
                f"It takes {', '.join(sorted(allowed)) or 'nothing'}.",
            )
        found.setdefault(name, []).append(value)
    return found


def whole_number(values: dict[str, list[str]], name: str, default: int, least: int, most: int) -> int:
    """A decimal number within bounds."""
    if name not in values:
        return default
    text = values[name][0]
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise ProblemError(400, "bad_query", "The query is not understood", f"{name} is {least} to {most}.")
    return int(text)


State = TypeVar("State", bound=StrEnum)


def states(values: dict[str, list[str]], kind: type[State], name: str = "state") -> list[State]:
    """The states asked for; none means all."""
    try:
        return [kind(value) for value in values.get(name, [])]
    except ValueError:
        names = ", ".join(kind)
        raise ProblemError(
            400, "bad_query", "The query is not understood", f"{name} is one of {names}."
        ) from None


def mine(values: dict[str, list[str]]) -> bool:
    """`requester=me`: only what the caller asked for itself."""
    if values.get("requester", ["me"]) != ["me"]:
        raise ProblemError(400, "bad_query", "The query is not understood", "requester is `me`.")
    return "requester" in values


async def reason(request: Request) -> str:
    """The `reason` of a body `{"reason": …}`, stripped: never empty, at most 2000 characters, no control ones."""
    return _reason(await _members(request, "reason"))


async def approval(request: Request) -> tuple[str, GrantTerms | None]:
    """A body `{"reason": …, "grant": {"for", "uses", "scope", "pins"}}`; without `grant` it is for once.

    `for` in seconds and `uses` must be there, `scope` is `exact` unless it says otherwise.
    """
    body = await _members(request, "reason", "grant")
    return _reason(body), grant_terms(body["grant"]) if body.get("grant") is not None else None


async def review(request: Request) -> tuple[bool, str]:
    """A body `{"justified": …, "reason": …}`: what the reviewer found, and why."""
    body = await _members(request, "justified", "reason")
    if type(body.get("justified")) is not bool:
        raise ProblemError(400, "bad_review", "The review is not understood", "`justified` is true or false.")
    return body["justified"], _reason(body)


async def _members(request: Request, *known: str) -> dict[str, Any]:
    body = await _json_object(request)
    if set(body) - set(known):
        names = " and ".join(f"`{name}`" for name in known)
        raise ProblemError(400, "unknown_member", "The body has members we do not know", f"It takes {names}.")
    return body


def _reason(body: dict[str, Any]) -> str:
    return reason_text(body.get("reason", ""))


def reason_text(text: object) -> str:
    """A reason, stripped. Raises ProblemError: bad_reason, reason_required, reason_too_long."""
    if not isinstance(text, str) or _CONTROL.search(text):
        raise ProblemError(
            400, "bad_reason", "The reason is not plain text", "It is text without control characters."
        )
    text = text.strip()
    if not text:
        raise ProblemError(400, "reason_required", "Say why", "`reason` is required.")
    if len(text) > REASON_LIMIT:
        raise ProblemError(
            400, "reason_too_long", "The reason is too long", f"At most {REASON_LIMIT} characters."
        )
    return text


def grant_terms(given: object) -> GrantTerms:
    """What an approver gives; whether the rule allows that much is for the store to say. Raises ProblemError."""
    if not isinstance(given, dict) or set(given) - {"for", "uses", "scope", "pins"}:
        raise _bad_grant("It takes `for`, `uses`, `scope` and `pins`.")
    duration, uses = given.get("for"), given.get("uses")
    if type(duration) is not int or not 1 <= duration <= MAX_SECONDS:
        raise _bad_grant("`for` is a number of seconds.")
    if type(uses) is not int or not 2 <= uses <= MAX_USES:
        raise _bad_grant("`uses` counts the held request itself, so it is 2 or more.")
    scope = given.get("scope", "exact")
    if scope not in get_args(Scope):
        raise _bad_grant(f"`scope` is one of {', '.join(get_args(Scope))}.")
    pins = given.get("pins", [])
    if not isinstance(pins, list) or len(pins) > MAX_PINS or not all(isinstance(pin, str) for pin in pins):
        raise _bad_grant("`pins` is a list of names.")
    return GrantTerms(float(duration), uses, scope, tuple(sorted(set(pins))))


def _bad_grant(detail: str) -> ProblemError:
    return ProblemError(400, "bad_grant", "The grant is not understood", detail)


@dataclass(frozen=True, slots=True)
class LockAsked:
    """A lock as somebody wants it; `expires_in` 0 is until it is removed."""

    whom: dict[str, str]
    reason: str
    expires_in: int


async def lock(request: Request) -> LockAsked:
    """`{"reason": …}` with one of `subject` (and `issuer`), `person` and `session`; `expires_in` in seconds."""
    body = await _json_object(request)
    names = ("subject", "issuer", "person", "session")
    if set(body) - {"reason", "expires_in", *names}:
        raise ProblemError(
            400, "unknown_member", "The body has members we do not know",
            f"It takes reason, expires_in, {', '.join(names)}.",
        )  # fmt: skip
    whom = {name: body[name] for name in names if name in body}
    for name, value in whom.items():
        if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or _CONTROL.search(value):
            raise ProblemError(
                400, "bad_whom", "It is not clear whom to lock", f"`{name}` is 1 to {MAX_NAME} characters."
            )
    if sum(name in whom for name in ("subject", "person", "session")) != 1 or (
        "issuer" in whom and "subject" not in whom
    ):
        raise ProblemError(
            400, "bad_whom", "It is not clear whom to lock", "Name one of subject, person and session."
        )
    seconds = body.get("expires_in", 0)
    if type(seconds) is not int or not 0 <= seconds <= LONGEST_LOCK or ("expires_in" in body and not seconds):
        raise ProblemError(
            400, "bad_expiry", "The expiry is not understood", f"`expires_in` is 1 to {LONGEST_LOCK} seconds."
        )
    return LockAsked(whom, _reason(body), seconds)


async def _json_object(request: Request) -> dict[str, Any]:
    kind = [part.strip().lower() for part in request.headers.get("content-type", "").split(";")]
    if kind[0] != "application/json" or kind[1:] not in ([], ["charset=utf-8"]):
        raise ProblemError(415, "unsupported_type", "Send application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ProblemError(415, "unsupported_coding", "Send it as it is, without a content coding")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            # the rest is not read: the connection cannot be used again
            raise ProblemError(
                413,
                "too_large",
                "The body is too large",
                f"At most {MAX_BODY} bytes.",
                {"connection": "close"},
            )
    try:
        body = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ProblemError(400, "bad_json", "The body is not JSON that can be read in one way only") from None
    if not isinstance(body, dict):
        raise ProblemError(400, "bad_json", "The body is not a JSON object")
    return body


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a member appears twice")
    return made


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
