"""How statements and conversations end, for every database protocol."""

from __future__ import annotations

from typing import Final, Literal

from extproc.domain.nouns import noun

EndKind = Literal["complete", "error", "denied", "skipped", "unexecuted", "abandoned", "aborted"]


@noun(slots=True, init=False, unsafe_hash=True)
class StatementEnded:
    """What became of a statement. `executed` is false only where the server certainly never ran it.

    `end`: "complete" (or as many rows as the client asked for); "error" (the server's, `sqlstate` says which);
    "denied" (by us); "skipped" (an earlier error in its batch); "unexecuted" (bound but never executed: closed,
    replaced or its transaction over); "abandoned" (the client left before an answer); "aborted" (the connection
    ended while it ran).
    `tags` are the command tags (one per statement of a Query), `rows` counts rows returned,
    `affected` those the tags name, `bytes_returned` the bytes of rows and COPY data towards the client,
    `copied_in` the bytes of COPY data from the client.
    """

    id: Final[int]
    end: Final[EndKind]
    executed: Final[bool]
    tags: Final[tuple[str, ...]]
    sqlstate: Final[str]
    rows: Final[int]
    affected: Final[int]
    bytes_returned: Final[int]
    copied_in: Final[int]

    def __init__(
        self,
        id: int,
        end: EndKind,
        executed: bool,
        tags: tuple[str, ...] = (),
        sqlstate: str = "",
        rows: int = 0,
        affected: int = 0,
        bytes_returned: int = 0,
        copied_in: int = 0,
    ) -> None:
        self.id = id
        self.end = end
        self.executed = executed
        self.tags = tags
        self.sqlstate = sqlstate
        self.rows = rows
        self.affected = affected
        self.bytes_returned = bytes_returned
        self.copied_in = copied_in


@noun(frozen=True, slots=True)
class Refused:
    """The wire itself turned a message away, in band, without asking: too long, undecodable, a function call,
    a statement or portal that was never judged. The connection lives on."""

    sqlstate: str
    message: str


@noun(frozen=True, slots=True)
class ClientLeft:
    """The client ended its side, or said Terminate. Statements still waiting were abandoned."""


@noun(frozen=True, slots=True)
class Ended:
    """Nothing more will happen. Send what is left, then close both sides.

    `by` says whose doing it was; `code` is stable: "" for an ordinary end, else the name of the refusal or of the
    broken rule (`ProtocolError.code`). `message` is safe to show.
    """

    by: Literal["client", "server", "us"]
    code: str = ""
    message: str = ""
