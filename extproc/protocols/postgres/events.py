"""What a Postgres connection tells us. Events marked *asks* wait for an answer; bytes behind them wait in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Final, Literal

from extproc.domain.nouns import NOTHING, noun
from extproc.protocols.endings import ClientLeft, Ended, Refused, StatementEnded

TransactionStatus = Literal["I", "T", "E"]
"""ReadyForQuery's own letters: idle, in a transaction block, in a failed transaction block."""

StatementKind = Literal["simple", "parse", "bound"]


@noun(frozen=True, slots=True)
class LoginReceived:
    """*Asks* for `accept_login` or `refuse_login`. `token` is what the client sent as its password.

    `parameters` are those of the startup message but `user`, `database` and `replication`; nothing of them goes
    upstream unless `accept_login` says so. `token` is empty when the connection was told not to ask for one.
    """

    user: str
    database: str
    parameters: Mapping[str, str]
    token: str = field(repr=False)
    protocol: tuple[int, int] = (3, 0)
    encrypted: bool = False
    """Under TLS that ended here; what Envoy did before us, Envoy tells."""


@noun(frozen=True, slots=True)
class LoggedIn:
    """The server let us in and the client was told. `backend_key` names the session in a CancelRequest."""

    backend_key: BackendKey | None


@noun(frozen=True, slots=True)
class BackendKey:
    """What a CancelRequest must carry: 4 bytes of secret in protocol 3.0, up to 256 in 3.2."""

    process_id: int
    secret: bytes = field(repr=False)


@noun(slots=True, init=False, unsafe_hash=True)
class BoundParameter:
    """One parameter of a Bind. `type_oid` is 0 where nobody said; `format` 0 is text, 1 is binary; NULL is None."""

    type_oid: Final[int]
    format: Final[int]
    value: bytes | None = field(repr=False)

    def __init__(
        self,
        type_oid: int,
        format: int,
        value: bytes | None,
    ) -> None:
        self.type_oid = type_oid
        self.format = format
        self.value = value


@noun(slots=True, init=False, unsafe_hash=True)
class StatementReceived:
    """*Asks* for `forward(id, …)` or `deny(id, …)`; not answering yet is a hold.

    `kind` is "simple" (a Query, possibly of several statements), "parse" (a Parse: only the text is known,
    nothing runs yet; never recorded as run) or "bound" (a Bind: text and parameters, before it is forwarded).
    Every "simple" and "bound" that was announced ends with exactly one `StatementEnded` of the same id; a
    "parse" ends with one only when it was denied, failed or was skipped. A forwarded "parse" stays here until
    the next message; if that is its Bind, both go together or neither does (denying the Bind skips the Parse).
    `transaction` is the status last heard from the server and `outstanding` how many earlier messages it has
    not answered yet, so that while it is not 0 the status may be older than this statement.
    `settings` are the parameters the server reported (`client_encoding`, `standard_conforming_strings`, …).
    """

    id: Final[int]
    kind: Final[StatementKind]
    text: str = field(repr=False)
    parameters: Final[tuple[BoundParameter, ...]]
    parameter_types: Final[tuple[int, ...]]
    name: Final[str]
    """The prepared statement's name ("parse", "bound"); empty for the unnamed one."""
    portal: Final[str]
    transaction: Final[TransactionStatus]
    outstanding: Final[int]
    settings: Mapping[str, str] = field(repr=False)

    def __init__(
        self,
        id: int,
        kind: StatementKind,
        text: str,
        parameters: tuple[BoundParameter, ...] = (),
        parameter_types: tuple[int, ...] = (),
        name: str = "",
        portal: str = "",
        transaction: TransactionStatus = "I",
        outstanding: int = 0,
        settings: Mapping[str, str] = NOTHING,
    ) -> None:
        self.id = id
        self.kind = kind
        self.text = text
        self.parameters = parameters
        self.parameter_types = parameter_types
        self.name = name
        self.portal = portal
        self.transaction = transaction
        self.outstanding = outstanding
        self.settings = settings


@noun(slots=True, init=False, unsafe_hash=True)
class Column:
    """One column of a RowDescription. `table_oid` and `attribute` are 0 for what is no plain table column."""

    name: Final[str]
    table_oid: Final[int]
    attribute: Final[int]
    type_oid: Final[int]
    format: Final[int]

    def __init__(
        self,
        name: str,
        table_oid: int,
        attribute: int,
        type_oid: int,
        format: int,
    ) -> None:
        self.name = name
        self.table_oid = table_oid
        self.attribute = attribute
        self.type_oid = type_oid
        self.format = format


@noun(slots=True, init=False, unsafe_hash=True)
class RowsDescribed:
    """*Asks* for `read_rows(id)` or `pass_rows(id)`; only for statements forwarded with `rows=True`.

    `index` counts the result sets of one statement id (a Query may return several).
    """

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
    """*Asks* for `replace_rows(id, rows)`. All complete rows at hand, oldest first; NULL is None."""

    id: int
    columns: tuple[Column, ...]
    rows: tuple[tuple[bytes | None, ...], ...] = field(repr=False)


@noun(frozen=True, slots=True)
class InquiryAnswered:
    """The server answered `inquire(id, …)`; the statement still waits. Values are text.

    A question that the server refuses raises no such event: its error is the statement's own (`StatementEnded`).
    """

    id: int
    columns: tuple[Column, ...]
    rows: tuple[tuple[bytes | None, ...], ...] = field(repr=False)


@noun(frozen=True, slots=True)
class CopyReceived:
    """*Asks* for `replace_copy(id, pieces)`; only for statements forwarded with `copy=True`.

    The bodies of the CopyData messages at hand, oldest first. `is_last`: the server said CopyDone.
    """

    id: int
    pieces: tuple[bytes, ...] = field(repr=False)
    is_last: bool = False


@noun(frozen=True, slots=True)
class CopyStarted:
    """COPY data follows, `direction` seen from the server: "in" is data from the client. It is not bound."""

    id: int
    direction: Literal["in", "out"]
    binary: bool
    columns: int


@noun(frozen=True, slots=True)
class MessageReceived:
    """*Asks* for `replace_message(fields)`; only when the connection was told to `read_messages`.

    `fields` maps the field letters of ErrorResponse and NoticeResponse to text (`M` message, `D` detail, `C`
    SQLSTATE …); a notification has `channel` and `payload`. `id` is the statement it answers, if any.
    """

    kind: Literal["error", "notice", "notification"]
    fields: Mapping[str, str] = field(repr=False)
    id: int | None = None


@noun(frozen=True, slots=True)
class CancelReceived:
    """*Asks* for `forward_cancel()` or `drop_cancel()`. This connection carries nothing else (CancelRequest)."""

    key: BackendKey


Event = (
    LoginReceived
    | LoggedIn
    | StatementReceived
    | RowsDescribed
    | RowsReceived
    | CopyReceived
    | CopyStarted
    | InquiryAnswered
    | MessageReceived
    | StatementEnded
    | Refused
    | CancelReceived
    | ClientLeft
    | Ended
)
