"""Tables and columns: which names a statement touches, with aliases and common table expressions seen through."""

from __future__ import annotations

import pytest

from extproc.sql import analyze

TABLES = {
    "sequence-of-a-column": ("CREATE SEQUENCE n OWNED BY s.t.c", "", "n s.t"),
    "sequence-of-another": ("ALTER SEQUENCE n OWNED BY t.c", "", "n t"),
    "sequence-of-nobody": ("ALTER SEQUENCE n OWNED BY NONE", "", "n"),
    "plain": ("SELECT * FROM t", "t", ""),
    "schema": ("SELECT * FROM s.t", "s.t", ""),
    "database": ("SELECT * FROM db.s.t", "s.t", ""),
    "alias": ("SELECT x.a FROM t AS x", "t", ""),
    "only": ("SELECT * FROM ONLY t", "t", ""),
    "folded": ("SELECT * FROM Public.USERS", "public.users", ""),
    "quoted": ('SELECT * FROM "Users"', "Users", ""),
    "dot-in-name": ('SELECT * FROM "public.users"', '"public.users"', ""),
    "quote-in-name": ('SELECT * FROM "a""b"', '"a""b"', ""),
    "unicode-name": ("SELECT * FROM größe", "größe", ""),
    "unicode-escape": (r'SELECT * FROM U&"d\0061t\+000061"', "data", ""),
    "unicode-escape-own": ("SELECT * FROM U&\"d!0061ta\" UESCAPE '!'", "data", ""),
    "cut-at-63-bytes": (f"SELECT * FROM {'a' * 80}", "a" * 63, ""),
    "comma": ("SELECT * FROM a, b", "a b", ""),
    "joins": ("SELECT * FROM a JOIN b ON true LEFT JOIN c USING (id) NATURAL JOIN d", "a b c d", ""),
    "subquery": ("SELECT * FROM (SELECT * FROM t) x", "t", ""),
    "in-where": ("SELECT 1 FROM a WHERE id IN (SELECT id FROM b)", "a b", ""),
    "exists": ("SELECT 1 FROM a WHERE EXISTS (SELECT 1 FROM b)", "a b", ""),
    "scalar": ("SELECT (SELECT max(x) FROM b) FROM a", "a b", ""),
    "array": ("SELECT ARRAY(SELECT x FROM b)", "b", ""),
    "lateral": ("SELECT * FROM a, LATERAL (SELECT * FROM b WHERE b.id = a.id) x", "a b", ""),
    "set-operation": ("SELECT 1 FROM a UNION SELECT 1 FROM b EXCEPT SELECT 1 FROM c", "a b c", ""),
    "cte": ("WITH c AS (SELECT * FROM t) SELECT * FROM c", "t", ""),
    "cte-of-the-tables-name": ("WITH users AS (SELECT * FROM users) SELECT * FROM users", "users", ""),
    "cte-hides-only-without-schema": ("WITH t AS (SELECT 1) SELECT * FROM s.t", "s.t", ""),
    "cte-seen-by-later-ones": ("WITH a AS (SELECT * FROM t), b AS (SELECT * FROM a) SELECT * FROM b", "t", ""),
    "cte-not-seen-by-earlier-ones": (
        "WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b",
        "b",
        "",
    ),
    "cte-recursive": (
        "WITH RECURSIVE a AS (SELECT 1 FROM t UNION ALL SELECT 1 FROM a, b), b AS (SELECT 1 FROM u)"
        " SELECT * FROM a",
        "t u",
        "",
    ),
    "cte-ends-with-its-query": ("SELECT * FROM (WITH c AS (SELECT 1) SELECT * FROM c) x, c", "c", ""),
    "cte-in-subquery": ("WITH c AS (SELECT 1) SELECT * FROM (SELECT * FROM c) x", "", ""),
    "cte-is-no-target": ("WITH t AS (SELECT 1) DELETE FROM t WHERE id = 1", "", "t"),
    "insert": ("INSERT INTO s.t SELECT * FROM u", "u", "s.t"),
    "insert-returning": ("INSERT INTO t VALUES (1) RETURNING a", "t", "t"),
    "update-from": ("UPDATE t AS x SET a = u.a FROM u", "u", "t"),
    "delete-using": ("DELETE FROM t USING u, v", "u v", "t"),
    "merge": ("MERGE INTO t USING (SELECT * FROM u) s ON t.id = s.id WHEN MATCHED THEN DELETE", "u", "t"),
    "cte-write": ("WITH d AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM d", "t", "t u"),
    "truncate": ("TRUNCATE a, s.b", "", "a s.b"),
    "copy-in": ("COPY t FROM STDIN", "", "t"),
    "copy-out": ("COPY s.t TO STDOUT", "s.t", ""),
    "lock": ("LOCK a, b IN EXCLUSIVE MODE", "", "a b"),
    "for-update": ("SELECT * FROM a, b FOR UPDATE", "a b", "a b"),
    "for-update-of": ("SELECT * FROM a x, b FOR UPDATE OF x", "a b", "a"),
    "for-update-reaches-in": ("SELECT * FROM (SELECT * FROM a) x FOR UPDATE", "a", "a"),
    "for-update-of-subquery": ("SELECT * FROM (SELECT * FROM a) x, b FOR UPDATE OF x", "a b", "a"),
    "sampled": ("SELECT * FROM t TABLESAMPLE system (1)", "t", ""),
    "explain": ("EXPLAIN DELETE FROM t", "t", ""),
    "explain-analyze": ("EXPLAIN ANALYZE DELETE FROM t", "", "t"),
    "create": ("CREATE TABLE s.t (a int)", "", "s.t"),
    "create-as": ("CREATE TABLE t AS SELECT * FROM u", "u", "t"),
    "select-into": ("SELECT * INTO t FROM u", "u", "t"),
    "view": ("CREATE VIEW v AS SELECT * FROM t", "t", "v"),
    "index": ("CREATE INDEX ON s.t (a)", "", "s.t"),
    "alter": ("ALTER TABLE t ADD a int", "", "t"),
    "drop": ("DROP TABLE a, db.s.b", "", "a s.b"),
    "drop-view": ("DROP VIEW v", "", "v"),
    "drop-trigger": ("DROP TRIGGER g ON s.t", "", "s.t"),
    "drop-policy": ("DROP POLICY p ON t", "", "t"),
    "drop-function": ("DROP FUNCTION s.f(int)", "", ""),
    "comment-column": ("COMMENT ON COLUMN s.t.a IS 'x'", "", "s.t"),
    "grant": ("GRANT SELECT ON t TO bob", "", "t"),
    "grant-schema": ("GRANT USAGE ON SCHEMA s TO bob", "", ""),
    "prepare": ("PREPARE p AS DELETE FROM t", "", "t"),
    "declare": ("DECLARE c CURSOR FOR SELECT * FROM t", "t", ""),
    "function-with-a-body": (
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC DELETE FROM t; SELECT 1 FROM u; END", "u", "t"
    ),
}  # fmt: skip

COLUMNS = {
    "one-table": ("SELECT a FROM t", "t.a", ""),
    "renamed": ("SELECT a AS b FROM t", "t.a", ""),
    "through-alias": ("SELECT x.a FROM s.t x", "s.t.a", ""),
    "by-table": ("SELECT t.a FROM t", "t.a", ""),
    "by-schema": ("SELECT s.t.a FROM s.t", "s.t.a", ""),
    "by-database": ("SELECT db.s.t.a FROM db.s.t", "s.t.a", ""),
    "uncertain": ("SELECT a, t.b FROM t, u", "a t.b", ""),
    "star": ("SELECT * FROM t, u", "t.* u.*", ""),
    "star-of-alias": ("SELECT x.* FROM t x, u", "t.*", ""),
    "table-command": ("TABLE t", "t.*", ""),
    "whole-row": ("SELECT x FROM t x", "t.* x", "t.* x"),
    "whole-row-in-function": ("SELECT row_to_json(t) FROM t", "t t.*", "t t.*"),
    "field-of-row": ("SELECT (t).a FROM t", "t t.*", "t t.*"),
    "function-notation": ("SELECT email(u) FROM users u", "u users.*", "u users.*"),
    "row-by-dot": ("SELECT u.row_to_json FROM users u", "users.* users.row_to_json", "users.*"),
    "row-by-table-and-dot": ("SELECT s.users.to_jsonb FROM s.users", "s.users.* s.users.to_jsonb", "s.users.*"),
    "row-by-aggregate-and-dot": ("SELECT u.array_agg FROM users u", "users.* users.array_agg", "users.*"),
    "expression": ("SELECT lower(a) FROM t", "t.a", "t.a"),
    "cast": ("SELECT a::text FROM t", "t.a", "t.a"),
    "collate": ('SELECT a COLLATE "C" FROM t', "t.a", "t.a"),
    "condition": ("SELECT a FROM t WHERE b = 1", "t.a t.b", "t.b"),
    "join-condition": ("SELECT t.a FROM t JOIN u ON t.b = u.b", "t.a t.b u.b", "t.b u.b"),
    "join-using": ("SELECT t.a FROM t JOIN u USING (b)", "b t.a", "b"),
    "natural-join": ("SELECT 1 FROM t NATURAL JOIN u", "t.* u.*", "t.* u.*"),
    "natural-join-with-values": ("SELECT 1 FROM t NATURAL JOIN (VALUES (1)) v(a)", "t.*", "t.*"),
    "order": ("SELECT a FROM t ORDER BY b", "t.a t.b", "t.b"),
    "order-by-place": ("SELECT a, b FROM t ORDER BY 2", "t.a t.b", "t.b"),
    "order-by-new-name": ("SELECT a AS x FROM t ORDER BY x", "t.a", "t.a"),
    "group-by-place": ("SELECT a, count(*) FROM t GROUP BY 1", "t.a", "t.a"),
    "having": ("SELECT 1 FROM t HAVING max(a) > 1", "t.a", "t.a"),
    "window": ("SELECT rank() OVER (ORDER BY a) FROM t", "t.a", "t.a"),
    "subquery": ("SELECT * FROM (SELECT a FROM t) x", "t.a", "t.a"),
    "subquery-renames": ("SELECT upper(e) FROM (SELECT email AS e FROM users) x", "e users.email", "e users.email"),
    "subquery-star": ("SELECT upper(x.e) FROM (SELECT * FROM users) x(i, e)", "e users.*", "e users.*"),
    "cte": ("WITH c AS (SELECT a FROM t) SELECT a FROM c", "a t.a", "t.a"),
    "union": ("SELECT a FROM t UNION ALL SELECT b FROM u", "t.a u.b", "t.a u.b"),
    "correlated": ("SELECT 1 FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.b AND c)", "c t.b u.a", "c t.b u.a"),
    "renamed-columns": ("SELECT b FROM users AS u(a, b)", "b users.*", "users.*"),
    "join-with-a-name": ("SELECT x.a FROM (t CROSS JOIN u) AS x", "a t.* u.*", "t.* u.*"),
    "insert": ("INSERT INTO t (a) VALUES (1)", "t.a", ""),
    "insert-copies": ("INSERT INTO t (a) SELECT b FROM u", "t.a u.b", "u.b"),
    "update": ("UPDATE t SET a = b WHERE c = 1", "t.a t.b t.c", "t.b t.c"),
    "update-several": ("UPDATE t SET (a, b) = (1, c)", "t.a t.b t.c", "t.c"),
    "excluded": ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = excluded.c", "t.b t.c", "t.c"),
    "returning": ("DELETE FROM t WHERE a = 1 RETURNING b, lower(c), old.d", "t.a t.b t.c t.d", "t.a t.c"),
    "returning-star": ("UPDATE t SET a = 1 RETURNING *", "t.* t.a", ""),
    "copy-columns": ("COPY t (a, b) TO STDOUT", "t.a t.b", ""),
    "copy-all": ("COPY t TO STDOUT", "t.*", ""),
    "copy-query": ("COPY (SELECT a FROM t) TO STDOUT", "t.a", ""),
    "create-as": ("CREATE TABLE n AS SELECT a FROM t", "t.a", "t.a"),
    "select-into": ("SELECT a INTO n FROM t", "t.a", "t.a"),
    "declare": ("DECLARE c CURSOR FOR SELECT a FROM t", "t.a", ""),
    "quoted": ('SELECT "A.b" FROM "T.t"', '"T.t"."A.b"', ""),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "read", "changed"), TABLES.values(), ids=TABLES)
def test_tables(sql: str, read: str, changed: str) -> None:
    (facts,) = analyze(sql)
    assert facts.complete, facts.incomplete_reason
    assert (" ".join(facts.tables_read), " ".join(facts.tables_written)) == (read, changed)


@pytest.mark.parametrize(("sql", "named", "used"), COLUMNS.values(), ids=COLUMNS)
def test_columns(sql: str, named: str, used: str) -> None:
    (facts,) = analyze(sql)
    assert facts.complete, facts.incomplete_reason
    assert (" ".join(facts.columns), " ".join(facts.columns_used)) == (named, used)
    assert set(facts.columns_used) <= set(facts.columns)
