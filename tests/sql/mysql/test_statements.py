"""What statements do: verb and effects, over the whole statement."""

from __future__ import annotations

import pytest

from extproc.domain.statement import EFFECTS, MYSQL_VERBS
from extproc.sql.mysql import analyze
from extproc.sql.mysql.commands import COMMANDS
from tests.sql.mysql.servers import MARIADB, MYSQL, one

QUERIES = {
    "select": ("SELECT a FROM t", "SELECT", "read"),
    "select-nothing": ("SELECT 1", "SELECT", "read"),
    "dual": ("SELECT 1 FROM DUAL WHERE 1", "SELECT", "read"),
    "brackets": ("((SELECT a FROM t))", "SELECT", "read"),
    "values": ("VALUES (1), (2)", "SELECT", "read"),
    "table": ("TABLE t", "SELECT", "read"),
    "union": ("SELECT a FROM t UNION ALL SELECT b FROM u ORDER BY 1 LIMIT 3", "SELECT", "read"),
    "for-update": ("SELECT a FROM t FOR UPDATE", "SELECT", "read write"),
    "for-share": ("SELECT a FROM t FOR SHARE SKIP LOCKED", "SELECT", "read write"),
    "share-mode": ("SELECT a FROM t LOCK IN SHARE MODE", "SELECT", "read write"),
    "into-outfile": ("SELECT a FROM t INTO OUTFILE '/tmp/x' FIELDS TERMINATED BY ','", "SELECT", "file read"),
    "outfile-first": ("SELECT a INTO OUTFILE '/tmp/x' FROM t", "SELECT", "file read"),
    "into-dumpfile": ("SELECT a FROM t INTO DUMPFILE '/tmp/x'", "SELECT", "file read"),
    "into-variable": ("SELECT a INTO @x FROM t", "SELECT", "read"),
    "insert-values": ("INSERT INTO t VALUES (1), (2)", "INSERT", "write"),
    "insert-row": ("INSERT INTO t VALUES ROW(1)", "INSERT", "write"),
    "insert-nothing": ("INSERT INTO t () VALUES ()", "INSERT", "write"),
    "insert-set": ("INSERT t SET a = 1", "INSERT", "write"),
    "insert-select": ("INSERT IGNORE INTO t (a) SELECT b FROM u", "INSERT", "read write"),
    "insert-select-in-brackets": ("INSERT INTO t (SELECT b FROM u)", "INSERT", "read write"),
    "insert-with": ("INSERT INTO t WITH c AS (SELECT b FROM u) SELECT b FROM c", "INSERT", "read write"),
    "insert-returning": ("INSERT INTO t VALUES (1) RETURNING a", "INSERT", "read write"),
    "upsert": ("INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE a = VALUES(a)", "INSERT", "write"),
    "replace": ("REPLACE INTO t VALUES (1)", "REPLACE", "write"),
    "replace-select": ("REPLACE t SELECT * FROM u", "REPLACE", "read write"),
    "update": ("UPDATE t SET a = 1 WHERE id = 2 ORDER BY id LIMIT 1", "UPDATE", "write"),
    "update-several": ("UPDATE t, u SET t.a = u.a WHERE u.id = t.id", "UPDATE", "read write"),
    "update-subquery": ("UPDATE t SET a = (SELECT max(b) FROM u) WHERE id = 1", "UPDATE", "read write"),
    "delete": ("DELETE LOW_PRIORITY QUICK IGNORE FROM t WHERE id = 2", "DELETE", "write"),
    "delete-several": ("DELETE t FROM t JOIN u ON t.id = u.id", "DELETE", "read write"),
    "delete-using": ("DELETE FROM t, u USING t JOIN u USING (id)", "DELETE", "read write"),
    "delete-returning": ("DELETE FROM t WHERE id = 1 RETURNING a", "DELETE", "read write"),
    "with-delete": ("WITH d AS (SELECT 1) DELETE FROM t WHERE id IN (SELECT id FROM d)", "DELETE", "read write"),
    "with-update": ("WITH d AS (SELECT 1) UPDATE t SET a = 1 WHERE id = 1", "UPDATE", "read write"),
    "do": ("DO 1 + 1, a", "DO", "read"),
    "explain": ("EXPLAIN SELECT 1", "EXPLAIN", "read"),
    "explain-format": ("EXPLAIN FORMAT=JSON UPDATE t SET a = 1", "EXPLAIN", "read"),
    "describe": ("DESC t a", "EXPLAIN", "read"),
    "explain-analyze": ("EXPLAIN ANALYZE DELETE FROM t", "EXPLAIN", "read write"),
    "analyze": ("ANALYZE FORMAT=JSON UPDATE t SET a = 1", "EXPLAIN", "read write"),
    "explain-connection": ("EXPLAIN FOR CONNECTION 5", "EXPLAIN", "admin read"),
    "show": ("SHOW FULL TABLES FROM shop LIKE 'a%'", "SHOW", "read"),
    "show-where": ("SHOW VARIABLES WHERE Variable_name = 'x'", "SHOW", "read"),
    "show-warnings": ("SHOW COUNT(*) WARNINGS", "SHOW", "read"),
    "show-binlog": ("SHOW BINLOG EVENTS", "SHOW", "admin read"),
    "show-engine": ("SHOW ENGINE INNODB STATUS", "SHOW", "admin read"),
    "handler": ("HANDLER t OPEN AS x", "HANDLER", "read"),
    "handler-read": ("HANDLER t READ i >= (5) WHERE a = 1 LIMIT 2", "HANDLER", "read"),
    "handler-close": ("HANDLER t CLOSE", "HANDLER", "read"),
    "system-time": ("SELECT a FROM t FOR SYSTEM_TIME ALL", "SELECT", "read"),
    "empty": ("", "", ""),
    "only-comments": ("-- nothing\n/* at all */ ;; # x", "", ""),
}  # fmt: skip

SESSIONS = {
    "begin": ("BEGIN WORK", "BEGIN", ""),
    "start": ("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", "BEGIN", ""),
    "commit": ("COMMIT AND NO CHAIN RELEASE", "COMMIT", ""),
    "rollback": ("ROLLBACK", "ROLLBACK", ""),
    "rollback-to": ("ROLLBACK TO SAVEPOINT s", "ROLLBACK", ""),
    "savepoint": ("SAVEPOINT s", "SAVEPOINT", ""),
    "release": ("RELEASE SAVEPOINT s", "RELEASE", ""),
    "xa": ("XA START 'x'", "XA", "admin write"),
    "use": ("USE other", "USE", ""),
    "lock": ("LOCK TABLES t READ LOCAL, u AS x WRITE", "LOCK", "write"),
    "lock-instance": ("LOCK INSTANCE FOR BACKUP", "LOCK", "admin"),
    "unlock": ("UNLOCK TABLES", "UNLOCK", ""),
    "set-harmless": ("SET autocommit = 0, @@session.time_zone = '+00:00'", "SET", ""),
    "set-user-variable": ("SET @a = 1, @b := @a + 1", "SET", ""),
    "set-variable-by-query": ("SET @a = (SELECT max(b) FROM t)", "SET", "read"),
    "set-names": ("SET NAMES utf8mb4 COLLATE utf8mb4_bin", "SET", ""),
    "set-charset": ("SET CHARACTER SET utf8mb4", "SET", ""),
    "set-mode": ("SET SESSION sql_mode = 'STRICT_TRANS_TABLES'", "SET", ""),
    "set-transaction": ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET", ""),
    "set-global-transaction": ("SET GLOBAL TRANSACTION READ ONLY", "SET", "admin"),
    "set-global": ("SET GLOBAL max_connections = 1", "SET", "admin"),
    "set-global-by-signs": ("SET @@global.read_only = 0", "SET", "admin"),
    "set-global-by-name": ("SET global.read_only = 0", "SET", "admin"),
    "set-persist": ("SET PERSIST max_connections = 1", "SET", "admin"),
    "set-structured": ("SET hot.key_buffer_size = 1", "SET", "admin"),
    "set-unknown": ("SET foreign_key_checks = 0", "SET", "admin"),
    "set-log-off": ("SET sql_log_off = 1", "SET", "admin"),
    "set-log-bin": ("SET sql_log_bin = 0", "SET", "admin"),
    "set-results": ("SET character_set_results = NULL", "SET", ""),
    "set-results-utf16": ("SET character_set_results = utf16", "SET", "admin"),
    "set-password": ("SET PASSWORD FOR 'a'@'%' = PASSWORD('x')", "SET", "admin"),
    "set-own-password": ("SET PASSWORD = 'x'", "SET", "admin"),
    "set-role": ("SET ROLE dba", "SET", "admin"),
    "set-default-role": ("SET DEFAULT ROLE dba FOR a", "SET", "admin"),
    "set-statement": ("SET STATEMENT max_statement_time = 1 FOR DELETE FROM t", "SET", "write"),
    "prepare": ("PREPARE p FROM 'SELECT 1'", "PREPARE", "read"),
    "prepare-drop": ("PREPARE p FROM 'DROP TABLE t;'", "PREPARE", "ddl"),
    "immediate": ("EXECUTE IMMEDIATE 'DELETE FROM t WHERE a = ?' USING 5", "EXECUTE", "write"),
    "deallocate": ("DEALLOCATE PREPARE p", "DEALLOCATE", ""),
    "drop-prepare": ("DROP PREPARE p", "DEALLOCATE", ""),
    "help": ("HELP 'x'", "HELP", "read"),
    "get": ("GET DIAGNOSTICS @a = ROW_COUNT", "GET", "read"),
    "resignal": ("RESIGNAL", "RESIGNAL", ""),
    "signal": ("SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'x'", "SIGNAL", ""),
}  # fmt: skip

DEFINITIONS = {
    "create-table": ("CREATE TABLE IF NOT EXISTS t (a int DEFAULT 1, KEY k (a)) ENGINE=InnoDB", "CREATE", "ddl"),
    "create-temporary": ("CREATE TEMPORARY TABLE t (a int)", "CREATE", "ddl"),
    "create-as": ("CREATE TABLE t AS SELECT * FROM u", "CREATE", "ddl read write"),
    "create-as-without-as": ("CREATE TABLE t (a int) ENGINE=InnoDB SELECT * FROM u", "CREATE", "ddl read write"),
    "create-as-in-brackets": ("CREATE TABLE t (SELECT * FROM u)", "CREATE", "ddl read write"),
    "create-like": ("CREATE TABLE t LIKE u", "CREATE", "ddl"),
    "create-partitioned": (
        "CREATE TABLE t (a int) PARTITION BY RANGE (a) (PARTITION p VALUES LESS THAN (5))", "CREATE", "ddl",
    ),
    "federated": ("CREATE TABLE t (a int) ENGINE=FEDERATED CONNECTION='mysql://x/y'", "CREATE", "ddl file network"),
    "connect-engine": ("CREATE TABLE t ENGINE=CONNECT FILE_NAME='/etc/passwd'", "CREATE", "ddl file network"),
    "csv": ("CREATE TABLE t (a int NOT NULL) ENGINE = CSV", "CREATE", "ddl file network"),
    "merge": ("CREATE TABLE t (a int) ENGINE=MERGE UNION=(u)", "CREATE", "ddl file network read"),
    "directory": ("CREATE TABLE t (a int) DATA DIRECTORY='/tmp'", "CREATE", "ddl file"),
    "a-column-called-connection": ("CREATE TABLE t (connection int, engine int)", "CREATE", "ddl"),
    "default-reads-a-file": ("CREATE TABLE t (a text DEFAULT (LOAD_FILE('/x')))", "CREATE", "ddl file"),
    "alter": ("ALTER TABLE t ADD COLUMN b int, DROP COLUMN a, ALGORITHM=INPLACE", "ALTER", "ddl"),
    "alter-engine": ("ALTER TABLE t ENGINE=BLACKHOLE", "ALTER", "ddl"),
    "alter-tablespace": ("ALTER TABLE t IMPORT TABLESPACE", "ALTER", "ddl file"),
    "alter-truncate": ("ALTER TABLE t TRUNCATE PARTITION p", "ALTER", "ddl write"),
    "alter-drop-partition": ("ALTER TABLE t DROP PARTITION p", "ALTER", "ddl write"),
    "alter-exchange": ("ALTER TABLE t EXCHANGE PARTITION p WITH TABLE u", "ALTER", "ddl write"),
    "create-index": ("CREATE UNIQUE INDEX i ON t (a)", "CREATE", "ddl"),
    "create-view": ("CREATE OR REPLACE SQL SECURITY INVOKER VIEW v (x) AS SELECT a FROM t", "CREATE", "ddl read"),
    "create-database": ("CREATE DATABASE d CHARACTER SET utf8mb4", "CREATE", "ddl"),
    "create-sequence": ("CREATE SEQUENCE s START WITH 5", "CREATE", "ddl"),
    "create-procedure": ("CREATE PROCEDURE p() DELETE FROM t", "CREATE", "ddl"),
    "create-function": ("CREATE FUNCTION f() RETURNS int RETURN 1", "CREATE", "ddl"),
    "create-udf": ("CREATE FUNCTION f RETURNS INTEGER SONAME 'x.so'", "CREATE", "admin ddl file unknown_function"),
    "create-trigger": ("CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW SET @a = 1", "CREATE", "ddl"),
    "create-event": ("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM t", "CREATE", "admin ddl"),
    "create-user": ("CREATE USER 'a'@'%' IDENTIFIED BY 'x'", "CREATE", "admin"),
    "create-role": ("CREATE ROLE r", "CREATE", "admin"),
    "create-server": ("CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'x')", "CREATE", "admin network"),
    "create-tablespace": ("CREATE TABLESPACE s ADD DATAFILE 'x'", "CREATE", "admin file"),
    "alter-user": ("ALTER USER a IDENTIFIED BY 'x'", "ALTER", "admin"),
    "alter-instance": ("ALTER INSTANCE ROTATE INNODB MASTER KEY", "ALTER", "admin"),
    "drop-table": ("DROP TABLE IF EXISTS t, u CASCADE", "DROP", "ddl"),
    "drop-view": ("DROP VIEW v", "DROP", "ddl"),
    "drop-index": ("DROP INDEX i ON t", "DROP", "ddl"),
    "drop-database": ("DROP SCHEMA d", "DROP", "ddl"),
    "drop-user": ("DROP USER a", "DROP", "admin"),
    "rename": ("RENAME TABLE t TO u, v TO w", "RENAME", "ddl"),
    "rename-user": ("RENAME USER a TO b", "RENAME", "admin"),
    "truncate": ("TRUNCATE t", "TRUNCATE", "write"),
    "truncate-table": ("TRUNCATE TABLE t", "TRUNCATE", "write"),
}  # fmt: skip

ADMINISTRATION = {
    "grant": ("GRANT SELECT (a), ALL ON *.* TO 'a'@'%' WITH GRANT OPTION", "GRANT", "admin"),
    "revoke": ("REVOKE ALL ON *.* FROM a", "REVOKE", "admin"),
    "kill": ("KILL QUERY 5", "KILL", "admin"),
    "flush": ("FLUSH TABLES WITH READ LOCK", "FLUSH", "admin"),
    "reset": ("RESET MASTER", "RESET", "admin"),
    "purge": ("PURGE BINARY LOGS BEFORE NOW() - INTERVAL 1 DAY", "PURGE", "admin"),
    "change": ("CHANGE MASTER TO MASTER_HOST = 'x'", "CHANGE", "admin network"),
    "start-slave": ("START SLAVE", "START", "admin network"),
    "stop-slave": ("STOP REPLICA", "STOP", "admin"),
    "install": ("INSTALL SONAME 'x'", "INSTALL", "admin file unknown_function"),
    "install-plugin": ("INSTALL PLUGIN p SONAME 'x'", "INSTALL", "admin file unknown_function"),
    "uninstall": ("UNINSTALL COMPONENT 'x'", "UNINSTALL", "admin"),
    "shutdown": ("SHUTDOWN", "SHUTDOWN", "admin"),
    "restart": ("RESTART", "RESTART", "admin"),
    "clone": ("CLONE LOCAL DATA DIRECTORY = '/tmp/x'", "CLONE", "admin file network"),
    "import": ("IMPORT TABLE FROM '/tmp/x.sdi'", "IMPORT", "ddl file"),
    "backup": ("BACKUP STAGE START", "BACKUP", "admin"),
    "analyze-table": ("ANALYZE LOCAL TABLE t, u", "ANALYZE", "admin"),
    "optimize": ("OPTIMIZE TABLE t", "OPTIMIZE", "admin"),
    "check": ("CHECK TABLE t EXTENDED", "CHECK", "admin"),
    "checksum": ("CHECKSUM TABLE t", "CHECKSUM", "admin read"),
    "repair": ("REPAIR TABLE t QUICK", "REPAIR", "admin"),
    "cache": ("CACHE INDEX t IN k", "CACHE", "admin"),
    "load-index": ("LOAD INDEX INTO CACHE t", "LOAD", "admin"),
    "load-data": (
        "LOAD DATA LOCAL INFILE '/x' REPLACE INTO TABLE t CHARACTER SET utf8 FIELDS TERMINATED BY ',' "
        "ENCLOSED BY '\"' LINES TERMINATED BY '\\n' IGNORE 1 LINES (a, @b) SET c = @b", "LOAD", "file write",
    ),
    "load-xml": ("LOAD XML INFILE '/x' INTO TABLE t ROWS IDENTIFIED BY '<r>'", "LOAD", "file write"),
}  # fmt: skip

FUNCTIONS = {
    "call": ("CALL p(1, @x)", "CALL", "unknown_function"),
    "call-without-brackets": ("CALL s.p", "CALL", "unknown_function"),
    "call-with-a-query": ("CALL p((SELECT a FROM t))", "CALL", "read unknown_function"),
    "stored": ("SELECT app.price(a) FROM t", "SELECT", "read unknown_function"),
    "unknown": ("SELECT price(a) FROM t", "SELECT", "read unknown_function"),
    "a-name-taken": ("SELECT app.upper(a) FROM t", "SELECT", "read unknown_function"),
    "space-before-the-bracket": ("SELECT count (a) FROM t", "SELECT", "read unknown_function"),
    "space-does-not-matter": ("SELECT upper (a) FROM t", "SELECT", "read"),
    "sleep": ("SELECT SLEEP(5)", "SELECT", "read unknown_function"),
    "sleep-quoted": ("SELECT `sleep`(5)", "SELECT", "read unknown_function"),
    "sleep-in-where": ("SELECT 1 FROM t WHERE a = 1 AND SLEEP(5)", "SELECT", "read unknown_function"),
    "sleep-in-order": ("SELECT 1 FROM t ORDER BY SLEEP(5)", "SELECT", "read unknown_function"),
    "sleep-in-show": ("SHOW TABLES WHERE SLEEP(5)", "SHOW", "read unknown_function"),
    "sleep-in-do": ("DO SLEEP(5)", "DO", "read unknown_function"),
    "sleep-in-set": ("SET @a = SLEEP(5)", "SET", "unknown_function"),
    "sleep-in-purge": ("PURGE BINARY LOGS BEFORE SLEEP(5)", "PURGE", "admin unknown_function"),
    "sleep-in-explain": ("EXPLAIN SELECT * FROM (SELECT SLEEP(5)) x", "EXPLAIN", "read unknown_function"),
    "sleep-in-insert": ("INSERT INTO t VALUES (SLEEP(5))", "INSERT", "unknown_function write"),
    "sleep-in-load": ("LOAD DATA INFILE 'x' INTO TABLE t SET a = SLEEP(5)", "LOAD", "file unknown_function write"),
    "benchmark": ("SELECT BENCHMARK(1e9, SHA2('x', 512))", "SELECT", "read unknown_function"),
    "lock": ("SELECT GET_LOCK('x', 5)", "SELECT", "read write"),
    "file": ("SELECT LOAD_FILE('/etc/passwd')", "SELECT", "file read"),
    "file-in-capitals-and-quotes": ("SELECT `LOAD_FILE`('/x')", "SELECT", "file read"),
    "exec": ("SELECT sys_exec('id')", "SELECT", "admin file network read unknown_function"),
    "replication": ("SELECT MASTER_POS_WAIT('x', 4)", "SELECT", "admin read"),
    "sequence": ("SELECT NEXTVAL(s)", "SELECT", "read write"),
    "runs-sql": ("SELECT a FROM t WHERE f(b)", "SELECT", "read unknown_function"),
}  # fmt: skip

BUILT_IN = """
COUNT(*) | COUNT(DISTINCT a, b) | GROUP_CONCAT(DISTINCT a ORDER BY b DESC SEPARATOR ';') | SUM(a) OVER (PARTITION BY b)
MAX(a) OVER w1 | ROW_NUMBER() OVER (ORDER BY a ROWS BETWEEN 1 PRECEDING AND UNBOUNDED FOLLOWING)
CAST(a AS CHAR(5) CHARACTER SET utf8mb4) | CAST(a AS UNSIGNED) | CAST(a AS DECIMAL(10, 2)) | CONVERT(a USING utf8mb4)
CONVERT(a, SIGNED) | CHAR(65, 66 USING latin1) | EXTRACT(DAY_HOUR FROM a) | TRIM(BOTH 'x' FROM a) | TRIM(a)
SUBSTRING(a FROM 2 FOR 3) | SUBSTRING(a, 2) | POSITION('x' IN a) | DATE_ADD(a, INTERVAL 1 DAY) | a + INTERVAL b HOUR
TIMESTAMPDIFF(SECOND, a, b) | INTERVAL(a, 1, 2) | NOW(6) | CURRENT_TIMESTAMP | UTC_DATE | CURRENT_USER() | DATABASE()
DATE '2020-01-01' | IF(a, b, c) | LEFT(a, 2) | RIGHT(a, 2) | REPLACE(a, 'x', 'y') | INSERT(a, 1, 2, 'x') | MOD(a, 2)
REPEAT(a, 2) | COALESCE(a, b) | CASE a WHEN 1 THEN b ELSE c END | CASE WHEN a THEN b END | a->>'$.x'
a COLLATE utf8mb4_bin
MATCH(a, b) AGAINST ('x' IN BOOLEAN MODE) | MATCH(a) AGAINST ('x' WITH QUERY EXPANSION) | a REGEXP 'x' | a SOUNDS LIKE b
a XOR b | a DIV b | a MOD b | a <=> b | NOT a | !a | ~a | - - a | BINARY a | a IN (1, 2)
(a, b) IN ((1, 2)) | a IS NOT TRUE
a NOT BETWEEN 1 AND 2 | a LIKE 'x' ESCAPE '!' | a = ANY (SELECT b FROM u)
EXISTS (SELECT 1 FROM u) | ROW(a, b) = (1, 2)
@x := a | @@global.sql_mode | @@a | UUID() | LAST_INSERT_ID() | JSON_EXTRACT(a, '$.x') | GREATEST(a, b) | a & b | c ^ 1
DEFAULT(a) | NULL | TRUE | _utf8mb4'x' | N'x' | x'41' | 0x41 | b'01' | 1e5 | 'a' 'b'
"""
EXPRESSIONS = [
    part.strip() for line in BUILT_IN.strip().splitlines() for part in line.split("|") if part.strip()
]

TABLE = {
    f"{kind}-{name}": case
    for kind, cases in {
        "query": QUERIES,
        "session": SESSIONS,
        "definition": DEFINITIONS,
        "administration": ADMINISTRATION,
        "function": FUNCTIONS,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize(("sql", "verb", "effects"), TABLE.values(), ids=TABLE)
def test_a_statement_has_its_effects(sql: str, verb: str, effects: str) -> None:
    facts = one(sql)
    assert (facts.verb, " ".join(facts.effects), facts.incomplete_reason) == (verb, effects, "")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_built_in_functions_and_operators_only_read(expression: str) -> None:
    facts = one(f"SELECT {expression} FROM t WINDOW w1 AS (PARTITION BY b)")
    assert (facts.effects, facts.incomplete_reason) == (("read",), "")


INCOMPLETE = {
    "prepare-from-a-variable": "PREPARE p FROM @x",
    "prepare-from-an-expression": "PREPARE p FROM CONCAT('DROP', ' TABLE t')",
    "prepare-from-a-sum": "PREPARE p FROM 'SELECT 1' || ', 2'",
    "prepare-with-a-charset": "PREPARE p FROM _utf16'x'",
    "prepare-from-bits": "PREPARE p FROM x'41'",
    "prepare-two": "PREPARE p FROM 'SELECT 1; DROP TABLE t'",
    "prepare-garbage": "PREPARE p FROM 'SELEC 1'",
    "prepare-changes-reading": "PREPARE p FROM 'SET NAMES gbk'",
    "execute": "EXECUTE p",
    "immediate-variable": "EXECUTE IMMEDIATE @x",
    "immediate-in-immediate": "EXECUTE IMMEDIATE 'EXECUTE IMMEDIATE @x'",
    "procedure-with-a-body": "CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END",
    "definer-hides-nothing": "CREATE DEFINER=`a;b`@`%` PROCEDURE p() BEGIN SELECT 1; END",
    "trigger-with-a-body": "CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW BEGIN SET @a = 1; END",
    "event-with-a-body": "ALTER EVENT e DO BEGIN SELECT 1; END",
    "block": "BEGIN NOT ATOMIC DROP TABLE t; END",
    "if": "IF 1 THEN DROP TABLE t; END IF",
    "loop": "LOOP DROP TABLE t; END LOOP",
    "while": "WHILE 1 DO DROP TABLE t; END WHILE",
    "for": "FOR i IN 1..2 DO DROP TABLE t; END FOR",
    "case": "CASE 1 WHEN 1 THEN DROP TABLE t; END CASE",
    "repeat": "REPEAT DROP TABLE t; UNTIL 1 END REPEAT",
    "label": "x: BEGIN NOT ATOMIC DROP TABLE t; END",
    "binlog": "BINLOG 'abc'",
    "names-gbk": "SET NAMES gbk",
    "names-variable": "SET NAMES @x",
    "client-charset": "SET character_set_client = big5",
    "mode-oracle": "SET sql_mode = 'ORACLE'",
    "mode-number": "SET sql_mode = 4",
    "mode-variable": "SET @@sql_mode = @x",
    "mode-function": "SET sql_mode = CONCAT('ANSI', '_QUOTES')",
    "mode-for-a-statement": "SET STATEMENT sql_mode = 'ANSI_QUOTES' FOR SELECT 1",
    "garbage": "SELEC 1",
    "two-values": "SELECT 1 2",
    "join-to-nothing": "SELECT 1 FROM t JOIN",
    "procedure-analyse": "SELECT * FROM t PROCEDURE ANALYSE()",
    "json-table": "SELECT * FROM JSON_TABLE('[]', '$' COLUMNS (a int PATH '$')) x",
    "function-as-a-table": "SELECT * FROM f(1)",
    "load-from-url": "LOAD DATA FROM URL 'http://x' INTO TABLE t",
    "create-from-table": "CREATE TABLE t TABLE u",
    "kill-by-function": "KILL f(1)",
    "kill-by-query": "KILL (SELECT id FROM t)",
    "outer-brackets": "(SELECT 1",
    "trailing-bracket": "SELECT 1)",
    "backslash-n": "SELECT \\N",
    "odbc": "SELECT {fn sleep(5)}",
    "change-of-a-change": "UPDATE t SET a = 1 WHERE id = 1 RETURNING",
    "full-join": "SELECT * FROM t FULL OUTER JOIN u ON 1",
    "oracle-join": "SELECT * FROM t, u WHERE t.a = u.b (+)",
    "create-package": "CREATE PACKAGE p AS PROCEDURE q; END",
    "unknown-object": "CREATE THING x",
    "set-names-then-more": "SET NAMES utf8mb4 SELECT 1",
}


@pytest.mark.parametrize("sql", INCOMPLETE.values(), ids=INCOMPLETE)
def test_what_cannot_be_seen_is_incomplete(sql: str) -> None:
    facts = one(sql)
    assert not facts.complete
    assert facts.effects == EFFECTS
    assert not facts.has_where
    assert not facts.shape


TRANSACTIONS = {
    "BEGIN": "begin", "START TRANSACTION": "begin", "COMMIT": "commit", "ROLLBACK": "rollback",
    "SAVEPOINT a": "savepoint", "ROLLBACK TO a": "savepoint",
    "RELEASE SAVEPOINT a": "release", "XA END 'x'": "prepared", "SELECT 1": "",
}  # fmt: skip


@pytest.mark.parametrize(("sql", "transaction"), TRANSACTIONS.items())
def test_transaction_control(sql: str, transaction: str) -> None:
    assert one(sql).transaction == transaction


def test_prepared_statements_have_names() -> None:
    for sql in ("PREPARE `P` FROM 'SELECT 1'", "EXECUTE p", "DEALLOCATE PREPARE P", "DROP PREPARE p"):
        assert one(sql).refers_to == "p"
    made, run = one("PREPARE p FROM 'DELETE FROM t WHERE a = 1'"), one("EXECUTE p USING @a")
    facts = run.running(made, "PREPARE p FROM 'DELETE FROM t WHERE a = 1'")
    assert (facts.complete, facts.effects, facts.tables_written, facts.has_where) == (
        True,
        ("write",),
        ("shop.t",),
        True,
    )


def test_every_verb_comes_from_some_statement() -> None:
    assert {verb for sql, _, _ in TABLE.values() for verb in one(sql).verbs} | {""} == set(MYSQL_VERBS)


def test_every_first_word_has_a_case() -> None:
    first = {sql.lstrip("(").split()[0].rstrip(",").upper() for sql, _, _ in TABLE.values() if sql}
    assert set(COMMANDS) - {"(", "WITH", "DESCRIBE"} <= first


def test_a_mysql_server_reads_most_of_it_alike() -> None:
    for sql, verb, _ in TABLE.values():
        assert one(sql, MYSQL).verb == verb


def test_several_statements() -> None:
    found = analyze("SELECT 1; DELETE FROM t; COMMIT", MARIADB).facts
    assert [facts.verb for facts in found] == ["SELECT", "DELETE", "COMMIT"]
    assert {facts.statements for facts in found} == {3}
    text = "SELECT 'größe';  DELETE FROM größe ; SELECT 1"
    parts = [text.encode()[facts.start : facts.end].decode() for facts in analyze(text, MARIADB).facts]
    assert parts == ["SELECT 'größe'", "DELETE FROM größe", "SELECT 1"]


@pytest.mark.parametrize(
    ("text", "keeps"),
    [
        ("SELECT @x := a FROM t", True),
        ("SELECT a FROM t WHERE (@x := b) IS NOT NULL", True),
        ("SELECT a INTO @x FROM t", True),
        ("SET @x = (SELECT a FROM t)", True),
        ("SELECT a FROM (SELECT @x := a AS a FROM t) q", True),
        ("SELECT @x, a FROM t", False),
        ("SELECT a = 1 FROM t", False),
    ],
)
def test_what_is_put_into_a_variable_is_seen(text: str, keeps: bool) -> None:
    assert one(text).keeps is keeps
