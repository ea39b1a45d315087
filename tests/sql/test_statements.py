"""What statements do: verb and effects, over the whole tree."""

from __future__ import annotations

import pytest

from extproc.domain.statement import EFFECTS, POSTGRES_VERBS, SHAPED_VERBS, VERBS
from extproc.sql import Vouched, analyze

ALL = " ".join(EFFECTS)

PLAIN = {
    "select": ("SELECT a FROM t", "SELECT", "read"),
    "select-nothing": ("SELECT 1", "SELECT", "read"),
    "values": ("VALUES (1), (2)", "SELECT", "read"),
    "table": ("TABLE t", "SELECT", "read"),
    "union": ("SELECT a FROM t UNION ALL SELECT b FROM u", "SELECT", "read"),
    "insert-values": ("INSERT INTO t VALUES (1)", "INSERT", "write"),
    "insert-default": ("INSERT INTO t DEFAULT VALUES", "INSERT", "write"),
    "insert-select": ("INSERT INTO t SELECT * FROM u", "INSERT", "read write"),
    "insert-returning": ("INSERT INTO t VALUES (1) RETURNING id", "INSERT", "read write"),
    "upsert": ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 2", "INSERT", "write"),
    "update": ("UPDATE t SET a = 1 WHERE id = 2", "UPDATE", "write"),
    "update-from": ("UPDATE t SET a = u.a FROM u WHERE u.id = t.id", "UPDATE", "read write"),
    "delete": ("DELETE FROM t WHERE id = 2", "DELETE", "write"),
    "delete-using": ("DELETE FROM t USING u WHERE t.id = u.id", "DELETE", "read write"),
    "merge": ("MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DO NOTHING", "MERGE", "read write"),
    "truncate": ("TRUNCATE t", "TRUNCATE", "write"),
    "copy-in": ("COPY t FROM STDIN", "COPY", "write"),
    "catalogue-update": ("UPDATE pg_authid SET rolsuper = true WHERE oid = 1", "UPDATE", "admin write"),
    "catalogue-delete": ("DELETE FROM pg_catalog.pg_proc", "DELETE", "admin write"),
    "catalogue-copy": ("COPY pg_class FROM STDIN", "COPY", "admin write"),
    "not-the-catalogue": ("DELETE FROM mine.pg_proc", "DELETE", "write"),
    "view-of-a-file": ("SELECT * FROM pg_hba_file_rules", "SELECT", "file read"),
    "copy-of-a-file": ("COPY pg_catalog.pg_file_settings TO STDOUT", "COPY", "file read"),
    "copy-out": ("COPY t TO STDOUT", "COPY", "read"),
    "copy-query": ("COPY (SELECT 1) TO STDOUT", "COPY", "read"),
    "explain": ("EXPLAIN SELECT 1", "EXPLAIN", "read"),
    "show": ("SHOW search_path", "SHOW", "read"),
    "listen": ("LISTEN c", "LISTEN", "read"),
    "unlisten": ("UNLISTEN *", "UNLISTEN", ""),
    "notify": ("NOTIFY c, 'x'", "NOTIFY", "write"),
    "lock": ("LOCK TABLE t", "LOCK", "write"),
    "lock-access-share": ("LOCK TABLE t IN ACCESS SHARE MODE", "LOCK", "read"),
    "declare": ("DECLARE c CURSOR FOR SELECT * FROM t", "DECLARE", "read"),
    "close": ("CLOSE c", "CLOSE", ""),
    "prepare": ("PREPARE p AS SELECT 1", "PREPARE", "read"),
    "deallocate": ("DEALLOCATE p", "DEALLOCATE", ""),
    "discard": ("DISCARD ALL", "DISCARD", ""),
    "begin": ("BEGIN", "BEGIN", ""),
    "start": ("START TRANSACTION READ ONLY", "BEGIN", ""),
    "commit": ("COMMIT AND CHAIN", "COMMIT", ""),
    "end": ("END", "COMMIT", ""),
    "rollback": ("ROLLBACK", "ROLLBACK", ""),
    "abort": ("ABORT", "ROLLBACK", ""),
    "savepoint": ("SAVEPOINT s", "SAVEPOINT", ""),
    "rollback-to": ("ROLLBACK TO SAVEPOINT s", "ROLLBACK", ""),
    "release": ("RELEASE s", "RELEASE", ""),
    "set-transaction": ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET", ""),
    "set-constraints": ("SET CONSTRAINTS ALL DEFERRED", "SET", ""),
    "empty": ("", "", ""),
    "only-comments": ("-- nothing\n/* at all */ ;;", "", ""),
}

DEFINITIONS = {
    "create-table": ("CREATE TABLE t (a int DEFAULT 1)", "CREATE", "ddl"),
    "create-temp": ("CREATE TEMP TABLE t (a int)", "CREATE", "ddl"),
    "create-table-as": ("CREATE TABLE t AS SELECT * FROM u", "CREATE", "ddl read write"),
    "select-into": ("SELECT * INTO t FROM u", "SELECT", "ddl read write"),
    "create-view": ("CREATE VIEW v AS SELECT * FROM t", "CREATE", "ddl read"),
    "create-matview": ("CREATE MATERIALIZED VIEW v AS SELECT 1", "CREATE", "ddl read write"),
    "refresh": ("REFRESH MATERIALIZED VIEW v", "REFRESH", "read write"),
    "create-index": ("CREATE INDEX i ON t (lower(a))", "CREATE", "ddl"),
    "create-index-unknown": ("CREATE INDEX i ON t (f(a))", "CREATE", "ddl unknown_function"),
    "create-schema": ("CREATE SCHEMA s CREATE TABLE t (a int)", "CREATE", "ddl"),
    "create-sequence": ("CREATE SEQUENCE s AS bigint", "CREATE", "ddl"),
    "create-type": ("CREATE TYPE mood AS ENUM ('a')", "CREATE", "ddl"),
    "create-domain": ("CREATE DOMAIN d AS text CHECK (VALUE <> '')", "CREATE", "ddl"),
    "create-function": ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE", "ddl"),
    "create-function-set": (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = '' AS 'SELECT 1'",
        "CREATE",
        "ddl",
    ),
    "create-function-atomic": (
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC DELETE FROM t; SELECT 1; END",
        "CREATE",
        "ddl read write",
    ),
    "create-procedure": ("CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1'", "CREATE", "ddl"),
    "create-aggregate": ("CREATE AGGREGATE a (int) (SFUNC = f, STYPE = int)", "CREATE", "ddl"),
    "create-operator": ("CREATE OPERATOR === (LEFTARG = int, FUNCTION = f)", "CREATE", "ddl"),
    "create-cast": ("CREATE CAST (text AS mood) WITH FUNCTION f(text)", "CREATE", "ddl"),
    "create-trigger": ("CREATE TRIGGER g AFTER INSERT ON t EXECUTE FUNCTION f()", "CREATE", "ddl"),
    "create-rule": ("CREATE RULE r AS ON INSERT TO t DO ALSO DELETE FROM u", "CREATE", "ddl write"),
    "alter-table": ("ALTER TABLE t ADD COLUMN b mood", "ALTER", "ddl"),
    "alter-type": ("ALTER TYPE mood ADD VALUE 'b'", "ALTER", "ddl"),
    "rename": ("ALTER TABLE t RENAME TO u", "ALTER", "ddl"),
    "drop-table": ("DROP TABLE t CASCADE", "DROP", "ddl"),
    "drop-function": ("DROP FUNCTION f(int)", "DROP", "ddl"),
    "comment": ("COMMENT ON TABLE t IS 'x'", "COMMENT", "ddl"),
    "create-extension": ("CREATE EXTENSION dblink", "CREATE", "admin ddl unknown_function"),
    "create-language": ("CREATE LANGUAGE plperlu", "CREATE", "admin ddl unknown_function"),
    "create-server": ("CREATE SERVER s FOREIGN DATA WRAPPER w", "CREATE", "admin ddl network"),
    "create-foreign-table": ("CREATE FOREIGN TABLE t (a int) SERVER s", "CREATE", "ddl network"),
    "import-schema": ("IMPORT FOREIGN SCHEMA a FROM SERVER s INTO b", "IMPORT", "ddl network"),
}

ADMINISTRATION = {
    "grant": ("GRANT SELECT ON t TO bob", "GRANT", "admin"),
    "revoke": ("REVOKE ALL ON SCHEMA s FROM bob", "REVOKE", "admin"),
    "grant-role": ("GRANT postgres TO bob", "GRANT", "admin"),
    "create-role": ("CREATE ROLE bob PASSWORD 'x'", "CREATE", "admin"),
    "alter-role": ("ALTER ROLE bob SUPERUSER", "ALTER", "admin"),
    "alter-role-set": ("ALTER ROLE bob SET search_path = x", "ALTER", "admin"),
    "drop-role": ("DROP ROLE bob", "DROP", "admin"),
    "drop-owned": ("DROP OWNED BY bob", "DROP", "admin"),
    "reassign": ("REASSIGN OWNED BY a TO b", "REASSIGN", "admin"),
    "owner": ("ALTER TABLE t OWNER TO bob", "ALTER", "admin ddl"),
    "owner-of-schema": ("ALTER SCHEMA s OWNER TO bob", "ALTER", "admin"),
    "row-security-off": ("ALTER TABLE t DISABLE ROW LEVEL SECURITY", "ALTER", "admin ddl"),
    "triggers-off": ("ALTER TABLE t DISABLE TRIGGER ALL", "ALTER", "admin ddl"),
    "policy": ("CREATE POLICY p ON t USING (true)", "CREATE", "admin"),
    "default-rights": ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO b", "ALTER", "admin"),
    "security-label": ("SECURITY LABEL ON TABLE t IS 'x'", "SECURITY", "admin"),
    "alter-system": ("ALTER SYSTEM SET archive_command = 'x'", "ALTER", "admin"),
    "create-database": ("CREATE DATABASE d", "CREATE", "admin"),
    "drop-database": ("DROP DATABASE d", "DROP", "admin"),
    "tablespace": ("CREATE TABLESPACE s LOCATION '/x'", "CREATE", "admin file"),
    "subscription": ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p", "CREATE", "admin network write"),
    "publication": ("CREATE PUBLICATION p FOR TABLE t", "CREATE", "admin"),
    "vacuum": ("VACUUM FULL t", "VACUUM", "admin"),
    "analyze": ("ANALYZE t", "ANALYZE", "admin"),
    "cluster": ("CLUSTER t", "CLUSTER", "admin"),
    "reindex": ("REINDEX TABLE t", "REINDEX", "admin"),
    "checkpoint": ("CHECKPOINT", "CHECKPOINT", "admin"),
    "load": ("LOAD 'x'", "LOAD", "admin file unknown_function"),
    "set-role": ("SET ROLE postgres", "SET", "admin"),
    "set-local-role": ("SET LOCAL ROLE postgres", "SET", "admin"),
    "reset-role": ("RESET ROLE", "RESET", "admin"),
    "set-session-authorization": ("SET SESSION AUTHORIZATION bob", "SET", "admin"),
    "set-search-path": ("SET search_path = evil, public", "SET", "admin"),
    "set-search-path-to": ('SET "search_path" TO evil', "SET", "admin"),
    "set-schema": ("SET SCHEMA 'evil'", "SET", "admin"),
    "set-replication-role": ("SET session_replication_role = replica", "SET", "admin"),
    "set-own-setting": ("SET app.user_id = 'root'", "SET", "admin"),
    "set-config": ("SELECT set_config('search_path', 'evil', false)", "SELECT", "admin read"),
    "set-config-role": ("SELECT pg_catalog.set_config('role', 'x', true)", "SELECT", "admin read"),
    "terminate": ("SELECT pg_terminate_backend(1)", "SELECT", "admin read"),
    "reload": ("SELECT pg_reload_conf()", "SELECT", "admin read"),
    "two-phase": ("PREPARE TRANSACTION 'x'", "PREPARE", "admin write"),
    "two-phase-commit": ("COMMIT PREPARED 'x'", "COMMIT", "admin write"),
}

HARMLESS = {
    "set-timezone": ("SET TIME ZONE 'UTC'", "SET", ""),
    "set-datestyle": ("SET DateStyle TO ISO", "SET", ""),
    "set-names": ("SET NAMES 'utf8'", "SET", ""),
    "set-client-encoding": ("SET client_encoding TO 'UTF-8'", "SET", ""),
    "set-standard-strings": ("SET standard_conforming_strings = on", "SET", ""),
    "set-timeout": ("SET LOCAL statement_timeout = 5000", "SET", ""),
    "set-planner": ("SET enable_seqscan = off", "SET", ""),
    "reset-all": ("RESET ALL", "RESET", ""),
    "set-config-jit": ("SELECT set_config('jit', 'off', false)", "SELECT", "read"),
    "asyncpg-reset": ("SELECT pg_advisory_unlock_all()", "SELECT", "read"),
}

HIDDEN = {
    "cte-delete": ("WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d", "SELECT", "read write"),
    "cte-insert": ("WITH d AS (INSERT INTO t VALUES (1)) SELECT 1", "SELECT", "read write"),
    "cte-update-nested": (
        "WITH a AS (WITH b AS (UPDATE t SET x = 1 RETURNING *) SELECT * FROM b) SELECT * FROM a",
        "SELECT",
        "read write",
    ),
    "cte-in-insert": (
        "WITH d AS (DELETE FROM u RETURNING *) INSERT INTO t SELECT * FROM d",
        "INSERT",
        "read write",
    ),
    "explain-analyze": ("EXPLAIN ANALYZE DELETE FROM t", "EXPLAIN", "read write"),
    "explain-analyze-list": ("EXPLAIN (VERBOSE, ANALYZE) DELETE FROM t", "EXPLAIN", "read write"),
    "explain-analyze-true": ("EXPLAIN (ANALYZE true) DELETE FROM t", "EXPLAIN", "read write"),
    "explain-analyze-1": ("EXPLAIN (ANALYZE 1) DELETE FROM t", "EXPLAIN", "read write"),
    "explain-analyze-last-wins": ("EXPLAIN (ANALYZE off, ANALYZE) DELETE FROM t", "EXPLAIN", "read write"),
    "explain-analyze-off": ("EXPLAIN (ANALYZE off) DELETE FROM t", "EXPLAIN", "read"),
    "explain-only": ("EXPLAIN DELETE FROM t", "EXPLAIN", "read"),
    "explain-create-as": ("EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1", "EXPLAIN", "ddl read write"),
    "explain-immutable": ("EXPLAIN SELECT f(1)", "EXPLAIN", "read unknown_function"),
    "prepare-delete": ("PREPARE p AS DELETE FROM t", "PREPARE", "write"),
    "copy-delete": ("COPY (DELETE FROM t RETURNING *) TO STDOUT", "COPY", "read write"),
    "for-update": ("SELECT * FROM t FOR UPDATE", "SELECT", "read write"),
    "for-share-skip": ("SELECT * FROM t FOR SHARE SKIP LOCKED", "SELECT", "read write"),
    "for-update-in-subquery": ("SELECT * FROM (SELECT * FROM t FOR UPDATE) x", "SELECT", "read write"),
    "nextval": ("SELECT nextval('s')", "SELECT", "read write"),
    "setval-qualified": ("SELECT pg_catalog.setval('s', 1)", "SELECT", "read write"),
    "advisory-lock": ("SELECT pg_advisory_lock(1)", "SELECT", "read write"),
    "notify-function": ("SELECT pg_notify('c', 'x')", "SELECT", "read write"),
    "large-object": ("SELECT lo_unlink(1)", "SELECT", "read write"),
    "in-where": ("SELECT 1 WHERE nextval('s') > 0", "SELECT", "read write"),
    "in-order-by": ("SELECT 1 ORDER BY nextval('s')", "SELECT", "read write"),
    "in-limit": ("SELECT 1 LIMIT nextval('s')", "SELECT", "read write"),
    "in-case": ("SELECT CASE WHEN true THEN nextval('s') END", "SELECT", "read write"),
    "in-array": ("SELECT (ARRAY[nextval('s')])[1]", "SELECT", "read write"),
    "in-index": ("SELECT a[nextval('s')] FROM t", "SELECT", "read write"),
    "in-filter": ("SELECT count(*) FILTER (WHERE nextval('s') > 0)", "SELECT", "read write"),
    "in-window": ("SELECT sum(1) OVER (ORDER BY nextval('s'))", "SELECT", "read write"),
    "in-named-window": (
        "SELECT sum(1) OVER w FROM t WINDOW w AS (PARTITION BY nextval('s'))",
        "SELECT",
        "read write",
    ),
    "in-from": ("SELECT * FROM nextval('s') x", "SELECT", "read write"),
    "in-rows-from": ("SELECT * FROM ROWS FROM (nextval('s'), lower('x')) x", "SELECT", "read write"),
    "in-lateral": ("SELECT * FROM t, LATERAL nextval(t.a) x", "SELECT", "read write"),
    "in-join": ("SELECT * FROM t JOIN u ON nextval('s') > 0", "SELECT", "read write"),
    "in-sample": ("SELECT * FROM t TABLESAMPLE system (nextval('s'))", "SELECT", "read write"),
    "in-values": ("INSERT INTO t VALUES (pg_read_file('x'))", "INSERT", "file write"),
    "in-returning": ("DELETE FROM t WHERE id = 1 RETURNING pg_read_file('x')", "DELETE", "file read write"),
    "in-on-conflict": (
        "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = pg_read_file('x')",
        "INSERT",
        "file write",
    ),
    "in-merge": (
        "MERGE INTO t USING u ON t.id = u.id WHEN NOT MATCHED THEN INSERT VALUES (pg_read_file('x'))",
        "MERGE",
        "file read write",
    ),
    "in-json": ("SELECT JSON_OBJECT('a': nextval('s'))", "SELECT", "read write"),
    "in-xml": ("SELECT XMLELEMENT(NAME a, nextval('s'))", "SELECT", "read write"),
    "in-jsontable": (
        "SELECT * FROM JSON_TABLE(pg_read_file('x')::jsonb, '$' COLUMNS (a int)) x",
        "SELECT",
        "file read",
    ),
    "in-grouping-set": ("SELECT 1 FROM t GROUP BY GROUPING SETS ((nextval('s')))", "SELECT", "read write"),
    "in-default": ("ALTER TABLE t ADD a int DEFAULT pg_terminate_backend(1)", "ALTER", "admin ddl"),
    "in-execute-of-set": ("SELECT set_config('role', 'x', false) FROM t", "SELECT", "admin read"),
}

OUTSIDE = {
    "copy-to-file": ("COPY t TO '/tmp/x'", "COPY", "file read"),
    "copy-from-file": ("COPY t FROM '/etc/passwd'", "COPY", "file write"),
    "copy-to-program": ("COPY t TO PROGRAM 'sh'", "COPY", "admin file network read unknown_function"),
    "copy-from-program": ("COPY t FROM PROGRAM 'sh'", "COPY", "admin file network unknown_function write"),
    "copy-query-to-program": (
        "COPY (SELECT 1) TO PROGRAM 'sh'",
        "COPY",
        "admin file network read unknown_function",
    ),
    "read-file": ("SELECT pg_read_file('/etc/passwd')", "SELECT", "file read"),
    "read-binary-file": ("SELECT pg_catalog.pg_read_binary_file('x')", "SELECT", "file read"),
    "list-folder": ("SELECT * FROM pg_ls_dir('.')", "SELECT", "file read"),
    "stat-file": ("SELECT size FROM pg_stat_file('x')", "SELECT", "file read"),
    "lo-import": ("SELECT lo_import('/etc/passwd')", "SELECT", "file read write"),
    "lo-export": ("SELECT lo_export(1, '/tmp/x')", "SELECT", "file read"),
    "adminpack": ("SELECT pg_file_write('x', 'y', true)", "SELECT", "file read write"),
    "dblink-connect": ("SELECT dblink_connect('host=x')", "SELECT", "network read unknown_function"),
    "dblink-in-schema": ("SELECT ext.dblink_connect('x')", "SELECT", "network read unknown_function"),
    "http-extension": ("SELECT * FROM http_get('http://x')", "SELECT", "network read unknown_function"),
}

DOTS = {
    "value-dot-file": ("SELECT ('/etc/passwd').pg_read_file", "SELECT", "file read"),
    "cast-dot-file": ("SELECT ('/etc/passwd'::text).pg_read_file", "SELECT", "file read"),
    "column-dot-file": ("SELECT (t.a).pg_read_file FROM t", "SELECT", "file read"),
    "row-or-column-dot-file": ("SELECT (a).pg_read_file FROM t a", "SELECT", "file read"),
    "element-dot-file": ("SELECT (ARRAY['x'])[1].pg_read_file", "SELECT", "file read"),
    "parameter-dot-file": ("SELECT $1.pg_read_file", "SELECT", "file read"),
    "query-dot-file": ("SELECT (SELECT 'x'::text).pg_read_file", "SELECT", "file read"),
    "dots-in-a-row": ("SELECT ((t.a).lower).pg_read_file FROM t", "SELECT", "file read"),
    "assigned": ("UPDATE t SET a = ('x').pg_read_file WHERE id = 1", "UPDATE", "file write"),
    "function-range-dot-file": ("SELECT x.pg_read_file FROM concat('x') x", "SELECT", "file read"),
    "function-name-dot-file": ("SELECT concat.pg_read_file FROM concat('x')", "SELECT", "file read"),
    "rows-from-dot-file": ("SELECT x.pg_read_file FROM ROWS FROM (concat('x')) x", "SELECT", "file read"),
    "coalesce-range-dot-file": ("SELECT x.pg_read_file FROM coalesce('x') x", "SELECT", "file read"),
    "unnamed-range-dot-file": ("SELECT coalesce.pg_read_file FROM coalesce('x')", "SELECT", "file read"),
    "value-range-dot-file": ("SELECT x.pg_read_file FROM current_user x", "SELECT", "file read"),
    "value-dot-own": ("SELECT ('x').evil", "SELECT", "read unknown_function"),
    "value-dot-domain": ("SELECT ('x').mood", "SELECT", "read unknown_function"),
    "range-dot-own": ("SELECT x.evil FROM lower('x') x", "SELECT", "read unknown_function"),
    "value-dot-safe": ("SELECT ('x').upper", "SELECT", "read"),
    "declared-column": ("SELECT x.a, x.x FROM lower('x') AS x(a)", "SELECT", "read"),
    "listed-column": ("SELECT x.a FROM json_to_record('{}') AS x(a int)", "SELECT", "read"),
    "named-column": ("SELECT e.key, e.value FROM t, json_each(t.a) e", "SELECT", "read"),
    "own-name": ("SELECT g.g FROM generate_series(1, 2) g", "SELECT", "read"),
    "ordinality": ("SELECT u.v, u.ordinality FROM unnest($1::int[]) WITH ORDINALITY u(v)", "SELECT", "read"),
    "column-of-a-query": ("SELECT x.a FROM (SELECT a FROM t) x", "SELECT", "read"),
    "column-in-a-definition": ("CREATE POLICY p ON t USING (t.owner = current_user)", "CREATE", "admin"),
    "row-in-a-rule": (
        "CREATE RULE r AS ON INSERT TO t DO ALSO UPDATE u SET a = new.a WHERE u.id = old.id",
        "CREATE",
        "ddl write",
    ),
}

UNKNOWN = {
    "own-function": ("SELECT app.f(1)", "SELECT", "read unknown_function"),
    "unqualified": ("SELECT f(1)", "SELECT", "read unknown_function"),
    "quoted-case": ('SELECT "Lower"(a) FROM t', "SELECT", "read unknown_function"),
    "shadowed": ("SELECT public.lower(a) FROM t", "SELECT", "read unknown_function"),
    "domain-by-name": ("SELECT pg_input_is_valid('x', 'mood')", "SELECT", "read unknown_function"),
    "sleep": ("SELECT pg_sleep(10)", "SELECT", "read unknown_function"),
    "procedure": ("CALL p(1)", "CALL", "unknown_function"),
    "operator": ("SELECT a OPERATOR(public.+) b FROM t", "SELECT", "read unknown_function"),
    "new-operator": ("SELECT a <=> b FROM t", "SELECT", "read unknown_function"),
    "operator-any": ("SELECT a OPERATOR(x.=) ANY (ARRAY[1]) FROM t", "SELECT", "read unknown_function"),
    "operator-sublink": ("SELECT a OPERATOR(x.=) ANY (SELECT 1) FROM t", "SELECT", "read unknown_function"),
    "order-using": ("SELECT a FROM t ORDER BY a USING OPERATOR(x.<)", "SELECT", "read unknown_function"),
    "cast": ("SELECT a::mood FROM t", "SELECT", "read unknown_function"),
    "cast-function": ("SELECT CAST(a AS app.price) FROM t", "SELECT", "read unknown_function"),
    "literal-of-type": ("SELECT mood 'happy'", "SELECT", "read unknown_function"),
    "array-of-type": ("SELECT '{}'::mood[]", "SELECT", "read unknown_function"),
    "column-list-type": (
        "SELECT * FROM json_to_record('{}') AS x(a mood)",
        "SELECT",
        "read unknown_function",
    ),
    "json-table-type": (
        "SELECT * FROM JSON_TABLE('{}'::jsonb, '$' COLUMNS (a mood PATH '$')) x",
        "SELECT",
        "read unknown_function",
    ),
    "sampling": ("SELECT * FROM t TABLESAMPLE system_rows (1)", "SELECT", "read unknown_function"),
    "copy-where": ("COPY t FROM STDIN WHERE f(a)", "COPY", "unknown_function write"),
    "own-type-is-fine-in-a-table": ("CREATE TABLE t (a mood)", "CREATE", "ddl"),
}

KNOWN = {
    "operator-of-the-catalogue": ("SELECT a OPERATOR(pg_catalog.+) b FROM t", "SELECT", "read"),
    "function-of-the-catalogue": ("SELECT pg_catalog.lower(a) FROM t", "SELECT", "read"),
    "function-of-this-database": ("SELECT db.pg_catalog.lower(a) FROM t", "SELECT", "read"),
    "syntax": (
        "SELECT extract(year FROM a), position('a' IN b), substring(a FROM 1 FOR 2), overlay(a PLACING b FROM 1),"
        " trim(both FROM a), a AT TIME ZONE 'UTC', a LIKE b ESCAPE 'x', a SIMILAR TO b, a IS NORMALIZED,"
        " (a, b) OVERLAPS (c, d), COLLATION FOR (a), current_date, a BETWEEN SYMMETRIC 1 AND 2 FROM t",
        "SELECT",
        "read",
    ),
    "aggregates": (
        "SELECT count(*), sum(a), string_agg(a, ','), percentile_cont(0.5) WITHIN GROUP (ORDER BY a),"
        " rank() OVER (PARTITION BY b) FROM t GROUP BY ROLLUP (b)",
        "SELECT",
        "read",
    ),
    "json": (
        "SELECT a->>'x', jsonb_path_query(a, '$.b'), a @> '{}'::jsonb, a ? 'k' FROM t",
        "SELECT",
        "read",
    ),
    "types": (
        "SELECT a::int, b::timestamptz, c::text[], d::numeric(10, 2), e::uuid, 't'::regclass, $1::jsonb FROM t",
        "SELECT",
        "read",
    ),
    "psql-lists-tables": (
        "SELECT n.nspname, pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c LEFT JOIN"
        " pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = ANY (ARRAY['r', 'v'])"
        " AND n.nspname !~ '^pg_toast' AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 1, 2",
        "SELECT",
        "read",
    ),
}

TABLE = {
    **PLAIN,
    **DEFINITIONS,
    **ADMINISTRATION,
    **HARMLESS,
    **HIDDEN,
    **OUTSIDE,
    **DOTS,
    **UNKNOWN,
    **KNOWN,
}

INCOMPLETE = {
    "do": ("DO $$ BEGIN DELETE FROM t; END $$", "DO", "code that is given as text"),
    "execute": ("EXECUTE p(1)", "EXECUTE", "prepared before"),
    "explain-execute": ("EXPLAIN ANALYZE EXECUTE p", "EXPLAIN", "prepared before"),
    "create-as-execute": ("CREATE TABLE t AS EXECUTE p", "CREATE", "prepared before"),
    "fetch": ("FETCH ALL FROM c", "FETCH", "declared before"),
    "move": ("MOVE 1 IN c", "MOVE", "declared before"),
    "query-to-xml": ("SELECT query_to_xml('DELETE FROM t', true, true, '')", "SELECT", "a value names"),
    "table-to-xml": ("SELECT pg_catalog.table_to_xml('t', true, true, '')", "SELECT", "a value names"),
    "ts-stat": ("SELECT * FROM ts_stat('SELECT v FROM t')", "SELECT", "a value names"),
    "crosstab": ("SELECT * FROM ext.crosstab('SELECT 1') AS x(a int)", "SELECT", "a value names"),
    "dblink": ("SELECT * FROM dblink('x', 'DELETE FROM t') AS x(a int)", "SELECT", "a value names"),
    "strings-off": ("SET standard_conforming_strings = off", "SET", "reads the texts that follow"),
    "settings-of-the-catalogue": (
        "UPDATE pg_settings SET setting = 'x' WHERE name = 'search_path'",
        "UPDATE",
        "reads the texts that follow",
    ),
    "strings-default": ("RESET standard_conforming_strings", "RESET", "reads the texts that follow"),
    "strings-off-by-function": (
        "SELECT set_config('Standard_Conforming_Strings', 'off', false)",
        "SELECT",
        "reads the texts that follow",
    ),
    "computed-setting": ("SELECT set_config('stan' || 'dard', 'off', false)", "SELECT", "reads the texts"),
    "setting-by-name": (
        "SELECT set_config(new_value => 'x', setting_name => 'role', is_local => false)",
        "SELECT",
        "reads the texts",
    ),
    "encoding": ("SET client_encoding = 'SJIS'", "SET", "reads the texts that follow"),
    "names": ("SET NAMES 'GBK'", "SET", "reads the texts that follow"),
    "syntax": ("SELEC 1", "", "does not parse at byte 1"),
    "unterminated": ("SELECT 'a", "", "does not parse"),
    "second-statement": ("SELECT 1; DROP", "", "does not parse"),
}


def effects(sql: str) -> str:
    return " ".join(sorted({effect for facts in analyze(sql) for effect in facts.effects}))


@pytest.mark.parametrize(("sql", "verb", "wanted"), TABLE.values(), ids=TABLE)
def test_verb_and_effects(sql: str, verb: str, wanted: str) -> None:
    (facts,) = analyze(sql)
    assert facts.complete, facts.incomplete_reason
    assert (facts.verb, " ".join(facts.effects)) == (verb, wanted)
    assert facts.effects_seen == facts.effects


@pytest.mark.parametrize(("sql", "verb", "reason"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_incomplete_statements_may_do_anything(sql: str, verb: str, reason: str) -> None:
    facts = analyze(sql)[-1]
    assert not facts.complete
    assert facts.verb == verb
    assert reason in facts.incomplete_reason
    assert " ".join(facts.effects) == ALL
    assert facts.has_where is False
    assert facts.shape == ""


def test_the_tables_are_large_and_their_verbs_are_known() -> None:
    assert len(TABLE) + len(INCOMPLETE) >= 200
    assert {verb for _, verb, _ in TABLE.values()} <= set(POSTGRES_VERBS)
    assert set(VERBS) >= SHAPED_VERBS


def test_every_verb_comes_from_some_statement() -> None:
    found = {verb for sql, _, _ in [*TABLE.values(), *INCOMPLETE.values()] for verb in analyze(sql)[-1].verbs}
    assert found | {""} == set(POSTGRES_VERBS)


def test_verbs_inside_are_listed() -> None:
    (facts,) = analyze("WITH d AS (DELETE FROM t RETURNING 1), i AS (INSERT INTO u VALUES (1)) SELECT 1")
    assert facts.verb == "SELECT"
    assert facts.verbs == ("DELETE", "INSERT", "SELECT")
    (merge,) = analyze(
        "MERGE INTO t USING u ON t.id = u.id WHEN MATCHED AND u.x THEN DELETE WHEN MATCHED THEN UPDATE SET a = 1"
        " WHEN NOT MATCHED THEN INSERT VALUES (1)"
    )
    assert merge.verbs == ("DELETE", "INSERT", "MERGE", "UPDATE")
    assert analyze("EXPLAIN DELETE FROM t")[0].verbs == ("EXPLAIN",)


def test_functions_are_listed_as_written_and_without_the_catalogue() -> None:
    (facts,) = analyze('SELECT pg_catalog.lower(a), upper(b), app.f(1), "My.Fn"(2) FROM t')
    assert facts.functions == ('"My.Fn"', "app.f", "lower", "upper")


def test_what_an_operator_vouches_for_is_known() -> None:
    sql = "SELECT app.price(a), a <=> b, c::mood, 'x'::app.money FROM t"
    vouched = Vouched(frozenset({"app.price", "<=>"}), frozenset({"mood", "app.money"}))
    assert analyze(sql)[0].effects == ("read", "unknown_function")
    assert analyze(sql, vouched=vouched)[0].effects == ("read",)


def test_a_vouched_name_does_not_take_an_effect_away() -> None:
    vouched = Vouched(frozenset({"pg_read_file", "nextval"}))
    assert analyze("SELECT pg_read_file('x'), nextval('s')", vouched=vouched)[0].effects == (
        "file",
        "read",
        "write",
    )


TRANSACTIONS = {
    "BEGIN": "begin", "START TRANSACTION": "begin", "COMMIT": "commit", "END": "commit", "ROLLBACK": "rollback",
    "ABORT": "rollback", "SAVEPOINT a": "savepoint", "RELEASE a": "release", "ROLLBACK TO a": "savepoint",
    "PREPARE TRANSACTION 'a'": "prepared", "COMMIT PREPARED 'a'": "prepared", "SELECT 1": "",
}  # fmt: skip


@pytest.mark.parametrize(("sql", "control"), TRANSACTIONS.items(), ids=TRANSACTIONS)
def test_transaction_control(sql: str, control: str) -> None:
    assert analyze(sql)[0].transaction == control


def test_an_unknown_dialect_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="unknown SQL dialect"):
        analyze("SELECT 1", "oracle")
