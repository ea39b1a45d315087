"""What was sent to the server and is not answered yet, and the statements that were prepared there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from extproc.domain.errors import ProtocolError
from extproc.protocols.endings import EndKind, StatementEnded
from extproc.protocols.mysql.capabilities import IN_TRANSACTION
from extproc.protocols.mysql.commands import Answer
from extproc.protocols.mysql.events import Column, Event
from extproc.protocols.mysql.limits import Limits, Refusal
from extproc.protocols.mysql.packets import build_packets
from extproc.protocols.mysql.replies import build_error

LAST_PREPARED = 0xFFFFFFFF
"""Instead of a statement's id: the one that was prepared last (MariaDB)."""


@dataclass(slots=True, eq=False)
class Prepared:
    """A statement that the server prepared."""

    text: str = field(repr=False)
    id: int = 0
    count: int = 0
    """How many parameters it has."""
    types: tuple[int, ...] = ()
    note: Any = None
    """What whoever let it be prepared wants to know when it runs."""
    long_data: dict[int, bytearray] = field(default_factory=dict)
    """By parameter; not sent yet."""
    is_too_long: bool = False
    cursor: Run | None = None
    """The execution whose rows COM_STMT_FETCH brings."""

    def forget_long_data(self) -> None:
        self.long_data.clear()
        self.is_too_long = False


@dataclass(slots=True, init=False, eq=False)
class Run:
    """One command at the server. `id` 0: nobody waits to hear how it ends."""

    id: int
    answer: Answer
    kind: str
    prepared: Prepared | None
    wants_rows: bool
    inquiry: list[tuple[bytes | None, ...]] | None
    """The answer is ours alone."""
    columns: tuple[Column, ...]
    reading: bool
    results: int
    rows: int
    affected: int
    bytes_returned: int
    tap: Callable[[bytes], None] | None
    """Is given every byte of its rows as they go to the client."""
    is_reset: bool
    """It makes the session new."""

    def __init__(
        self,
        id: int = 0,
        answer: Answer = "one",
        kind: str = "",
        prepared: Prepared | None = None,
        inquiry: list[tuple[bytes | None, ...]] | None = None,
        is_reset: bool = False,
    ) -> None:
        self.id = id
        self.answer = answer
        self.kind = kind
        self.prepared = prepared
        self.wants_rows = False
        self.inquiry = inquiry
        self.columns = ()
        self.reading = False
        self.results = 0
        self.rows = 0
        self.affected = 0
        self.bytes_returned = 0
        self.tap = None
        self.is_reset = is_reset


@dataclass(slots=True, init=False, eq=False)
class Waiting:
    """A command that waits for an answer of ours."""

    id: int
    run: Run
    payload: bytes = field(repr=False)
    sequence: int
    """Of our answer, if we give it."""
    types: tuple[int, ...]
    """Of its parameters: the server keeps them once it is given them, and so do we."""

    def __init__(
        self,
        id: int,
        run: Run,
        payload: bytes,
        sequence: int,
        types: tuple[int, ...] = (),
    ) -> None:
        self.id = id
        self.run = run
        self.payload = payload
        self.sequence = sequence
        self.types = types


class Session:
    """What both sides of a connection share."""

    def __init__(self, limits: Limits, *, read_messages: bool) -> None:
        self.limits = limits
        self.read_messages = read_messages
        self.events: deque[Event] = deque()
        self.to_client: list[bytes] = []
        self.to_server: list[bytes] = []
        self.capabilities = 0
        self.status = 0
        self.codec = "utf-8"
        self.codec_is_doubted = False
        self.waiting: Waiting | None = None
        self.running: Run | None = None
        """What the server has to answer now."""
        self.prepared: dict[int, Prepared] = {}
        self.last_prepared: Prepared | None = None
        self.remembered = 0
        self._ids = 0

    def new_id(self) -> int:
        self._ids += 1
        return self._ids

    @property
    def in_transaction(self) -> bool:
        return bool(self.status & IN_TRANSACTION)

    def refuse(self, refusal: Refusal, sequence: int) -> None:
        """An ERR packet of ours."""
        self.to_client.append(build_packets(build_error(refusal, codec=self.codec), sequence))

    def end(self, run: Run | None, end: EndKind, executed: bool, sqlstate: str = "") -> None:
        """A statement is over; said once."""
        if run is None or not run.id:
            return
        self.events.append(
            StatementEnded(
                run.id,
                end,
                executed,
                sqlstate=sqlstate,
                rows=run.rows,
                affected=run.affected,
                bytes_returned=run.bytes_returned,
            )
        )
        run.id = 0

    # prepared statements

    def find(self, number: int) -> Prepared | None:
        return self.last_prepared if number == LAST_PREPARED else self.prepared.get(number)

    def keep(self, made: Prepared) -> None:
        """The server prepared it. Raises ProtocolError above the ceilings."""
        self.drop(made.id)
        self.prepared[made.id] = self.last_prepared = made
        self.remembered += len(made.text)
        if len(self.prepared) > self.limits.names or self.remembered > self.limits.remembered:
            raise ProtocolError("too-much-waiting", "too many prepared statements on one connection")

    def drop(self, number: int) -> None:
        made = self.prepared.pop(number, None)
        if made is not None:
            self.remembered -= len(made.text)
            self.close_cursor(made)

    def drop_all(self) -> None:
        for number in list(self.prepared):
            self.drop(number)
        self.last_prepared = None

    def close_cursor(self, made: Prepared) -> None:
        """No more rows are fetched of its last execution."""
        cursor, made.cursor = made.cursor, None
        self.end(cursor, "complete", executed=True)
