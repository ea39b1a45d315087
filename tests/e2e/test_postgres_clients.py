"""Every client with a policy that allows everything: what it is told through us is what it is told without us."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pg8000.dbapi  # type: ignore[import-untyped]
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from tests.e2e.databases import PASSWORD, DatabaseStack
from tests.e2e.test_postgres import PERMISSIVE
from tests.support.postgres import Postgres, binaries, system_binaries

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]

JAR = Path("/usr/share/java/postgresql.jar")
CLIENTS = Path(__file__).parent / "clients"
SCHEMA = f"""
CREATE USER app_reader SUPERUSER PASSWORD '{PASSWORD}';
CREATE TABLE customers (id int PRIMARY KEY, name text, made timestamptz DEFAULT '2030-01-01', tags text[]);
INSERT INTO customers VALUES (1, 'Ada', DEFAULT, '{{a,b}}'), (2, 'Grace', DEFAULT, NULL), (3, 'Zoë', DEFAULT, '{{}}');
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, amount numeric, note jsonb);
INSERT INTO orders SELECT n, 1 + n % 3, n * 10, '{{"n": 1}}' FROM generate_series(1, 100) n;
CREATE TABLE notes (id int, body text);
CREATE VIEW totals AS SELECT customer, sum(amount) AS total FROM orders GROUP BY customer;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE DATABASE copied;
"""


@dataclass(frozen=True)
class Place:
    """Where a client goes, and who it says it is there."""

    host: str
    port: int
    user: str
    password: str

    @property
    def url(self) -> str:
        return f"//{self.user}:{self.password}@/postgres?host={self.host}&port={self.port}"


@dataclass(frozen=True)
class Server:
    """One server, reached in two ways, and its programs."""

    folder: Path
    direct: Place
    governed: Place

    def program(self, place: Place, name: str, *arguments: str, given: str = "") -> tuple[str, str]:
        done = subprocess.run(
            [self.folder / name, "-h", place.host, "-p", str(place.port), "-U", place.user, *arguments],
            env={**os.environ, "PGPASSWORD": place.password, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"},
            input=given, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr


def folders() -> list[Any]:
    found = [pytest.param((binaries(), "relay"), id="embedded")]
    system = system_binaries()
    reason = "no installed PostgreSQL: tools/system.sh"
    mark = pytest.mark.skipif(system is None, reason=reason)
    return [*found, pytest.param((system, "ext_proc"), id="installed", marks=mark)]


@pytest.fixture(scope="module", params=folders())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, front = request.param
    with Postgres(folder=folder) as postgres:
        for statement in SCHEMA.split(";\n"):
            if statement:
                postgres.run(statement)
        with DatabaseStack(
            tmp_path_factory.mktemp("clients"), postgres, front=front, policy=PERMISSIVE,
            database={"unparsed": "judge"},
        ) as stack:  # fmt: skip
            direct = Place(str(postgres.directory), postgres.port, "app_reader", PASSWORD)
            yield Server(folder, direct, Place("127.0.0.1", stack.port, "reader", stack.token()))


# ---------------------------------------------------------------------- libraries

Told = list[Any]


def psycopg_sync(place: Place, *, binary: bool = False) -> Told:
    told: Told = []
    with psycopg.connect(
        host=place.host, port=place.port, user=place.user, password=place.password, dbname="postgres",
        sslmode="disable", cursor_factory=psycopg.ClientCursor if not binary else psycopg.Cursor,
    ) as connection:  # fmt: skip
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
        with connection.cursor(binary=binary) as cursor:
            for text in (
                "SELECT * FROM customers ORDER BY id",
                "SELECT id, amount, note FROM orders WHERE id < 4 ORDER BY id",
                "TABLE totals ORDER BY customer",
            ):
                rows = cursor.execute(text).fetchall()
                columns = cursor.description or []
                told += [[(c.name, c.type_code) for c in columns], rows, cursor.statusmessage]
            for number in range(7):
                told.append(cursor.execute("SELECT twice(%s), %s::text", (number, None)).fetchone())
        connection.commit()
        for text in ("SELECT broken", "SELECT 1/0", "SELEC", "INSERT INTO customers VALUES (1)"):
            try:
                connection.execute(text)
            except psycopg.Error as error:
                diag = error.diag
                told.append(
                    [diag.sqlstate, diag.message_primary, diag.message_detail, diag.statement_position]
                )
            told.append(connection.info.transaction_status)
            connection.rollback()
        connection.execute("DO $$ BEGIN RAISE NOTICE 'said'; END $$")
        with connection.transaction(), connection.cursor("named") as named:
            named.execute("SELECT id FROM orders ORDER BY id")
            told.append(named.fetchmany(5))
            named.scroll(10)
            told.append(named.fetchone())
        with connection.cursor() as cursor:
            with cursor.copy("COPY notes FROM STDIN" + " (FORMAT binary)" * binary) as copy:
                if binary:
                    copy.set_types(["int4", "text"])
                for number in range(1000):
                    copy.write_row((number, None if number % 3 else "x" * number))
            told.append(cursor.statusmessage)
            with cursor.copy(
                "COPY (SELECT * FROM notes ORDER BY id) TO STDOUT" + " (FORMAT binary)" * binary
            ) as copy:
                told.append(b"".join(copy))
            cursor.executemany("INSERT INTO notes VALUES (%s, %s)", [(n, "many") for n in range(20)])
            told.append(cursor.rowcount)
        connection.rollback()
        connection.autocommit = True
        connection.execute("LISTEN bell")
        connection.execute("NOTIFY bell, 'rung'")
        told += [notified.payload for notified in connection.notifies(timeout=5, stop_after=1)]
        told.append(connection.execute("SHOW timezone; SELECT 2").statusmessage)
        told.append(connection.execute("SELECT repeat('y', 3000000)").fetchone())
    return told


def psycopg_binary(place: Place) -> Told:
    return psycopg_sync(place, binary=True)


def psycopg_async_pipeline(place: Place) -> Told:
    async def talk() -> Told:
        told: Told = []
        async with await psycopg.AsyncConnection.connect(
            host=place.host, port=place.port, user=place.user, password=place.password, dbname="postgres",
            sslmode="disable", autocommit=True,
        ) as connection:  # fmt: skip
            async with connection.pipeline() as pipeline:
                cursors = [await connection.execute("SELECT %s::int + 1", (n,)) for n in range(20)]
                await pipeline.sync()
                for cursor in cursors:
                    told.append(await cursor.fetchone())
            try:
                async with connection.pipeline():
                    await connection.execute("INSERT INTO notes VALUES (%s)", (1,))
                    await connection.execute("SELECT broken")
                    await connection.execute("SELECT 1")
            except psycopg.Error as error:
                told.append(error.sqlstate)
            told.append(await (await connection.execute("SELECT count(*) FROM notes")).fetchall())
            async for row in connection.cursor().stream("SELECT id FROM orders ORDER BY id"):
                told.append(row)
        return told

    return asyncio.run(talk())


def asyncpg_session(place: Place) -> Told:
    async def talk() -> Told:
        told: Told = []
        connection = await asyncpg.connect(
            host=place.host, port=place.port, user=place.user, password=place.password, database="postgres",
            ssl=False,
        )  # fmt: skip
        try:
            told += [tuple(row) for row in await connection.fetch("SELECT * FROM customers ORDER BY id")]
            told.append(await connection.fetchval("SELECT twice($1)", 21))
            await connection.executemany(
                "INSERT INTO notes VALUES ($1, $2)", [(n, "many") for n in range(30)]
            )
            async with connection.transaction():
                told += [
                    row["id"]
                    async for row in connection.cursor("SELECT id FROM orders ORDER BY id", prefetch=9)
                ]
            await connection.copy_records_to_table("notes", records=[(n, None) for n in range(50)])
            told.append(await connection.copy_from_query("SELECT 1, NULL, 'x'", output=os.devnull))
            try:
                await connection.execute("SELECT broken")
            except asyncpg.PostgresError as error:
                told.append([error.sqlstate, str(error)])
            told.append(await connection.execute("DELETE FROM notes; SELECT 1"))
            statement = await connection.prepare("SELECT $1::int[] AS numbers, now() - now() AS nothing")
            told += [str(statement.get_attributes()), tuple((await statement.fetchrow([1, 2])).values())]
        finally:
            await connection.close()
        return told

    return asyncio.run(talk())


def pg8000_session(place: Place) -> Told:
    told: Told = []
    socket = f"{place.host}/.s.PGSQL.{place.port}" if place.host.startswith("/") else None
    connection = pg8000.dbapi.connect(
        user=place.user, password=place.password, database="postgres",
        host=None if socket else place.host, port=place.port, unix_sock=socket,
    )  # fmt: skip
    cursor = connection.cursor()
    for text, parameters in (
        ("SELECT * FROM customers ORDER BY id", ()),
        ("SELECT id, amount FROM orders WHERE customer = %s ORDER BY id", (2,)),
        ("INSERT INTO notes VALUES (%s, %s) RETURNING *", (1, None)),
    ):
        cursor.execute(text, parameters)
        told += [cursor.description, [tuple(row) for row in cursor.fetchall()]]
    connection.rollback()
    try:
        cursor.execute("SELECT broken")
    except pg8000.dbapi.DatabaseError as error:
        told.append([error.args[0][name] for name in "CM"])
    connection.rollback()
    connection.close()
    return told


TABLES = sqlalchemy.MetaData()
NOTES = sqlalchemy.Table(
    "notes", TABLES, sqlalchemy.Column("id", sqlalchemy.Integer), sqlalchemy.Column("body", sqlalchemy.Text)
)


def _work(connection: sqlalchemy.Connection) -> Told:
    told: Told = [sorted(sqlalchemy.inspect(connection).get_table_names())]
    told.append([str(column) for column in sqlalchemy.inspect(connection).get_columns("orders")])
    connection.execute(NOTES.insert(), [{"id": n, "body": "x" * n} for n in range(2000)])
    told.append(connection.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(NOTES)).scalar())
    with connection.begin_nested() as nested:
        connection.execute(NOTES.delete().where(NOTES.c.id > 10))
        nested.rollback()
    told.append(connection.execute(sqlalchemy.select(NOTES).order_by(NOTES.c.id).limit(3)).fetchall())
    connection.rollback()
    return told


def sqlalchemy_psycopg(place: Place) -> Told:
    engine = sqlalchemy.create_engine(f"postgresql+psycopg:{place.url}&sslmode=disable")
    with engine.connect() as connection:
        told = _work(connection)
    engine.dispose()
    return told


def sqlalchemy_asyncpg(place: Place) -> Told:
    async def talk() -> Told:
        engine = create_async_engine(f"postgresql+asyncpg:{place.url}", connect_args={"ssl": False})
        async with engine.connect() as connection:
            told = await connection.run_sync(_work)
        await engine.dispose()
        return told

    return asyncio.run(talk())


SESSIONS: dict[str, Callable[[Place], Told]] = {
    each.__name__: each
    for each in (
        psycopg_sync, psycopg_binary, psycopg_async_pipeline, asyncpg_session, pg8000_session,
        sqlalchemy_psycopg, sqlalchemy_asyncpg,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", SESSIONS)
def test_a_library_cannot_tell(server: Server, name: str) -> None:
    expected = SESSIONS[name](server.direct)
    assert len(expected) > 3
    assert SESSIONS[name](server.governed) == expected


@pytest.mark.skipif(not JAR.exists() or shutil.which("java") is None, reason="no JDBC: tools/system.sh")
def test_jdbc_works(server: Server) -> None:
    place = server.governed
    url = f"jdbc:postgresql://{place.host}:{place.port}/postgres?sslmode=disable"
    done = subprocess.run(
        ["java", "-cp", str(JAR), str(CLIENTS / "Session.java"), url, place.user, place.password],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "1 Ada", "2 Grace", "3 Zoë", *(str(n * 10) for n in range(1, 9)), "100 rows", "50 in a batch", "22012", "50 49",
        "id int4", "customer int4", "amount numeric", "note jsonb",
    ]  # fmt: skip


# ---------------------------------------------------------------------- programs

SCRIPT = r"""
\set VERBOSITY verbose
SELECT * FROM customers ORDER BY id;
\d orders
\dt
\df twice
BEGIN;
DELETE FROM orders WHERE id > 90;
SAVEPOINT s;
SELECT 1/0;
ROLLBACK TO s;
SELECT count(*) FROM orders \gset n_
\echo :n_count
ROLLBACK;
COPY customers TO STDOUT WITH (FORMAT csv, HEADER);
\copy notes FROM STDIN
1	one
2	\N
\.
SELECT * FROM notes ORDER BY id;
TRUNCATE notes;
\set FETCH_COUNT 7
SELECT id FROM orders ORDER BY id;
EXPLAIN (COSTS off) SELECT * FROM orders WHERE id = 1;
DO $$ BEGIN RAISE WARNING 'careful'; END $$;
SELECT 1 \; SELECT 2;
"""


def test_psql_cannot_tell(server: Server) -> None:
    told = [
        server.program(place, "psql", "-X", "-d", "postgres", given=SCRIPT)
        for place in (server.direct, server.governed)
    ]
    assert told[0] == told[1] and "careful" in told[0][1]


def _without_secrets(dump: str) -> list[str]:
    """Newer programs write a random word at both ends, against those who would add commands to a dump."""
    return [line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def test_a_dump_is_the_same_and_can_be_restored(server: Server, tmp_path: Path) -> None:
    dumps = [
        _without_secrets(server.program(place, "pg_dump", "-d", "postgres")[0])
        for place in (server.direct, server.governed)
    ]
    assert dumps[0] == dumps[1] and len(dumps[0]) > 150
    archive = tmp_path / "dump"
    server.program(server.governed, "pg_dump", "-d", "postgres", "-Fc", "-f", str(archive))
    server.program(server.governed, "pg_restore", "-d", "copied", "--clean", "--if-exists", str(archive))
    again = _without_secrets(server.program(server.governed, "pg_dump", "-d", "copied")[0])
    assert again == dumps[0]


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench_runs(server: Server, mode: str) -> None:
    if mode == "simple":
        server.program(server.governed, "pgbench", "-i", "-q", "copied")
    told, _ = server.program(server.governed, "pgbench", "-n", "-c", "4", "-t", "25", "-M", mode, "copied")
    assert "number of transactions actually processed: 100/100" in told
    assert "number of failed transactions: 0" in told
