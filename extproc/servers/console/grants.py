"""What approvals let go beyond one request, and how to end it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from extproc.domain.errors import StoreUnavailableError
from extproc.domain.grant import GrantState
from extproc.domain.hold import HoldError
from extproc.servers.approvals_input import reason_text
from extproc.servers.approvals_problems import ProblemError, as_problem
from extproc.servers.console.pages import Pages
from extproc.servers.console.safety import check_csrf, form_of, one
from extproc.servers.console.sessions import Session
from extproc.servers.deciding import Deciding
from extproc.servers.grants_shape import grant_shown

SHOWN = 200
LISTS: dict[str, tuple[str, tuple[GrantState, ...]]] = {
    "live": ("Live", (GrantState.LIVE,)),
    "ended": ("Ended", tuple(state for state in GrantState if state is not GrantState.LIVE)),
}


class GrantPages:
    """The handlers."""

    def __init__(self, deciding: Deciding, pages: Pages) -> None:
        self._deciding = deciding
        self._pages = pages

    async def all(self, request: Request, session: Session) -> Response:
        which = request.query_params.get("show", "live")
        if which not in LISTS:
            raise ProblemError(404, "no_such_path", "There is no such list")
        caller = session.principal
        found, more = await self._deciding.grants(caller, states=LISTS[which][1], limit=SHOWN)
        return self._pages.show(
            "grants.html", session, which=which, more=more,
            lists={name: title for name, (title, _) in LISTS.items()},
            grants=[grant_shown(grant, caller) for grant in found],
        )  # fmt: skip

    async def one(self, request: Request, session: Session) -> Response:
        return await self._page(request, session)

    async def revoke(self, request: Request, session: Session) -> Response:
        fields = await form_of(request)
        check_csrf(fields, session.csrf)
        grant_id = request.path_params["grant_id"]
        try:
            reason = reason_text(one(fields, "reason"))
            await self._deciding.revoke_grant(session.principal, grant_id, reason)
        except (HoldError, ProblemError, StoreUnavailableError) as error:
            found = as_problem(error)
            if found.status == 404:
                raise
            return await self._page(request, session, status=found.status, problem=found, typed=fields)
        session.said.append("The grant is revoked.")
        return RedirectResponse(f"/grants/{grant_id}", 303)

    async def _page(
        self, request: Request, session: Session, *, status: int = 200, problem: ProblemError | None = None,
        typed: dict[str, list[str]] | None = None,
    ) -> Response:  # fmt: skip
        caller = session.principal
        grant = await self._deciding.grant(caller, request.path_params["grant_id"])
        return self._pages.show(
            "grant.html", session, status=status, grant=grant_shown(grant, caller), problem=problem,
            typed=typed or {},
        )  # fmt: skip
