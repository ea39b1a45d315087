"""Every kind of node a parse tree can hold: handled, plain, or not known and then the facts are incomplete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import postgast

from extproc.sql import commands, queries, walk
from extproc.sql.walk import Handler

HANDLED: dict[str, Handler] = {**walk.HANDLERS, **queries.HANDLERS, **commands.HANDLERS}

_PLAIN = """
A_ArrayExpr A_Const A_Indices A_Star ATAlterConstraint AccessPriv Alias BitString
BoolExpr Boolean BooleanTest CTECycleClause CTESearchClause CaseExpr CaseWhen CoalesceExpr CollateClause
CommonTableExpr Constraint CreateOpClassItem CurrentOfExpr DefElem Float FunctionParameter GroupingFunc
GroupingSet IndexElem InferClause Integer JsonAggConstructor JsonArgument JsonArrayAgg JsonArrayConstructor
JsonArrayQueryConstructor JsonBehavior JsonFormat JsonFuncExpr JsonIsPredicate JsonKeyValue JsonObjectAgg
JsonObjectConstructor JsonOutput JsonParseExpr JsonReturning JsonScalarExpr JsonSerializeExpr JsonTable
JsonTableColumn JsonTablePathSpec JsonValueExpr List LockingClause MergeSupportFunc MinMaxExpr MultiAssignRef
NamedArgExpr NullTest ObjectWithArgs OnConflictClause ParamRef PartitionBoundSpec PartitionCmd PartitionElem
PartitionRangeDatum PartitionSpec PublicationObjSpec PublicationTable RangeFunction RangeTableFunc
RangeTableFuncCol ReplicaIdentityStmt ResTarget ReturnStmt ReturningClause ReturningOption RoleSpec RowExpr
SQLValueFunction SetToDefault StatsElem String TableLikeClause TriggerTransition VacuumRelation WindowDef
WithClause XmlExpr XmlSerialize
"""
PLAIN = frozenset(_PLAIN.split())
"""Nodes without an effect of their own: what they do is what the nodes below them do."""


def classes(names: Iterable[str]) -> Iterator[type]:
    """The message classes of these nodes."""
    return (getattr(postgast.pg_query_pb2, name) for name in names)


HANDLERS: dict[type, Handler] = dict(zip(classes(HANDLED), HANDLED.values(), strict=True))
PLAIN_CLASSES = frozenset(classes(PLAIN))
