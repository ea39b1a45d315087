"""Tables and columns as facts name them: with their database, and used or only shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from extproc.sql.mysql import Session, analyze
from tests.sql.mysql.servers import MARIADB, one

TABLES = {
    "default-database": ("SELECT * FROM users", "shop.users", ""),
    "named-database": ("SELECT * FROM other.users", "other.users", ""),
    "quoted": ("SELECT * FROM `shop` . `users`", "shop.users", ""),
    "folded": ("SELECT * FROM Shop.USERS", "shop.users", ""),
    "a-dot-in-a-name": ("SELECT * FROM `shop.users`", 'shop."shop.users"', ""),
    "keyword-as-a-name": ("SELECT * FROM `select`", "shop.select", ""),
    "cte-is-no-table": ("WITH c AS (SELECT 1) SELECT * FROM c", "", ""),
    "cte-with-a-tables-name": ("WITH users AS (SELECT * FROM users) SELECT * FROM users", "shop.users", ""),
    "recursive-cte": (
        "WITH RECURSIVE users AS (SELECT 1 UNION SELECT * FROM users) SELECT * FROM users",
        "",
        "",
    ),
    "cte-does-not-hide-a-qualified-table": (
        "WITH users AS (SELECT 1) SELECT * FROM shop.users",
        "shop.users",
        "",
    ),
    "joins": (
        "SELECT * FROM a JOIN b STRAIGHT_JOIN c NATURAL JOIN d, e",
        "shop.a shop.b shop.c shop.d shop.e",
        "",
    ),
    "brackets": ("SELECT * FROM (a, (b JOIN c)) JOIN ((d))", "shop.a shop.b shop.c shop.d", ""),
    "derived": ("SELECT * FROM (SELECT * FROM a) x, LATERAL (SELECT * FROM b) y", "shop.a shop.b", ""),
    "subqueries": (
        "SELECT (SELECT 1 FROM a) FROM b WHERE c IN (SELECT 1 FROM d)",
        "shop.a shop.b shop.d",
        "",
    ),
    "in-order": ("SELECT 1 FROM a ORDER BY (SELECT 1 FROM b)", "shop.a shop.b", ""),
    "in-limit-of-a-union": ("(SELECT 1 FROM a) UNION (SELECT 1 FROM b) LIMIT 1", "shop.a shop.b", ""),
    "table": ("TABLE users", "shop.users", ""),
    "in-values": ("INSERT INTO a VALUES ((SELECT max(x) FROM b))", "shop.b", "shop.a"),
    "in-set": ("SET @a = (SELECT 1 FROM b)", "shop.b", ""),
    "in-do": ("DO (SELECT 1 FROM b)", "shop.b", ""),
    "in-call": ("CALL p((SELECT 1 FROM b))", "shop.b", ""),
    "in-show": ("SHOW TABLES WHERE (SELECT 1 FROM b)", "shop.b", ""),
    "in-duplicate": (
        "INSERT INTO a VALUES (1) ON DUPLICATE KEY UPDATE x = (SELECT 1 FROM b)",
        "shop.b",
        "shop.a",
    ),
    "insert-select": ("INSERT INTO a SELECT * FROM b", "shop.b", "shop.a"),
    "update": ("UPDATE a SET x = 1", "", "shop.a"),
    "update-alias": ("UPDATE a AS b SET b.x = 1", "", "shop.a"),
    "update-one-of-two": ("UPDATE a, b SET b.x = a.x", "shop.a shop.b", "shop.b"),
    "update-either": ("UPDATE a, b SET x = 1", "shop.a shop.b", "shop.a shop.b"),
    "update-qualified": ("UPDATE a, o.b SET o.b.x = 1", "o.b shop.a", "o.b"),
    "delete": ("DELETE FROM a", "", "shop.a"),
    "delete-alias": ("DELETE FROM a AS x WHERE x.id = 1", "", "shop.a"),
    "delete-by-alias": ("DELETE x FROM a AS x JOIN b ON 1", "shop.a shop.b", "shop.a"),
    "delete-with-stars": ("DELETE a.*, o.b.* FROM a, o.b", "o.b shop.a", "o.b shop.a"),
    "delete-using": ("DELETE FROM x USING a AS x JOIN b ON 1", "shop.a shop.b", "shop.a"),
    "returning": ("DELETE FROM a WHERE id = 1 RETURNING id", "shop.a", "shop.a"),
    "for-update": ("SELECT * FROM a JOIN b ON 1 FOR UPDATE", "shop.a shop.b", "shop.a shop.b"),
    "explain": ("EXPLAIN DELETE FROM a", "shop.a", ""),
    "describe": ("DESCRIBE o.a", "o.a", ""),
    "handler": ("HANDLER o.a OPEN AS x", "o.a", ""),
    "load": ("LOAD DATA INFILE 'x' INTO TABLE a", "", "shop.a"),
    "lock": ("LOCK TABLES a AS x READ, b WRITE", "", "shop.a shop.b"),
    "show-columns": ("SHOW COLUMNS FROM a FROM o", "o.a", ""),
    "show-create": ("SHOW CREATE TABLE a", "shop.a", ""),
    "show-processes": ("SHOW FULL PROCESSLIST", "information_schema.processlist", ""),
    "create-as": ("CREATE TABLE a SELECT * FROM b", "shop.b", "shop.a"),
    "create-like": ("CREATE TABLE a LIKE b", "shop.b", "shop.a"),
    "create-references": ("CREATE TABLE a (x int REFERENCES b (y))", "", "shop.a shop.b"),
    "create-merge": ("CREATE TABLE a (x int) ENGINE=MERGE UNION=(b, o.c)", "o.c shop.b", "shop.a"),
    "create-view": ("CREATE VIEW a AS SELECT * FROM b", "shop.b", "shop.a"),
    "create-trigger": ("CREATE TRIGGER g BEFORE DELETE ON a FOR EACH ROW SET @x = 1", "", "shop.a"),
    "create-index": ("CREATE INDEX i ON a (x)", "", "shop.a"),
    "alter-rename": ("ALTER TABLE a RENAME TO b", "", "shop.a shop.b"),
    "alter-rename-column": ("ALTER TABLE a RENAME COLUMN x TO y", "", "shop.a"),
    "alter-exchange": ("ALTER TABLE a EXCHANGE PARTITION p WITH TABLE b", "", "shop.a shop.b"),
    "rename": ("RENAME TABLE a TO o.b", "", "o.b shop.a"),
    "drop": ("DROP TABLE a, o.b", "", "o.b shop.a"),
    "truncate": ("TRUNCATE TABLE a", "", "shop.a"),
    "prepared": ("PREPARE p FROM 'INSERT INTO a SELECT * FROM b'", "shop.b", "shop.a"),
    "sequence": ("SELECT NEXTVAL(s)", "", ""),
    "check": ("CHECK TABLE a, b", "shop.a shop.b", ""),
}


@pytest.mark.parametrize(("sql", "read", "written"), TABLES.values(), ids=TABLES)
def test_tables(sql: str, read: str, written: str) -> None:
    facts = one(sql)
    assert (" ".join(facts.tables_read), " ".join(facts.tables_written)) == (read, written)
    assert facts.complete


COLUMNS = {
    "bare": ("SELECT id, email FROM users", "shop.users.email shop.users.id", ""),
    "renamed": ("SELECT email AS e, u.id i, 'x' y FROM users u", "shop.users.email shop.users.id", ""),
    "in-brackets": ("SELECT (email) FROM users", "shop.users.email", ""),
    "star": ("SELECT *, u.*, shop.u.* FROM users u", "shop.users.*", ""),
    "quoted-and-folded": ("SELECT `EMail` FROM users", "shop.users.email", ""),
    "concatenated": ("SELECT CONCAT(email, '') FROM users", "shop.users.email", "shop.users.email"),
    "adjacent-literal-is-a-name": ("SELECT email 'x' FROM users", "shop.users.email", ""),
    "plus": ("SELECT email + 0 FROM users", "shop.users.email", "shop.users.email"),
    "collated": ("SELECT email COLLATE utf8mb4_bin FROM users", "shop.users.email", "shop.users.email"),
    "as-binary": ("SELECT BINARY email FROM users", "shop.users.email", "shop.users.email"),
    "assigned": ("SELECT @x := email FROM users", "shop.users.email", "shop.users.email"),
    "into-a-variable": ("SELECT email INTO @x FROM users", "shop.users.email", "shop.users.email"),
    "into-a-variable-at-the-end": ("SELECT email FROM users INTO @x", "shop.users.email", "shop.users.email"),
    "into-a-file": ("SELECT email FROM users INTO OUTFILE 'x'", "shop.users.email", "shop.users.email"),
    "where": ("SELECT 1 FROM users WHERE email = 'x'", "shop.users.email", "shop.users.email"),
    "order": ("SELECT 1 FROM users ORDER BY email", "shop.users.email", "shop.users.email"),
    "order-by-new-name": ("SELECT a AS e FROM t ORDER BY e", "shop.t.a shop.t.e", "shop.t.a shop.t.e"),
    "order-by-place": ("SELECT email FROM users ORDER BY 1", "shop.users.email", "shop.users.email"),
    "order-by-place-in-brackets": (
        "SELECT email FROM users ORDER BY ((1))", "shop.users.email", "shop.users.email",
    ),
    "group-by-new-name": ("SELECT a e FROM t GROUP BY e", "shop.t.a shop.t.e", "shop.t.a shop.t.e"),
    "having-new-name": ("SELECT a e FROM t HAVING e > 'a'", "shop.t.a shop.t.e", "shop.t.a shop.t.e"),
    "new-name-deeper": ("SELECT email e, (SELECT e) FROM users", "e shop.users.email", "e shop.users.email"),
    "join-on": ("SELECT 1 FROM a JOIN b ON a.x = b.y", "shop.a.x shop.b.y", "shop.a.x shop.b.y"),
    "join-using": ("SELECT 1 FROM a JOIN b USING (x)", "x", "x"),
    "natural-join": ("SELECT 1 FROM a NATURAL JOIN b", "shop.a.* shop.b.*", "shop.a.* shop.b.*"),
    "union": ("SELECT email FROM users UNION SELECT 1", "shop.users.email", "shop.users.email"),
    "second-of-a-union": ("SELECT 1 UNION ALL SELECT email FROM users", "shop.users.email", "shop.users.email"),
    "union-in-brackets": ("(SELECT email FROM users) UNION (SELECT 1)", "shop.users.email", "shop.users.email"),
    "derived": ("SELECT * FROM (SELECT email FROM users) x", "shop.users.email", "shop.users.email"),
    "derived-star": ("SELECT x.e FROM (SELECT * FROM users) x (e)", "e shop.users.*", "shop.users.*"),
    "cte": ("WITH c AS (SELECT email FROM users) SELECT * FROM c", "shop.users.email", "shop.users.email"),
    "table-statement": ("TABLE users", "shop.users.*", "shop.users.*"),
    "scalar-subquery": ("SELECT (SELECT email FROM users LIMIT 1)", "shop.users.email", "shop.users.email"),
    "window": ("SELECT MAX(1) OVER (ORDER BY email) FROM users", "shop.users.email", "shop.users.email"),
    "two-tables": ("SELECT email FROM users, orders", "email", ""),
    "two-aliases-of-one-name": ("SELECT u.email FROM users u, o.users U", "email", ""),
    "correlated": (
        "SELECT 1 FROM users WHERE EXISTS (SELECT 1 FROM orders WHERE email = 'x')", "email", "email",
    ),
    "insert-columns": ("INSERT INTO users (email) VALUES ('x')", "shop.users.email", ""),
    "insert-select": ("INSERT INTO log SELECT email FROM users", "shop.users.email", "shop.users.email"),
    "insert-set": ("INSERT INTO users SET email = phone", "shop.users.email shop.users.phone", "shop.users.phone"),
    "duplicate-sees-the-source": (
        "INSERT INTO log (x) SELECT id FROM users ON DUPLICATE KEY UPDATE x = email",
        "email shop.log.x shop.users.id x", "email shop.users.id",
    ),
    "update-from-itself": ("UPDATE users SET a = email", "shop.users.a shop.users.email", "shop.users.email"),
    "update-where": ("UPDATE users SET a = 1 WHERE email = 'x'", "shop.users.a shop.users.email", "shop.users.email"),
    "delete-order": ("DELETE FROM users ORDER BY email LIMIT 1", "shop.users.email", "shop.users.email"),
    "returning": ("DELETE FROM users RETURNING email", "shop.users.email", ""),
    "returning-expression": ("DELETE FROM users RETURNING lower(email)", "shop.users.email", "shop.users.email"),
    "replace-returning": ("REPLACE INTO users VALUES (1) RETURNING *", "shop.users.*", ""),
    "explained": ("EXPLAIN SELECT email FROM users", "shop.users.email", "shop.users.email"),
    "explained-star": ("EXPLAIN EXTENDED SELECT * FROM users", "shop.users.*", "shop.users.*"),
    "analyzed": ("ANALYZE FORMAT=JSON SELECT email FROM users", "shop.users.email", "shop.users.email"),
    "handler": ("HANDLER users READ FIRST", "shop.users.*", "shop.users.*"),
    "create-as": ("CREATE TABLE x AS SELECT email FROM users", "shop.users.email", "shop.users.email"),
    "create-view": ("CREATE VIEW x AS SELECT email FROM users", "shop.users.email", "shop.users.email"),
    "prepared": ("PREPARE p FROM 'SELECT email FROM users'", "shop.users.email", ""),
    "set": ("SET @x = (SELECT email FROM users LIMIT 1)", "shop.users.email", "shop.users.email"),
    "load": ("LOAD DATA INFILE 'x' INTO TABLE users (email, @x)", "shop.users.email", ""),
    "error-in-xml": (
        "SELECT EXTRACTVALUE(1, CONCAT('~', (SELECT email FROM users LIMIT 1)))",
        "shop.users.email", "shop.users.email",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "columns", "used"), COLUMNS.values(), ids=COLUMNS)
def test_columns(sql: str, columns: str, used: str) -> None:
    facts = one(sql)
    assert (" ".join(facts.columns), " ".join(facts.columns_used)) == (columns, used)
    assert facts.complete


def test_without_a_default_database_names_stay_as_they_are() -> None:
    (facts,) = analyze("SELECT u.email FROM users u JOIN o.orders ON 1", Session()).facts
    assert facts.tables_read == ("o.orders", "users")
    assert facts.columns == ("users.email",)


def test_use_changes_what_follows() -> None:
    found = analyze("SELECT * FROM a; USE other; SELECT * FROM a; UPDATE b SET x = 1", MARIADB)
    assert [facts.tables_read for facts in found.facts] == [("shop.a",), (), ("other.a",), ()]
    assert found.facts[3].tables_written == ("other.b",)
    assert [session.database for session in found.after] == ["shop", "other", "other", "other"]


def test_tables_are_told_apart_by_case_where_the_server_does() -> None:
    exact = replace(MARIADB, folds_tables=False)
    assert one("SELECT * FROM Users", exact).tables_read == ("shop.Users",)
    assert one("SELECT u.EMAIL FROM Users U", exact).columns == ("shop.Users.email",)
    assert one("SELECT * FROM INFORMATION_SCHEMA.Tables, MYSQL.User", exact).tables_read == (
        "information_schema.tables",
        "mysql.user",
    )


CONDITIONS = {
    "id = 7": True, "t.id = 7 AND 1 = 1": True, "id IN (1, 2)": True, "id > 0": True, "NOT id": True,
    "id IS NULL": True, "id LIKE 'x%'": True, "id BETWEEN 1 AND 2": True, "lower(id) = 'x'": True,
    "EXISTS (SELECT 1 FROM u WHERE u.id = t.id)": True, "(id, a) = (1, 2)": True, "id && 1": True,
    "1": False, "TRUE": False, "1 = 1": False, "id = id": False, "t.id = id": False, "id <=> t.id": False,
    "(id) = (id)": False, "id = 7 OR 1": False, "id = 7 || 1 = 1": False, "id = 7 XOR 1 = 1": False, "'a' = 'a'": False,
    "RAND() < 2": False, "id LIKE id": False, "id BETWEEN id AND id": False, "id IN (id)": False, "? = ?": False,
    "@x": False, "1 IN (1)": False, "NOT 0": False, "!0": False, "-1": False, "id = 1 OR a = 2": True,
    "id = 1 OR (a = 2 AND 1 = 1)": True, "id = 1 OR (a = 2 OR 1 = 1)": False,
}  # fmt: skip


@pytest.mark.parametrize(("condition", "restricts"), CONDITIONS.items())
def test_conditions(condition: str, restricts: bool) -> None:
    for sql in ("DELETE FROM t", "UPDATE t SET x = 1", "SELECT * FROM t"):
        assert one(f"{sql} WHERE {condition}").has_where is restricts
    assert one("DELETE FROM t").has_where is False


def test_pipes_are_or_unless_they_join_texts() -> None:
    joined = MARIADB.with_mode("PIPES_AS_CONCAT")
    sql = "DELETE FROM t WHERE id || 1"
    assert (one(sql).has_where, one(sql, joined).has_where) == (False, True)


LIMITS = {
    "SELECT 1 LIMIT 5": (True, 5), "SELECT 1 LIMIT 3, 5": (True, 5), "SELECT 1 LIMIT 5 OFFSET 3": (True, 5),
    "SELECT 1 LIMIT ?": (True, -1), "SELECT 1": (False, -1), "SELECT * FROM (SELECT 1 LIMIT 5) x": (False, -1),
    "(SELECT 1 LIMIT 5) UNION (SELECT 2) LIMIT 7": (True, 7), "DELETE FROM t LIMIT 5": (True, 5),
    "SELECT 1 FETCH FIRST 5 ROWS ONLY": (True, 5), "SELECT 1 LIMIT ROWS EXAMINED 5": (False, -1),
    "SELECT 1 LIMIT 18446744073709551615": (True, -1),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "limit"), LIMITS.items())
def test_limits(sql: str, limit: tuple[bool, int]) -> None:
    facts = one(sql)
    if facts.complete:
        assert (facts.has_limit, facts.limit) == limit
    else:
        assert "EXAMINED" in sql or "FETCH" in sql
