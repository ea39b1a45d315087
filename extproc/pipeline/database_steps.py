"""What a database session is asked and what it answers: the server carries a step out and brings the next event.

Records of a step are written before anything of it happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Final, Literal

from extproc.domain.nouns import NOTHING, noun
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.domain.statement import Statement
from extproc.pipeline.governance import DatabaseRole

INSUFFICIENT_PRIVILEGE = "42501"
INVALID_AUTHORIZATION = "28000"
INVALID_PASSWORD = "28P01"  # noqa: S105  (a SQLSTATE)
QUERY_CANCELED = "57014"
CONFIGURATION_LIMIT = "53400"
CANNOT_CONNECT_NOW = "57P03"
FEATURE_NOT_SUPPORTED = "0A000"
ADMIN_SHUTDOWN = "57P01"
SYSTEM_ERROR = "58000"


@noun(frozen=True, slots=True)
class Login:
    """What a client said before anything was decided. `token` is what it gave as its password."""

    user: str
    database: str
    application: str
    token: str = field(repr=False)
    caller: Principal | None = None
    """Whom a verified certificate names; then there is no token."""


@noun(frozen=True, slots=True)
class AcceptLogin:
    """Log in upstream as `role`."""

    role: DatabaseRole
    protected: bool
    """Passwords may cross the way to the server as they are."""
    records: tuple[Record, ...] = ()


@noun(frozen=True, slots=True)
class RefuseLogin:
    """End the connection with an error."""

    sqlstate: str
    message: str
    hint: str
    records: tuple[Record, ...] = ()


@noun(slots=True, init=False, unsafe_hash=True)
class Run:
    """The statement may go on. `masks` are owed on its rows."""

    masks: Final[tuple[str, ...]]
    records: Final[tuple[Record, ...]]
    reads: Final[Literal["", "rows", "copy"]]
    """What of its answer must be read."""

    def __init__(
        self,
        masks: tuple[str, ...] = (),
        records: tuple[Record, ...] = (),
        reads: Literal["", "rows", "copy"] = "",
    ) -> None:
        self.masks = masks
        self.records = records
        self.reads = reads


@noun(frozen=True, slots=True)
class Inquire:
    """Ask the server `text` first and come back with `answered`; `runs` False only asks which columns it returns."""

    text: str
    runs: bool = True


@noun(frozen=True, slots=True)
class Stop:
    """The statement may not go on; the connection lives unless `ends_session`."""

    sqlstate: str
    message: str
    detail: str
    hint: str
    records: tuple[Record, ...] = ()
    ends_session: bool = False


@noun(slots=True, init=False, unsafe_hash=True)
class Asked:
    """One statement that waits for a decision. `is_bound` is False at Parse: nothing runs yet."""

    statement: Final[Statement]
    transaction: Final[str]
    is_bound: Final[bool]
    name: Final[str]
    """The name a Parse gives it."""
    settings: Final[Mapping[str, str]]
    bound: Final[tuple[str, ...]]
    """Names of the settings that change what a text means or who runs it: part of what is approved."""
    codec: Final[str]
    """How its results and parameters are read."""

    def __init__(
        self,
        statement: Statement,
        transaction: str,
        is_bound: bool = True,
        name: str = "",
        settings: Mapping[str, str] = NOTHING,
        bound: tuple[str, ...] = (),
        codec: str = "utf-8",
    ) -> None:
        self.statement = statement
        self.transaction = transaction
        self.is_bound = is_bound
        self.name = name
        self.settings = settings
        self.bound = bound
        self.codec = codec


@noun(slots=True, init=False, unsafe_hash=True)
class Ended:
    """What became of a statement that was judged. `end` is the wire's word for it."""

    end: Final[str]
    executed: Final[bool | None]
    sqlstate: Final[str]
    tags: Final[tuple[str, ...]]
    rows: Final[int]
    affected: Final[int]
    bytes_returned: Final[int]
    copied_in: Final[int]
    masked: Final[Mapping[str, int]]

    def __init__(
        self,
        end: str,
        executed: bool | None,
        sqlstate: str = "",
        tags: tuple[str, ...] = (),
        rows: int = 0,
        affected: int = 0,
        bytes_returned: int = 0,
        copied_in: int = 0,
        masked: Mapping[str, int] = NOTHING,
    ) -> None:
        self.end = end
        self.executed = executed
        self.sqlstate = sqlstate
        self.tags = tags
        self.rows = rows
        self.affected = affected
        self.bytes_returned = bytes_returned
        self.copied_in = copied_in
        self.masked = masked
