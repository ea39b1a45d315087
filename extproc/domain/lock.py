"""A lock: somebody, or one session, may do nothing until it is removed or has expired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from extproc.domain.principal import Principal

MAX_LOCKS = 200
"""All of them fit into one message to a worker."""
MAX_NAME = 255
"""Characters of a subject, an issuer, a person or a session id."""


@dataclass(frozen=True, slots=True)
class Lock:
    """Exactly one of `subject` (of `issuer`, or of any), `person` and `session` says whom it means.

    Times are Unix seconds; `expires_at` 0 is until it is removed.
    """

    id: str
    by: str
    reason: str
    at: float
    expires_at: float = 0.0
    subject: str = ""
    issuer: str = ""
    person: str = ""
    session: str = ""

    def is_over(self, now: float) -> bool:
        """Whether it has expired."""
        return 0 < self.expires_at <= now

    def means(self, principal: Principal, session: str) -> bool:
        """Whether it is for this caller or this session."""
        if self.session:
            return self.session == session
        if self.person:
            return self.person == principal.person
        return self.subject == principal.subject and self.issuer in ("", principal.issuer)

    def to_data(self) -> dict[str, Any]:
        """As it is kept and sent."""
        return asdict(self)

    @classmethod
    def of(cls, data: object) -> Lock:
        """What `to_data` gave. Raises ValueError for anything else: a lock that is not understood locks nobody."""
        if not isinstance(data, Mapping) or set(data) != set(cls.__slots__):
            raise ValueError("not a lock")
        times = {name: data[name] for name in ("at", "expires_at")}
        texts = {name: data[name] for name in cls.__slots__ if name not in times}
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("not a lock")
        if not all(type(time) in (int, float) for time in times.values()):
            raise ValueError("not a lock")
        made: dict[str, Any] = {**texts, **{name: float(time) for name, time in times.items()}}
        lock = cls(**made)
        if not lock.id or sum(map(bool, (lock.subject, lock.person, lock.session))) != 1:
            raise ValueError("not a lock")
        return lock


def locks_of(data: object) -> tuple[Lock, ...]:
    """A list of them. Raises ValueError."""
    if not isinstance(data, list):
        raise ValueError("no list of locks")
    return tuple(Lock.of(each) for each in data)
