"""WHERE and LIMIT: what counts as one."""

from __future__ import annotations

import pytest

from extproc.sql import analyze

RESTRICTS = {
    "column": "id = 1",
    "parameter": "id = $1",
    "not": "NOT done",
    "boolean-column": "done",
    "one-arm-of-and": "true AND id = 1",
    "both-arms-of-or": "id = 1 OR id = 2",
    "in-list": "id IN (1, 2)",
    "in-query": "id IN (SELECT 1)",
    "exists-correlated": "EXISTS (SELECT 1 FROM u WHERE u.id = t.id)",
    "cursor": "CURRENT OF c",
    "null-test": "deleted IS NULL",
    "between": "id BETWEEN 1 AND 2",
    "two-columns": "a = b",
    "of-two-tables": "t.id = u.id",
}
DOES_NOT = {
    "true": "true",
    "one-is-one": "1 = 1",
    "text": "'a' = 'a'",
    "false": "false",
    "not-false": "NOT false",
    "or-true": "id = 1 OR true",
    "or-one-is-one": "id = 1 OR 1 = 1",
    "same-column": "id = id",
    "same-column-with-table": "t.id = id",
    "same-column-by-like": "name LIKE name",
    "parameter-only": "$1",
    "random": "random() < 2",
    "nested-or": "id = 1 OR (a = 2 OR true)",
    "query-of-nothing": "EXISTS (SELECT 1)",
    "null": "NULL IS NULL",
}
LIMITS = {
    "SELECT 1 LIMIT 10": (True, 10),
    "SELECT 1 FETCH FIRST 5 ROWS ONLY": (True, 5),
    "SELECT 1 FETCH FIRST ROW ONLY": (True, 1),
    "SELECT a FROM t ORDER BY a FETCH FIRST 2 ROWS WITH TIES": (True, 2),
    "SELECT 1 LIMIT $1": (True, -1),
    "SELECT 1 LIMIT 1 + 1": (True, -1),
    "SELECT 1 LIMIT ALL": (False, -1),
    "SELECT 1 LIMIT NULL": (False, -1),
    "SELECT 1 OFFSET 3": (False, -1),
    "SELECT 1": (False, -1),
    "SELECT * FROM (SELECT 1 LIMIT 10) x": (False, -1),
    "SELECT 1 UNION SELECT 2 LIMIT 3": (True, 3),
    "(SELECT 1 LIMIT 3) UNION SELECT 2": (False, -1),
    "EXPLAIN SELECT 1 LIMIT 4": (True, 4),
    "DELETE FROM t": (False, -1),
}


@pytest.mark.parametrize("verb", ["DELETE FROM t", "UPDATE t SET a = 1"])
@pytest.mark.parametrize("condition", RESTRICTS.values(), ids=RESTRICTS)
def test_a_condition_that_restricts(verb: str, condition: str) -> None:
    assert analyze(f"{verb} WHERE {condition}")[0].has_where


@pytest.mark.parametrize("verb", ["DELETE FROM t", "UPDATE t SET a = 1"])
@pytest.mark.parametrize("condition", DOES_NOT.values(), ids=DOES_NOT)
def test_a_condition_that_restricts_nothing_is_none(verb: str, condition: str) -> None:
    assert not analyze(f"{verb} WHERE {condition}")[0].has_where


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("DELETE FROM t", False),
        ("WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d WHERE id = 1", False),
        ("WITH d AS (DELETE FROM t WHERE id = 1) DELETE FROM u", False),
        ("WITH d AS (DELETE FROM t) UPDATE u SET a = 1 WHERE id = 1", False),
        ("WITH d AS (DELETE FROM t WHERE id = 1) UPDATE u SET a = 1 WHERE id = 1", True),
        ("EXPLAIN ANALYZE DELETE FROM t", False),
        ("PREPARE p AS DELETE FROM t", False),
        ("MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE", False),
        ("MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE", True),
        ("MERGE INTO t USING u ON t.id = u.id WHEN NOT MATCHED BY SOURCE THEN DELETE", False),
        ("MERGE INTO t USING u ON t.id = u.id WHEN NOT MATCHED BY SOURCE AND t.a = 1 THEN DELETE", True),
        ("SELECT 1 FROM t", False),
        ("SELECT 1 FROM t WHERE id = 1", True),
        ("SELECT 1 FROM (SELECT 1 FROM t WHERE id = 1) x", False),
        ("TRUNCATE t", False),
    ],
)
def test_every_update_and_delete_in_it_needs_one(sql: str, wanted: bool) -> None:
    assert analyze(sql)[0].has_where is wanted


@pytest.mark.parametrize(("sql", "wanted"), LIMITS.items(), ids=LIMITS)
def test_limits(sql: str, wanted: tuple[bool, int]) -> None:
    (facts,) = analyze(sql)
    assert (facts.has_limit, facts.limit) == wanted
