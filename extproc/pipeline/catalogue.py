"""What a database says of its own tables and views: enough to tell which real column a result column is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from extproc.masking.rows import split_name
from extproc.pipeline.view_trees import ViewColumn, view_columns

FIRST_USER_OID = 16384
"""Below are objects that initdb made (transam.h: FirstNormalObjectId)."""
VIEWS = frozenset("vm")
"""pg_class.relkind: views and materialised views."""

_EQUAL = "OPERATOR(pg_catalog.=)"
_USER = f"OPERATOR(pg_catalog.>=) {FIRST_USER_OID}::pg_catalog.oid"
_KINDS = f"c.relkind {_EQUAL} ANY ('{{r,p,f,v,m}}'::pg_catalog.\"char\"[])"
STATISTICS = frozenset(
    {"pg_stats", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic", "pg_statistic_ext_data"}
)
"""Where the server keeps values of columns for its planner."""
STATEMENTS = frozenset({"pg_stat_activity", "pg_stat_statements"})
"""Where the server shows what others asked, in a column called `query`."""


def _text(*names: str) -> str:
    return ", ".join(f"{name}::pg_catalog.text" for name in names)


def _sum(names: str, rest: str) -> str:
    row = f"pg_catalog.concat_ws('|', {names})"
    return f"(SELECT pg_catalog.sum(pg_catalog.hashtextextended({row}, 0)) FROM {rest})"  # noqa: S608


SIGNATURE = "SELECT pg_catalog.concat_ws(' ', {})".format(
    ", ".join(
        (
            _sum(_text("n.oid", "n.nspname"), "pg_catalog.pg_namespace n"),
            _sum(
                _text("c.oid", "c.relname", "c.relnamespace", "c.relkind"),
                f"pg_catalog.pg_class c WHERE c.oid {_USER} AND {_KINDS}",
            ),
            _sum(
                _text("a.attrelid", "a.attnum", "a.attname", "a.attisdropped", "a.attgenerated"),
                f"pg_catalog.pg_attribute a WHERE a.attrelid {_USER}",
            ),
            _sum(
                _text("r.oid", "r.ev_class", "r.xmin", "r.cmin", "r.ctid"),
                f"pg_catalog.pg_rewrite r WHERE r.ev_class {_USER}",
            ),
            _sum(_text("i.inhrelid", "i.inhparent"), "pg_catalog.pg_inherits i"),
            _sum(_text("p.oid", "p.proname"), f"pg_catalog.pg_proc p WHERE p.oid {_USER}"),
            _sum(_text("d.oid", "d.xmin", "d.cmin", "d.ctid"), "pg_catalog.pg_attrdef d"),
        )
    )
)
"""One text that changes whenever anything does that the rest of this module reads."""

CONTENT = (
    f"SELECT 's', ({SIGNATURE}), NULL, NULL, NULL, NULL"  # noqa: S608
    f" UNION ALL SELECT 'c', {_text('c.oid', 'n.nspname', 'c.relname', 'c.relkind')}, NULL"
    f" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid {_EQUAL} c.relnamespace"
    f" WHERE c.oid {_USER} AND {_KINDS}"
    f" UNION ALL SELECT 'b', {_text('n.nspname', 'c.relname')}, NULL, NULL, NULL"
    f" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid {_EQUAL} c.relnamespace"
    f" WHERE NOT c.oid {_USER} AND {_KINDS}"
    f" UNION ALL SELECT 'a', {_text('a.attrelid', 'a.attnum', 'a.attname', 'a.attgenerated')}, NULL"
    f" FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid {_EQUAL} a.attrelid"
    f" WHERE a.attrelid {_USER} AND {_KINDS} AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped"
    f" UNION ALL SELECT 'i', {_text('i.inhrelid', 'i.inhparent')}, NULL, NULL, NULL"
    " FROM pg_catalog.pg_inherits i"
    # what generated columns read: since PostgreSQL 15 their expression does, before that the column itself
    f" UNION ALL SELECT 'g', {_text('d.adrelid', 'd.adnum', 'p.refobjsubid')}, NULL, NULL"
    f" FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_depend p ON p.refobjid {_EQUAL} d.adrelid"
    f" AND p.refclassid {_EQUAL} 'pg_catalog.pg_class'::pg_catalog.regclass"
    f" AND (p.classid {_EQUAL} 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND p.objid {_EQUAL} d.oid"
    f" OR p.classid {_EQUAL} 'pg_catalog.pg_class'::pg_catalog.regclass AND p.objid {_EQUAL} d.adrelid"
    f" AND p.objsubid {_EQUAL} d.adnum)"
    f" WHERE d.adrelid {_USER} AND p.refobjsubid OPERATOR(pg_catalog.>) 0"
    # functions that may be called with a whole row
    f" UNION ALL SELECT 'f', {_text('p.proname')}, NULL, NULL, NULL, NULL"
    f" FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_type t ON t.oid {_EQUAL} p.proargtypes[0]"
    f" WHERE p.oid {_USER} AND t.typtype {_EQUAL} ANY ('{{c,d,p}}'::pg_catalog.\"char\"[])"
    # columns that may hold values of any other column
    f" UNION ALL SELECT 'h', {_text('a.attrelid', 'a.attnum')}, NULL, NULL, NULL"
    f" FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid {_EQUAL} a.attrelid"
    f" WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND (NOT c.oid {_USER} AND c.relname {_EQUAL} ANY"
    f" ('{{{','.join(sorted(STATISTICS))}}}'::pg_catalog.name[])"
    f" OR a.attname {_EQUAL} 'query' AND c.relname {_EQUAL} ANY"
    f" ('{{{','.join(sorted(STATEMENTS))}}}'::pg_catalog.name[]))"
)
"""Everything but the rules of views, in text. Every name says its schema: the session's search_path is the caller's."""


def definitions_of(views: Iterable[int]) -> str:
    """A query for the rules of views, by OID."""
    return (
        f"SELECT 'v', {_text('r.ev_class', 'r.ev_action')}, NULL, NULL, NULL FROM pg_catalog.pg_rewrite r"  # noqa: S608
        f" WHERE r.ev_type {_EQUAL} '1' AND r.ev_class {_EQUAL} ANY"
        f" ('{{{','.join(map(str, sorted(views)))}}}'::pg_catalog.oid[])"
    )


@dataclass(slots=True, eq=False)
class Relation:
    """A table, view, materialised view, foreign table or partition. Columns by attribute number."""

    oid: int
    schema: str
    name: str
    kind: str
    columns: dict[int, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    generated: dict[int, set[int]] = field(default_factory=dict)
    """Generated columns, with the columns they read."""
    kin: set[int] = field(default_factory=set)
    """Its parents and children by inheritance or partitioning."""
    parents: set[int] = field(default_factory=set)
    definition: dict[int, ViewColumn] | None = None
    """Of a view; None until it was asked for, empty where it cannot be read."""

    @property
    def is_view(self) -> bool:
        return self.kind in VIEWS


MOST_REMEMBERED = 1024
"""Conclusions about a statement's tables that are kept."""


class Catalogue:
    """What the server told at one moment."""

    __slots__ = (
        "_by_name", "_whole", "builtin", "holders", "of_rows", "relations", "signature", "version",
    )  # fmt: skip

    def __init__(self) -> None:
        self.signature = ""
        self.relations: dict[int, Relation] = {}
        self.builtin: set[tuple[str, str]] = set()
        """Schema and name of the server's own tables and views, and the name alone."""
        self.version = 0
        """How often it was added to: what was concluded from it holds as long as this stays."""
        self.holders: set[tuple[int, int]] = set()
        """Columns of `STATISTICS` and `STATEMENTS`."""
        self.of_rows: set[str] = set()
        """Functions, not the server's own, that take a row: `x.f` calls them."""
        self._by_name: dict[str, list[Relation]] = {}
        self._whole: set[tuple[str, ...]] = set()
        """Names of which nothing is missing, as they were asked for together."""

    @property
    def views_hide_origins(self) -> bool:
        """Whether a column of a view may come without a word about where it is from."""
        return False

    def add(self, row: Sequence[bytes | None], codec: str = "utf-8") -> None:
        """One row of `CONTENT` or of `definitions_of`. Raises ValueError for what they never return."""
        self._changed()
        kind, *values = ["" if value is None else value.decode(codec) for value in row]
        if kind == "s":
            self.signature = values[0]
        elif kind == "c":
            oid, schema, name, relkind = values[:4]
            relation = Relation(int(oid), schema, name, relkind)
            self.relations[relation.oid] = relation
            self._by_name.setdefault(name, []).append(relation)
        elif kind == "b":
            schema, name = values[:2]
            self.builtin.update(((schema, name), ("", name)))
        elif kind == "f":
            self.of_rows.add(values[0])
        elif kind == "h":
            self.holders.add((int(values[0]), int(values[1])))
        elif kind == "a":
            self._add_column(self.relations.get(int(values[0])), values)
        elif kind == "i":
            child, parent = self.relations.get(int(values[0])), self.relations.get(int(values[1]))
            if child is not None and parent is not None:  # indexes of partitioned tables inherit as well
                child.parents.add(parent.oid)
                child.kin.add(parent.oid)
                parent.kin.add(child.oid)
        elif kind == "g":
            table = self.relations.get(int(values[0]))
            number, reads = int(values[1]), int(values[2])
            if table is not None and number in table.generated and number != reads:
                table.generated[number].add(reads)
        elif kind == "v":
            self._define(int(values[0]), values[1])
        else:
            raise ValueError("the catalogue has a row of a kind that nobody asked for")

    def give_up(self, oid: int) -> None:
        """The server says nothing of this view any more: it is gone by now."""
        view = self.relations.get(oid)
        if view is not None and view.definition is None:
            self._changed()
            view.definition = {}

    def _changed(self) -> None:
        self.version += 1
        self._whole.clear()

    def _add_column(self, relation: Relation | None, values: Sequence[str]) -> None:
        if relation is None:
            return
        number, name = int(values[1]), values[2]
        relation.columns[number] = name
        relation.numbers[name] = number
        if values[3]:
            relation.generated[number] = set()

    def _define(self, oid: int, tree: str) -> None:
        view = self.relations.get(oid)
        if view is None:
            return
        try:
            view.definition = view_columns(tree)
        except ValueError:
            view.definition = {}

    def named(self, name: str) -> list[Relation]:
        """Every relation that a name in a statement (`table` or `schema.table`) could mean."""
        parts = split_name(name)
        found = self._by_name.get(parts[-1], [])
        return [each for each in found if len(parts) == 1 or each.schema == parts[-2]]

    def knows(self, name: str) -> bool:
        """Whether a name in a statement is that of a known relation, or of one of the server's own."""
        parts = split_name(name)
        return bool(self.named(name)) or (parts[-2] if len(parts) > 1 else "", parts[-1]) in self.builtin

    def tells(self, name: str) -> bool:
        """Whether a name is that of one of the server's own tables that show values whoever asks for whatever."""
        return False

    def is_whole(self, names: tuple[str, ...]) -> bool:
        """Whether all these names are known, with everything below those of views."""
        if names in self._whole:
            return True
        whole = all(self.knows(name) for name in names) and not self.undefined(
            relation for name in names for relation in self.named(name)
        )
        if whole and len(self._whole) < MOST_REMEMBERED:
            self._whole.add(names)
        return whole

    def undefined(self, relations: Iterable[Relation]) -> set[int]:
        """Views among these, and below them, whose rules were not asked for yet."""
        missing: set[int] = set()
        seen: set[int] = set()
        todo = list(relations)
        while todo:
            relation = todo.pop()
            if relation.oid in seen:
                continue
            seen.add(relation.oid)
            if not relation.is_view:
                continue
            if relation.definition is None:
                missing.add(relation.oid)
                continue
            for column in relation.definition.values():
                for oid, _ in (column.origin,) if column.origin else column.reads:
                    if oid in self.relations:
                        todo.append(self.relations[oid])
        return missing
