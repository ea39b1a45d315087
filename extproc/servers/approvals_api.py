"""The approvals API: who may let a held request go reads it, and says yes or no, under `/v1`.

A call proves itself by a bearer token of the approvals audience from an allow-listed client; a token of the data
path never works here. GET changes nothing. What is done or read is recorded before it is done or shown; the moves
of holds themselves reach the ledger through the outbox (`hold_outbox.py`).
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
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
from extproc.domain.hold import HeldRequest, HoldState, ReviewState
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.servers import approvals_input as read
from extproc.servers.approvals_locks import ChangeLocks, LocksApi
from extproc.servers.approvals_problems import (
    FixedHeaders,
    ProblemError,
    answer_exception,
    as_problem,
    guarded,
    unauthorized,
)
from extproc.servers.approvals_shape import compared, full, summary
from extproc.servers.deciding import Deciding
from extproc.servers.grants_api import GrantsApi
from extproc.servers.hold_events import HoldEvents, Room

Authenticate = Callable[[str], Awaitable[Principal]]
Reload = Callable[[Principal], Awaitable[Mapping[str, Any]]]
Status = Callable[[], Mapping[str, bool]]
Close = Callable[[Principal, str, str], Awaitable[HeldRequest]]

OPEN_WAITS = 1000
"""Calls that may be kept open at once; one more is answered at once, as if it had not asked to wait."""
LATE_OUTBOX = 60.0
"""Seconds after which a move that is not in the ledger is a fault."""


def create_app(
    store: ApprovalStore,
    authenticate: Authenticate,
    *,
    audience: str,
    clients: Collection[str],
    record: Callable[[Record], None],
    now: Callable[[], float],
    reload: Reload | None = None,
    roll: Reload | None = None,
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
    principal and returns what is in force now, or raises PolicyError; `roll` begins a rolling reload of the
    settings file, or raises ConfigError. `status` names checks and whether they hold.
    `operators` and `auditors` are groups: both may read every hold, operators may reload policies and settings.
    `locks` changes the locks in force, which only operators may.
    `mask` takes out of what people type what may not be kept, before anything keeps it.
    """
    deciding = Deciding(store, record, now, readers={*operators, *auditors}, mask=mask)
    api = ApprovalsApi(
        deciding, authenticate, audience, frozenset(clients), reload, roll, status, frozenset(operators)
    )
    grants = api.grants()
    held_back = api.locks(locks, new_lock_id)
    routes = [
        Route("/v1/holds", guarded(api.list_holds), methods=["GET"]),
        Route("/v1/holds/{hold_id}", guarded(api.show_hold), methods=["GET"]),
        Route("/v1/holds/{hold_id}/events", guarded(api.events().stream), methods=["GET"]),
        Route("/v1/holds/{hold_id}/compared", guarded(api.compare_hold), methods=["GET"]),
        Route("/v1/holds/{hold_id}/approve", guarded(api.approve), methods=["POST"]),
        Route("/v1/holds/{hold_id}/deny", guarded(api.deny), methods=["POST"]),
        Route("/v1/holds/{hold_id}/withdraw", guarded(api.withdraw), methods=["POST"]),
        Route("/v1/holds/{hold_id}/revoke", guarded(api.revoke), methods=["POST"]),
        Route("/v1/holds/{hold_id}/break-glass", guarded(api.break_glass), methods=["POST"]),
        Route("/v1/holds/{hold_id}/review", guarded(api.review), methods=["POST"]),
        Route("/v1/grants", guarded(grants.list_grants), methods=["GET"]),
        Route("/v1/grants/{grant_id}", guarded(grants.show_grant), methods=["GET"]),
        Route("/v1/grants/{grant_id}/revoke", guarded(grants.revoke_grant), methods=["POST"]),
        Route("/v1/policy/reload", guarded(api.reload_policy), methods=["POST"]),
        Route("/v1/settings/reload", guarded(api.reload_settings), methods=["POST"]),
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
    """The handlers. Each reads from top to bottom: who, what, do it, show."""

    def __init__(
        self,
        deciding: Deciding,
        authenticate: Authenticate,
        audience: str,
        clients: frozenset[str],
        reload: Reload | None,
        roll: Reload | None,
        status: Status | None,
        operators: frozenset[str],
    ) -> None:
        self._deciding = deciding
        self._store = deciding.store
        self._authenticate = authenticate
        self._audience = audience
        self._clients = clients
        self._now = deciding.now
        self._reload = reload
        self._roll = roll
        self._status = status
        self._operators = operators
        self._room = Room(OPEN_WAITS)
        self._document = resources.files("extproc.servers").joinpath("openapi.json").read_bytes()

    def grants(self) -> GrantsApi:
        """The handlers of grants, for the same callers."""
        return GrantsApi(self._deciding, self._caller)

    def events(self) -> HoldEvents:
        """The handler of streams, for the same callers and within the same room."""
        return HoldEvents(self._deciding, self._caller, self._room)

    def locks(self, change: ChangeLocks | None, new_id: Callable[[], str]) -> LocksApi:
        """The handlers of locks; nothing changes them where `change` is None."""
        return LocksApi(
            change, self._caller, self._deciding.write, self._reason, self._operators, self._deciding.mask,
            self._now, new_id,
        )  # fmt: skip

    async def list_holds(self, request: Request) -> Response:
        caller = await self._caller(request)
        names = ("state", "review", "requester", "limit", "wait", "since")
        asked = read.query(request, names, repeatable=("state", "review"))
        limit = read.whole_number(asked, "limit", 100, 1, read.MAX_LIMIT)
        wait = read.whole_number(asked, "wait", 0, 0, read.MAX_WAIT)
        since = read.whole_number(asked, "since", 0, 0, 10**15)
        states = read.states(asked, HoldState)
        reviews = read.states(asked, ReviewState, "review")
        mine = read.mine(asked)
        # asked for before the holds are read: a move in between is told twice rather than missed
        news = await self._waiting(caller, wait, lambda seconds: self._store.news(since, seconds))
        if news is None:
            news = await self._store.news(since, 0.0)
        holds, more = await self._deciding.holds(
            caller, states=states, reviews=reviews, mine=mine, limit=limit
        )
        return JSONResponse({"holds": [summary(held, caller) for held in holds], "more": more, "news": news})

    async def show_hold(self, request: Request) -> Response:
        caller = await self._caller(request)
        asked = read.query(request, ("wait", "version"))
        wait = read.whole_number(asked, "wait", 0, 0, read.MAX_WAIT)
        held = await self._deciding.visible(caller, request.path_params["hold_id"])
        version = read.whole_number(asked, "version", held.version, 0, 10**15)
        if wait and held.is_open and held.version == version:
            hold_id = held.id
            await self._waiting(caller, wait, lambda seconds: self._store.changed(hold_id, version, seconds))
            held = await self._deciding.visible(caller, hold_id)
        self._deciding.shown(caller, held)
        return JSONResponse(full(held, caller))

    async def compare_hold(self, request: Request) -> Response:
        caller = await self._caller(request)
        read.query(request, ())
        held = await self._deciding.visible(caller, request.path_params["hold_id"])
        self._deciding.shown(caller, held)
        return JSONResponse(compared(held, await self._deciding.last_approved(caller, held)))

    async def approve(self, request: Request) -> Response:
        return await self._vote(request, approve=True)

    async def deny(self, request: Request) -> Response:
        return await self._vote(request, approve=False)

    async def withdraw(self, request: Request) -> Response:
        return await self._close(request, self._deciding.withdraw)

    async def revoke(self, request: Request) -> Response:
        return await self._close(request, self._deciding.revoke)

    async def break_glass(self, request: Request) -> Response:
        return await self._close(request, self._deciding.break_glass)

    async def review(self, request: Request) -> Response:
        caller = await self._caller(request)
        read.query(request, ())
        justified, reason = await read.review(request)
        hold_id = request.path_params["hold_id"]
        held = await self._deciding.review(caller, hold_id, justified=justified, reason=reason)
        return JSONResponse(full(held, caller))

    async def reload_policy(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", **await self._reloaded(request, "policy", self._reload)})

    async def reload_settings(self, request: Request) -> Response:
        """Answered when it begins: this process is the first to be replaced."""
        return JSONResponse(
            {"status": "rolling", **await self._reloaded(request, "settings", self._roll)}, 202
        )

    async def _reloaded(self, request: Request, what: str, reload: Reload | None) -> Mapping[str, Any]:
        caller = await self._caller(request)
        read.query(request, ())
        if self._operators.isdisjoint(caller.groups):
            raise ProblemError(403, "not_operator", "Only operators can reload")
        reason = await self._reason(request)
        if reload is None:
            raise ProblemError(404, "no_such_path", "Nothing can be reloaded here")
        write = self._deciding.write
        write(f"admin.{what}_reload", caller, {"reason": reason})
        try:
            return await reload(caller)
        except ExtprocError as error:
            write("admin.refused", caller, {"action": f"{what}_reload", "code": as_problem(error).code})
            raise

    async def health(self, request: Request) -> Response:
        """Public: says that it works or which check fails, and nothing else."""
        checks = await health_checks(self._store, self._now, self._status)
        well = all(checks.values())
        return JSONResponse({"status": "ok" if well else "failing", "checks": checks}, 200 if well else 503)

    async def openapi(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def _vote(self, request: Request, *, approve: bool) -> Response:
        caller = await self._caller(request)
        read.query(request, ())
        reason, terms = await read.approval(request) if approve else (await read.reason(request), None)
        hold_id = request.path_params["hold_id"]
        held = await self._deciding.vote(caller, hold_id, approve=approve, reason=reason, terms=terms)
        return JSONResponse(full(held, caller))

    async def _close(self, request: Request, close: Close) -> Response:
        caller = await self._caller(request)
        read.query(request, ())
        reason = await read.reason(request)
        return JSONResponse(full(await close(caller, request.path_params["hold_id"], reason), caller))

    async def _reason(self, request: Request) -> str:
        return self._deciding.mask(await read.reason(request))

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

    async def _waiting(self, caller: Principal, wait: int, call: Callable[[float], Awaitable[Any]]) -> Any:
        """`call` with the seconds it may take: no longer than the token, nor when too many wait already."""
        seconds = min(float(wait), caller.expires_at - self._now()) if caller.expires_at else float(wait)
        if seconds <= 0 or self._room.left <= 0:
            return None
        self._room.left -= 1
        try:
            return await call(seconds)
        finally:
            self._room.left += 1


async def health_checks(
    store: ApprovalStore, now: Callable[[], float], status: Status | None
) -> dict[str, bool]:
    """Names of checks and whether they hold; `outbox` is whether moves of holds reach the ledger in time."""
    try:
        oldest = await store.oldest_unrecorded()
        late = oldest is not None and oldest < now() - LATE_OUTBOX
        checks = {"store": True, "outbox": not late}
    except ExtprocError:
        checks = {"store": False}
    return checks | dict(status() if status is not None else {})
