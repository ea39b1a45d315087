"""Prepared statements and portals: what a name means at the server by the time a message that uses it is read there.

A definition counts once the server confirmed it. Until then it counts for messages of the same batch (up to Sync)
only, since those are skipped with it when it fails; a later batch has to wait for the confirmation.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Generic, Literal, TypeVar

from extproc.protocols.postgres.running import Awaited

T = TypeVar("T")

_FORGETS_STATEMENTS = re.compile(r"\b(?:deallocate|discard)\b", re.IGNORECASE | re.ASCII)
_DEALLOCATE = re.compile(
    r'\s*deallocate\s+(?:prepare\s+)?(?!all\b)(?:"((?:[^"\x00]|"")+)"|([a-z_][a-z0-9_$]*))\s*;?\s*',
    re.IGNORECASE,
)
_FORGETS_PORTALS = re.compile(r"\b(?:close|declare|discard)\b", re.IGNORECASE | re.ASCII)
_NAME_BYTES = 63
"""NAMEDATALEN - 1: longer identifiers in SQL text are cut, and longer names in messages compared up to here."""


class Names(Generic[T]):
    """Confirmed and still unconfirmed meanings."""

    def __init__(self) -> None:
        self.known: dict[bytes, T] = {}
        self._pending: dict[bytes, tuple[Awaited, T | None]] = {}
        self._clock = 0
        self._forgotten: dict[bytes, int] = {}
        self._all_forgotten = 0

    def __len__(self) -> int:
        return len(self.known) + len(self._pending)

    def find(self, name: bytes, batch: int) -> T | Literal["later"] | None:
        """What `name` means for a message sent now; None: nothing we judged; "later": wait for the server."""
        pending = self._pending.get(name)
        if pending is None:
            return self.known.get(name)
        awaited, meaning = pending
        return meaning if awaited.batch == batch else "later"

    def announce(self, name: bytes, awaited: Awaited, meaning: T | None) -> None:
        """A message is on its way that defines `name`, or (None) takes it away."""
        self._clock += 1
        awaited.announced = self._clock
        self._pending[name] = (awaited, meaning)

    def confirm(self, name: bytes, awaited: Awaited, meaning: T | None) -> T | None:
        """The server did it. Returns what the name meant before, if it means something else now."""
        forgotten = max(self._all_forgotten, self._forgotten.get(name, 0))
        self.fail(name, awaited)
        before = self.known.pop(name, None)
        if meaning is not None and awaited.announced > forgotten:
            self.known[name] = meaning
        return before

    def fail(self, name: bytes, awaited: Awaited) -> None:
        """The server did not do it: what was known stays."""
        pending = self._pending.get(name)
        if pending is not None and pending[0] is awaited:
            del self._pending[name]
            if not self._pending:  # and so nothing older is on its way either
                self._forgotten.clear()
                self._all_forgotten = 0

    def forget(self, name: bytes) -> None:
        """Whatever `name` means by now, we did not judge it."""
        self.known.pop(name, None)
        if self._pending:
            self._forgotten[name] = self._clock
        if name in self._pending:
            self._pending[name] = (self._pending[name][0], None)

    def forget_all(self) -> list[T]:
        """Forgets every name. Returns what they meant."""
        meanings = list(self.known.values())
        self.known.clear()
        if self._pending:
            self._all_forgotten = self._clock
        for name, (awaited, _) in self._pending.items():
            self._pending[name] = (awaited, None)
        return meanings


def key_of(name: bytes) -> bytes:
    """As much of a name as the server tells names apart by."""
    return name[:_NAME_BYTES]


def forgotten_statements(text: str, codec: str) -> bytes | Literal["all"] | None:
    """Which prepared statement SQL text may replace behind the protocol's back: one name, all of them, or none.

    Keywords have no escapes, so a text without the words cannot deallocate (a function or DO block still can).
    """
    if not _traits_of(text)[0]:
        return None
    found = _DEALLOCATE.fullmatch(text)
    if found is None:
        return "all"
    quoted, plain = found.groups()
    name = (quoted.replace('""', '"') if quoted else plain.lower()).encode(codec, "replace")
    return name if len(name) <= _NAME_BYTES else "all"


@lru_cache(maxsize=1024)
def _traits(text: str) -> tuple[bool, bool, bool]:
    return (
        _FORGETS_STATEMENTS.search(text) is not None,
        _FORGETS_PORTALS.search(text) is not None,
        _BARRIER.search(text) is not None,
    )


_CACHED = 4096
"""Longer texts are looked at each time, so that the cache stays small."""


def _traits_of(text: str) -> tuple[bool, bool, bool]:
    return _traits(text) if len(text) <= _CACHED else _traits.__wrapped__(text)


def forgets_portals(text: str) -> bool:
    """Whether SQL text may replace a portal by a cursor of that name."""
    return _traits_of(text)[1]


_BARRIER = re.compile(
    r"client_encoding|standard_conforming_strings|backslash_quote|search_path|session_authorization"
    r"|set_config|\b(?:names|role|reset|discard|schema)\b|U&",
    re.IGNORECASE | re.ASCII,
)


def is_barrier(text: str) -> bool:
    """Whether SQL text may change how the next statement is read; that one then waits for the server's report."""
    return _traits_of(text)[2]
