"""The approvals API: who may let a held request go reads it, and says yes or no, under `/v1`.

A call proves itself by a bearer token of the approvals audience from an allow-listed client; a token of the data
path never works here. GET changes nothing. What is done or read is recorded before it is done or shown; the moves
of holds themselves reach the ledger through the outbox (`hold_outbox.py`).
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from extproc.domain.errors import ExtprocError
from extproc.domain.grant import ApprovalStore
from extproc.domain.granting import terms_record
from extproc.domain.hold import HeldRequest, HoldError, HoldState, Verdict, Vote
from extproc.domain.principal import Principal
from extproc.domain.quorum import may_see, objection, owns
from extproc.domain.record import Record
from extproc.servers import approvals_input as read
from extproc.servers.approvals_locks import ChangeLocks, LocksApi
from extproc.servers.approvals_problems import (
    NOT_FOUND,
    FixedHeaders,
    ProblemError,
    answer_exception,
    as_problem,
    guarded,
    unauthorized,
)
from extproc.servers.approvals_shape import full, summary
from extproc.servers.grants_api import GrantsApi

Authenticate = Callable[[str], Awaitable[Principal]]
Reload = Callable[[Principal], Awaitable[Mapping[str, Any]]]
Status = Callable[[], Mapping[str, bool]]

OPEN_WAITS = 1000
"""Calls that may be kept open at once; one more is answered at once, as if it had not asked to wait."""
LATE_OUTBOX = 60.0
"""Seconds after which a move that is not in the ledger is a fault."""
REMEMBERED_READS = 10_000


def create_app(
    store: ApprovalStore,
    authenticate: Authenticate,
    *,
    audience: str,
    clients: Collection[str],
    record: Callable[[Record], None],
    now: Callable[[], float],
    reload: Reload | None = None,
    status: Status | None = None,
    operators: Collection[str] = ("operators",),
    auditors: Collection[str] = ("auditors",),
    mask: Callable[[str], str] = str,
    locks: ChangeLocks | None = None,
    new_lock_id: Callable[[], str] = lambda: "lock_" + secrets.token_hex(8),
) -> Starlette:
    """The ASGI application.

    `authenticate` turns a token into a Principal or raises TokenError. `record` appends to the ledger and
    commits, or raises LedgerUnavailableError: then nothing is done. `reload` loads the policies on behalf of a
    principal and returns what is in force now, or raises PolicyError. `status` names checks and whether they
    hold. `operators` and `auditors` are groups: both may read every hold, operators may reload policies.
    `locks` changes the locks in force, which only operators may.
    `mask` takes out of what people type what may not be kept, before anything keeps it.
    """
    api = ApprovalsApi(
        store, authenticate, audience, frozenset(clients), record, now, reload, status,
        frozenset(operators), frozenset(auditors), mask,
    )  # fmt: skip
    grants = api.grants()
    held_back = api.locks(locks, new_lock_id)
    routes = [
        Route("/v1/holds", guarded(api.list_holds), methods=["GET"]),
        Route("/v1/holds/{hold_id}", guarded(api.show_hold), methods=["GET"]),
        Route("/v1/holds/{hold_id}/approve", guarded(api.approve), methods=["POST"]),
        Route("/v1/holds/{hold_id}/deny", guarded(api.deny), methods=["POST"]),
        Route("/v1/holds/{hold_id}/withdraw", guarded(api.withdraw), methods=["POST"]),
        Route("/v1/holds/{hold_id}/revoke", guarded(api.revoke), methods=["POST"]),
        Route("/v1/grants", guarded(grants.list_grants), methods=["GET"]),
        Route("/v1/grants/{grant_id}", guarded(grants.show_grant), methods=["GET"]),
        Route("/v1/grants/{grant_id}/revoke", guarded(grants.revoke_grant), methods=["POST"]),
        Route("/v1/policy/reload", guarded(api.reload_policy), methods=["POST"]),
        Route("/v1/locks", guarded(held_back.list_locks), methods=["GET"]),
        Route("/v1/locks", guarded(held_back.add), methods=["POST"]),
        Route("/v1/locks/{lock_id}/remove", guarded(held_back.remove), methods=["POST"]),
        Route("/v1/healthz", guarded(api.health), methods=["GET"]),
        Route("/v1/openapi.json", guarded(api.openapi), methods=["GET"]),
    ]
    for route in routes:
        (route.methods or set()).discard("HEAD")  # it would be a read that nobody sees
    app = Starlette(
        routes=routes,
        middleware=[Middleware(FixedHeaders)],
        exception_handlers={HTTPException: answer_exception},
    )
    app.router.redirect_slashes = False
    return app


class ApprovalsApi:
    """The handlers. Each reads from top to bottom: who, what, may they, record, do, show."""

    def __init__(
        self,
        store: ApprovalStore,
        authenticate: Authenticate,
        audience: str,
        clients: frozenset[str],
        record: Callable[[Record], None],
        now: Callable[[], float],
        reload: Reload | None,
        status: Status | None,
        operators: frozenset[str],
        auditors: frozenset[str],
        mask: Callable[[str], str],
    ) -> None:
        self._store = store
        self._authenticate = authenticate
        self._audience = audience
        self._clients = clients
        self._record = record
        self._now = now
        self._reload = reload
        self._status = status
        self._operators = operators
        self._readers = operators | auditors
        self._mask = mask
        self._waits = 0
        self._read_before: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._document = resources.files("extproc.servers").joinpath("openapi.json").read_bytes()

    def grants(self) -> GrantsApi:
        """The handlers of grants, over the same store, callers and ledger."""
        return GrantsApi(
            self._store, self._now, self._caller, self._reason, self._reads_all, self._is_news, self._write,
            self._telling,
        )  # fmt: skip

    def locks(self, change: ChangeLocks | None, new_id: Callable[[], str]) -> LocksApi:
        """The handlers of locks; nothing changes them where `change` is None."""
        return LocksApi(
            change, self._caller, self._write, self._reason, self._operators, self._mask, self._now, new_id
        )

    async def list_holds(self, request: Request) -> Response:
        caller = await self._caller(request)
        asked = read.query(request, ("state", "requester", "limit", "wait", "since"), repeatable=("state",))
        limit = read.whole_number(asked, "limit", 100, 1, read.MAX_LIMIT)
        wait = read.whole_number(asked, "wait", 0, 0, read.MAX_WAIT)
        since = read.whole_number(asked, "since", 0, 0, 10**15)
        states = read.states(asked, HoldState)
        if asked.get("requester", ["me"]) != ["me"]:
            raise ProblemError(400, "bad_query", "The query is not understood", "requester is `me`.")
        # asked for before the holds are read: a move in between is told twice rather than missed
        news = await self._waiting(caller, wait, lambda seconds: self._store.news(since, seconds))
        if news is None:
            news = await self._store.news(since, 0.0)
        found = await self._store.find(
            states=states,
            requester=(caller.issuer, caller.subject) if "requester" in asked else None,
            seen_by=None if self._reads_all(caller) else caller,
            limit=limit + 1,
            now=self._now(),
        )
        holds = found[:limit]
        seen = tuple((held.id, held.version) for held in holds)
        if holds and self._is_news((caller.issuer, caller.subject, seen)):
            self._write("evidence.holds_listed", caller, {"holds": [held.id for held in holds]})
        return JSONResponse(
            {"holds": [summary(held, caller) for held in holds], "more": len(found) > limit, "news": news}
        )

    async def show_hold(self, request: Request) -> Response:
        caller = await self._caller(request)
        asked = read.query(request, ("wait", "version"))
        wait = read.whole_number(asked, "wait", 0, 0, read.MAX_WAIT)
        held = await self._visible(request, caller)
        version = read.whole_number(asked, "version", held.version, 0, 10**15)
        if wait and held.is_open and held.version == version:
            hold_id = held.id
            await self._waiting(caller, wait, lambda seconds: self._store.changed(hold_id, version, seconds))
            held = await self._visible(request, caller)
        own = owns(held.ask, caller)
        # a requester who polls for an answer is no auditor: the same thing seen again needs no new record
        if not own or self._is_news((caller.issuer, caller.subject, held.id, held.version)):
            self._write("evidence.hold_read", caller, {"hold": held.id, "version": held.version, "own": own})
        return JSONResponse(full(held, caller))

    async def approve(self, request: Request) -> Response:
        return await self._vote(request, approve=True)

    async def deny(self, request: Request) -> Response:
        return await self._vote(request, approve=False)

    async def withdraw(self, request: Request) -> Response:
        """The requester does not want it any more."""

        def check(held: HeldRequest, caller: Principal) -> None:
            if not owns(held.ask, caller):
                raise ProblemError(403, "not_requester", "Only who asked for it can withdraw it")

        return await self._close(request, Verdict.WITHDRAW, HoldState.WITHDRAWN, check)

    async def revoke(self, request: Request) -> Response:
        """An approval that was not used yet is taken back, by who could have given it or by who got it."""

        def check(held: HeldRequest, caller: Principal) -> None:
            if code := "" if owns(held.ask, caller) else objection(held.ask, caller):
                raise HoldError(code, "whoever cannot approve it cannot revoke its approval")

        return await self._close(request, Verdict.REVOKE, HoldState.REVOKED, check)

    async def reload_policy(self, request: Request) -> Response:
        caller = await self._caller(request)
        read.query(request, ())
        if self._operators.isdisjoint(caller.groups):
            raise ProblemError(403, "not_operator", "Only operators can reload policies")
        reason = await self._reason(request)
        if self._reload is None:
            raise ProblemError(404, "no_such_path", "Policies cannot be reloaded here")
        self._write("admin.policy_reload", caller, {"reason": reason})
        try:
            outcome = await self._reload(caller)
        except ExtprocError as error:
            self._write("admin.refused", caller, {"action": "policy_reload", "code": as_problem(error).code})
            raise
        return JSONResponse({"status": "ok", **outcome})

    async def health(self, request: Request) -> Response:
        """Public: says that it works or which check fails, and nothing else."""
        try:
            untold = await self._store.unrecorded(1)
            late = bool(untold) and untold[0].at < self._now() - LATE_OUTBOX
            checks = {"store": True, "outbox": not late}
        except ExtprocError:
            checks = {"store": False}
        if self._status is not None:
            checks |= self._status()
        well = all(checks.values())
        return JSONResponse({"status": "ok" if well else "failing", "checks": checks}, 200 if well else 503)

    async def openapi(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def _vote(self, request: Request, *, approve: bool) -> Response:
        caller = await self._caller(request)
        read.query(request, ())
        reason, terms = await read.approval(request) if approve else (await read.reason(request), None)
        reason = self._mask(reason)
        held = await self._visible(request, caller)
        action = "approve" if approve else "deny"
        fields: dict[str, Any] = {"hold": held.id, "reason": reason}
        if terms is not None:
            known = held.ask.shape.values if held.ask.shape is not None else {}
            pins = tuple(pin for pin in terms.pins if pin in known)  # others may be anything
            fields["terms"] = terms_record(replace(terms, pins=pins))
        self._write(f"admin.hold_{action}", caller, fields)
        at = self._now()
        vote = Vote(caller.person, caller, approve, reason, at, terms)
        with self._telling(caller, action, held.id):
            held = await self._store.vote(held.id, vote, at)
        return JSONResponse(full(held, caller))

    async def _close(
        self,
        request: Request,
        verdict: Verdict,
        becomes: HoldState,
        check: Callable[[HeldRequest, Principal], None],
    ) -> Response:
        caller = await self._caller(request)
        read.query(request, ())
        reason = await self._reason(request)
        held = await self._visible(request, caller)
        action = verdict.value
        self._write(f"admin.hold_{action}", caller, {"hold": held.id, "reason": reason})
        with self._telling(caller, action, held.id):
            check(held, caller)
            if held.state is not becomes:  # a repeated call has done its work already
                held = await self._store.close(held.id, verdict, self._now(), by=caller.person, reason=reason)
        return JSONResponse(full(held, caller))

    async def _reason(self, request: Request) -> str:
        return self._mask(await read.reason(request))

    async def _caller(self, request: Request) -> Principal:
        principal = await self._authenticate(read.bearer(request))
        if self._audience not in principal.audience:
            raise unauthorized("wrong_audience", "The token is for another audience")
        if principal.expires_at and principal.expires_at <= self._now():
            raise unauthorized("expired", "The token has expired")
        if not principal.client_id or principal.client_id not in self._clients:
            raise ProblemError(
                403, "wrong_client", "The token was not issued to a client that may be used here"
            )
        return principal

    async def _visible(self, request: Request, caller: Principal) -> HeldRequest:
        """The hold of the path; the same 404 whether it is not there or not the caller's to see."""
        hold_id = request.path_params["hold_id"]
        held = await self._store.get(hold_id, self._now()) if read.HOLD_ID.fullmatch(hold_id) else None
        if held is None or not (may_see(held.ask, caller) or self._reads_all(caller)):
            raise ProblemError(*NOT_FOUND)
        return held

    def _reads_all(self, caller: Principal) -> bool:
        return caller.kind == "human" and not self._readers.isdisjoint(caller.groups)

    async def _waiting(self, caller: Principal, wait: int, call: Callable[[float], Awaitable[Any]]) -> Any:
        """`call` with the seconds it may take: no longer than the token, nor when too many wait already."""
        seconds = min(float(wait), caller.expires_at - self._now()) if caller.expires_at else float(wait)
        if seconds <= 0 or self._waits >= OPEN_WAITS:
            return None
        self._waits += 1
        try:
            return await call(seconds)
        finally:
            self._waits -= 1

    def _is_news(self, key: tuple[object, ...]) -> bool:
        if key in self._read_before:
            self._read_before.move_to_end(key)
            return False
        self._read_before[key] = None
        if len(self._read_before) > REMEMBERED_READS:
            self._read_before.popitem(last=False)
        return True

    def _telling(self, caller: Principal, action: str, hold_id: str) -> Refusals:
        def write(code: str) -> None:
            self._write("admin.refused", caller, {"action": action, "hold": hold_id, "code": code})

        return Refusals(write)

    def _write(self, kind: str, caller: Principal, fields: Mapping[str, Any]) -> None:
        self._record(Record(kind, self._now(), {"by": caller.to_record(), **fields}))


class Refusals:
    """A block whose refusals are recorded on their way out."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, HoldError | ProblemError):
            self._write(error.code)
