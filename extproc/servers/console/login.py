"""Coming in and going out: at the issuer by OpenID Connect's code flow with PKCE, or by a code that works once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from extproc.domain.errors import StoreUnavailableError, TokenError
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.servers.console.limits import RateLimit, peer_of
from extproc.servers.console.safety import check_csrf, form_of, from_our_page, local_path, one
from extproc.servers.console.sessions import Entered, LoginError, Logins, Session, Sessions

ISSUER_PROBLEMS = frozenset({"access_denied", "login_required", "consent_required", "interaction_required"})
"""Errors that an issuer sends people back with (RFC 6749 §4.1.2.1, OpenID Connect Core §3.1.2.6) and that say
something about the person rather than about us."""

LOGIN_PROBLEMS = {
    "access_denied": "The issuer says that access was denied.",
    "issuer_error": "The issuer sent you back with an error.",
    "issuer_refused": "The issuer gave no token for this login.",
    "unavailable": "The issuer cannot be asked now. Try again in a moment.",
    "unknown_login": "This login was begun elsewhere, took too long, or was finished already.",
    "too_many": "Too many tries. Wait a minute.",
    "not_human": "Only people come in here. Software uses the API.",
    "wrong_client": "The token was issued to another client.",
    "no_token": "The issuer gave no token for approvals.",
    "bad_nonce": "The issuer's answer belongs to another login.",
    "other_subject": "The issuer's tokens name two different people.",
    "wrong_code": "That code is not the one, or it was used already.",
    "elsewhere": "The form came from another site.",
    "session_over": "You were logged out.",
}
"""What the login page says for a code; any other code is a token that does not prove who somebody is."""


class IssuerLogin(Protocol):
    """An issuer that people log in at."""

    async def begin(self, state: str, nonce: str, verifier: str) -> str:
        """Where the browser goes. Raises StoreUnavailableError."""

    async def finish(self, code: str, nonce: str, verifier: str) -> Entered:
        """Who came back. Raises LoginError, TokenError and StoreUnavailableError."""


class OneTime(Protocol):
    """A code that works once."""

    def spend(self, code: str) -> Principal | None:
        """Who comes in by it; None for a wrong or used one."""


@dataclass(frozen=True, slots=True)
class Doors:
    """The handlers. `show` renders a template; `record` commits to the ledger or raises LedgerUnavailableError.

    `tries` counts for each peer, `failures` those of all peers: what nobody proved must not fill the ledger.
    """

    url: str
    cookie: str
    issuer: IssuerLogin | None
    one_time: OneTime | None
    sessions: Sessions
    logins: Logins
    tries: RateLimit
    failures: RateLimit
    record: Callable[[Record], None]
    now: Callable[[], float]
    one_time_for: float
    show: Callable[..., Response]

    @property
    def _browser_cookie(self) -> str:
        return f"{self.cookie}-login"

    async def page(self, request: Request) -> Response:
        """The page to log in at. GET changes nothing here."""
        if await self.sessions.find(request.cookies.get(self.cookie, "")) is not None:
            return RedirectResponse(local_path(request.query_params.get("next", "/")), 303)
        return self._page(request, request.query_params.get("problem", ""))

    async def start(self, request: Request) -> Response:
        """To the issuer, remembering which browser went there and where it wanted to go."""
        if self.issuer is None:
            return self._failed(request, "unavailable")
        if not self.tries.allows(f"start {peer_of(request)}"):
            return self._page(request, "too_many", 429)
        then = local_path(request.query_params.get("next", "/"))
        state, browser, begun = self.logins.begin(then)
        try:
            where = await self.issuer.begin(state, begun.nonce, begun.verifier)
        except StoreUnavailableError:
            return self._page(request, "unavailable", 503)
        answer = RedirectResponse(where, 303)
        self._set(answer, self._browser_cookie, browser, max_age=600)
        return answer

    async def callback(self, request: Request) -> Response:
        """Back from the issuer. Failures alone count as tries: nobody's failures keep others out."""
        try:
            entered, then = await self._finished(request)
        except (LoginError, TokenError) as error:
            return self._failed(request, error.code)
        except StoreUnavailableError:
            return self._failed(request, "unavailable")
        return self._come_in(request, entered, then, "issuer")

    async def code(self, request: Request) -> Response:
        """In by the code that works once."""
        if not self.tries.allows(f"code {peer_of(request)}"):
            return self._page(request, "too_many", 429)
        if not from_our_page(request, self.url):
            return self._failed(request, "elsewhere")
        fields = await form_of(request)
        principal = self.one_time.spend(one(fields, "code").strip()) if self.one_time is not None else None
        if principal is None:
            return self._failed(request, "wrong_code")
        entered = Entered(principal, self.now() + self.one_time_for)
        return self._come_in(request, entered, local_path(one(fields, "next") or "/"), "one-time code")

    async def leave(self, request: Request, session: Session) -> Response:
        """Out: the session ends here; the issuer may still know the browser."""
        check_csrf(await form_of(request), session.csrf)
        self.record(
            Record("admin.logout", self.now(), {"by": session.principal.to_record(), "via": "console"})
        )
        self.sessions.end(request.cookies.get(self.cookie, ""))
        answer = RedirectResponse("/login?problem=session_over", 303)
        self._drop(answer, self.cookie)
        # not "cookies": that would be those of every host under the same domain (Clear Site Data §3.1)
        answer.headers["clear-site-data"] = '"cache", "storage"'
        return answer

    async def _finished(self, request: Request) -> tuple[Entered, str]:
        query = request.query_params
        if self.issuer is None:
            raise LoginError("unavailable")
        begun = self.logins.finish(query.get("state", ""), request.cookies.get(self._browser_cookie, ""))
        if problem := query.get("error", ""):
            raise LoginError("access_denied" if problem in ISSUER_PROBLEMS else "issuer_error")
        if not query.get("code"):
            raise LoginError("issuer_error")
        entered = await self.issuer.finish(query["code"], begun.nonce, begun.verifier)
        return entered, begun.then

    def _come_in(self, request: Request, entered: Entered, then: str, way: str) -> Response:
        if entered.principal.kind != "human":
            return self._failed(request, "not_human")
        fields = {"by": entered.principal.to_record(), "via": "console", "way": way}
        self.record(Record("admin.login", self.now(), fields))
        self.sessions.end(request.cookies.get(self.cookie, ""))  # never carry on a session from before
        answer = RedirectResponse(then, 303)
        self._set(answer, self.cookie, self.sessions.start(entered))
        self._drop(answer, self._browser_cookie)
        return answer

    def _failed(self, request: Request, code: str) -> Response:
        """Recorded without a name: nobody proved one. Beyond the limits it is neither recorded nor told."""
        if not (self.tries.allows(f"failed {peer_of(request)}") and self.failures.allows("")):
            return self._page(request, "too_many", 429)
        self.record(Record("admin.login_failed", self.now(), {"via": "console", "code": code}))
        return RedirectResponse("/login?" + urlencode({"problem": code}), 303)

    def _page(self, request: Request, code: str, status: int = 200) -> Response:
        said = LOGIN_PROBLEMS.get(code, "The issuer's token does not prove who you are." if code else "")
        return self.show(
            "login.html",
            status=status,
            said=said,
            then=local_path(request.query_params.get("next", "/")),
            at_issuer=self.issuer is not None,
            by_code=self.one_time is not None,
        )

    def _set(self, answer: Response, name: str, value: str, max_age: int | None = None) -> None:
        # Lax, not Strict: people come from the issuer and from links in messages; forms have a proof of their own
        answer.set_cookie(
            name, value, max_age=max_age, path="/", httponly=True, samesite="lax", secure=self._is_https
        )

    def _drop(self, answer: Response, name: str) -> None:
        # as it was set: browsers heed nothing of a `__Host-` cookie that is not Secure
        answer.delete_cookie(name, path="/", httponly=True, samesite="lax", secure=self._is_https)

    @property
    def _is_https(self) -> bool:
        return self.url.startswith("https:")


def cookie_name(url: str) -> str:
    """`__Host-` where browsers hold its promise (RFC 6265bis §4.1.3.2): set by this very host, over https."""
    return "__Host-extproc" if url.startswith("https:") else "extproc"
