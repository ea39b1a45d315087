"""Locks by the approvals API: operators lock and unlock a caller or a session; every worker follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from extproc.domain.display import escape_json
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.lock import Lock
from extproc.domain.principal import Principal
from extproc.domain.times import rfc3339
from extproc.servers import approvals_input as read
from extproc.servers.approvals_problems import ProblemError

ChangeLocks = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""`{"add": lock}`, `{"remove": id}` or `{"list": true}`; what came of it, with `error` if nothing did."""

KEPT_REASON = 200
"""Characters of the reason that the lock itself carries; the ledger has all of it."""
_REFUSALS = {
    "too_many_locks": (409, "There are too many locks; remove some"),
    "no_such_lock": (404, "There is no such lock"),
}


class LocksApi:
    """The handlers: who, what, may they, record, do, show."""

    def __init__(
        self,
        change: ChangeLocks | None,
        caller: Callable[[Request], Awaitable[Principal]],
        write: Callable[[str, Principal, Mapping[str, Any]], None],
        reason: Callable[[Request], Awaitable[str]],
        operators: Collection[str],
        mask: Callable[[str], str],
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._change = change
        self._caller = caller
        self._write = write
        self._reason = reason
        self._operators = frozenset(operators)
        self._mask = mask
        self._now = now
        self._new_id = new_id

    async def list_locks(self, request: Request) -> Response:
        caller = await self._operator(request)
        read.query(request, ())
        told = await self._ask(caller, "locks_list", {"list": True})
        self._write("evidence.locks_listed", caller, {"locks": [lock["id"] for lock in told["locks"]]})
        return JSONResponse({"locks": [shown(Lock.of(lock)) for lock in told["locks"]]})

    async def add(self, request: Request) -> Response:
        caller = await self._operator(request)
        read.query(request, ())
        asked = await read.lock(request)
        reason = self._mask(asked.reason)
        at = self._now()
        lock = Lock(
            id=self._new_id(),
            by=caller.person[:255],
            reason=reason[:KEPT_REASON],
            at=at,
            expires_at=at + asked.expires_in if asked.expires_in else 0.0,
            **asked.whom,
        )
        fields = {**lock.to_data(), "lock": lock.id, "reason": reason, "locked_by": lock.by}
        for name in ("id", "at", "by"):
            del fields[name]
        fields = {name: value for name, value in fields.items() if value}
        if lock.expires_at:
            fields["expires_at"] = rfc3339(lock.expires_at)
        self._write("admin.lock", caller, fields)
        told = await self._ask(caller, "lock", {"add": lock.to_data()})
        return JSONResponse({**shown(lock), "workers": told["workers"]})

    async def remove(self, request: Request) -> Response:
        caller = await self._operator(request)
        read.query(request, ())
        reason = await self._reason(request)
        lock_id = request.path_params["lock_id"]
        if not read.HOLD_ID.fullmatch(lock_id):
            raise ProblemError(404, "no_such_lock", _REFUSALS["no_such_lock"][1])
        self._write("admin.unlock", caller, {"lock": lock_id, "reason": reason})
        told = await self._ask(caller, "unlock", {"remove": lock_id})
        return JSONResponse({**shown(Lock.of(told["lock"])), "workers": told["workers"]})

    async def _operator(self, request: Request) -> Principal:
        caller = await self._caller(request)
        if self._operators.isdisjoint(caller.groups):
            raise ProblemError(403, "not_operator", "Only operators can lock and unlock")
        return caller

    async def _ask(self, caller: Principal, action: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._change is None:
            raise ProblemError(404, "no_such_path", "There are no locks here")
        try:
            told = await self._change(asked)
        except StoreUnavailableError:
            self._write("admin.refused", caller, {"action": action, "code": "unavailable"})
            raise
        if "error" in told:
            code = str(told["error"])
            self._write("admin.refused", caller, {"action": action, "code": code})
            if code not in _REFUSALS:
                raise StoreUnavailableError("the lock could not be kept")
            status, title = _REFUSALS[code]
            raise ProblemError(status, code, title)
        return told


def shown(lock: Lock) -> dict[str, Any]:
    """A lock as the API shows it."""
    told: dict[str, Any] = {
        "id": lock.id,
        "subject": lock.subject or None,
        "issuer": lock.issuer or None,
        "person": lock.person or None,
        "session": lock.session or None,
        "reason": lock.reason,
        "by": lock.by,
        "at": rfc3339(lock.at),
        "expires_at": rfc3339(lock.expires_at) if lock.expires_at else None,
    }
    escaped = escape_json(told, multiline=False)
    assert isinstance(escaped, dict)  # noqa: S101  (it keeps the shape)
    return escaped
