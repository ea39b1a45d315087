"""Grants over the approvals API: who sees a hold sees its grant, and who could give it, or has it, can end it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from extproc.domain.grant import GrantState
from extproc.domain.principal import Principal
from extproc.servers import approvals_input as read
from extproc.servers.deciding import Deciding
from extproc.servers.grants_shape import grant_shown


@dataclass(frozen=True, slots=True)
class GrantsApi:
    """The handlers. `caller` is how the API knows who calls."""

    deciding: Deciding
    caller: Callable[[Request], Awaitable[Principal]]

    async def list_grants(self, request: Request) -> Response:
        """Newest first."""
        caller = await self.caller(request)
        asked = read.query(request, ("state", "requester", "limit"), repeatable=("state",))
        limit = read.whole_number(asked, "limit", 100, 1, read.MAX_LIMIT)
        states = read.states(asked, GrantState)
        grants, more = await self.deciding.grants(caller, states=states, mine=read.mine(asked), limit=limit)
        return JSONResponse({"grants": [grant_shown(grant, caller) for grant in grants], "more": more})

    async def show_grant(self, request: Request) -> Response:
        """One grant."""
        caller = await self.caller(request)
        read.query(request, ())
        return JSONResponse(
            grant_shown(await self.deciding.grant(caller, request.path_params["grant_id"]), caller)
        )

    async def revoke_grant(self, request: Request) -> Response:
        """Nothing goes by it any more."""
        caller = await self.caller(request)
        read.query(request, ())
        reason = await read.reason(request)
        grant = await self.deciding.revoke_grant(caller, request.path_params["grant_id"], reason)
        return JSONResponse(grant_shown(grant, caller))
