"""What we say of functions, operators and types is what a real server's catalogue says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from extproc.sql.functions import (
    FUNCTION_EFFECTS,
    OF_ROWS,
    RUNS_SQL,
    SAFE_FUNCTIONS,
    SAFE_OPERATORS,
    SAFE_TYPES,
    SAMPLING,
)
from extproc.sql.settings import _HARMLESS_SETTINGS
from tests.support.postgres import ADMIN, Postgres

VOLATILE_BUT_SAFE = {
    # values that change from call to call, sizes, and locks of one's own given back
    *(
        "array_sample",
        "array_shuffle",
        "clock_timestamp",
        "current_query",
        "currval",
        "gen_random_uuid",
        "lastval",
    ),
    *("pg_advisory_unlock", "pg_advisory_unlock_all", "pg_advisory_unlock_shared", "pg_blocking_pids"),
    *(
        "pg_database_size",
        "pg_indexes_size",
        "pg_is_in_recovery",
        "pg_jit_available",
        "pg_partition_ancestors",
    ),
    *(
        "pg_partition_tree",
        "pg_relation_size",
        "pg_table_size",
        "pg_tablespace_size",
        "pg_total_relation_size",
    ),
    *("random", "random_normal", "setseed", "timeofday", "uuidv4", "uuidv7"),
}
OF_ITS_OWN_SESSION = {
    *("current_schema", "current_schemas", "currval", "lastval", "pg_current_xact_id"),
    *("pg_current_xact_id_if_assigned", "txid_current", "txid_current_if_assigned"),
}
"""Parallel-unsafe, for they look at or number the session's own transaction."""
TELLS_NOTHING = {
    # counts, sizes, names of types, ranks; pseudo-types' output functions that always fail
    *(
        "any_out",
        "anycompatible_out",
        "anycompatiblenonarray_out",
        "anyelement_out",
        "anynonarray_out",
        "count",
    ),
    *("cume_dist", "dense_rank", "num_nonnulls", "num_nulls", "percent_rank", "pg_collation_for", "rank"),
    *("pg_column_compression", "pg_column_size", "pg_column_toast_chunk_id", "pg_restore_attribute_stats"),
    *("pg_restore_relation_stats", "pg_typeof"),
}
OLDER_SETTINGS = {"force_parallel_mode", "ssl_renegotiation_limit"}


@pytest.fixture(scope="module")
def connection() -> Iterator[psycopg.Connection[Any]]:
    with (
        Postgres() as postgres,
        psycopg.connect(host=str(postgres.directory), user=ADMIN, dbname="postgres", autocommit=True) as made,
    ):
        yield made


def column(connection: psycopg.Connection[Any], sql: str) -> set[str]:
    return {row[0] for row in connection.execute(sql.encode()).fetchall()}


IN_CATALOGUE = (
    " FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE pronamespace = 'pg_catalog'::regnamespace"
)


def test_every_safe_function_is_built_in(connection: psycopg.Connection[Any]) -> None:
    assert column(connection, "SELECT proname" + IN_CATALOGUE) >= SAFE_FUNCTIONS


def test_no_safe_function_is_volatile_but_those_we_looked_at(connection: psycopg.Connection[Any]) -> None:
    volatile = column(connection, "SELECT proname" + IN_CATALOGUE + " AND provolatile = 'v'")
    assert volatile & SAFE_FUNCTIONS == VOLATILE_BUT_SAFE


def test_no_safe_function_is_only_for_superusers(connection: psycopg.Connection[Any]) -> None:
    closed = column(
        connection,
        "SELECT proname" + IN_CATALOGUE + " AND proacl IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM aclexplode(proacl) a WHERE a.grantee = 0)",
    )
    assert len(closed) > 30
    assert closed & SAFE_FUNCTIONS == set()


def test_no_function_is_both_safe_and_not() -> None:
    assert not SAFE_FUNCTIONS & (set(FUNCTION_EFFECTS) | RUNS_SQL)


def test_no_safe_function_changes_shared_state(connection: psycopg.Connection[Any]) -> None:
    parallel_unsafe = column(connection, "SELECT proname" + IN_CATALOGUE + " AND proparallel = 'u'")
    assert parallel_unsafe & SAFE_FUNCTIONS == OF_ITS_OWN_SESSION


def test_every_function_that_gives_a_row_away_is_known(connection: psycopg.Connection[Any]) -> None:
    takes_rows = column(
        connection,
        "SELECT proname"
        + IN_CATALOGUE
        + " AND (pronargs = 1 OR provariadic <> 0 OR pronargdefaults >= pronargs - 1)"
        " AND proargtypes[0] IN ('record'::regtype, 'anyelement'::regtype, '\"any\"'::regtype,"
        " 'anynonarray'::regtype, 'anycompatible'::regtype, 'anycompatiblenonarray'::regtype)",
    )
    assert takes_rows - TELLS_NOTHING <= OF_ROWS


def test_every_safe_operator_is_built_in(connection: psycopg.Connection[Any]) -> None:
    built_in = column(
        connection, "SELECT oprname FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace"
    )
    assert built_in | {"!="} >= SAFE_OPERATORS


def test_every_safe_type_is_built_in_and_no_domain(connection: psycopg.Connection[Any]) -> None:
    built_in = column(
        connection,
        "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b','r','m','p')",
    )
    assert built_in >= SAFE_TYPES


def test_every_sampling_method_is_built_in(connection: psycopg.Connection[Any]) -> None:
    methods = column(
        connection,
        "SELECT proname"
        + IN_CATALOGUE
        + " AND prorettype = 'tsm_handler'::regtype AND pronargs = 1 AND proname <> 'tsm_handler_in'",
    )
    assert methods == set(SAMPLING)


def test_every_harmless_setting_is_one_that_anybody_may_change(connection: psycopg.Connection[Any]) -> None:
    anybody = column(connection, "SELECT lower(name) FROM pg_settings WHERE context = 'user'")
    assert anybody | OLDER_SETTINGS >= _HARMLESS_SETTINGS
