"""What Postgres promises on top: several machines, lost connections, lost news, clocks that differ."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from extproc.adapters.hold_postgres import LOCK, PostgresHoldStore
from extproc.adapters.hold_postgres_dsn import check_dsn
from extproc.adapters.hold_postgres_schema import SCHEMA_VERSION, migrate
from extproc.adapters.hold_sqlite import SqliteHoldStore
from extproc.domain.errors import ConfigError, StoreUnavailableError
from extproc.domain.hold import HoldError, HoldState, Verdict
from extproc.domain.quorum import is_satisfied
from tests.adapters.conftest import NewSchema, dsn_of
from tests.support.holds import ANNA, NOW, ask, demand, vote
from tests.support.postgres import Postgres

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def replicas(
    kind: str, tmp_path: Path, postgres_schema: NewSchema, **options: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """Two processes' views of one store."""
    if kind == "sqlite":
        made: list[Any] = [SqliteHoldStore(tmp_path / "holds.db") for _ in range(2)]
    else:
        dsn, schema = postgres_schema()
        made = [PostgresHoldStore(dsn, schema=schema, **options) for _ in range(2)]
    try:
        yield made[0], made[1]
    finally:
        for store in made:
            await store.aclose()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.timeout(240)
async def test_of_two_replicas_exactly_one_spends_an_approval_a_thousand_times(
    kind: str, tmp_path: Path, postgres_schema: NewSchema
):
    async with replicas(kind, tmp_path, postgres_schema) as (one, two):

        async def spend(store: Any, hold_id: str, decision: str, now: float) -> str:
            try:
                return str((await store.release(hold_id, decision, now)).released_to)
            except HoldError as error:
                assert error.code == "not_open"
                return ""

        wins: dict[str, int] = {}
        for number in range(1000):
            now = time.time()
            held = await one.open(ask(f"b{number}"), now)
            await one.leave(held.id, now)
            await two.vote(held.id, vote(ANNA, at=now), now)
            spent = await asyncio.gather(
                spend(one, held.id, "dec-one", now), spend(two, held.id, "dec-two", now)
            )
            (winner,) = [decision for decision in spent if decision]
            wins[winner] = wins.get(winner, 0) + 1
            kept = await two.get(held.id, now)
            assert kept is not None and kept.released_to == winner and is_satisfied(kept.ask, kept.votes)
        assert sum(wins.values()) == 1000


async def test_whoever_waits_on_another_machine_is_told_by_notify(tmp_path: Path, postgres_schema: NewSchema):
    async with replicas("postgres", tmp_path, postgres_schema) as (one, two):
        held = await one.open(ask(), time.time())
        waiting = asyncio.create_task(one.changed(held.id, held.version, 20))
        listing = asyncio.create_task(one.news(1, 20))
        await asyncio.sleep(0.3)
        await two.vote(held.id, vote(ANNA), time.time())
        changed = await asyncio.wait_for(waiting, 10)
        assert changed is not None and changed.state is HoldState.APPROVED
        assert await asyncio.wait_for(listing, 10) == 3


async def test_lost_news_is_found_by_looking(tmp_path: Path, postgres_schema: NewSchema):
    async with replicas("postgres", tmp_path, postgres_schema, notify=False) as (one, two):
        held = await one.open(ask(), time.time())
        waiting = asyncio.create_task(one.changed(held.id, held.version, 20))
        await asyncio.sleep(0.2)
        await two.vote(held.id, vote(ANNA), time.time())
        changed = await asyncio.wait_for(waiting, 15)
        assert changed is not None and changed.state is HoldState.APPROVED


async def test_forged_news_changes_nothing(tmp_path: Path, postgres_schema: NewSchema):
    async with replicas("postgres", tmp_path, postgres_schema) as (one, two):
        held = await one.open(ask(), time.time())
        waiting = asyncio.create_task(one.changed(held.id, held.version, 2))
        listing = asyncio.create_task(one.news(1, 20))
        await asyncio.sleep(0.2)
        async with two._connection() as db:
            for payload in ("", "[", '[["x"]]', f'[["{held.id}", 9]]', "x" * 7000):
                await db.execute("SELECT pg_notify($1, $2)", one._channel, payload)
        changed = await waiting
        assert changed is None or changed.state is HoldState.PENDING
        assert not listing.done()  # not woken with nothing new
        await two.vote(held.id, vote(ANNA), time.time())
        assert await listing == 3


async def test_time_is_the_databases_whatever_the_machines_say(postgres_schema: NewSchema):
    dsn, schema = postgres_schema()
    ahead = PostgresHoldStore(dsn, schema=schema, local_clock=lambda: time.time() + 7200)
    right = PostgresHoldStore(dsn, schema=schema)
    async with ahead, right:
        held = await right.open(ask(wants=demand(expires=3600.0)), time.time())
        seen = await ahead.get(held.id, time.time() + 7200)  # two hours ahead: its own clock says expired
        assert seen is not None and seen.state is HoldState.PENDING
        other = await ahead.open(ask("b2"), time.time() + 7200)
        assert abs(other.created_at - time.time()) < 60
        assert (await ahead.vote(held.id, vote(ANNA), time.time() + 7200)).state is HoldState.APPROVED


async def test_a_slow_answer_is_no_wrong_clock(postgres_schema: NewSchema):
    dsn, schema = postgres_schema()
    readings = list[float]()

    def slow() -> float:
        """A connection through which each answer takes ten seconds: the first reading of two is that much older."""
        readings.append(time.time())
        return readings[-1] - (10 if len(readings) % 2 else 0)

    async with PostgresHoldStore(dsn, schema=schema, local_clock=slow) as store:
        assert readings
        assert store._skew == 0.0


async def test_nothing_is_approved_that_expired_while_the_vote_waited_for_its_turn(
    postgres_schema: NewSchema,
):
    dsn, schema = postgres_schema()
    waited = iter([0.0, 0.0, 100.0, 103.0])  # when each change was asked for, and when its turn came
    async with PostgresHoldStore(dsn, schema=schema, monotonic=lambda: next(waited)) as store:
        held = await store.open(ask(wants=demand(expires=60.0)), NOW)
        with pytest.raises(HoldError) as refused:
            await store.vote(held.id, vote(ANNA, at=NOW + 58), NOW + 58)
        assert refused.value.code == "not_open"
        kept = await store.get(held.id, NOW + 58)
        assert kept is not None and kept.state is HoldState.EXPIRED


async def test_whether_something_waits_for_the_ledger_is_seen_without_a_turn(postgres_schema: NewSchema):
    dsn, schema = postgres_schema()
    async with PostgresHoldStore(dsn, schema=schema) as store, PostgresHoldStore(dsn, schema=schema) as other:
        assert (await store.oldest_unrecorded(), await store.unrecorded()) == (None, [])
        await store.open(ask(), NOW)
        async with other._connection() as db, db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", LOCK, schema)
            oldest = await store.oldest_unrecorded()
            assert oldest is not None and abs(oldest - NOW) < 10
        await store.recorded([move.id for move in await store.unrecorded()])
        async with other._connection() as db, db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", LOCK, schema)
            assert await store.unrecorded() == []


async def test_a_change_sees_what_the_one_before_wrote_whatever_the_roles_default_is(
    postgres_schema: NewSchema,
):
    dsn, schema = postgres_schema()
    async with (
        PostgresHoldStore(
            dsn + "&options=-c%20default_transaction_isolation%3Dserializable", schema=schema
        ) as store,
        store._connection() as db,
    ):
        assert await db.fetchval("SHOW transaction_isolation") == "read committed"


@pytest.mark.parametrize(
    ("dsn", "environment"),
    [
        ("postgresql://u@/d?host=/run/postgresql", {}),
        ("postgresql://u@%2Frun%2Fpostgresql/d", {}),
        ("postgresql://u:p@localhost:5432/d", {}),
        ("postgresql://u:p@127.0.0.1,[::1]:5433/d?sslmode=disable", {}),
        ("postgres://u@/d", {}),
        ("postgresql://u:p@db.internal/d?sslmode=verify-full", {}),
        ("postgresql://u:p@db.internal/d?sslmode=verify-ca", {}),
        ("postgresql://u:p@db.internal/d", {"PGSSLMODE": "verify-full"}),
    ],
)
def test_a_database_that_is_here_or_proves_itself_is_accepted(dsn: str, environment: dict[str, str]):
    check_dsn(dsn, environment)


@pytest.mark.parametrize(
    ("dsn", "environment"),
    [
        ("postgresql://u:p4ss@db.internal/d", {}),
        ("postgresql://u:p4ss@db.internal/d?sslmode=require", {"PGSSLMODE": "verify-full"}),
        ("postgresql://u:p4ss@db.internal/d?sslmode=verify-full&sslmode=prefer", {}),
        ("postgresql://u:p4ss@localhost,db.internal/d", {}),
        ("postgresql://u:p4ss@localhost/d?host=db.internal", {}),
        ("postgresql://u:p4ss@10.0.0.1:5432/d?sslmode=Verify-Full", {}),
        ("postgresql://u:p4ss@/d", {"PGHOST": "db.internal"}),
        ("postgresql://u:p4ss@/d", {"PGSERVICE": "holds"}),
        ("postgresql:///d?service=holds", {}),
        ("postgresql://u:p4ss@localhost.evil.test/d", {}),
        ("postgresql://u:p4ss@[fe80::1]/d", {}),
        ("host=db.internal password=p4ss", {}),
        ("postgresql://u:p4ss@[::1/d", {}),
        ("", {}),
    ],
)
def test_a_database_elsewhere_has_to_prove_itself(dsn: str, environment: dict[str, str]):
    with pytest.raises(ConfigError) as refused:
        check_dsn(dsn, environment)
    assert "holds.postgres" in str(refused.value) and "p4ss" not in str(refused.value)


async def test_an_approval_outlives_the_replica_that_took_it(postgres_schema: NewSchema):
    dsn, schema = postgres_schema()
    dying, other = PostgresHoldStore(dsn, schema=schema), PostgresHoldStore(dsn, schema=schema)
    held = await dying.open(ask(), NOW)
    await dying.vote(held.id, vote(ANNA), NOW)
    dying._pool.terminate()  # as kill -9 would: no goodbye
    released = await other.release(held.id, "dec-2", NOW)
    assert released.state is HoldState.RELEASED
    kinds = [move.kind for move in await other.unrecorded()]
    assert kinds == ["hold.opened", "hold.vote", "hold.approved", "hold.released"]
    for store in (dying, other):
        await store.aclose()


async def test_a_change_that_was_cut_off_is_whole_or_not_there(postgres_schema: NewSchema):
    dsn, schema = postgres_schema()
    async with (
        PostgresHoldStore(dsn, schema=schema) as store,
        PostgresHoldStore(dsn, schema=schema) as killer,
    ):
        for number in range(20):
            held = await store.open(ask(f"b{number}"), NOW)
            voting = asyncio.create_task(store.vote(held.id, vote(ANNA), NOW))
            await asyncio.sleep(number / 4000)
            async with killer._connection() as db:
                await db.execute(
                    """SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                    WHERE application_name = 'extproc' AND pid <> pg_backend_pid()"""  # and waits until it is gone
                )
            with contextlib.suppress(StoreUnavailableError):
                await voting
            kept = await killer.get(held.id, NOW)
            assert kept is not None
            moves = [m.kind for m in await killer.unrecorded(1000) if m.hold_id == held.id]
            assert len(moves) == kept.version
            assert (kept.state is HoldState.APPROVED) == ("hold.approved" in moves)


async def test_one_of_several_replicas_brings_moves_to_its_ledger(tmp_path: Path, postgres_schema: NewSchema):
    async with replicas("postgres", tmp_path, postgres_schema) as (one, two):
        await one.open(ask(), NOW)
        assert len(await one.unrecorded()) == 1
        assert await two.unrecorded() == []
        async with one._connection() as db:
            await db.execute("UPDATE lease SET until = now() - interval '1 second'")  # its holder is gone
        moves = await two.unrecorded()
        assert len(moves) == 1
        assert await one.unrecorded() == []
        await two.recorded([moves[0].id])
        assert await two.unrecorded() == []


async def test_waiters_of_a_machine_that_is_gone_no_longer_count(tmp_path: Path, postgres_schema: NewSchema):
    async with replicas("postgres", tmp_path, postgres_schema) as (one, two):
        held = await one.open(ask(), NOW)
        assert (await two.open(ask(), NOW)).waiters == 2
        async with two._connection() as db:
            await db.execute(
                "UPDATE processes SET seen_at = now() - interval '2 minutes' WHERE name = $1", one._process
            )
        kept = await two.get(held.id, NOW)
        assert kept is not None and kept.waiters == 1


async def test_tables_of_another_version_are_refused(postgres_schema: NewSchema):
    dsn, schema = postgres_schema()
    db = await asyncpg.connect(dsn)
    assert await migrate(db, schema) == (SCHEMA_VERSION, SCHEMA_VERSION)
    await db.execute(f"UPDATE {schema}.extproc_schema SET version = 99")
    with pytest.raises(ValueError, match="version 99"):
        await migrate(db, schema)
    await db.close()
    for name in (schema, "nothing_here"):
        store = PostgresHoldStore(dsn, schema=name)
        with pytest.raises(StoreUnavailableError, match="extproc store migrate"):
            await store.check()
        await store.aclose()


@pytest.mark.timeout(120)
async def test_a_lost_store_refuses_new_holds_tells_whoever_waits_and_comes_back(tmp_path: Path):
    server = Postgres(fsync="off")
    server.start()
    try:
        db = await asyncpg.connect(dsn_of(server))
        await migrate(db, "extproc")
        await db.close()
        async with PostgresHoldStore(dsn_of(server)) as store:
            held = await store.open(ask(), NOW)
            waiting = asyncio.create_task(store.changed(held.id, held.version, 60))
            await asyncio.sleep(0.2)
            server.kill()
            with pytest.raises(StoreUnavailableError):
                await asyncio.wait_for(waiting, 30)
            with pytest.raises(StoreUnavailableError):
                await store.open(ask("b2"), NOW)
            server.restart()
            for _ in range(100):
                try:
                    kept = await store.get(held.id, NOW)
                    break
                except StoreUnavailableError:
                    await asyncio.sleep(0.1)
            assert kept is not None and kept.state is HoldState.PENDING
            assert (await store.close(held.id, Verdict.WITHDRAW, NOW)).state is HoldState.WITHDRAWN
    finally:
        server.stop()
