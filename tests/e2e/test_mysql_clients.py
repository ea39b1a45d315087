"""Real clients of MySQL through a governed MariaDB that allows everything, and what much of anything costs."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiomysql  # type: ignore[import-untyped]
import asyncmy
import pymysql  # type: ignore[import-untyped]
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from extproc.demo.processes import wait_until
from tests.e2e.databases import FRONTS
from tests.e2e.mysql import SCHEMA, MysqlStack
from tests.support.mariadb import DATABASE, MISSING, MariaDB, is_here, program

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not is_here(), reason=MISSING)]

PERMISSIVE = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: open}
target: orders-db
default: deny
rules:
  - {name: everything, when: "true", then: {allow: {}}}
"""
IDLE = 1_000
"""Connections at once."""


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    with MariaDB(settings={"max-connections": str(IDLE + 200)}) as server:
        server.run(SCHEMA)
        server.run("GRANT ALL ON *.* TO app_reader")
        yield server


@pytest.fixture(scope="module", params=FRONTS)
def stack(
    request: pytest.FixtureRequest, mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MysqlStack]:
    with MysqlStack(
        tmp_path_factory.mktemp("open"),
        mariadb,
        front=request.param,
        policy=PERMISSIVE,
        database={"unparsed": "judge"},
    ) as running:
        yield running


def login(stack: MysqlStack) -> dict[str, Any]:
    return {
        "host": "127.0.0.1",
        "port": stack.port,
        "user": "reader",
        "password": stack.token(),
        "db": DATABASE,
    }


def tool(stack: MysqlStack, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(program(name)), "--no-defaults", "-h127.0.0.1", f"-P{stack.port}", "-ureader", f"-p{stack.token()}",
         *arguments],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("client", [aiomysql, asyncmy], ids=["aiomysql", "asyncmy"])
def test_asynchronous_clients_and_their_pools(stack: MysqlStack, client: Any) -> None:
    async def talk() -> None:
        async with client.create_pool(**login(stack), minsize=2, maxsize=8) as pool:

            async def one(number: int) -> Any:
                async with pool.acquire() as connection, connection.cursor() as cursor:
                    await cursor.execute("SELECT amount FROM orders WHERE id = %s", (number,))
                    return (await cursor.fetchone())[0]

            found = await asyncio.gather(*(one(number) for number in range(1, 41)))
            assert found == [number * 10 for number in range(1, 41)]

    asyncio.run(talk())


def test_sqlalchemy_and_its_transactions(stack: MysqlStack) -> None:
    given = login(stack)
    url = sqlalchemy.URL.create(
        "mysql+pymysql", given["user"], given["password"], given["host"], given["port"], DATABASE
    )
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO payments VALUES (:id)"), [{"id": 801}, {"id": 802}])
        connection.begin_nested().rollback()
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO payments VALUES (803)"))
        connection.rollback()
        found = connection.execute(
            sqlalchemy.text("SELECT id FROM payments WHERE id > 800 ORDER BY id")
        ).scalars()
        assert list(found) == [801, 802]
        assert "orders" in sqlalchemy.inspect(engine).get_table_names()
        connection.execute(sqlalchemy.text("DELETE FROM payments WHERE id > 800"))
        connection.commit()
    engine.dispose()

    async def talk() -> None:
        asynchronous = create_async_engine(url.set(drivername="mysql+aiomysql"))
        async with asynchronous.connect() as connection:
            assert (await connection.execute(sqlalchemy.text("SELECT COUNT(*) FROM orders"))).scalar() == 100
        await asynchronous.dispose()

    asyncio.run(talk())


def test_dumps_come_whole_and_go_back_in(stack: MysqlStack) -> None:
    dump = tool(stack, "mariadb-dump", DATABASE, "orders", "customers")
    assert "ada@example.com" in dump and dump.count("(100,") == 1
    done = stack.shell(
        f"CREATE DATABASE IF NOT EXISTS copy; USE copy;\n{dump}\nSELECT COUNT(*) FROM copy.orders;"
    )
    assert done.stdout.split()[-1] == "100", done.stderr
    assert "unparsed-judged" in stack.statements("CREATE TABLE `orders`")[-1]["intent"]["degraded"]


def test_mysqlslap_runs(stack: MysqlStack) -> None:
    tool(stack, "mysqlslap", "-c8", "--number-of-queries=160", "--auto-generate-sql", "--create-schema=slap",
         "--auto-generate-sql-load-type=mixed")  # fmt: skip


def test_a_thousand_idle_connections_are_served_and_none_is_left_behind(stack: MysqlStack) -> None:
    (worker,) = stack.service_pids("worker")
    given = {**login(stack), "connect_timeout": 60}
    at_once = asyncio.Semaphore(20)

    async def crowd() -> None:
        async def log_in() -> Any:
            async with at_once:
                return await aiomysql.connect(**given)

        first = await log_in()
        before = _memory(worker, "VmRSS")
        opened = [first, *await asyncio.gather(*(log_in() for _ in range(IDLE - 1)))]
        assert (_memory(worker, "VmRSS") - before) / IDLE < 100_000
        for connection in opened[::100]:
            async with connection.cursor() as cursor:
                await cursor.execute("SELECT 1")
                assert await cursor.fetchone() == (1,)
        for connection in opened:
            connection.close()

    asyncio.run(crowd())
    assert stack.envoy is not None
    stack.envoy.wait_for_stat(
        f"listener.127.0.0.1_{stack.port}.downstream_cx_active", lambda count: count == 0
    )
    left = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER LIKE 'app%'"
    wait_until(lambda: stack.mariadb.run(left) == [["0"]], what="the server's sessions to end", within=15.0)


def test_a_large_result_is_never_held_in_memory_whole(stack: MysqlStack) -> None:
    (worker,) = stack.service_pids("worker")
    before, size = _memory(worker, "VmHWM"), 0
    with stack.connect() as connection, connection.cursor(pymysql.cursors.SSCursor) as cursor:
        cursor.execute("SELECT REPEAT('y', 10000) FROM seq_1_to_10000")
        for row in cursor:
            size += len(row[0])
    assert size == 100_000_000
    assert _memory(worker, "VmHWM") - before < 24 << 20


def _memory(pid: int, name: str) -> int:
    """Bytes: VmRSS now, VmHWM at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no {name}")


def test_a_killed_server_ends_connections_in_every_phase(
    stack: MysqlStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with MariaDB() as short_lived:
        short_lived.run(SCHEMA)
        with MysqlStack(tmp_path_factory.mktemp("killed"), short_lived, front=stack.front) as mine:
            idle = mine.connect()
            in_transaction = mine.connect("writer", "writers", autocommit=False)
            with in_transaction.cursor() as cursor:
                cursor.execute("INSERT INTO orders VALUES (900, 1, 1)")
            short_lived.stop()
            for connection in (idle, in_transaction):
                with pytest.raises(pymysql.err.MySQLError), connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
            with pytest.raises(pymysql.err.MySQLError):
                mine.connect()
