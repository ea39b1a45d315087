"""Everything that is no query: definitions, rights, sessions, transactions, cursors, files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import postgast

from extproc.domain.statement import RUNS_CURSOR, RUNS_PREPARED
from extproc.sql.conditions import literal_text, may_be_on
from extproc.sql.functions import SHOWS_FILES
from extproc.sql.names import builtin_name, relation_parts, strings, written
from extproc.sql.queries import OUTERMOST, creates_table
from extproc.sql.scope import Scope
from extproc.sql.walk import Handler, Walk, function_call

_DEFINITIONS = """
CREATE: CreateSchemaStmt CreateStmt CreateSeqStmt DefineStmt CreateDomainStmt CreateOpClassStmt CreateOpFamilyStmt
        IndexStmt CreateStatsStmt CreateTrigStmt CreateConversionStmt CreateTransformStmt CreateCastStmt
        CompositeTypeStmt CreateEnumStmt CreateRangeStmt CreateFunctionStmt RuleStmt ViewStmt
ALTER: AlterTableStmt AlterDomainStmt AlterCollationStmt AlterSeqStmt AlterOpFamilyStmt AlterStatsStmt
       AlterFunctionStmt RenameStmt AlterObjectDependsStmt AlterObjectSchemaStmt AlterOperatorStmt AlterTypeStmt
       AlterEnumStmt AlterTSDictionaryStmt AlterTSConfigurationStmt
DROP: DropStmt
COMMENT: CommentStmt
"""
_ADMINISTRATION = """
CREATE: CreateRoleStmt CreatedbStmt CreatePolicyStmt CreateAmStmt CreateEventTrigStmt CreatePublicationStmt
ALTER: AlterRoleStmt AlterRoleSetStmt AlterDatabaseStmt AlterDatabaseRefreshCollStmt AlterDatabaseSetStmt
       AlterOwnerStmt AlterPolicyStmt AlterEventTrigStmt AlterPublicationStmt AlterDefaultPrivilegesStmt
       AlterSystemStmt AlterTableMoveAllStmt AlterTableSpaceOptionsStmt
DROP: DropRoleStmt DropdbStmt DropOwnedStmt DropTableSpaceStmt
REASSIGN: ReassignOwnedStmt
SECURITY: SecLabelStmt
CLUSTER: ClusterStmt
REINDEX: ReindexStmt
CHECKPOINT: CheckPointStmt
"""


def _table_of(text: str) -> dict[str, str]:
    verb = ""
    found: dict[str, str] = {}
    for word in text.split():
        if word.endswith(":"):
            verb = word[:-1]
        else:
            found[word] = verb
    return found


_MORE: dict[str, tuple[str, tuple[str, ...]]] = {
    "CreateExtensionStmt": ("CREATE", ("admin", "ddl", "unknown_function")),
    "AlterExtensionStmt": ("ALTER", ("admin", "ddl", "unknown_function")),
    "AlterExtensionContentsStmt": ("ALTER", ("admin", "ddl")),
    "CreatePLangStmt": ("CREATE", ("admin", "ddl", "unknown_function")),
    "LoadStmt": ("LOAD", ("admin", "file", "unknown_function")),
    "CreateTableSpaceStmt": ("CREATE", ("admin", "file")),
    "CreateFdwStmt": ("CREATE", ("admin", "ddl", "network")),
    "AlterFdwStmt": ("ALTER", ("admin", "ddl", "network")),
    "CreateForeignServerStmt": ("CREATE", ("admin", "ddl", "network")),
    "AlterForeignServerStmt": ("ALTER", ("admin", "ddl", "network")),
    "CreateUserMappingStmt": ("CREATE", ("admin", "network")),
    "AlterUserMappingStmt": ("ALTER", ("admin", "network")),
    "DropUserMappingStmt": ("DROP", ("admin", "network")),
    "ImportForeignSchemaStmt": ("IMPORT", ("ddl", "network")),
    "CreateForeignTableStmt": ("CREATE", ("ddl", "network")),
    "CreateSubscriptionStmt": ("CREATE", ("admin", "network", "write")),
    "AlterSubscriptionStmt": ("ALTER", ("admin", "network", "write")),
    "DropSubscriptionStmt": ("DROP", ("admin", "network")),
    "TruncateStmt": ("TRUNCATE", ("write",)),
    "RefreshMatViewStmt": ("REFRESH", ("read", "write")),
    "NotifyStmt": ("NOTIFY", ("write",)),
    "ListenStmt": ("LISTEN", ("read",)),
    "UnlistenStmt": ("UNLISTEN", ()),
    "VariableShowStmt": ("SHOW", ("read",)),
    "DiscardStmt": ("DISCARD", ()),
    "ConstraintsSetStmt": ("SET", ()),
}
SIMPLE: dict[str, tuple[str, tuple[str, ...]]] = {
    **{name: (verb, ("ddl",)) for name, verb in _table_of(_DEFINITIONS).items()},
    **{name: (verb, ("admin",)) for name, verb in _table_of(_ADMINISTRATION).items()},
    **_MORE,
}
"""Statements whose effects do not depend on what is in them: node, verb, effects."""

_WHOLE_NAME = frozenset({18 + 1, 24, 42, 52})
_NAME_AND_MORE = frozenset({7, 11, 29, 36, 41, 45})
"""ObjectType: foreign table, materialised view, table, view; and column, default, policy, rule, constraint,
trigger, whose names begin with their table's."""

_CHANGES = postgast.pg_query_pb2.AlterTableType
_RIGHTS = frozenset(
    name
    for name in _CHANGES.keys()  # noqa: SIM118 - no dict
    if name.endswith(("Owner", "RowSecurity", "Trig", "TrigAll", "TrigUser", "Rule"))
)
"""ALTER TABLE's OWNER TO, ROW LEVEL SECURITY, ENABLE and DISABLE of triggers and rules."""

_CONTROL = {
    1: ("BEGIN", "begin"),
    2: ("BEGIN", "begin"),
    3: ("COMMIT", "commit"),
    4: ("ROLLBACK", "rollback"),
    5: ("SAVEPOINT", "savepoint"),
    6: ("RELEASE", "release"),
    7: ("ROLLBACK", "savepoint"),
    8: ("PREPARE", "prepared"),
    9: ("COMMIT", "prepared"),
    10: ("ROLLBACK", "prepared"),
}
"""TransactionStmtKind; ROLLBACK TO moves within a transaction as SAVEPOINT does."""
_ACCESS_SHARE = 1
"""The lock that every SELECT takes."""


def simple(walk: Walk, node: Any, scope: Scope) -> None:
    verb, effects = SIMPLE[node.DESCRIPTOR.name]
    walk.verbs.append(verb)
    walk.effects.update(effects)
    _defines(walk, node, scope)


def _defines(walk: Walk, node: Any, scope: Scope, *, but: tuple[str, ...] = ()) -> None:
    """The tree of a definition: relations in it are changed, types are declared."""
    role, defining = walk.role, walk.defining
    walk.role, walk.defining = walk.tables_written, True
    walk.children(node, scope, but=but)
    walk.role, walk.defining = role, defining


def _objects(walk: Walk, kind: int, names: Iterable[Any]) -> None:
    """Tables among the objects that DROP or COMMENT names by lists of strings."""
    for name in names:
        parts = strings(name.list.items) if name.WhichOneof("node") == "list" else strings([name])
        if kind in _NAME_AND_MORE:
            parts = parts[:-1]
        elif kind not in _WHOLE_NAME:
            continue
        if parts:
            walk.tables_written.add(written(parts))


def sequence(walk: Walk, node: Any, scope: Scope) -> None:
    """OWNED BY names a table and its column: whoever drops that drops the sequence."""
    simple(walk, node, scope)
    for option in node.options:
        if option.def_elem.defname == "owned_by":
            parts = strings(option.def_elem.arg.list.items)[:-1]  # empty for OWNED BY NONE
            if parts:
                walk.tables_written.add(written(parts))


def drop(walk: Walk, node: Any, scope: Scope) -> None:
    simple(walk, node, scope)
    _objects(walk, node.remove_type, node.objects)


def comment(walk: Walk, node: Any, scope: Scope) -> None:
    simple(walk, node, scope)
    _objects(walk, node.objtype, [node.object])


def grant(walk: Walk, node: Any, scope: Scope) -> None:
    walk.verbs.append("GRANT" if node.is_grant else "REVOKE")
    walk.effects.add("admin")
    _defines(walk, node, scope)


def vacuum(walk: Walk, node: Any, scope: Scope) -> None:
    walk.verbs.append("VACUUM" if node.is_vacuumcmd else "ANALYZE")
    walk.effects.add("admin")
    _defines(walk, node, scope)


def create_table_as(walk: Walk, node: Any, scope: Scope) -> None:
    walk.verbs.append("CREATE")
    creates_table(walk, node.into, scope)
    walk.visit(node.query, scope)


def column_definition(walk: Walk, node: Any, scope: Scope) -> None:
    """In a definition the type is only declared; elsewhere (`AS t(a mood)`) values become it."""
    if not walk.defining and node.HasField("type_name"):
        walk.cast_to(node.type_name)
    walk.children(node, scope, but=("type_name",))


def table_change(walk: Walk, node: Any, scope: Scope) -> None:
    """One part of ALTER TABLE; owners, row security, triggers and rules are about rights."""
    if _CHANGES.Name(node.subtype) in _RIGHTS:
        walk.effects.add("admin")
    walk.children(node, scope)


def _result(walk: Walk, node: Any, scope: Scope) -> None:
    """A statement whose rows are the result of the one that holds it."""
    field = node.WhichOneof("node")
    handler = OUTERMOST.get(field or "")
    if handler is None:
        walk.visit(node, scope)
    else:
        handler(walk, getattr(node, field), scope, outermost=True)


def explain(walk: Walk, node: Any, scope: Scope) -> None:
    """Without ANALYZE nothing is written; but the planner runs functions that claim to be immutable."""
    walk.verbs.append("EXPLAIN")
    runs = may_be_on(node.options, "analyze")
    if runs:
        _result(walk, node.query, scope)
    else:
        written_before, wheres = set(walk.tables_written), list(walk.wheres)
        effects = walk.effects
        walk.effects = set()
        _result(walk, node.query, scope)
        walk.tables_read |= walk.tables_written - written_before
        walk.tables_written &= written_before
        walk.wheres = wheres
        effects.update(walk.effects - {"write", "ddl"})
        walk.effects = effects
        walk.verbs = [verb for verb in walk.verbs if verb in ("EXPLAIN", "SELECT")]
    walk.effects.add("read")
    walk.children(node, scope, but=("query",))


def copy(walk: Walk, node: Any, scope: Scope) -> None:
    walk.verbs.append("COPY")
    if node.is_program:
        walk.effects.update(("admin", "file", "network", "unknown_function"))
    elif node.filename:
        walk.effects.add("file")
    columns = strings(node.attlist)
    if node.HasField("relation"):
        parts = relation_parts(node.relation)
        table = walk.changes(parts) if node.is_from else written(parts)
        if not node.is_from:
            walk.tables_read.add(table)
            if builtin_name(parts) in SHOWS_FILES:
                walk.effects.add("file")
        for name in columns:
            walk.column(name, table, used=False)
        if not columns:
            walk.whole_row(table, used=False)
    walk.effects.add("write" if node.is_from else "read")
    if node.HasField("query"):
        _result(walk, node.query, scope)
    walk.children(node, scope, but=("relation", "query", "attlist"))


def prepare(walk: Walk, node: Any, scope: Scope) -> None:
    """Its effects are those of what it prepares: whoever may not run it need not prepare it."""
    walk.verbs.append("PREPARE")
    walk.refers_to = node.name
    _result(walk, node.query, scope)
    walk.children(node, scope, but=("query",))


def execute(walk: Walk, node: Any, scope: Scope) -> None:
    walk.verbs.append("EXECUTE")
    walk.refers_to = node.name
    walk.children(node, scope)
    walk.incomplete(RUNS_PREPARED)


def deallocate(walk: Walk, node: Any, scope: Scope) -> None:
    walk.verbs.append("DEALLOCATE")
    walk.refers_to = node.name


def declare(walk: Walk, node: Any, scope: Scope) -> None:
    walk.verbs.append("DECLARE")
    walk.refers_to = node.portalname
    _result(walk, node.query, scope)


def fetch(walk: Walk, node: Any, scope: Scope) -> None:
    walk.verbs.append("MOVE" if node.ismove else "FETCH")
    walk.refers_to = node.portalname
    walk.effects.add("read")
    walk.incomplete(RUNS_CURSOR)


def close(walk: Walk, node: Any, scope: Scope) -> None:
    walk.verbs.append("CLOSE")
    walk.refers_to = node.portalname


def transaction(walk: Walk, node: Any, scope: Scope) -> None:
    verb, walk.transaction = _CONTROL.get(node.kind, ("", ""))
    walk.verbs.append(verb)
    if not verb:
        walk.incomplete("unknown transaction control")
    if walk.transaction == "prepared":
        walk.effects.update(("admin", "write"))
    walk.children(node, scope)


def set_variable(walk: Walk, node: Any, scope: Scope) -> None:
    """VariableSetKind: value 1, default 2, current 3, several 4, reset 5, reset all 6."""
    if walk.defining:  # a function's or a role's own setting, part of what is defined
        return
    walk.verbs.append("RESET" if node.kind in (5, 6) else "SET")
    walk.children(node, scope)
    if node.kind == 6 or (
        node.kind == 4 and node.name.startswith(("TRANSACTION", "SESSION CHARACTERISTICS"))
    ):
        return
    value = literal_text(node.args[0]) if node.kind == 1 and len(node.args) == 1 else None
    walk.setting(node.name, value)


def lock(walk: Walk, node: Any, scope: Scope) -> None:
    """A lock makes others wait, so it counts as a write; the one that SELECT takes does not."""
    walk.verbs.append("LOCK")
    reads = node.mode == _ACCESS_SHARE
    walk.effects.add("read" if reads else "write")
    role, walk.role = walk.role, walk.tables_read if reads else walk.tables_written
    walk.children(node, scope)
    walk.role = role


def call(walk: Walk, node: Any, scope: Scope) -> None:
    walk.verbs.append("CALL")
    function_call(walk, node.funccall, scope)


def do(walk: Walk, node: Any, scope: Scope) -> None:
    walk.verbs.append("DO")
    walk.incomplete("it runs code that is given as text")


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(SIMPLE, simple),
    "CreateSeqStmt": sequence,
    "AlterSeqStmt": sequence,
    "DropStmt": drop,
    "CommentStmt": comment,
    "GrantStmt": grant,
    "GrantRoleStmt": grant,
    "VacuumStmt": vacuum,
    "CreateTableAsStmt": create_table_as,
    "ColumnDef": column_definition,
    "AlterTableCmd": table_change,
    "ExplainStmt": explain,
    "CopyStmt": copy,
    "PrepareStmt": prepare,
    "ExecuteStmt": execute,
    "DeallocateStmt": deallocate,
    "DeclareCursorStmt": declare,
    "FetchStmt": fetch,
    "ClosePortalStmt": close,
    "TransactionStmt": transaction,
    "VariableSetStmt": set_variable,
    "LockStmt": lock,
    "CallStmt": call,
    "DoStmt": do,
}
