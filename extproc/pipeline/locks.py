"""The locks in force, asked at every login, request and statement."""

from __future__ import annotations

from collections.abc import Iterable

from extproc.domain.lock import Lock
from extproc.domain.principal import Principal


class LockBoard:
    """All of one worker's sessions and requests look here. Replaced whole whenever a lock comes or goes."""

    __slots__ = ("_by_name",)

    def __init__(self, locks: Iterable[Lock] = ()) -> None:
        self._by_name: dict[tuple[str, str], list[Lock]] = {}
        self.replace(locks)

    def replace(self, locks: Iterable[Lock]) -> None:
        """These are in force now, and no others."""
        found: dict[tuple[str, str], list[Lock]] = {}
        for lock in locks:
            kind = "session" if lock.session else "person" if lock.person else "subject"
            found.setdefault((kind, lock.session or lock.person or lock.subject), []).append(lock)
        self._by_name = found

    def find(self, principal: Principal, session: str, now: float) -> Lock | None:
        """The lock that keeps this caller, or this session, from going on."""
        if not self._by_name:
            return None
        for key in (("session", session), ("subject", principal.subject), ("person", principal.person)):
            for lock in self._by_name.get(key, ()):
                if lock.means(principal, session) and not lock.is_over(now):
                    return lock
        return None
