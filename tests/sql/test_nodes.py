"""Every kind of node of the parser's schema is handled, plain, or makes the facts incomplete."""

from __future__ import annotations

from typing import Any

import postgast
import pytest

from extproc.domain.statement import EFFECTS, VERBS
from extproc.sql import analysis, commands, nodes, queries
from extproc.sql.nodes import HANDLED, PLAIN
from extproc.sql.scope import Scope
from extproc.sql.walk import NOTHING_VOUCHED, Walk

pb: Any = postgast.pg_query_pb2
FIELDS = {field.name: field.message_type.name for field in pb.Node.DESCRIPTOR.fields}
MESSAGES = set(pb.DESCRIPTOR.message_types_by_name)
STATEMENTS = {field: name for field, name in FIELDS.items() if name.endswith("Stmt")}
PARTS_OF_STATEMENTS = {"ReplicaIdentityStmt", "ReturnStmt"}
"""Named like statements, but they only stand inside ALTER TABLE and a function's body."""
ONLY_BY_QUERIES = {"IntoClause", "JoinExpr", "RangeSubselect", "RangeTableSample", "MergeWhenClause"}
"""Seen to where a query holds them; anywhere else they are unknown."""
NEVER_PARSED = {
    # of the planner and of analysed trees: raw parsing makes none of them (primnodes.h, parsenodes.h)
    *(
        "TableFunc",
        "Var",
        "Param",
        "Aggref",
        "WindowFunc",
        "WindowFuncRunCondition",
        "SubscriptingRef",
        "FuncExpr",
    ),
    *(
        "OpExpr",
        "DistinctExpr",
        "NullIfExpr",
        "ScalarArrayOpExpr",
        "SubPlan",
        "AlternativeSubPlan",
        "FieldSelect",
    ),
    *("FieldStore", "RelabelType", "CoerceViaIO", "ArrayCoerceExpr", "ConvertRowtypeExpr", "CollateExpr"),
    *("CaseTestExpr", "ArrayExpr", "RowCompareExpr", "JsonConstructorExpr", "JsonExpr", "JsonTablePath"),
    *("JsonTablePathScan", "JsonTableSiblingJoin", "MergeAction", "CoerceToDomain", "CoerceToDomainValue"),
    *("NextValueExpr", "InferenceElem", "ReturningExpr", "TargetEntry", "RangeTblRef", "FromExpr"),
    *(
        "OnConflictExpr",
        "Query",
        "RangeTblEntry",
        "RTEPermissionInfo",
        "RangeTblFunction",
        "TableSampleClause",
    ),
    *("WithCheckOption", "SortGroupClause", "WindowClause", "RowMarkClause", "RawStmt", "SetOperationStmt"),
    *("PLAssignStmt", "InlineCodeBlock", "CallContext", "IntList", "OidList"),
}


def facts_of(node: Any) -> Any:
    """The facts of a statement that is this node, or the trouble it makes, as `analyze` would have it."""
    statement = pb.RawStmt(stmt=node)
    try:
        return analysis._all(b"SELECT 1", [statement], NOTHING_VOUCHED)[0]
    except Exception as error:
        return analysis._unread(analysis._trouble(error), 0)[0]


@pytest.mark.parametrize("field", FIELDS)
def test_a_node_in_an_expression_is_known_or_incomplete(field: str) -> None:
    name = FIELDS[field]
    node = pb.Node()
    getattr(node, field).SetInParent()
    walk = Walk(nodes.HANDLERS, nodes.PLAIN_CLASSES, NOTHING_VOUCHED, 1_000)
    if name in HANDLED:
        return
    walk.visit(node, Scope())
    assert (walk.reason == "") is (name in PLAIN)
    if name not in PLAIN:
        assert walk.reason == f"unknown node {name}"
        assert name in NEVER_PARSED | ONLY_BY_QUERIES


@pytest.mark.parametrize("field", STATEMENTS)
def test_a_statement_has_a_verb_or_is_incomplete(field: str) -> None:
    name = STATEMENTS[field]
    node = pb.Node()
    getattr(node, field).SetInParent()
    facts = facts_of(node)
    known = name in commands.HANDLERS or field in queries.OUTERMOST
    assert known or name in NEVER_PARSED | PARTS_OF_STATEMENTS
    if known:
        assert facts.verb in VERBS
    else:
        assert not facts.complete


def test_nothing_that_is_not_a_statement_passes_for_one() -> None:
    for field, name in FIELDS.items():
        node = pb.Node()
        getattr(node, field).SetInParent()
        if name not in commands.HANDLERS and field not in queries.OUTERMOST:
            assert not facts_of(node).complete, name


def test_the_lists_name_only_nodes_that_exist() -> None:
    assert set(HANDLED) | PLAIN <= MESSAGES
    assert not set(HANDLED) & PLAIN
    assert MESSAGES >= NEVER_PARSED | ONLY_BY_QUERIES
    assert not NEVER_PARSED & (set(HANDLED) | PLAIN)


def test_every_verb_of_the_tables_is_declared() -> None:
    assert {verb for verb, _ in commands.SIMPLE.values()} <= set(VERBS)
    assert {effect for _, effects in commands.SIMPLE.values() for effect in effects} <= set(EFFECTS)


def test_an_unknown_node_deep_inside_is_found() -> None:
    tree = postgast.parse("SELECT 1 FROM t WHERE a IN (SELECT b FROM u ORDER BY lower(c))")
    sort = tree.stmts[0].stmt.select_stmt.where_clause.sub_link.subselect.select_stmt.sort_clause[0]
    sort.sort_by.node.func_call.args[0].func_expr.SetInParent()
    facts = facts_of(tree.stmts[0].stmt)
    assert not facts.complete
    assert facts.incomplete_reason == "unknown node FuncExpr"
