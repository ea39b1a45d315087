"""Which real column a result column is, and which views show masked ones: read once per connection, as its first
statement, in the rights of the database user it runs under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from extproc.domain.errors import MaskingError
from extproc.domain.statement import StatementFacts
from extproc.masking.rows import RowMasks, ValueMask, hidden, split_name

FIRST_USER_OID = 16384
"""Below are objects that initdb made (transam.h: FirstNormalObjectId)."""

QUERY = (
    "SELECT c.oid::pg_catalog.text, n.nspname::pg_catalog.text, c.relname::pg_catalog.text,"
    " c.relkind::pg_catalog.text, a.attnum::pg_catalog.text, a.attname::pg_catalog.text"
    " FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid"
    " AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped"
    " WHERE c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid"
    " AND c.relkind IN ('r', 'p', 'f', 'v', 'm');"
    " SELECT r.ev_class::pg_catalog.text, d.refobjid::pg_catalog.text"
    " FROM pg_catalog.pg_depend d"
    " JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) d.objid"
    " WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass"
    " AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"
    " AND r.ev_class OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid"
)
"""Tables with their columns, then what views are made of. Text only, and every name says its schema."""

STATISTICS = ("pg_stats", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic", "pg_statistic_ext_data")
"""Where the server keeps values of columns for its planner."""


@dataclass(slots=True)
class Catalogue:
    """What the server told. `is_loaded` is False until it told everything."""

    columns: dict[tuple[int, int], tuple[str, str, str]] = field(default_factory=dict)
    tables: dict[int, tuple[str, str]] = field(default_factory=dict)
    made_of: dict[int, set[int]] = field(default_factory=dict)
    is_loaded: bool = False

    def add(self, index: int, row: Sequence[bytes | None]) -> None:
        """One row of the query's result set `index`. Raises ValueError for what it never returns."""
        values = [b"" if value is None else value for value in row]
        if index == 1:
            self.made_of.setdefault(int(values[0]), set()).add(int(values[1]))
            return
        oid = int(values[0])
        schema, table = values[1].decode(), values[2].decode()
        self.tables[oid] = (schema, table)
        if values[4]:
            self.columns[oid, int(values[4])] = (schema, table, values[5].decode())

    def veiled(self, masks: RowMasks) -> frozenset[str]:
        """Names of views made of a table that has a masked column, directly or through other views."""
        found = {
            oid
            for (oid, _), (schema, table, column) in self.columns.items()
            if masks.operator(schema, table, column)
        }
        grown = True
        views: set[int] = set()
        while grown:
            new = {view for view, parts in self.made_of.items() if view not in views and parts & found}
            grown = bool(new)
            views |= new
            found |= new
        return frozenset(self.tables[oid][1] for oid in views if oid in self.tables)


def objection(masks: RowMasks, catalogue: Catalogue, facts: Sequence[StatementFacts]) -> str:
    """Why a statement cannot be answered with its columns masked; empty when it can.

    Masking by where a result column comes from is sound only for plain columns: whatever computes with a masked
    column, or reads it through a view, hides where its values come from.
    """
    for sql in facts:
        if sql.verb == "COPY":
            return "COPY cannot be masked"
        if not sql.complete:
            return "it cannot be judged"
        if not masks.rules:
            continue
        if not catalogue.is_loaded:
            return "the database's catalogue is not known"
        for name in sql.columns_used:
            if masks.may_cover(name):
                return "a masked column may only stand as a plain result column"
        veiled = catalogue.veiled(masks)
        for table in (*sql.tables_read, *sql.tables_written):
            last = split_name(table)[-1]
            if last in STATISTICS:
                return "the planner's statistics hold values of masked columns"
            if last in veiled and table in sql.tables_read:
                return "it reads a view over a table with masked columns"
    return ""


class ResultColumn(Protocol):
    """One column of a result, as the server describes it. `table_oid` 0: no plain column of a table."""

    @property
    def name(self) -> str: ...
    @property
    def table_oid(self) -> int: ...
    @property
    def attribute(self) -> int: ...
    @property
    def type_oid(self) -> int: ...
    @property
    def format(self) -> int: ...


class ResultMask:
    """Masks the rows of one result and counts what it found."""

    __slots__ = ("_masks", "counts")

    def __init__(self, masks: Sequence[ValueMask | None]) -> None:
        self._masks = [(number, mask) for number, mask in enumerate(masks) if mask is not None]
        self.counts: dict[str, int] = {}

    def row(self, values: Sequence[bytes | None]) -> Sequence[bytes | None] | None:
        """The row's new values, or None when it may pass as it is."""
        new: list[bytes | None] | None = None
        for number, mask in self._masks:
            value = values[number]
            if value is None:
                continue
            masked, found = mask(value)
            if found:
                for name in found.split(","):
                    self.counts[name] = self.counts.get(name, 0) + 1
                if new is None:
                    new = list(values)
                new[number] = masked
        return new


WITHHELD = "the server's message is withheld: it may hold masked values"
VALUES_IN_TEXT = ("22", "23", "00", "01", "P0")
"""SQLSTATE classes whose texts quote values: data exceptions, constraints, notices, errors raised by functions."""


def masked_message(masks: RowMasks, fields: Mapping[str, str]) -> dict[str, str]:
    """An error, notice or notification of the server without what is masked.

    Details and contexts quote rows; main texts are withheld where a masked column may stand in them, and searched.
    """
    kept = {name: text for name, text in fields.items() if not (masks.rules and name in ("D", "W"))}
    if masks.rules and "M" in kept and kept.get("C", "")[:2] in VALUES_IN_TEXT:
        kept["M"] = f"extproc: {WITHHELD}"
    for name, text in kept.items():
        if len(name) > 1 or name in "MDHWqp":
            try:
                kept[name] = masks.masker.text(text)[0]
            except MaskingError:
                kept[name] = WITHHELD
    return kept


def result_mask(
    masks: RowMasks,
    catalogue: Catalogue,
    facts: Sequence[StatementFacts],
    columns: Sequence[ResultColumn],
    codec: str,
) -> ResultMask | None:
    """What is done to each column; None when nothing can be in any of them.

    A column of a table the catalogue does not know is hidden: it may have been made since. So is every computed one
    when the statement names a masked column that no result column turned out to be.
    """
    made: list[ValueMask | None] = []
    computed: list[int] = []
    resolved = False
    for number, column in enumerate(columns):
        operator = None
        real = catalogue.columns.get((column.table_oid, column.attribute))
        if real is not None:
            operator = masks.operator(*real)
        if operator is not None and real is not None:
            resolved = True
            label = ".".join(real[1:])
            made.append(masks.whole(operator, label, column.type_oid, column.format, codec))
        elif masks.rules and real is None and column.table_oid >= FIRST_USER_OID:
            made.append(hidden("unknown-table", column.type_oid, column.format, codec))
        else:
            if column.table_oid == 0:
                computed.append(number)
            made.append(masks.search(column.type_oid, column.format, codec))
    named = any(masks.may_cover(name) for sql in facts for name in sql.columns if not name.endswith("*"))
    if named and not resolved:
        for number in computed:
            column = columns[number]
            made[number] = hidden("unknown-column", column.type_oid, column.format, codec)
    return ResultMask(made) if any(mask is not None for mask in made) else None
