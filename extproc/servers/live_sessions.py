"""The database sessions of this worker that something from outside of their connection may reach: cancels, locks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:  # a worker without databases knows no wire
    from extproc.protocols.postgres import BackendKey

Found = Literal["", "held", "live"]
"""What a cancel key named: nothing, a session whose waiting statement was stopped, or one that the server must stop."""
AskOthers = Callable[[str, "BackendKey"], Awaitable[Found]]

BURST = 200
PER_SECOND = 50.0


class LiveSession(Protocol):
    """One connection that is logged in."""

    def cancel_waiting(self) -> bool:
        """Stop the statement that waits here; False when none does."""

    def end_if_over(self) -> None:
        """Look whether a lock means this session, and end it at once if so."""


class LiveSessions:
    """Not thread-safe; the event loop owns it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sessions: dict[int, LiveSession] = {}
        self._by_key: dict[tuple[str, int, bytes], LiveSession] = {}
        self._ask_others: AskOthers | None = None
        self._room = float(BURST)
        self._seen = 0.0

    def ask_others(self, ask: AskOthers) -> None:
        """How the other workers are asked for a session that is not here."""
        self._ask_others = ask

    def add(self, session: LiveSession, target: str, key: BackendKey | None) -> None:
        """It is logged in. `key` is what a CancelRequest must carry."""
        self._sessions[id(session)] = session
        if key is not None:
            self._by_key[target, key.process_id, key.secret] = session

    def remove(self, session: LiveSession, target: str, key: BackendKey | None) -> None:
        """It is over."""
        self._sessions.pop(id(session), None)
        if key is None:
            return
        place = target, key.process_id, key.secret
        if self._by_key.get(place) is session:
            del self._by_key[place]

    def cancel_here(self, target: str, key: BackendKey) -> Found:
        """A CancelRequest for a session of this worker."""
        return self.cancel_named(target, key.process_id, key.secret)

    def cancel_named(self, target: str, process_id: int, secret: bytes) -> Found:
        """The same, as a sibling passes it on."""
        session = self._by_key.get((target, process_id, secret))
        if session is None:
            return ""
        return "held" if session.cancel_waiting() else "live"

    async def cancel_elsewhere(self, target: str, key: BackendKey) -> Found:
        """The same in the other workers. A flood of keys that nobody has is not passed on."""
        now = self._now()
        self._room = min(float(BURST), self._room + max(0.0, now - self._seen) * PER_SECOND)
        self._seen = now
        if self._ask_others is None or self._room < 1:
            return ""
        self._room -= 1
        return await self._ask_others(target, key)

    def end_locked(self) -> None:
        """The locks changed: whoever they mean ends now."""
        for session in list(self._sessions.values()):
            session.end_if_over()
