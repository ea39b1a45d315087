"""The walk over a whole parse tree: every node is handled, known to be plain, or makes the facts incomplete."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import postgast

from extproc.domain.statement import CHANGES_READING
from extproc.sql.conditions import literal_text
from extproc.sql.found import Found
from extproc.sql.functions import (
    FUNCTION_EFFECTS,
    OF_ROWS,
    RUNS_SQL,
    SAFE_FUNCTIONS,
    SAFE_OPERATORS,
    SAFE_TYPES,
)
from extproc.sql.names import builtin_name, relation_parts, strings, written
from extproc.sql.scope import Scope
from extproc.sql.settings import is_harmless, is_reading, reads_as_before

Handler = Callable[["Walk", Any, Scope], None]

_NODE = postgast.pg_query_pb2.Node
_MESSAGES = frozenset(
    getattr(postgast.pg_query_pb2, name) for name in postgast.pg_query_pb2.DESCRIPTOR.message_types_by_name
)
_LEAVES = frozenset(
    (
        "a_const",
        "a_star",
        "bit_string",
        "boolean",
        "float",
        "integer",
        "param_ref",
        "set_to_default",
        "string",
    )
)
"""Fields of Node that hold nothing below them."""


class TooLargeError(Exception):
    """A statement has more nodes than its walk may visit."""


@dataclass(frozen=True, slots=True, eq=False)
class Vouched:
    """What an operator vouches for beyond the built-ins, as written in statements: `app.price`, `mood`, `<=>`."""

    functions: frozenset[str] = frozenset()
    """Functions and operators that only compute."""
    types: frozenset[str] = frozenset()


NOTHING_VOUCHED = Vouched()


class Walk(Found):
    """What has been found so far in one statement."""

    __slots__ = ("budget", "defining", "handlers", "plain", "role", "vouched")

    def __init__(
        self, handlers: dict[type, Handler], plain: frozenset[type], vouched: Vouched, budget: int
    ) -> None:
        super().__init__()
        self.handlers = handlers
        self.plain = plain
        self.budget = budget
        """How many nodes may still be visited; constants do not count."""
        self.vouched = vouched
        self.role = self.tables_read
        """Where a relation goes that stands outside a FROM: a definition changes what it names."""
        self.defining = False
        """Inside a definition: its types are declared, not cast to."""

    def visit(self, message: Any, scope: Scope) -> None:
        """One node with everything below it. Raises TooLargeError."""
        kind = type(message)
        if kind is _NODE:
            field = message.WhichOneof("node")
            if field is None or field in _LEAVES:
                return
            message = getattr(message, field)
            kind = type(message)
        self.spend()
        handler = self.handlers.get(kind)
        if handler is not None:
            handler(self, message, scope)
            return
        if kind not in self.plain:
            self.incomplete(f"unknown node {message.DESCRIPTOR.name}")
        self.children(message, scope)

    def spend(self) -> None:
        """One node more. Raises TooLargeError."""
        self.budget -= 1
        if self.budget < 0:
            raise TooLargeError

    def children(self, message: Any, scope: Scope, *, but: tuple[str, ...] = ()) -> None:
        """Everything below a node, apart from the fields named."""
        for field, value in message.ListFields():
            if field.message_type is None or field.name in but:
                continue
            if type(value) in _MESSAGES:
                self.visit(value, scope)
            else:
                for item in value:
                    self.visit(item, scope)

    def every(self, nodes: Iterable[Any], scope: Scope) -> None:
        for node in nodes:
            self.visit(node, scope)

    def call(self, parts: list[str]) -> str:
        """Note a call; the bare name if it may be a built-in. Built-ins are listed without `pg_catalog`."""
        builtin = builtin_name(parts)
        name = written(parts)
        self.functions.add(written([builtin]) if builtin else name)
        last = parts[-1] if parts else ""
        if last in RUNS_SQL:
            self.incomplete("a function runs SQL or reads tables that a value names")
        if last in FUNCTION_EFFECTS:
            self.effects.update(FUNCTION_EFFECTS[last])
        known = builtin in SAFE_FUNCTIONS or builtin in FUNCTION_EFFECTS or builtin == "set_config"
        if not known and name not in self.vouched.functions:
            self.effects.add("unknown_function")
        return builtin

    def operator(self, nodes: Iterable[Any]) -> None:
        """An operator is a function by another name."""
        parts = strings(nodes)
        if (
            parts
            and builtin_name(parts) not in SAFE_OPERATORS
            and written(parts) not in self.vouched.functions
        ):
            self.effects.add("unknown_function")

    def cast_to(self, type_name: Any) -> None:
        """A value becomes one of this type, by a cast or by the type's input."""
        parts = strings(type_name.names)
        if builtin_name(parts) not in SAFE_TYPES and written(parts) not in self.vouched.types:
            self.effects.add("unknown_function")

    def changes(self, parts: list[str]) -> str:
        """Note a table whose rows change, however; its name as written."""
        table = written(parts)
        self.tables_written.add(table)
        bare = builtin_name(parts)
        if bare.startswith("pg_"):  # the server's own tables: rights, roles, definitions
            self.effects.add("admin")
        if bare == "pg_settings":  # a rule of it calls set_config
            self.setting(None, None)
        return table

    def setting(self, name: str | None, value: str | None) -> None:
        """A run-time setting is changed; None stands for what is not a literal."""
        if name is None or not reads_as_before(name, value):
            self.incomplete(CHANGES_READING)
        if name is None or not (is_harmless(name) or is_reading(name)):
            self.effects.add("admin")


def column_ref(walk: Walk, node: Any, scope: Scope, *, used: bool = True) -> None:
    """`column`, `range.column`, `schema.table.column`, `*` in place of a column, or a range for its whole row."""
    parts = [field.string.sval if field.WhichOneof("node") == "string" else None for field in node.fields]
    last = parts[-1]
    qualifier = [part for part in parts[:-1] if part is not None]
    if qualifier:
        table = _table_of(qualifier, scope)
        if last is not None:
            walk.column(last, table, used=used)
            _dotted_call(walk, qualifier, last, table, scope)
        elif table:
            walk.whole_row(table, used=used)
        return
    if last is None:
        for each in scope.tables():
            walk.whole_row(each, used=used)
        return
    row = scope.range_of(last)
    if row is None:
        walk.column(last, scope.only_table(), used=used)
        return
    # a column of that name would win, and which it is only the catalogue knows: both are named
    walk.column(last)
    if row:
        walk.whole_row(row)


def _dotted_call(walk: Walk, qualifier: list[str], name: str, table: str, scope: Scope) -> None:
    """`x.f` calls `f(x)` where the range x has no column f: with the whole row, or, where x is a function in FROM,
    with its value, whatever f is."""
    if table:
        if name in OF_ROWS:
            walk.functions.add(name)
            walk.whole_row(table)
        return
    known = scope.function_columns(qualifier[-1])
    if known is None:
        is_row = scope.range_of(qualifier[-1]) is not None or qualifier[-1] in _ROWS_OF_RULES
        if is_row or not scope.has_ranges():  # in a definition a table stands before its columns
            return
    elif name in known:
        return
    walk.call([name])


_ROWS_OF_RULES = frozenset({"old", "new"})


def indirection(walk: Walk, node: Any, scope: Scope) -> None:
    """`(x).f` is a field of x, or calls `f(x)`: `('/etc/passwd').pg_read_file` reads a file."""
    for part in node.indirection:
        if part.WhichOneof("node") == "string":
            walk.call([part.string.sval])
    walk.children(node, scope)


def _table_of(qualifier: list[str], scope: Scope) -> str:
    """The table that stands before a column's dot: a range by its alias, or a table by its schema and name."""
    if len(qualifier) == 1:
        return scope.range_of(qualifier[0]) or ""
    table = written(qualifier)
    return table if scope.has_table(table) else ""


def function_call(walk: Walk, node: Any, scope: Scope) -> None:
    parts = strings(node.funcname)
    if walk.call(parts) == "set_config":
        name, value = ([literal_text(argument) for argument in node.args] + [None, None])[:2]
        walk.setting(name, value)
    walk.children(node, scope, but=("funcname",))


def operation(walk: Walk, node: Any, scope: Scope) -> None:
    if node.kind < 11:  # BETWEEN and its kin stand for built-in comparisons and carry no operator's name
        walk.operator(node.name)
    walk.children(node, scope, but=("name",))


def sub_link(walk: Walk, node: Any, scope: Scope) -> None:
    walk.operator(node.oper_name)
    walk.children(node, scope, but=("oper_name",))


def sort_by(walk: Walk, node: Any, scope: Scope) -> None:
    walk.operator(node.use_op)
    walk.children(node, scope, but=("use_op",))


def type_cast(walk: Walk, node: Any, scope: Scope) -> None:
    walk.cast_to(node.type_name)
    walk.visit(node.arg, scope)


def type_name(walk: Walk, node: Any, scope: Scope) -> None:
    if not walk.defining:
        walk.cast_to(node)


def relation(walk: Walk, node: Any, scope: Scope) -> None:
    """A relation outside FROM."""
    if parts := relation_parts(node):
        walk.role.add(written(parts))


HANDLERS: dict[str, Handler] = {
    "ColumnRef": column_ref,
    "A_Indirection": indirection,
    "FuncCall": function_call,
    "A_Expr": operation,
    "SubLink": sub_link,
    "SortBy": sort_by,
    "TypeCast": type_cast,
    "TypeName": type_name,
    "RangeVar": relation,
}
