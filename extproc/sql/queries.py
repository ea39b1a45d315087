"""SELECT, INSERT, UPDATE, DELETE and MERGE, wherever they stand in a statement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from extproc.sql.conditions import restricts
from extproc.sql.functions import COLUMNS_OF_FUNCTIONS, SAMPLING, SHOWS_FILES
from extproc.sql.names import builtin_name, relation_parts, strings, written
from extproc.sql.scope import DERIVED, Scope
from extproc.sql.walk import Handler, Walk, column_ref

_COMMANDS = {3: "UPDATE", 4: "INSERT", 5: "DELETE"}
"""CmdType of MERGE's branches."""
_SETOP_NONE = 1
_SYNTAX = "\0"
"""A range name that no statement can say."""
_DONE = (
    *("with_clause", "into_clause", "larg", "rarg", "from_clause", "locking_clause"),
    *("target_list", "sort_clause", "group_clause", "distinct_clause"),
)
"""Fields of a SELECT that `query` sees to itself."""


def select(walk: Walk, node: Any, scope: Scope) -> None:
    query(walk, node, scope)


def query(
    walk: Walk, node: Any, scope: Scope, *, outermost: bool = False, reads: bool = True, locked: bool = False
) -> None:
    """One SELECT, VALUES or set operation. The columns of the outermost one's list are its result.

    `reads` False is for the VALUES of an INSERT, which read nothing; `locked` says that a lock from outside
    reaches in.
    """
    defining, walk.defining = walk.defining, False
    if reads:
        walk.verbs.append("SELECT")
        walk.effects.add("read")
    inner = Scope(scope)
    with_clause(walk, node.with_clause, inner)
    if node.HasField("into_clause"):
        creates_table(walk, node.into_clause, inner)
        outermost = False
    locked_names = _locked(walk, node, locked)
    if node.op != _SETOP_NONE:
        query(walk, node.larg, inner, locked=locked)
        query(walk, node.rarg, inner, locked=locked)
    from_items(walk, node.from_clause, inner, locked_names)
    _targets(walk, node, inner, outermost)
    if outermost:
        walk.select_restricts = node.HasField("where_clause") and restricts(node.where_clause)
        _note_limit(walk, node)
    walk.children(node, inner, but=_DONE)
    walk.defining = defining


def _targets(walk: Walk, node: Any, scope: Scope, outermost: bool) -> None:
    """A bare column in the outermost list is shown; one that also sorts, groups or lies deeper is used."""
    if outermost:
        output(walk, node.target_list, scope)
    else:
        walk.every(node.target_list, scope)
    for part in node.sort_clause:
        target = _meant(part.sort_by.node, node.target_list)
        if target is None:
            walk.visit(part, scope)
        else:
            walk.operator(part.sort_by.use_op)
            walk.visit(target, scope)
    for part in (*node.group_clause, *node.distinct_clause):
        target = _meant(part, node.target_list)
        if target is not None:
            walk.visit(target, scope)
        walk.visit(part, scope)


def _meant(expression: Any, targets: Any) -> Any:
    """The item of the result list that ORDER BY names by its place or its new name; None where there is none."""
    kind = expression.WhichOneof("node")
    if kind == "a_const" and expression.a_const.WhichOneof("val") == "ival":
        place = expression.a_const.ival.ival
        return targets[place - 1] if 0 < place <= len(targets) else None
    if kind != "column_ref" or len(expression.column_ref.fields) != 1:
        return None
    name = expression.column_ref.fields[0].string.sval
    return next((target for target in targets if name and target.res_target.name == name), None)


def output(walk: Walk, targets: Iterable[Any], scope: Scope) -> None:
    """A result list: what is a bare column there is named but not used."""
    for target in targets:
        walk.spend()
        value = target.res_target.val
        if value.WhichOneof("node") == "column_ref":
            column_ref(walk, value.column_ref, scope, used=False)
        else:
            walk.visit(target, scope)


def _note_limit(walk: Walk, node: Any) -> None:
    if not node.HasField("limit_count"):
        return
    constant = node.limit_count.a_const if node.limit_count.WhichOneof("node") == "a_const" else None
    if constant is not None and constant.isnull:  # LIMIT ALL
        return
    walk.has_limit = True
    if constant is not None and constant.WhichOneof("val") == "ival":
        walk.limit = constant.ival.ival


def _locked(walk: Walk, node: Any, locked: bool) -> frozenset[str] | None:
    """The ranges that FOR UPDATE and its kin lock; None for all of them, and an empty set for none."""
    if not node.locking_clause:
        return None if locked else frozenset()
    walk.effects.add("write")
    names: set[str] = set()
    for clause in node.locking_clause:
        if not clause.locking_clause.locked_rels:
            return None
        names.update(rel.range_var.relname for rel in clause.locking_clause.locked_rels)
    return None if locked else frozenset(names)


def with_clause(walk: Walk, clause: Any, scope: Scope) -> None:
    """Common table expressions; afterwards `scope` sees them all. One that is not recursive sees those before it."""
    if not clause.ctes:
        return
    outside = scope.parent
    names = [cte.common_table_expr.ctename for cte in clause.ctes]
    seen = scope.ctes | frozenset(names) if clause.recursive else scope.ctes
    for cte, name in zip(clause.ctes, names, strict=True):
        body = Scope(outside, seen)
        walk.visit(cte.common_table_expr.ctequery, body)
        walk.children(cte.common_table_expr, body, but=("ctequery", "aliascolnames"))
        if not clause.recursive:
            seen = seen | {name}
    scope.ctes = seen


def from_items(
    walk: Walk, items: Iterable[Any], scope: Scope, locked: frozenset[str] | None = frozenset()
) -> None:
    for item in items:
        from_item(walk, item, scope, locked)


def from_item(walk: Walk, item: Any, scope: Scope, locked: frozenset[str] | None) -> None:
    """`locked` names the ranges that are locked as well; None locks every one."""
    walk.spend()
    kind = item.WhichOneof("node")
    if kind == "range_var":
        _table(walk, item.range_var, scope, locked)
    elif kind == "join_expr":
        _join(walk, item.join_expr, scope, locked)
    elif kind == "range_subselect":
        subselect = item.range_subselect
        alias = subselect.alias.aliasname
        inside = subselect.subquery.select_stmt
        query(walk, inside, scope, locked=locked is None or alias in locked)
        scope.add(alias, DERIVED)
    elif kind == "range_table_sample":
        _sampled(walk, item.range_table_sample, scope, locked)
    else:
        _other_item(walk, item, kind, scope)


def _other_item(walk: Walk, item: Any, kind: str | None, scope: Scope) -> None:
    """A function, XMLTABLE or JSON_TABLE; anything else is left to the walk, which knows it or does not."""
    if kind == "range_function":
        walk.children(item.range_function, scope)
        _function_range(item.range_function, scope)
        return
    walk.visit(item, scope)
    alias = getattr(item, kind).alias.aliasname if kind in ("range_table_func", "json_table") else ""
    scope.add(alias, DERIVED)


def _function_range(node: Any, scope: Scope) -> None:
    """Its alias, or the name of each function, and the columns that are sure to be columns."""
    declared = set(strings(node.alias.colnames)) | {column.column_def.colname for column in node.coldeflist}
    if node.ordinality:
        declared.add("ordinality")
    names: list[str] = []
    for part in node.functions:
        call = part.list.items[0]
        if call.WhichOneof("node") == "func_call":
            name = strings(call.func_call.funcname)[-1]
            names.append(name)
            declared |= COLUMNS_OF_FUNCTIONS.get(name, frozenset())
        else:  # COALESCE, CURRENT_USER and the like: named after themselves, which need not be known
            names.append(_SYNTAX)
        for listed in part.list.items[1:]:
            declared |= {column.column_def.colname for column in listed.list.items}
    for alias in [node.alias.aliasname] if node.alias.aliasname else names:
        scope.add(alias, DERIVED)
        scope.functions[alias] = frozenset(declared | {alias})


def _sampled(walk: Walk, node: Any, scope: Scope, locked: frozenset[str] | None) -> None:
    from_item(walk, node.relation, scope, locked)
    if builtin_name(strings(node.method)) not in SAMPLING:
        walk.effects.add("unknown_function")
    walk.every(node.args, scope)
    walk.visit(node.repeatable, scope)


def _table(walk: Walk, node: Any, scope: Scope, locked: frozenset[str] | None) -> None:
    parts = relation_parts(node)
    alias = node.alias.aliasname or node.relname
    if len(parts) == 1 and node.relname in scope.ctes:
        scope.add(alias, DERIVED)
        return
    table = written(parts)
    walk.tables_read.add(table)
    walk.effects.add("read")
    if builtin_name(parts) in SHOWS_FILES:
        walk.effects.add("file")
    if locked is None or alias in locked:
        walk.effects.add("write")
        walk.tables_written.add(table)
    if node.alias.colnames:  # new names for its columns, so any name may be any column
        walk.whole_row(table)
        scope.add(alias, DERIVED)
    else:
        scope.add(alias, table)


def _join(walk: Walk, node: Any, scope: Scope, locked: frozenset[str] | None) -> None:
    before = set(scope.ranges)
    from_item(walk, node.larg, scope, locked)
    from_item(walk, node.rarg, scope, locked)
    for name in strings(node.using_clause):
        walk.column(name)
    if node.HasField("quals"):
        walk.visit(node.quals, scope)
    if node.is_natural or node.alias.aliasname:  # any column may be compared, or any name may be any column
        for table in [scope.ranges[name] for name in scope.ranges if name not in before]:
            if table:
                walk.whole_row(table)
    if node.alias.aliasname:
        scope.add(node.alias.aliasname, DERIVED)
    if node.join_using_alias.aliasname:
        scope.add(node.join_using_alias.aliasname, DERIVED)


def creates_table(walk: Walk, into: Any, scope: Scope) -> None:
    """SELECT INTO and CREATE TABLE AS make a table and fill it."""
    walk.effects.update(("ddl", "write"))
    walk.tables_written.add(written(relation_parts(into.rel)))
    walk.children(into, scope, but=("rel",))


def _changed(walk: Walk, node: Any, scope: Scope, verb: str) -> tuple[str, Scope]:
    """What INSERT, UPDATE, DELETE and MERGE have in common: the table they change, and the names they see."""
    walk.verbs.append(verb)
    walk.effects.add("write")
    table = walk.changes(relation_parts(node.relation))
    inner = Scope(scope)
    with_clause(walk, node.with_clause, inner)
    inner.add(node.relation.alias.aliasname or node.relation.relname, table)
    return table, inner


def _returns(walk: Walk, node: Any, table: str, scope: Scope, outermost: bool) -> None:
    if not node.HasField("returning_clause"):
        return
    walk.effects.add("read")
    walk.tables_read.add(table)
    clause = node.returning_clause
    row = Scope(scope)
    for name in ("old", "new", *(option.returning_option.value for option in clause.options)):
        row.add(name, table)
    row.ranges.update(scope.ranges)
    row.parent = scope.parent
    if outermost:
        output(walk, clause.exprs, row)
    else:
        walk.every(clause.exprs, row)


def _assigned(walk: Walk, targets: Iterable[Any], table: str, scope: Scope) -> None:
    """`SET column = value`: the column is named, the value is read."""
    for target in targets:
        walk.column(target.res_target.name, table, used=False)
        walk.children(target.res_target, scope)


def insert(walk: Walk, node: Any, scope: Scope, *, outermost: bool = False) -> None:
    table, inner = _changed(walk, node, scope, "INSERT")
    _assigned(walk, node.cols, table, inner)
    if node.HasField("select_stmt"):
        source = node.select_stmt.select_stmt
        query(walk, source, Scope(scope, inner.ctes), reads=not source.values_lists)
    if node.HasField("on_conflict_clause"):
        row = Scope(inner)
        row.ranges.update(inner.ranges)
        row.add("excluded", table)
        clause = node.on_conflict_clause
        _assigned(walk, clause.target_list, table, row)
        walk.children(clause, row, but=("target_list",))
    _returns(walk, node, table, inner, outermost)


def update(walk: Walk, node: Any, scope: Scope, *, outermost: bool = False) -> None:
    table, inner = _changed(walk, node, scope, "UPDATE")
    from_items(walk, node.from_clause, inner)
    _where(walk, node, inner)
    _assigned(walk, node.target_list, table, inner)
    _returns(walk, node, table, inner, outermost)


def delete(walk: Walk, node: Any, scope: Scope, *, outermost: bool = False) -> None:
    table, inner = _changed(walk, node, scope, "DELETE")
    from_items(walk, node.using_clause, inner)
    _where(walk, node, inner)
    _returns(walk, node, table, inner, outermost)


def _where(walk: Walk, node: Any, scope: Scope) -> None:
    present = node.HasField("where_clause")
    walk.wheres.append(present and restricts(node.where_clause))
    if present:
        walk.visit(node.where_clause, scope)


def merge(walk: Walk, node: Any, scope: Scope, *, outermost: bool = False) -> None:
    table, inner = _changed(walk, node, scope, "MERGE")
    from_item(walk, node.source_relation, inner, frozenset())
    walk.visit(node.join_condition, inner)
    matched = restricts(node.join_condition)
    for when in node.merge_when_clauses:
        branch = when.merge_when_clause
        verb = _COMMANDS.get(branch.command_type, "")
        if verb:
            walk.verbs.append(verb)
        if verb in ("UPDATE", "DELETE"):
            # rows of the target that match no row of the source are reached whatever the ON says
            walk.wheres.append(
                (branch.HasField("condition") and restricts(branch.condition))
                or (matched and branch.match_kind != _NOT_MATCHED_BY_SOURCE)
            )
        if branch.HasField("condition"):
            walk.visit(branch.condition, inner)
        _assigned(walk, branch.target_list, table, inner)
        walk.every(getattr(branch, "values"), inner)  # noqa: B009 - the stub takes it for the method of a dict
    _returns(walk, node, table, inner, outermost)


_NOT_MATCHED_BY_SOURCE = 2
"""MergeMatchKind of WHEN NOT MATCHED BY SOURCE."""

HANDLERS: dict[str, Handler] = {
    "SelectStmt": select,
    "InsertStmt": insert,
    "UpdateStmt": update,
    "DeleteStmt": delete,
    "MergeStmt": merge,
}
OUTERMOST: dict[str, Any] = {
    "select_stmt": query,
    "insert_stmt": insert,
    "update_stmt": update,
    "delete_stmt": delete,
    "merge_stmt": merge,
}
"""By field of Node: these take `outermost=True` where their result is the statement's."""
