"""Who is logged in. Kept here in memory: a browser holds only a random name, and a restart logs everybody out."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from extproc.domain.errors import ExtprocError, StoreUnavailableError, TokenError
from extproc.domain.principal import Principal

MAX_SESSIONS: Final = 10_000
"""Beyond it the one that was used longest ago ends."""
MAX_BEGUN: Final = 1_000
BEGUN_FOR: Final = 600.0
"""Seconds somebody may take at the issuer."""
RENEW_BEFORE: Final = 30.0
"""Seconds before its token's end that a session asks for a new one."""


class LoginError(ExtprocError):
    """Nobody came in. `code` is stable: what `LOGIN_PROBLEMS` in `login.py` has words for, or a TokenError's."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True, repr=False)
class Entered:
    """What a login proved. `ends_at` (Unix seconds) is the token's end; a `renewal` may bring a later one."""

    principal: Principal
    ends_at: float
    renewal: str = ""


Renew = Callable[[Entered], Awaitable[Entered]]
"""A new proof of the same person, or LoginError or TokenError; StoreUnavailableError when the issuer cannot be
asked."""


@dataclass(slots=True, repr=False)
class Session:
    """One browser. `csrf` is what its forms must carry; `said` is told on the next page, once.

    `emergencies` is how many requests that went without an approval wait for a review, and how many of them too long.
    """

    entered: Entered
    csrf: str
    started_at: float
    seen_at: float
    said: list[str] = field(default_factory=list)
    emergencies: tuple[int, int] = (0, 0)
    streams: int = 0
    is_ended: bool = False
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def principal(self) -> Principal:
        return self.entered.principal


class Sessions:
    """All of them. `longest` and `idle` are seconds."""

    def __init__(self, now: Callable[[], float], longest: float, idle: float, renew: Renew | None) -> None:
        self._now = now
        self._longest = longest
        self._idle = idle
        self._renew = renew
        self._kept: OrderedDict[bytes, Session] = OrderedDict()

    def start(self, entered: Entered) -> str:
        """A new session; returns the name the browser keeps."""
        name = secrets.token_urlsafe(32)
        now = self._now()
        self._kept[_digest(name)] = Session(entered, secrets.token_urlsafe(32), now, now)
        while len(self._kept) > MAX_SESSIONS:
            self._kept.popitem(last=False)[1].is_ended = True
        return name

    async def find(self, name: str, *, is_use: bool = True) -> Session | None:
        """The session if it is still good. Asks the issuer again when its token is about to end.

        `is_use` says that a person is there: only that keeps it from ending for want of use.
        Raises StoreUnavailableError when the token has ended and the issuer cannot be asked.
        """
        session = self._kept.get(_digest(name)) if name else None
        if session is None:
            return None
        now = self._now()
        if self.is_over(session):
            self.end(name)
            return None
        if self._is_to_renew(session):
            try:
                async with session.renewing:
                    # an issuer may take a renewal once: who waited here has what another page brought
                    if not session.is_ended and self._is_to_renew(session):
                        await self._renewed(session)
            except (LoginError, TokenError):
                self.end(name)
            except StoreUnavailableError:
                if self._now() >= session.entered.ends_at:
                    raise
        if session.is_ended:
            return None
        if is_use:
            session.seen_at = now
            self._kept.move_to_end(_digest(name))
        return session

    def is_over(self, session: Session) -> bool:
        """Too old, unused for too long, or its token has ended and nothing can renew it."""
        now = self._now()
        if (
            session.is_ended
            or now >= session.started_at + self._longest
            or now >= session.seen_at + self._idle
        ):
            return True
        return now >= session.entered.ends_at and not session.entered.renewal

    def end(self, name: str) -> Session | None:
        """Logged out, streams included."""
        session = self._kept.pop(_digest(name), None)
        if session is not None:
            session.is_ended = True
        return session

    def __len__(self) -> int:
        return len(self._kept)

    def _is_to_renew(self, session: Session) -> bool:
        return bool(session.entered.renewal) and self._now() >= session.entered.ends_at - RENEW_BEFORE

    async def _renewed(self, session: Session) -> None:
        before = session.entered
        if self._renew is None:
            raise LoginError("session_over")
        entered = await self._renew(before)
        if (entered.principal.issuer, entered.principal.subject) != (
            before.principal.issuer,
            before.principal.subject,
        ):
            raise LoginError("other_subject")
        session.entered = entered


@dataclass(frozen=True, slots=True, repr=False)
class Begun:
    """A login under way: what must come back, and to which browser."""

    browser: bytes
    nonce: str
    verifier: str
    then: str
    at: float


class Logins:
    """Logins under way, by `state` (RFC 6749 §10.12). Each can be finished once, by the browser that began it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._begun: OrderedDict[str, Begun] = OrderedDict()

    def begin(self, then: str) -> tuple[str, str, Begun]:
        """The state, the browser's name for it, and the rest."""
        state, browser = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        begun = Begun(
            _digest(browser), secrets.token_urlsafe(32), secrets.token_urlsafe(48), then, self._now()
        )
        self._begun[state] = begun
        while len(self._begun) > MAX_BEGUN:
            self._begun.popitem(last=False)
        return state, browser, begun

    def finish(self, state: str, browser: str) -> Begun:
        """Raises LoginError("unknown_login")."""
        begun = self._begun.get(state)
        if begun is None or begun.browser != _digest(browser):
            raise LoginError("unknown_login")
        del self._begun[state]
        if self._now() >= begun.at + BEGUN_FOR:
            raise LoginError("unknown_login")
        return begun


def _digest(name: str) -> bytes:
    """What is kept instead of the name, so that memory does not hold what a browser shows; also makes look-ups
    independent of how much of a guess was right."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
