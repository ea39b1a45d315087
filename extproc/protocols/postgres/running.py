"""What was sent to the server and is not answered yet, in order. Whose answer is whose follows from this alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from extproc.protocols.endings import EndKind, StatementEnded
from extproc.protocols.postgres.events import BoundParameter, Column, StatementKind
from extproc.protocols.postgres.inquiry import Inquiry
from extproc.protocols.postgres.limits import Refusal

STARTUP = b"*"
COPY_END = b"c"
"""Marks where the client ended COPY data: no answer of its own, but a Sync before it is none (see `copy_begins`)."""


@dataclass(slots=True, init=False, eq=False)
class Run:
    """One announced statement and what has come of it so far."""

    id: int
    kind: StatementKind
    text: str = field(repr=False)
    wants_rows: bool
    tap: Callable[[bytes], None] | None
    """Is given every byte of rows and COPY data that goes to the client."""
    wants_copy: bool
    """COPY data towards the client is shown as well."""
    is_barrier: bool
    columns: tuple[Column, ...] | None
    reading: bool
    results: int
    reached: bool
    """The server did something for it: it may have run."""
    suspended: bool
    """An Execute stopped at its row limit: it ran, and how far is the client's own wish."""
    ended: bool
    tags: list[str]
    rows: int
    affected: int
    bytes_returned: int
    copied_in: int

    def __init__(
        self,
        id: int,
        kind: StatementKind,
        text: str = "",
    ) -> None:
        self.id = id
        self.kind = kind
        self.text = text
        self.wants_rows = False
        self.tap = None
        self.wants_copy = False
        self.is_barrier = False
        self.columns = None
        self.reading = False
        self.results = 0
        self.reached = False
        self.suspended = False
        self.ended = False
        self.tags = []
        self.rows = 0
        self.affected = 0
        self.bytes_returned = 0
        self.copied_in = 0

    def end(self, end: EndKind, executed: bool, sqlstate: str = "") -> StatementEnded:
        self.ended = True
        if end == "unexecuted" and self.suspended:
            end = "complete"
        return StatementEnded(
            self.id,
            end,
            executed,
            tuple(self.tags),
            sqlstate,
            self.rows,
            self.affected,
            self.bytes_returned,
            self.copied_in,
        )

    def count_tag(self, tag: str) -> None:
        """CommandComplete: the last word is the number of rows (INSERT has an OID before it)."""
        if len(self.tags) < _MOST_TAGS:
            self.tags.append(tag)
        number = tag.rpartition(" ")[2]
        if number.isascii() and number.isdigit() and len(number) < 20:
            self.affected += int(number)


_MOST_TAGS = 1000


@dataclass(slots=True, eq=False)
class Prepared:
    """A prepared statement as the client defined it."""

    text: str = field(repr=False)
    types: tuple[int, ...] = ()
    size: int = 0

    def typed(self, number: int) -> int:
        return self.types[number] if number < len(self.types) else 0


@dataclass(slots=True, init=False, eq=False)
class Awaited:
    """A message sent to the server. `kind` is its type byte; `defines` the name that its success defines."""

    kind: bytes
    run: Run | None
    refusal: Refusal | None
    """Ours: the server must refuse what was sent in its place, and its error becomes this one."""
    swallow: bool
    """Ours: the client did not ask and does not hear the answer."""
    which: bytes
    """Describe and Close: `S` or `P`."""
    name: bytes
    prepared: Prepared | None
    inquiry: Inquiry | None
    batch: int
    announced: int
    answered: bool
    """A Query: the server said CommandComplete, EmptyQueryResponse or ErrorResponse, so ReadyForQuery may come."""

    def __init__(
        self,
        kind: bytes,
        run: Run | None = None,
        refusal: Refusal | None = None,
        swallow: bool = False,
        which: bytes = b"",
        name: bytes = b"",
        prepared: Prepared | None = None,
        inquiry: Inquiry | None = None,
        batch: int = 0,
        answered: bool = False,
    ) -> None:
        self.kind = kind
        self.run = run
        self.refusal = refusal
        self.swallow = swallow
        self.which = which
        self.name = name
        self.prepared = prepared
        self.inquiry = inquiry
        self.batch = batch
        self.announced = 0
        self.answered = answered


def parameters_of(
    values: tuple[bytes | None, ...], formats: tuple[int, ...], prepared: Prepared
) -> tuple[BoundParameter, ...]:
    return tuple(
        BoundParameter(prepared.typed(number), form, value)
        for number, (form, value) in enumerate(zip(formats, values, strict=True))
    )
