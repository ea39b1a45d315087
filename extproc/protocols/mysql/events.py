"""What a MySQL connection tells us. Events marked *asks* wait for an answer; bytes behind them wait in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final, Literal

from extproc.domain.nouns import noun
from extproc.protocols.endings import ClientLeft, Ended, Refused, StatementEnded

StatementKind = Literal["simple", "parse", "bound", "command"]


@noun(frozen=True, slots=True)
class LoginReceived:
    """*Asks* for `accept_login` or `refuse_login`. `token` is what the client sent as its password; it is empty where
    the connection was told not to ask for one."""

    user: str
    database: str
    attributes: Mapping[str, str]
    token: str = field(repr=False)
    encrypted: bool = False
    """Under TLS that ended here."""


@noun(frozen=True, slots=True)
class LoggedIn:
    """The server let us in and the client was told. `thread` names the session in KILL."""

    thread: int


@noun(slots=True, init=False, unsafe_hash=True)
class BoundParameter:
    """One parameter of COM_STMT_EXECUTE. `type` is the protocol's, with its bit for unsigned; NULL is None. `text` is
    None where the value is not text: a binary string."""

    type: Final[int]
    value: bytes | None = field(repr=False)
    text: str | None = field(repr=False)

    def __init__(
        self,
        type: int,
        value: bytes | None,
        text: str | None,
    ) -> None:
        self.type = type
        self.value = value
        self.text = text


@noun(slots=True, init=False, unsafe_hash=True)
class StatementReceived:
    """*Asks* for `forward(id, …)`, `deny(id, …)` or `inquire(id, …)`; not answering yet is a hold.

    `kind` is "simple" (COM_QUERY, or a command that is judged as the text it stands for), "parse"
    (COM_STMT_PREPARE: nothing runs yet), "bound" (COM_STMT_EXECUTE, with its parameters) or "command" (one that is
    never let through; `text` is its name). Every "simple" and "bound" ends with exactly one `StatementEnded`; a
    "parse" only when it was denied or failed.
    """

    id: Final[int]
    kind: Final[StatementKind]
    text: str = field(repr=False)
    parameters: Final[tuple[BoundParameter, ...]]
    in_transaction: Final[bool]
    note: Final[Any]
    """Of a "bound" one: what `forward` was given for its "parse". The server reads a text when it prepares it."""

    def __init__(
        self,
        id: int,
        kind: StatementKind,
        text: str,
        parameters: tuple[BoundParameter, ...] = (),
        in_transaction: bool = False,
        note: Any = None,
    ) -> None:
        self.id = id
        self.kind = kind
        self.text = text
        self.parameters = parameters
        self.in_transaction = in_transaction
        self.note = note


@noun(slots=True, init=False, unsafe_hash=True)
class Column:
    """One column of a result. `table` and `origin` are the real table's and column's names where the server knows
    them, else empty. `is_binary` says how values come: as text, or in the binary protocol's forms."""

    name: Final[str]
    schema: Final[str]
    table: Final[str]
    origin: Final[str]
    type: Final[int]
    charset: Final[int]
    flags: Final[int]
    is_binary: Final[bool]

    def __init__(
        self,
        name: str,
        schema: str,
        table: str,
        origin: str,
        type: int,
        charset: int,
        flags: int,
        is_binary: bool = False,
    ) -> None:
        self.name = name
        self.schema = schema
        self.table = table
        self.origin = origin
        self.type = type
        self.charset = charset
        self.flags = flags
        self.is_binary = is_binary


@noun(slots=True, init=False, unsafe_hash=True)
class RowsDescribed:
    """*Asks* for `read_rows(id)` or `pass_rows(id)`; only for statements forwarded with `rows=True`."""

    id: Final[int]
    index: Final[int]
    columns: Final[tuple[Column, ...]]

    def __init__(
        self,
        id: int,
        index: int,
        columns: tuple[Column, ...],
    ) -> None:
        self.id = id
        self.index = index
        self.columns = columns


@noun(frozen=True, slots=True)
class RowsReceived:
    """*Asks* for `replace_rows(id, rows)`. Whole rows at hand, oldest first; NULL is None."""

    id: int
    columns: tuple[Column, ...]
    rows: tuple[tuple[bytes | None, ...], ...] = field(repr=False)


@noun(frozen=True, slots=True)
class InquiryAnswered:
    """The server answered `inquire(id, …)`; the statement still waits. Values are text.

    A question that the server refuses raises no such event: its error is the statement's own (`StatementEnded`).
    """

    id: int
    rows: tuple[tuple[bytes | None, ...], ...] = field(repr=False)


@noun(frozen=True, slots=True)
class MessageReceived:
    """*Asks* for `replace_message(text)`: an error of the server, when the connection was told to `read_messages`."""

    sqlstate: str
    text: str = field(repr=False)
    id: int | None = None


@noun(frozen=True, slots=True)
class SessionReset:
    """The session is as after a login (COM_RESET_CONNECTION): settings, variables and prepared statements are gone."""


Event = (
    LoginReceived
    | LoggedIn
    | StatementReceived
    | RowsDescribed
    | RowsReceived
    | InquiryAnswered
    | MessageReceived
    | SessionReset
    | StatementEnded
    | Refused
    | ClientLeft
    | Ended
)
