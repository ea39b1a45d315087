"""Real clients, a real server, and the state machine between them over a relay of a few lines."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest

from extproc.protocols.postgres import (
    CopyStarted,
    Ended,
    LoginReceived,
    MessageReceived,
    Refusal,
    RowsReceived,
    StatementEnded,
    StatementReceived,
    UpstreamLogin,
)
from extproc.protocols.postgres.limits import LoginMethod
from tests.protocols.postgres.relay import Gate, relay
from tests.support.postgres import Postgres

pytestmark = pytest.mark.anyio

PASSWORD = "upstream secret ✓"
DENIED = Refusal("42501", "not allowed", "rule no-drop", "ask for approval")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run(f"CREATE ROLE gateway LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE legacy LOGIN")
        server.run(
            "CREATE TABLE customers (id int PRIMARY KEY, email text, data jsonb); GRANT ALL ON customers TO gateway"
        )
        yield server


@pytest.fixture
def table(postgres: Postgres) -> Postgres:
    postgres.run(
        "TRUNCATE customers; INSERT INTO customers SELECT n, 'user' || n || '@example.com', '{\"n\": 1}'"
        " FROM generate_series(1, 5) n"
    )
    return postgres


def gateway() -> UpstreamLogin:
    return UpstreamLogin("gateway", "postgres", PASSWORD, secrets.token_hex(12))


def no_drop(asked: StatementReceived) -> Refusal | None:
    return DENIED if "DROP" in asked.text else None


def mask(event: RowsReceived) -> list[list[bytes | None]]:
    hidden = [column.name == "email" for column in event.columns]
    return [
        [b"***" if hide and value is not None else value for hide, value in zip(hidden, row, strict=True)]
        for row in event.rows
    ]


async def connect(folder: Path, **options: Any) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(
        host=str(folder), user="ada", dbname="shop", password="token", autocommit=True, **options
    )


@pytest.mark.parametrize("chunk", [1, 7, 65536])
async def test_psycopg_reads_writes_and_survives_a_denial(table: Postgres, tmp_path: Path, chunk: int):
    gate = Gate(gateway(), no_drop, chunk=chunk)
    async with relay(gate, table.socket, tmp_path), await connect(tmp_path) as connection:
        rows = await (await connection.execute("SELECT id FROM customers ORDER BY id")).fetchall()
        assert [row[0] for row in rows] == [1, 2, 3, 4, 5]
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="not allowed") as caught:
            await connection.execute("DROP TABLE customers")
        assert caught.value.diag.message_detail == "rule no-drop"
        found = await (
            await connection.execute("SELECT email FROM customers WHERE id = %s", (3,), binary=True)
        ).fetchone()
        assert found == ("user3@example.com",)
    bound = next(event for event in gate.seen if isinstance(event, StatementReceived) and event.parameters)
    assert bound.kind == "bound"
    assert [ended.end for ended in gate.seen if isinstance(ended, StatementEnded)].count("denied") == 1
    assert isinstance(gate.seen[-1], Ended)


async def test_a_denial_inside_a_transaction_fails_it_at_the_server(table: Postgres, tmp_path: Path):
    async with relay(Gate(gateway(), no_drop), table.socket, tmp_path), await connect(tmp_path) as connection:
        await connection.execute("BEGIN")
        await connection.execute("DELETE FROM customers")
        await connection.execute("SAVEPOINT s")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("DROP TABLE customers")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            await connection.execute("SELECT 1")
        await connection.execute("ROLLBACK TO s")
        assert await (await connection.execute("SELECT count(*) FROM customers")).fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("DROP TABLE customers -- %s", (1,), prepare=True)
        done = await connection.execute("COMMIT")
        assert done.statusmessage == "ROLLBACK"
    assert table.run("SELECT count(*) FROM customers") == [(5,)]


async def test_a_pipeline_with_a_denial_in_the_middle_skips_the_rest(table: Postgres, tmp_path: Path):
    gate = Gate(gateway(), no_drop)
    async with relay(gate, table.socket, tmp_path), await connect(tmp_path) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with connection.pipeline():
                await connection.execute("DELETE FROM customers WHERE id = %s", (1,))
                await connection.execute("DROP TABLE customers")
                await connection.execute("DELETE FROM customers WHERE id = %s", (2,))
        # one batch is one transaction: the denial takes the first DELETE back
        assert await (await connection.execute("SELECT count(*) FROM customers")).fetchone() == (5,)
    deletes = [
        e for e in gate.seen if isinstance(e, StatementReceived) and "DELETE" in e.text and e.kind == "bound"
    ]
    assert [event.parameters[0].value for event in deletes] == [b"\x00\x01"]


@pytest.mark.parametrize("binary", [False, True])
async def test_rows_are_rewritten_in_both_formats(table: Postgres, tmp_path: Path, binary: bool):
    async with (
        relay(Gate(gateway(), rows=mask), table.socket, tmp_path),
        await connect(tmp_path) as connection,
    ):
        cursor = await connection.execute(
            "SELECT id, email, NULL FROM customers WHERE id < %s", (3,), binary=binary
        )
        assert await cursor.fetchall() == [(1, "***", None), (2, "***", None)]
        cursor = await connection.execute(
            "SELECT email FROM customers LIMIT 1; SELECT id FROM customers LIMIT 1"
        )
        assert await cursor.fetchall() == [("***",)]
        assert cursor.nextset() and await cursor.fetchall() == [(1,)]
        for _ in range(7):  # psycopg prepares from the fifth on
            cursor = await connection.execute(
                "SELECT email FROM customers WHERE id = %s", (2,), binary=binary
            )
            assert await cursor.fetchall() == [("***",)]


async def test_asyncpg_fetches_prepares_uses_cursors_and_copies(table: Postgres, tmp_path: Path):
    gate = Gate(gateway(), no_drop, rows=None)
    async with relay(gate, table.socket, tmp_path):
        connection = await asyncpg.connect(host=str(tmp_path), user="ada", database="shop", password="token")
        try:
            assert (
                await connection.fetchval("SELECT email FROM customers WHERE id = $1", 4)
                == "user4@example.com"
            )
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch("DROP TABLE customers")
            async with connection.transaction():
                rows = [
                    row["id"]
                    async for row in connection.cursor("SELECT id FROM customers ORDER BY 1", prefetch=2)
                ]
            assert rows == [1, 2, 3, 4, 5]
            await connection.executemany(
                "INSERT INTO customers VALUES ($1, $2)", [(n, "x") for n in range(10, 60)]
            )
            await connection.copy_records_to_table("customers", records=[(100, "copied", None)])
            out: list[bytes] = []

            async def keep(data: bytes) -> None:
                out.append(data)

            await connection.copy_from_query("SELECT id FROM customers WHERE id >= 100", output=keep)
            assert b"".join(out) == b"100\n"
        finally:
            await connection.close()
    assert [event.direction for event in gate.seen if isinstance(event, CopyStarted)] == ["in", "out"]
    copied = [e for e in gate.seen if isinstance(e, StatementEnded) and e.copied_in]
    assert [event.tags for event in copied] == [("COPY 1",)]


async def test_asyncpg_rows_are_masked_though_it_never_describes_portals(table: Postgres, tmp_path: Path):
    async with relay(Gate(gateway(), rows=mask), table.socket, tmp_path):
        connection = await asyncpg.connect(host=str(tmp_path), user="ada", database="shop", password="token")
        try:
            assert await connection.fetchval("SELECT email FROM customers WHERE id = $1", 4) == "***"
            async with connection.transaction():
                found = [row[0] async for row in connection.cursor("SELECT email FROM customers", prefetch=2)]
            assert found == ["***"] * 5
        finally:
            await connection.close()


async def test_a_held_statement_waits_with_a_notice_and_is_cancelled_by_its_client(
    table: Postgres, tmp_path: Path
):
    gate = Gate(gateway(), hold=lambda asked: "DELETE" in asked.text)
    notices: list[str] = []
    async with relay(gate, table.socket, tmp_path), await connect(tmp_path) as connection:
        connection.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
        running = asyncio.create_task(connection.execute("DELETE FROM customers"))
        while not notices:
            await asyncio.sleep(0)
        await connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await running
        assert await (await connection.execute("SELECT count(*) FROM customers")).fetchone() == (5,)
    assert notices == ["waiting for approval"]


async def test_a_running_statement_is_cancelled_at_the_server(table: Postgres, tmp_path: Path):
    gate = Gate(gateway())
    async with relay(gate, table.socket, tmp_path), await connect(tmp_path) as connection:
        running = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        while not table.run(
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
        ):
            await asyncio.sleep(0)
        await connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await running
        assert (await (await connection.execute("SELECT 7")).fetchone()) == (7,)


async def test_error_texts_can_be_rewritten(table: Postgres, tmp_path: Path):
    def hide(event: MessageReceived) -> dict[str, str]:
        return {name: text.replace("user1@example.com", "***") for name, text in event.fields.items()}

    async with (
        relay(Gate(gateway(), message=hide), table.socket, tmp_path),
        await connect(tmp_path) as connection,
    ):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=r'integer: "\*\*\*"'):
            await connection.execute("SELECT email::int FROM customers WHERE id = 1")
        assert (await (await connection.execute("SELECT 7")).fetchone()) == (7,)


async def test_a_wrong_token_never_reaches_the_server(postgres: Postgres, tmp_path: Path):
    gate = Gate(gateway(), token="another")
    async with relay(gate, postgres.socket, tmp_path):
        with pytest.raises(psycopg.OperationalError, match="bad token"):
            await connect(tmp_path)


async def test_a_wrong_upstream_password_says_nothing_about_the_upstream_user(
    postgres: Postgres, tmp_path: Path
):
    gate = Gate(UpstreamLogin("gateway", "postgres", "wrong", "nonce"))
    async with relay(gate, postgres.socket, tmp_path):
        with pytest.raises(psycopg.OperationalError, match="the database refused the login") as caught:
            await connect(tmp_path)
    assert "gateway" not in str(caught.value)


async def test_copy_of_a_psycopg_client_passes_both_ways(table: Postgres, tmp_path: Path):
    async with relay(Gate(gateway()), table.socket, tmp_path), await connect(tmp_path) as connection:
        cursor = connection.cursor()
        async with cursor.copy("COPY customers (id, email) FROM STDIN") as copy:
            for number in range(1000, 3000):
                await copy.write_row((number, "x" * 100))
        async with cursor.copy("COPY customers (id) TO STDOUT (FORMAT binary)") as copy:
            size = sum([len(data) async for data in copy])
        assert size > 2000 * 10
        with pytest.raises(psycopg.errors.BadCopyFileFormat):
            async with cursor.copy("COPY customers (id) FROM STDIN") as copy:
                await copy.write(b"1\t2\t3\n")
        assert (await (await connection.execute("SELECT count(*) FROM customers")).fetchone()) == (2005,)


async def test_protocol_3_2_and_its_longer_cancel_keys(table: Postgres, tmp_path: Path):
    gate = Gate(gateway())
    async with (
        relay(gate, table.socket, tmp_path),
        await connect(tmp_path, max_protocol_version="3.2") as connection,
    ):
        (key,) = gate.held
        assert len(key.secret) == 32
        running = asyncio.create_task(connection.execute("SELECT pg_sleep(61)"))
        while not table.run(
            "SELECT 1 FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep.61' AND state = 'active'"
        ):
            await asyncio.sleep(0)
        await connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await running
    assert next(e for e in gate.seen if isinstance(e, LoginReceived)).protocol == (3, 2)


@pytest.mark.parametrize("method", ["trust", "md5", "password", "scram-sha-256"])
async def test_every_way_of_logging_in_upstream(postgres: Postgres, tmp_path: Path, method: LoginMethod):
    stored = "md5" if method == "md5" else "scram-sha-256"
    postgres.run(f"SET password_encryption = '{stored}'; ALTER ROLE legacy PASSWORD 'old one'")
    rules = postgres.directory / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"local all legacy {method}\n{before}")
    postgres.run("SELECT pg_reload_conf()")
    try:
        allowed = UpstreamLogin("legacy", "postgres", "old one", "nonce", methods=frozenset({method}))
        async with relay(Gate(allowed), postgres.socket, tmp_path), await connect(tmp_path) as connection:
            assert await (await connection.execute("SELECT current_user")).fetchone() == ("legacy",)
        others = frozenset[LoginMethod]({"trust", "md5", "password", "scram-sha-256"}) - {method}
        (tmp_path / "other").mkdir()
        refused = UpstreamLogin("legacy", "postgres", "old one", "nonce", methods=others)
        async with relay(Gate(refused), postgres.socket, tmp_path / "other"):
            with pytest.raises(psycopg.OperationalError):
                await connect(tmp_path / "other")
    finally:
        rules.write_text(before)
        postgres.run("SELECT pg_reload_conf()")


async def test_a_name_that_means_something_else_at_the_server_is_never_bound(table: Postgres, tmp_path: Path):
    """SQL DEALLOCATE and PREPARE replace a statement that the protocol defined; the gate must notice."""
    gate = Gate(gateway(), no_drop)
    async with relay(gate, table.socket, tmp_path), await connect(tmp_path) as connection:
        link = connection.pgconn
        await asyncio.to_thread(link.prepare, b"s", b"SELECT 1")
        await connection.execute("DEALLOCATE s; PREPARE s AS DELETE FROM customers")
        result = await asyncio.to_thread(link.exec_prepared, b"s", [])
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"26000"
    assert table.run("SELECT count(*) FROM customers") == [(5,)]


async def test_a_long_pipeline_passes_whole(table: Postgres, tmp_path: Path):
    async with relay(Gate(gateway()), table.socket, tmp_path), await connect(tmp_path) as connection:
        async with connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO customers (id, email) VALUES (%s, %s)", [(n, "x") for n in range(100, 4100)]
            )
        async with connection.pipeline():
            cursors = [await connection.execute("SELECT %s::int", (n,)) for n in range(500)]
        assert [(await cursor.fetchone()) for cursor in cursors] == [(n,) for n in range(500)]
    assert table.run("SELECT count(*) FROM customers") == [(4005,)]


async def test_what_is_too_long_to_judge_is_refused_and_what_nobody_reads_is_not(
    table: Postgres, tmp_path: Path
):
    async with relay(Gate(gateway()), table.socket, tmp_path), await connect(tmp_path) as connection:
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            await connection.execute("SELECT length(%s)", ("x" * 5_000_000,))
        found = await (await connection.execute("SELECT repeat('x', 20000000)")).fetchone()
        assert found == ("x" * 20_000_000,)


async def test_a_statement_held_in_a_pipeline_runs_in_its_place(table: Postgres, tmp_path: Path):
    gate = Gate(gateway(), hold=lambda asked: "DELETE" in asked.text and asked.kind == "bound")
    async with relay(gate, table.socket, tmp_path), await connect(tmp_path) as connection:

        async def batch() -> list[tuple[int]]:
            async with connection.pipeline():
                before = await connection.execute("SELECT count(*) FROM customers")
                await connection.execute("DELETE FROM customers WHERE id = %s", (1,))
                after = await connection.execute("SELECT count(*) FROM customers")
            return await before.fetchall() + await after.fetchall()

        running = asyncio.create_task(batch())
        while not (held := [talk for talk in gate.held.values() if talk.waiting is not None]):
            await asyncio.sleep(0)
        assert table.run("SELECT count(*) FROM customers") == [(5,)]
        held[0].decide(None)
        assert await running == [(5,), (4,)]
