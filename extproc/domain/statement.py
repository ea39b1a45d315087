"""One SQL statement as the wire delivered it, and what we found out about it without running it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from extproc.domain.nouns import noun

StatementKind = Literal["simple", "bound", "copy", "function"]
"""Simple query, Bind of a parsed text, COPY data, fast-path function call."""

EFFECTS = ("admin", "ddl", "file", "network", "read", "unknown_function", "write")
"""What a statement can do, in the order in which `StatementFacts.effects` lists it."""

POSTGRES_VERBS = (
    *("", "ALTER", "ANALYZE", "BEGIN", "CALL", "CHECKPOINT", "CLOSE", "CLUSTER", "COMMENT", "COMMIT", "COPY"),
    *("CREATE", "DEALLOCATE", "DECLARE", "DELETE", "DISCARD", "DO", "DROP", "EXECUTE", "EXPLAIN", "FETCH"),
    *("GRANT", "IMPORT", "INSERT", "LISTEN", "LOAD", "LOCK", "MERGE", "MOVE", "NOTIFY", "PREPARE"),
    *("REASSIGN", "REFRESH", "REINDEX", "RELEASE", "RESET", "REVOKE", "ROLLBACK", "SAVEPOINT", "SECURITY"),
    *("SELECT", "SET", "SHOW", "TRUNCATE", "UNLISTEN", "UPDATE", "VACUUM"),
)
MYSQL_VERBS = (
    *(
        "",
        "ALTER",
        "ANALYZE",
        "BACKUP",
        "BEGIN",
        "CACHE",
        "CALL",
        "CHANGE",
        "CHECK",
        "CHECKSUM",
        "CLONE",
        "COMMIT",
    ),
    *(
        "CREATE",
        "DEALLOCATE",
        "DELETE",
        "DO",
        "DROP",
        "EXECUTE",
        "EXPLAIN",
        "FLUSH",
        "GET",
        "GRANT",
        "HANDLER",
    ),
    *(
        "HELP",
        "IMPORT",
        "INSERT",
        "INSTALL",
        "KILL",
        "LOAD",
        "LOCK",
        "OPTIMIZE",
        "PREPARE",
        "PURGE",
        "RELEASE",
    ),
    *(
        "RENAME",
        "REPAIR",
        "REPLACE",
        "RESET",
        "RESIGNAL",
        "RESTART",
        "REVOKE",
        "ROLLBACK",
        "SAVEPOINT",
        "SELECT",
    ),
    *(
        "SET",
        "SHOW",
        "SHUTDOWN",
        "SIGNAL",
        "START",
        "STOP",
        "TRUNCATE",
        "UNINSTALL",
        "UNLOCK",
        "UPDATE",
        "USE",
        "XA",
    ),
)
VERBS = tuple(sorted({*POSTGRES_VERBS, *MYSQL_VERBS}))
"""Every verb; the empty one stands for an empty text and for one that could not be read."""

SHAPED_VERBS = frozenset({"SELECT", "INSERT", "REPLACE", "UPDATE", "DELETE", "MERGE"})
"""Where a literal is only a value. Elsewhere it may be a role, a file, a setting or a body of code."""
_SHAPED_EFFECTS = frozenset({"read", "write"})

RUNS_PREPARED = "it runs a statement that was prepared before"
RUNS_CURSOR = "it runs a cursor that was declared before"
"""Reasons for being incomplete that go away once what runs is known: `StatementFacts.running`."""
CHANGES_READING = "it may change how the server reads the texts that follow"
"""A reason for being incomplete that says nothing against what the statement itself returns."""

TransactionControl = Literal["", "begin", "commit", "rollback", "savepoint", "release", "prepared"]


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """What a COPY says. `source` selects what COPY TO copies, as a query of its own."""

    direction: Literal["in", "out"]
    endpoint: Literal["client", "file", "program"]
    is_table: bool
    """A table is copied, without its generated columns unless it names columns; else a query's result."""
    source: str = field(default="", repr=False)
    options: tuple[tuple[str, str | tuple[str, ...] | None], ...] = ()
    is_readable: bool = True
    """Every option was a plain value, given once."""


@dataclass(frozen=True, slots=True)
class StatementFacts:
    """What one statement does, over its whole tree. `docs/sql.md` says what each fact means and what we miss.

    Names are as the server reads them: folded, unescaped, without aliases. A part of a name that holds a dot or
    a quote is written in double quotes. Lists are sorted and without repeats. `start` and `end` are offsets in
    bytes of UTF-8 into the text that was analysed.
    """

    verb: str = ""
    """The statement's own first word; `verbs` has those inside it as well (CTEs, EXPLAIN, PREPARE, MERGE)."""
    verbs: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    """Every one of `EFFECTS` where the statement is not complete, for then it may do anything."""
    effects_seen: tuple[str, ...] = ()
    """What was found, complete or not."""
    tables_read: tuple[str, ...] = ()
    tables_written: tuple[str, ...] = ()
    """Tables whose rows, locks, definition or rights it changes."""
    columns: tuple[str, ...] = ()
    """Every column it names: `table.column` where that is certain, else `column`; `table.*` for whole rows."""
    columns_used: tuple[str, ...] = ()
    """Those that stand elsewhere than as bare items of the outermost result: what a mask on results misses."""
    functions: tuple[str, ...] = ()
    has_where: bool = False
    """Whether every UPDATE and DELETE in it has a WHERE that reads a column; without any, whether SELECT has."""
    has_limit: bool = False
    limit: int = -1
    """The outermost LIMIT where it is a constant; -1 where there is none or its value is not known."""
    statements: int = 1
    """How many statements the text holds, not counting empty ones."""
    complete: bool = True
    incomplete_reason: str = ""
    """Why not everything it does can be seen; never holds a value from the text."""
    fingerprint: str = ""
    """libpg_query's: equal for statements of one structure; digits in table names do not count."""
    normalised: str = field(default="", repr=False)
    """Without comments and literals, in one line, keywords in capitals and names folded."""
    transaction: TransactionControl = ""
    refers_to: str = ""
    """The prepared statement or cursor that it makes, runs or drops; empty for all of them."""
    copy: CopyFacts | None = None
    """For COPY alone."""
    keeps: bool = False
    """It puts something into a variable of the session, where later texts can read it: its result is not all."""
    underlying: str = field(default="", repr=False)
    """The text that made the prepared statement or cursor it runs, once that is known: what an approval of
    `EXECUTE` or `FETCH` must be bound to as well."""
    literals: tuple[tuple[str, str], ...] | None = field(default=None, repr=False)
    """What `normalised` leaves out, by what stands for it there (`?3`); None where that is read off the text
    when it is wanted, as on Postgres (`$3`)."""
    start: int = 0
    end: int = 0

    @property
    def shape(self) -> str:
        """What a grant of scope `shape` may bind to; empty where a literal may be more than a value: a file, a
        setting, the argument of a function that nobody knows."""
        plain = self.complete and self.verb in SHAPED_VERBS and _SHAPED_EFFECTS.issuperset(self.effects)
        return self.normalised if plain else ""

    def running(self, inner: StatementFacts, text: str) -> StatementFacts:
        """These facts with those of what EXECUTE or FETCH runs, made by `text`. Its own arguments count as well:
        `EXECUTE p(pg_read_file('x'))` reads a file whatever p does. Unchanged where something else is not seen."""
        if self.incomplete_reason not in (RUNS_PREPARED, RUNS_CURSOR):
            return self
        effects = _both(self.effects_seen, inner.effects)
        verbs = _both(self.verbs, inner.verbs)
        return replace(
            self,
            verbs=tuple(verb for verb in verbs if verb not in ("PREPARE", "DECLARE")),
            effects=effects,
            effects_seen=_both(self.effects_seen, inner.effects_seen),
            tables_read=_both(self.tables_read, inner.tables_read),
            tables_written=_both(self.tables_written, inner.tables_written),
            columns=_both(self.columns, inner.columns),
            columns_used=_both(self.columns_used, inner.columns_used),
            functions=_both(self.functions, inner.functions),
            has_where=inner.has_where,
            has_limit=inner.has_limit,
            limit=inner.limit,
            complete=inner.complete,
            incomplete_reason=inner.incomplete_reason,
            keeps=self.keeps or inner.keeps,
            underlying=text,
        )


def _both(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*one, *other}))


@noun(slots=True, init=False, unsafe_hash=True)
class Parameter:
    """One bound parameter. `value` None is SQL's NULL; `text` is None for NULL and for undecoded binary."""

    type_oid: Final[int]
    format: Final[int]
    """0 is text, 1 is binary (Bind)."""
    value: bytes | None = field(repr=False)
    text: str | None = field(repr=False)

    def __init__(
        self,
        type_oid: int,
        format: int,
        value: bytes | None,
        text: str | None = None,
    ) -> None:
        self.type_oid = type_oid
        self.format = format
        self.value = value
        self.text = text


@noun(slots=True, init=False, unsafe_hash=True)
class Statement:
    """What is judged, held and recorded as one. A simple query with several statements has facts for each."""

    text: str = field(repr=False)
    facts: Final[tuple[StatementFacts, ...]]
    parameters: tuple[Parameter, ...] = field(repr=False)
    kind: Final[StatementKind]

    def __init__(
        self,
        text: str,
        facts: tuple[StatementFacts, ...],
        parameters: tuple[Parameter, ...] = (),
        kind: StatementKind = "simple",
    ) -> None:
        self.text = text
        self.facts = facts
        self.parameters = parameters
        self.kind = kind
