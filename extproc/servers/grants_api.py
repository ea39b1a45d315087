"""Grants over the approvals API: who sees a hold sees its grant, and who could give it, or has it, can end it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from extproc.domain.grant import ApprovalStore, Grant, GrantState
from extproc.domain.hold import HoldError
from extproc.domain.principal import Principal
from extproc.domain.quorum import may_see, objection, owns
from extproc.servers import approvals_input as read
from extproc.servers.approvals_problems import NO_GRANT, ProblemError
from extproc.servers.grants_shape import grant_shown


@dataclass(frozen=True, slots=True)
class GrantsApi:
    """The handlers. What all of the API shares comes from `ApprovalsApi`."""

    store: ApprovalStore
    now: Callable[[], float]
    caller: Callable[[Request], Awaitable[Principal]]
    reason: Callable[[Request], Awaitable[str]]
    reads_all: Callable[[Principal], bool]
    is_news: Callable[[tuple[object, ...]], bool]
    write: Callable[[str, Principal, Mapping[str, Any]], None]
    telling: Callable[[Principal, str, str], AbstractContextManager[None]]

    async def list_grants(self, request: Request) -> Response:
        """Newest first."""
        caller = await self.caller(request)
        asked = read.query(request, ("state", "requester", "limit"), repeatable=("state",))
        limit = read.whole_number(asked, "limit", 100, 1, read.MAX_LIMIT)
        if asked.get("requester", ["me"]) != ["me"]:
            raise ProblemError(400, "bad_query", "The query is not understood", "requester is `me`.")
        found = await self.store.find_grants(
            states=read.states(asked, GrantState),
            requester=(caller.issuer, caller.subject) if "requester" in asked else None,
            seen_by=None if self.reads_all(caller) else caller,
            limit=limit + 1,
            now=self.now(),
        )
        grants = found[:limit]
        seen = tuple((grant.id, grant.version) for grant in grants)
        if grants and self.is_news((caller.issuer, caller.subject, seen)):
            self.write("evidence.grants_listed", caller, {"grants": [grant.id for grant in grants]})
        shown = [grant_shown(grant, caller) for grant in grants]
        return JSONResponse({"grants": shown, "more": len(found) > limit})

    async def show_grant(self, request: Request) -> Response:
        """One grant."""
        caller = await self.caller(request)
        read.query(request, ())
        grant = await self._visible(request, caller)
        own = owns(grant.held.ask, caller)
        if not own or self.is_news((caller.issuer, caller.subject, grant.id, grant.version)):
            fields = {"grant": grant.id, "version": grant.version, "own": own}
            self.write("evidence.grant_read", caller, fields)
        return JSONResponse(grant_shown(grant, caller))

    async def revoke_grant(self, request: Request) -> Response:
        """Nothing goes by it any more. A repeated call has done its work already."""
        caller = await self.caller(request)
        read.query(request, ())
        reason = await self.reason(request)
        grant = await self._visible(request, caller)
        fields = {"grant": grant.id, "hold": grant.held.id, "reason": reason}
        self.write("admin.grant_revoke", caller, fields)
        with self.telling(caller, "grant_revoke", grant.held.id):
            ask = grant.held.ask
            if code := "" if owns(ask, caller) else objection(ask, caller):
                raise HoldError(code, "whoever cannot give it cannot revoke it")
            if grant.state is not GrantState.REVOKED:
                grant = await self.store.revoke_grant(grant.id, self.now(), by=caller.person, reason=reason)
        return JSONResponse(grant_shown(grant, caller))

    async def _visible(self, request: Request, caller: Principal) -> Grant:
        grant_id = request.path_params["grant_id"]
        known = read.HOLD_ID.fullmatch(grant_id)
        grant = await self.store.get_grant(grant_id, self.now()) if known else None
        if grant is None or not (may_see(grant.held.ask, caller) or self.reads_all(caller)):
            raise ProblemError(*NO_GRANT)
        return grant
