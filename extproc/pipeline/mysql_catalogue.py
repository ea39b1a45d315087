"""What a MySQL or MariaDB server says of the tables that a statement names, and of what its views are made of.

Only those are asked for: one server may have very many. A table's columns are believed for a second; definitions change
outside of transactions here, so that everybody sees the same. Temporary tables are in no catalogue: what comes from
one is hidden where columns are masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from extproc.masking.rows import split_name
from extproc.pipeline.catalogue import FIRST_USER_OID, Catalogue, Relation
from extproc.pipeline.catalogue_reading import CHECK_EVERY
from extproc.pipeline.mysql_views import view_columns, view_tables
from extproc.pipeline.view_trees import Attribute

SYSTEM_SCHEMAS = frozenset({"information_schema", "performance_schema", "mysql", "sys"})
TELLING = frozenset(
    {
        *(
            "column_stats",
            "column_statistics",
            "processlist",
            "threads",
            "general_log",
            "slow_log",
            "innodb_trx",
        ),
        *("events_statements_current", "events_statements_history", "events_statements_history_long"),
        *("session", "x$session", "x$processlist", "statement_analysis"),
    }
)
"""Tables of those schemas with values of columns, or with the texts of statements."""
SYSTEM_OID = 1
UNKNOWN_OID = 1 << 31
"""Of a table that is not known: what comes from it is hidden."""
UNKNOWN_COLUMN = 1 << 15
MOST_QUESTIONS = 20
"""Asked before one statement; views on views on views cost one each."""
MOST_TABLES = 10_000
"""Kept for one target and user; then everything is asked anew."""


def _literal(text: str) -> str:
    """As no `sql_mode` and no character set can read it otherwise."""
    return f"_utf8mb4 0x{text.encode().hex()}" if text else "''"


def columns_of(tables: Iterable[tuple[str, str]]) -> str:
    """A query for the columns and definitions of tables and views, by schema and name. Each is asked for by itself:
    then the server opens no other."""
    parts = []
    for schema, name in tables:
        which = f"TABLE_SCHEMA = {_literal(schema)} AND TABLE_NAME = {_literal(name)}"
        parts.append(
            "SELECT 'a', TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, ORDINAL_POSITION, GENERATION_EXPRESSION"  # noqa: S608
            f" FROM information_schema.COLUMNS WHERE {which}"
        )
        parts.append(
            "SELECT 'v', TABLE_SCHEMA, TABLE_NAME, VIEW_DEFINITION, NULL, NULL"  # noqa: S608
            f" FROM information_schema.VIEWS WHERE {which}"
        )
    return " UNION ALL ".join(parts)


class Tables(Catalogue):
    """What is known of the tables of one server. Names are compared without case: where `Users` and `users` are two
    tables, both are meant."""

    __slots__ = ("checked_at", "texts")

    def __init__(self) -> None:
        super().__init__()
        self.checked_at: dict[tuple[str, str], float] = {}
        self.texts: dict[int, str] = {}
        """Definitions of views by their number."""

    @property
    def views_hide_origins(self) -> bool:
        return True

    def named(self, name: str) -> list[Relation]:
        *schema, table = split_name(name.lower())
        found = self._by_name.get(table, [])
        return [each for each in found if not schema or each.schema == schema[-1]]

    def knows(self, name: str) -> bool:
        return is_system(name) or bool(self.named(name))

    def tells(self, name: str) -> bool:
        return is_system(name) and split_name(name)[-1].lower() in TELLING

    def place(self, schema: str, table: str, column: str) -> Attribute:
        """Where a result column comes from, by what the server says of it; (0, 0) where it is computed.

        A column of a temporary result says the table but not the schema, and perhaps another column's name.
        """
        if not table:
            return 0, 0
        if schema.lower() in SYSTEM_SCHEMAS:
            return SYSTEM_OID, 1
        same = self._by_name.get(table.lower(), [])
        if not schema:
            return (same[0].oid, 0) if len(same) == 1 else (UNKNOWN_OID, 0)
        found = [each for each in same if each.schema == schema.lower()]
        if len(found) != 1:
            return UNKNOWN_OID, UNKNOWN_COLUMN
        return found[0].oid, found[0].numbers.get(column.lower(), UNKNOWN_COLUMN)

    def take(
        self, asked: Iterable[tuple[str, str]], rows: Sequence[Sequence[bytes | None]], codec: str, now: float
    ) -> None:
        """The answer to `columns_of`. Raises ValueError or LookupError for what it never says."""
        told: dict[tuple[str, str], list[list[str]]] = {}
        for row in rows:
            values = ["" if value is None else value.decode(codec) for value in row]
            told.setdefault((values[1], values[2]), []).append(values)
        missing = {(schema.lower(), name.lower()) for schema, name in asked}
        for (schema, name), lines in told.items():
            missing.discard((schema.lower(), name.lower()))
            self._put(schema, name, lines)
        for schema, name in missing:
            self._drop(schema, name)
        for mark in asked:
            self.checked_at[mark] = now

    def _put(self, schema: str, name: str, lines: list[list[str]]) -> None:
        texts = [values[3] for values in lines if values[0] == "v"]
        columns = {int(values[4]): values[3].lower() for values in lines if values[0] == "a"}
        numbers = {column: number for number, column in columns.items()}
        # what a generated column reads is told as an expression: any column of the table
        generated = {int(v[4]): set(columns) - {int(v[4])} for v in lines if v[0] == "a" and v[5]}
        before = next((r for r in self._by_name.get(name.lower(), []) if r.schema == schema.lower()), None)
        kind = "v" if texts else "r"
        now = (columns, kind, generated, "".join(texts))
        if before is not None and now == (
            before.columns, before.kind, before.generated, self.texts.get(before.oid, "")
        ):  # fmt: skip
            return
        self._drop(schema, name)
        relation = Relation(
            FIRST_USER_OID + self.version, schema.lower(), name.lower(), kind, columns, numbers, generated
        )
        self.relations[relation.oid] = relation
        self._by_name.setdefault(relation.name, []).append(relation)
        if texts:
            self.texts[relation.oid] = texts[0]
        self._changed()
        self._undefine()

    def _drop(self, schema: str, name: str) -> None:
        found = self._by_name.get(name.lower(), [])
        for relation in [each for each in found if each.schema == schema.lower()]:
            found.remove(relation)
            self.relations.pop(relation.oid, None)
            self.texts.pop(relation.oid, None)
            self._changed()
            self._undefine()

    def _undefine(self) -> None:
        """What views are made of is found out again: a table below them changed."""
        for relation in self.relations.values():
            relation.definition = None

    def below(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """These tables and everything that views among them read, by schema and name."""
        seen: set[tuple[str, str]] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            parts = split_name(name)
            if len(parts) < 2 or is_system(name) or (parts[-2], parts[-1]) in seen:
                continue
            seen.add((parts[-2], parts[-1]))
            yield parts[-2], parts[-1]
            for relation in self.named(name):
                if relation.is_view:
                    todo.extend(view_tables(self.texts.get(relation.oid, "")))

    def define(self) -> None:
        """Find out what views are made of, now that what they read is known."""
        for relation in self.relations.values():
            if relation.is_view and relation.definition is None:
                relation.definition = view_columns(self.texts.get(relation.oid, ""), relation.columns, self)


def is_system(name: str) -> bool:
    """Whether a name in a statement is that of one of the server's own tables."""
    parts = split_name(name)
    return len(parts) > 1 and parts[-2].lower() in SYSTEM_SCHEMAS


@dataclass(slots=True)
class _Shared:
    tables: Tables = field(default_factory=Tables)
    doubted_until: float = 0.0
    """Something was changed a moment ago: until then every use is checked."""


class MysqlCatalogues:
    """Those of one process, by target and database user: each sees what it may."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Shared] = {}

    def reader(self, target: str, database: str, user: str) -> TablesReader:
        """One connection's view of it."""
        del database  # names say their schema
        shared = self._kept.get((target, user))
        if shared is None or len(shared.tables.relations) > MOST_TABLES:
            shared = self._kept[target, user] = _Shared()
        return TablesReader(shared)


class TablesReader:
    """What to ask before a statement, and what the answer means."""

    __slots__ = ("_asked", "_shared", "_times", "doubted")

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._asked: tuple[tuple[str, str], ...] = ()
        self._times = 0
        self.doubted = False

    def begin(self, transaction: str) -> None:
        """A statement begins."""
        self._times = 0
        self._asked = ()

    @property
    def current(self) -> Tables:
        """What is known."""
        return self._shared.tables

    def question(self, names: Iterable[str], now: float, *, checked: bool) -> str:
        """What must be asked before a statement that names these tables is judged; empty when all is known."""
        tables, shared = self._shared.tables, self._shared
        fresh = now - CHECK_EVERY
        is_doubted = self.doubted or now < shared.doubted_until
        self._asked = tuple(
            mark
            for mark in tables.below(names)
            if tables.checked_at.get(mark, -1.0) <= fresh
            or tables.checked_at[mark] > now
            or (is_doubted and not checked)
        )
        if not self._asked or self._times >= MOST_QUESTIONS:
            self._asked = ()
            tables.define()
            return ""
        self._times += 1
        self.doubted = False
        return columns_of(self._asked)

    @property
    def is_asking(self) -> bool:
        """A question of ours is not answered yet."""
        return bool(self._asked)

    def answered(
        self, rows: Sequence[Sequence[bytes | None]], codec: str, now: float, transaction: str
    ) -> None:
        """What the server said to the last question. Raises ValueError or LookupError for what it never says."""
        asked, self._asked = self._asked, ()
        self._shared.tables.take(asked, rows, codec, now)

    def changed(self, now: float) -> None:
        """Something that ended may have changed what it tells of."""
        self.doubted = True
        self._shared.doubted_until = now + CHECK_EVERY

    def committed(self, now: float) -> None:
        """Transactions change no tables here."""
