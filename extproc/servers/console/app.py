"""The console's paths, and what each page is given."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from extproc.domain.errors import StoreUnavailableError
from extproc.domain.grant import ApprovalStore
from extproc.domain.hold import ReviewState
from extproc.domain.record import Record
from extproc.servers.approvals_problems import ProblemError, as_problem
from extproc.servers.console.grants import GrantPages
from extproc.servers.console.holds import HoldPages
from extproc.servers.console.limits import RateLimit
from extproc.servers.console.live import Live
from extproc.servers.console.login import Doors, IssuerLogin, OneTime, cookie_name
from extproc.servers.console.pages import Pages, Role
from extproc.servers.console.records import RecordPages, Records
from extproc.servers.console.safety import Fence, origin_of
from extproc.servers.console.sessions import Logins, Renew, Session, Sessions
from extproc.servers.deciding import Deciding

HERE = Path(__file__).parent
Handler = Callable[[Request, Session], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Ways:
    """How people come in, and for how many seconds: `longest` altogether, `idle` without a sign of life."""

    issuer: IssuerLogin | None = None
    renew: Renew | None = None
    one_time: OneTime | None = None
    longest: float = 8 * 3600.0
    idle: float = 1800.0


def create_console(
    store: ApprovalStore,
    *,
    url: str,
    ways: Ways,
    record: Callable[[Record], None],
    now: Callable[[], float],
    operators: Collection[str] = ("operators",),
    auditors: Collection[str] = ("auditors",),
    mask: Callable[[str], str] = str,
    records: Records | None = None,
    checks: Callable[[], Awaitable[Mapping[str, bool]]] | None = None,
) -> Starlette:
    """The ASGI application, for browsers that see it at `url`.

    `record`, `mask`, `operators` and `auditors` are as for the API (`approvals_api.create_app`). `records` reads the
    ledger and `checks` says which checks hold; without them there are no pages of either.
    """
    url = origin_of(url)
    deciding = Deciding(store, record, now, readers={*operators, *auditors}, mask=mask, via="console")
    pages = Pages(now, {Role.OPERATOR: frozenset(operators), Role.AUDITOR: frozenset(auditors)})
    sessions = Sessions(now, ways.longest, ways.idle, ways.renew)
    cookie = cookie_name(url)
    doors = Doors(
        url=url, cookie=cookie, issuer=ways.issuer, one_time=ways.one_time, sessions=sessions,
        logins=Logins(now), tries=RateLimit(now, per_minute=60, burst=30),
        failures=RateLimit(now, per_minute=300, burst=300), record=record, now=now,
        one_time_for=ways.longest, show=pages.bare,
    )  # fmt: skip
    acts = RateLimit(now, per_minute=60, burst=30)
    guard = Guard(sessions, cookie, pages, url, acts, deciding)
    holds, grants, live = HoldPages(deciding, pages), GrantPages(deciding, pages), Live(deciding, sessions)

    read: list[tuple[str, Handler]] = []
    if records is not None and checks is not None:
        ledger = RecordPages(deciding, pages, records, checks)
        read = [
            ("/sessions", ledger.sessions),
            ("/sessions/{session_id}", ledger.session),
            ("/policies", ledger.policies),
            ("/health", ledger.health),
        ]

    def page(path: str, handler: Handler) -> Route:
        return Route(path, guard.page(handler), methods=["GET"])

    def part(path: str, handler: Handler) -> Route:
        return Route(path, guard.page(handler, is_use=False), methods=["GET"])

    def act(path: str, handler: Handler) -> Route:
        return Route(path, guard.act(handler), methods=["POST"])

    async def begin(request: Request, session: Session) -> Response:
        return RedirectResponse("/holds", 303)

    routes: list[BaseRoute] = [
        Route("/login", guard.public(doors.page), methods=["GET"]),
        Route("/login/start", guard.public(doors.start), methods=["GET"]),
        Route("/login/callback", guard.public(doors.callback), methods=["GET"]),
        Route("/login/code", guard.public(doors.code), methods=["POST"]),
        act("/logout", doors.leave),
        page("/", begin),
        page("/holds", holds.inbox),
        part("/holds/list", holds.part),
        page("/holds/{hold_id}", holds.one),
        part("/holds/{hold_id}/now", holds.now),
        act("/holds/{hold_id}/approve", holds.approve),
        act("/holds/{hold_id}/deny", holds.deny),
        act("/holds/{hold_id}/withdraw", holds.withdraw),
        act("/holds/{hold_id}/revoke", holds.revoke),
        act("/holds/{hold_id}/break-glass", holds.break_glass),
        act("/holds/{hold_id}/review", holds.review),
        page("/grants", grants.all),
        page("/grants/{grant_id}", grants.one),
        act("/grants/{grant_id}/revoke", grants.revoke),
        part("/live", live.stream),
        *(page(path, handler) for path, handler in read),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Fence, url=url)],
        exception_handlers={HTTPException: guard.lost},
    )
    app.router.redirect_slashes = False
    return app


class Guard:
    """Who is at the door of each handler, and what becomes of its exceptions."""

    def __init__(
        self, sessions: Sessions, cookie: str, pages: Pages, url: str, acts: RateLimit, deciding: Deciding
    ) -> None:
        self._sessions = sessions
        self._cookie = cookie
        self._pages = pages
        self._url = url
        self._acts = acts
        self._deciding = deciding

    def page(self, handler: Handler, *, is_use: bool = True) -> Callable[[Request], Awaitable[Response]]:
        """For whoever is logged in; others go and log in first.

        What an open page asks for by itself is no use of the session: somebody who went away is still away.
        """

        @functools.wraps(handler)
        async def answer(request: Request) -> Response:
            session: Session | None = None
            try:
                session = await self._session(request, is_use=is_use)
                if session is None:
                    return self._log_in(request)
                if is_use:
                    session.emergencies = await self._emergencies(session)
                return await handler(request, session)
            except Exception as error:
                return self._trouble(error, session)

        return answer

    def act(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """For forms of our own pages. The handler reads the form and checks its proof."""

        @functools.wraps(handler)
        async def answer(request: Request) -> Response:
            session: Session | None = None
            try:
                session = await self._session(request)
                if session is None:
                    raise ProblemError(
                        401, "session_over", "You were logged out", "Nothing was done. Log in again."
                    )
                if not self._acts.allows(f"{session.principal.issuer}\0{session.principal.subject}"):
                    raise ProblemError(
                        429, "too_fast", "Slow down", "Nothing was done. Try again in a moment."
                    )
                return await handler(request, session)
            except Exception as error:
                return self._trouble(error, session)

        return answer

    def public(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """For everybody."""

        @functools.wraps(handler)
        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as error:
                return self._trouble(error, None)

        return answer

    async def lost(self, request: Request, error: Exception) -> Response:
        """For what Starlette raises before a handler is reached."""
        try:
            session = await self._session(request, is_use=False)
        except Exception:
            session = None  # the page says what is lost, not who asks
        return self._trouble(error, session)

    async def _session(self, request: Request, *, is_use: bool = True) -> Session | None:
        return await self._sessions.find(request.cookies.get(self._cookie, ""), is_use=is_use)

    async def _emergencies(self, session: Session) -> tuple[int, int]:
        """What the banner of every page says."""
        try:
            owed = await self._deciding.owed(session.principal)
        except StoreUnavailableError:
            return session.emergencies  # a page that needs no store is shown all the same
        states = [held.glass.state for held in owed if held.glass is not None]
        return len(states), states.count(ReviewState.OVERDUE)

    def _log_in(self, request: Request) -> Response:
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        if "hx-request" in request.headers or request.url.path == "/live":
            # a part of a page cannot log in; the whole page can
            return Response(status_code=401, headers={"hx-redirect": "/login"})
        return RedirectResponse("/login?" + urlencode({"next": here}), 303)

    def _trouble(self, error: Exception, session: Session | None) -> Response:
        found = as_problem(error)
        answer = (
            self._pages.show("problem.html", session, status=found.status, title=found.title, problem=found)
            if session is not None
            else self._pages.bare("problem.html", status=found.status, problem=found)
        )
        for name, value in (found.headers or {}).items():
            if name.lower() != "www-authenticate":
                answer.headers[name] = value
        return answer
