"""Keeping the catalogue true: what is asked of the server before a statement whose rows must be masked.

It is shared by all connections to one database, read when first needed and checked once a second at most, in the
rights of whoever asks. What a caller changes is looked for at once; what it changed and did not commit yet counts for
its own connection alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from extproc.pipeline.catalogue import CONTENT, SIGNATURE, Catalogue, definitions_of

CHECK_EVERY = 1.0
"""Seconds for which a catalogue that was checked is believed."""
MOST_DATABASES = 64
"""Catalogues kept; the one that was not used for longest goes first."""


class Reader(Protocol):
    """One connection's view of a catalogue: what to ask next, and what the answer means."""

    doubted: bool
    """A result had a column of a table that is not known: look before the next one."""

    @property
    def current(self) -> Catalogue: ...
    @property
    def is_asking(self) -> bool: ...
    def begin(self, transaction: str) -> None: ...
    def question(self, names: Iterable[str], now: float, *, checked: bool) -> str: ...
    def answered(
        self, rows: Sequence[Sequence[bytes | None]], codec: str, now: float, transaction: str
    ) -> None: ...
    def changed(self, now: float) -> None: ...
    def committed(self, now: float) -> None: ...


class Readers(Protocol):
    """What several connections share."""

    def reader(self, target: str, database: str, user: str) -> Reader:
        """One connection's view of it."""


@dataclass(slots=True)
class SharedCatalogue:
    """One database's catalogue as it was last read, and when it was last checked."""

    catalogue: Catalogue | None = None
    checked_at: float = 0.0
    doubted_until: float = 0.0
    """Something was changed a moment ago: until then every use is checked."""


class Catalogues:
    """Those of one process, by target and database."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], SharedCatalogue] = OrderedDict()

    def reader(self, target: str, database: str, user: str) -> CatalogueReader:
        """One connection's view of it; every user sees the same."""
        del user
        return CatalogueReader(self.of(target, database))

    def of(self, target: str, database: str) -> SharedCatalogue:
        """The same one for everybody who names the same database."""
        key = target, database
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = SharedCatalogue()
            if len(self._kept) > MOST_DATABASES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return found


class CatalogueReader:
    """One connection's view of it: what to ask next, and what the answer means."""

    __slots__ = ("_altered", "_asked", "_own", "_own_checked_at", "_shared", "doubted")

    def __init__(self, shared: SharedCatalogue) -> None:
        self._shared = shared
        self._own: Catalogue | None = None
        """What this connection sees inside its transaction."""
        self._own_checked_at = 0.0
        self._asked = ""
        self._altered = False
        self.doubted = False
        """A result had a column of a table that is not known: look before the next one."""

    def begin(self, transaction: str) -> None:
        """A statement begins; outside of a transaction everybody sees the same."""
        if transaction == "I":
            self._own = None

    @property
    def current(self) -> Catalogue:
        """What is known; an empty one before anything is."""
        return self._own or self._shared.catalogue or NOTHING_KNOWN

    def question(self, names: Iterable[str], now: float, *, checked: bool) -> str:
        """What must be asked before a statement that names these tables is judged; empty when all is known.

        `checked`: it was checked for this statement, so a name that is still unknown is no reason to check again.
        """
        self._asked = self._next(tuple(names), now, checked)
        return self._asked

    def _next(self, names: tuple[str, ...], now: float, checked: bool) -> str:
        catalogue = self.current
        if catalogue is NOTHING_KNOWN:
            return CONTENT
        if not checked:
            at = self._own_checked_at if self._own is not None else self._shared.checked_at
            is_fresh = 0 <= now - at < CHECK_EVERY and now >= self._shared.doubted_until and not self.doubted
            if is_fresh and catalogue.is_whole(names):
                return ""
            if not is_fresh or not all(catalogue.knows(name) for name in names):
                return SIGNATURE
        missing = catalogue.undefined(relation for name in names for relation in catalogue.named(name))
        return definitions_of(missing) if missing else ""

    @property
    def is_asking(self) -> bool:
        """A question of ours is not answered yet."""
        return bool(self._asked)

    def answered(
        self, rows: Sequence[Sequence[bytes | None]], codec: str, now: float, transaction: str
    ) -> None:
        """What the server said to the last question. Raises ValueError or LookupError for what it never says."""
        asked, self._asked = self._asked, ""
        if asked == SIGNATURE:
            told = (rows[0][0] or b"").decode() if rows and rows[0] else ""
            for known in (self._own, self._shared.catalogue):
                if known is not None and known.signature == told:
                    self._believe(known, now, transaction)
                    return
            self._forget(transaction)
        elif asked == CONTENT:
            catalogue = Catalogue()
            for row in rows:
                catalogue.add(row, codec)
            self._believe(catalogue, now, transaction)
        else:
            catalogue = self.current
            for row in rows:
                catalogue.add(row, codec)
            for oid in _oids(asked):
                catalogue.give_up(oid)

    def _believe(self, catalogue: Catalogue, now: float, transaction: str) -> None:
        self.doubted = False
        if transaction == "I":
            self._own = None
            self._shared.catalogue, self._shared.checked_at = catalogue, now
        else:
            self._own, self._own_checked_at = catalogue, now

    def _forget(self, transaction: str) -> None:
        if transaction == "I":
            self._shared.catalogue = None
        self._own = None if transaction == "I" else NOTHING_KNOWN

    def changed(self, now: float) -> None:
        """Something that ended may have changed what it tells of."""
        self.doubted = self._altered = True
        self._shared.doubted_until = now + CHECK_EVERY

    def committed(self, now: float) -> None:
        """The transaction is over; what it changed is there for everybody from now on."""
        if self._altered:
            self._altered = False
            self._shared.doubted_until = now + CHECK_EVERY


def _oids(question: str) -> list[int]:
    return [int(oid) for oid in question[question.rfind("{") + 1 : question.rfind("}")].split(",")]


NOTHING_KNOWN = Catalogue()
