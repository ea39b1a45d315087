"""The inbox of holds, one hold whole, and what people do about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from extproc.domain.errors import StoreUnavailableError
from extproc.domain.hold import HeldRequest, HoldError, HoldState, ReviewState
from extproc.domain.principal import Principal
from extproc.domain.terms import GrantTerms
from extproc.servers.approvals_input import grant_terms, reason_text
from extproc.servers.approvals_problems import ProblemError, as_problem
from extproc.servers.approvals_shape import compared, full, may, summary
from extproc.servers.console.pages import Pages
from extproc.servers.console.safety import check_csrf, form_of, one
from extproc.servers.console.sessions import Session
from extproc.servers.deciding import Deciding

SHOWN = 200
"""Holds in one list."""

LISTS: dict[str, tuple[str, tuple[HoldState, ...]]] = {
    "waiting": ("For you to decide", (HoldState.PENDING,)),
    "open": ("Open", (HoldState.PENDING, HoldState.APPROVED)),
    "mine": ("Yours", ()),
    "reviews": ("To review", ()),
    "closed": (
        "Closed",
        tuple(state for state in HoldState if state not in (HoldState.PENDING, HoldState.APPROVED)),
    ),
}

OWED = (ReviewState.OPEN, ReviewState.OVERDUE)

DONE = {
    "approve": "Your approval is counted.",
    "deny": "You denied it.",
    "withdraw": "It is withdrawn.",
    "revoke": "The approval is revoked.",
    "break-glass": "You broke the glass. Somebody else has to review it.",
    "review": "Your review is kept.",
}


class HoldPages:
    """The handlers."""

    def __init__(self, deciding: Deciding, pages: Pages) -> None:
        self._deciding = deciding
        self._pages = pages

    async def inbox(self, request: Request, session: Session) -> Response:
        values = await self._listed(request, session)
        return self._pages.show("holds.html", session, is_part=False, **values)

    async def part(self, request: Request, session: Session) -> Response:
        """The list alone, for a page that is open already."""
        values = await self._listed(request, session)
        return self._pages.part("holds_list.html", session, is_part=True, **values)

    async def one(self, request: Request, session: Session) -> Response:
        return await self._page(request, session)

    async def now(self, request: Request, session: Session) -> Response:
        """Where it stands, for a page that is open already; nothing when it has not moved since `version`."""
        caller = session.principal
        held = await self._deciding.visible(caller, request.path_params["hold_id"])
        if request.query_params.get("version", "") == str(held.version):
            return Response(status_code=204)
        self._deciding.shown(caller, held)
        before = request.query_params.get("may", "")
        return self._pages.part(
            "hold_now.html", session, hold=full(held, caller), typed={}, is_part=True,
            new_form=before != ",".join(may(held, caller)),
        )  # fmt: skip

    async def approve(self, request: Request, session: Session) -> Response:
        return await self._decide(request, session, "approve")

    async def deny(self, request: Request, session: Session) -> Response:
        return await self._decide(request, session, "deny")

    async def withdraw(self, request: Request, session: Session) -> Response:
        return await self._decide(request, session, "withdraw")

    async def revoke(self, request: Request, session: Session) -> Response:
        return await self._decide(request, session, "revoke")

    async def break_glass(self, request: Request, session: Session) -> Response:
        return await self._decide(request, session, "break-glass")

    async def review(self, request: Request, session: Session) -> Response:
        return await self._decide(request, session, "review")

    async def _listed(self, request: Request, session: Session) -> dict[str, Any]:
        caller = session.principal
        # asked for before the holds are read: a move in between is told twice rather than missed
        news = await self._deciding.store.news(0, 0.0)
        which = request.query_params.get("show", "waiting")
        if which not in LISTS:
            raise ProblemError(404, "no_such_path", "There is no such list")
        waiting, _ = await self._deciding.holds(caller, states=[HoldState.PENDING], limit=SHOWN)
        mine_to_decide = [held for held in waiting if self._is_for(held, caller)]
        if which == "waiting":
            holds, more = mine_to_decide, len(waiting) == SHOWN
        else:
            holds, more = await self._deciding.holds(
                caller,
                states=LISTS[which][1],
                reviews=OWED if which == "reviews" else (),
                mine=which == "mine",
                limit=SHOWN,
            )
        return {
            "which": which,
            "news": news,
            "lists": {name: title for name, (title, _) in LISTS.items()},
            "holds": [summary(held, caller) for held in holds],
            "more": more,
            "waiting": len(mine_to_decide),
        }

    @staticmethod
    def _is_for(held: HeldRequest, caller: Principal) -> bool:
        voted = {vote.person for vote in held.votes}
        return "deny" in may(held, caller) and caller.person not in voted

    async def _page(
        self, request: Request, session: Session, *, status: int = 200, problem: ProblemError | None = None,
        typed: dict[str, list[str]] | None = None,
    ) -> Response:  # fmt: skip
        caller = session.principal
        news = await self._deciding.store.news(0, 0.0)
        held = await self._deciding.visible(caller, request.path_params["hold_id"])
        self._deciding.shown(caller, held)
        last = await self._deciding.last_approved(caller, held) if held.state is HoldState.PENDING else None
        return self._pages.show(
            "hold.html", session, status=status, news=news, hold=full(held, caller), problem=problem, typed=typed or {},
            is_part=False, new_form=False, compared=compared(held, last),
        )  # fmt: skip

    async def _decide(self, request: Request, session: Session, action: str) -> Response:
        fields = await form_of(request)
        check_csrf(fields, session.csrf)
        caller, hold_id = session.principal, request.path_params["hold_id"]
        try:
            reason = reason_text(one(fields, "reason"))
            match action:
                case "approve" | "deny":
                    terms = granted(fields) if action == "approve" else None
                    await self._deciding.vote(
                        caller, hold_id, approve=action == "approve", reason=reason, terms=terms
                    )
                case "review":
                    justified = one(fields, "justified")
                    if justified not in ("yes", "no"):
                        raise ProblemError(400, "bad_review", "Say whether it was justified")
                    await self._deciding.review(caller, hold_id, justified=justified == "yes", reason=reason)
                case "break-glass":
                    await self._deciding.break_glass(caller, hold_id, reason)
                case _:
                    close: Callable[[Principal, str, str], Awaitable[HeldRequest]] = (
                        self._deciding.withdraw if action == "withdraw" else self._deciding.revoke
                    )
                    await close(caller, hold_id, reason)
        except (HoldError, ProblemError, StoreUnavailableError) as error:
            found = as_problem(error)
            if found.status == 404:
                raise
            return await self._page(request, session, status=found.status, problem=found, typed=fields)
        session.said.append(DONE[action])
        return RedirectResponse(f"/holds/{hold_id}", 303)


def granted(fields: dict[str, list[str]]) -> GrantTerms | None:
    """What the form gives beyond this one request: `give=more` with `minutes`, `uses`, `scope` and `pin`s."""
    if one(fields, "give") != "more":
        return None
    minutes, uses = one(fields, "minutes").strip(), one(fields, "uses").strip()
    if not (minutes.isascii() and minutes.isdigit() and uses.isascii() and uses.isdigit()):
        raise ProblemError(
            400, "bad_grant", "The grant is not understood", "Minutes and uses are whole numbers."
        )
    return grant_terms(
        {
            "for": int(minutes[:9]) * 60,
            "uses": int(uses[:9]),
            "scope": one(fields, "scope"),
            "pins": fields.get("pin", []),
        }
    )
