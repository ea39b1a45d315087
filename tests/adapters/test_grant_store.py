"""What every store promises of grants, and what SQLite promises to several processes and to those that die."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters import hold_schema
from extproc.adapters.hold_postgres import PostgresHoldStore
from extproc.adapters.hold_sqlite import SqliteHoldStore
from extproc.domain.grant import Grant, GrantState
from extproc.domain.hold import HoldError, HoldState, Verdict
from extproc.domain.quorum import may_see
from extproc.domain.terms import GrantTerms
from tests.adapters.conftest import NewSchema
from tests.adapters.hold_process import granted_ask
from tests.adapters.test_hold_store import refused, start
from tests.support.holds import AGENT, ANNA, BERT, CLEO, NOW, MemoryHoldStore, ask, principal, shaped, vote

Store = SqliteHoldStore | PostgresHoldStore | MemoryHoldStore
TERMS = GrantTerms(600.0, 3, "shape")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "holds.db"


@pytest.fixture(params=["sqlite", "postgres", "memory"])
async def store(
    request: pytest.FixtureRequest, path: Path, postgres_schema: NewSchema
) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryHoldStore()
        return
    if request.param == "postgres":
        dsn, schema = postgres_schema()
        async with PostgresHoldStore(dsn, schema=schema, clock=lambda: NOW, monotonic=float) as made:
            yield made
        return
    async with SqliteHoldStore(path, clock=lambda: NOW) as kept:
        yield kept


async def grant_of(store: Store, terms: GrantTerms = TERMS, *, release: bool = True) -> Grant:
    """A grant from an approval whose own request is gone, unless it is not."""
    held = await store.open(granted_ask(), NOW)
    await store.vote(held.id, vote(ANNA, terms=terms), NOW)
    if release:
        await store.release(held.id, "dec-0", NOW)
    (grant,) = await store.find_grants(now=NOW)
    return grant


async def kinds(store: Store) -> list[str]:
    return [move.kind for move in await store.unrecorded(1000)]


class TestAnyStore:
    async def test_an_approval_with_terms_makes_its_grant_in_the_same_step(self, store: Store):
        grant = await grant_of(store, release=False)
        assert (grant.state, grant.used, grant.terms) == (GrantState.LIVE, 1, TERMS)
        assert (grant.made_at, grant.expires_at) == (NOW, NOW + 600)
        assert grant.held.state is HoldState.APPROVED
        assert grant.held.votes[0].terms == TERMS
        assert await kinds(store) == ["hold.opened", "hold.vote", "hold.approved", "grant.made"]
        assert await store.get_grant(grant.id, NOW) == grant

    async def test_an_approval_without_terms_makes_none(self, store: Store):
        held = await store.open(granted_ask(), NOW)
        await store.vote(held.id, vote(ANNA), NOW)
        assert await store.find_grants(now=NOW) == []

    async def test_it_lets_so_many_requests_go_and_no_more(self, store: Store):
        grant = await grant_of(store)
        for number in (2, 3):
            covering = await store.covering(granted_ask(f"b{number}"), NOW)
            assert covering is not None
            used = await store.use_grant(covering.id, f"dec-{number}", NOW)
            assert used.used == number
        assert await store.covering(granted_ask("b4"), NOW) is None
        await refused("not_open", store.use_grant(grant.id, "dec-4", NOW))
        assert (await kinds(store))[-3:] == ["grant.used", "grant.used", "grant.exhausted"]

    async def test_the_same_decision_is_counted_once_even_when_it_was_the_last(self, store: Store):
        grant = await grant_of(store, replace(TERMS, uses=2))
        first = await store.use_grant(grant.id, "dec-2", NOW)
        assert await store.use_grant(grant.id, "dec-2", NOW) == first
        assert first.used == 2

    async def test_the_approved_request_itself_uses_its_approval_and_not_the_grant(self, store: Store):
        await grant_of(store, release=False)
        assert await store.covering(granted_ask(), NOW) is None
        assert await store.covering(granted_ask("b2"), NOW) is not None

    async def test_time_ends_it_to_the_second(self, store: Store):
        grant = await grant_of(store)
        assert await store.covering(granted_ask("b2"), NOW + 599.9) is not None
        assert await store.covering(granted_ask("b2"), NOW + 600) is None
        await refused("not_open", store.use_grant(grant.id, "dec-2", NOW + 600))
        ended = await store.get_grant(grant.id, NOW + 600)
        assert ended is not None and ended.state is GrantState.EXPIRED
        assert (await kinds(store)).count("grant.expired") == 1

    async def test_a_sweep_ends_what_nobody_looks_at(self, store: Store):
        await grant_of(store)
        assert await store.sweep(NOW + 600) == 1
        assert await store.sweep(NOW + 600) == 0

    async def test_revoking_it_ends_the_unused_approval_with_it(self, store: Store):
        grant = await grant_of(store, release=False)
        ended = await store.revoke_grant(grant.id, NOW, by="fiona", reason="enough")
        assert (ended.state, ended.closed_reason) == (GrantState.REVOKED, "enough")
        assert ended.held.state is HoldState.REVOKED
        await refused("not_open", store.release(grant.held.id, "dec-1", NOW))
        await refused("not_open", store.use_grant(grant.id, "dec-2", NOW))
        await refused("not_open", store.revoke_grant(grant.id, NOW))
        assert sorted((await kinds(store))[-2:]) == ["grant.revoked", "hold.revoked"]

    async def test_revoking_the_approval_ends_the_grant_with_it(self, store: Store):
        grant = await grant_of(store, release=False)
        await store.close(grant.held.id, Verdict.REVOKE, NOW, by="fiona", reason="enough")
        ended = await store.get_grant(grant.id, NOW)
        assert ended is not None and ended.state is GrantState.REVOKED
        assert await store.covering(granted_ask("b2"), NOW) is None

    async def test_a_grant_outlives_an_approval_that_nobody_collected(self, store: Store):
        grant = await grant_of(store, replace(TERMS, duration=1800.0), release=False)
        late = NOW + 601  # use_within is over
        assert (await store.get(grant.held.id, late)).state is HoldState.EXPIRED  # type: ignore[union-attr]
        used = await store.use_grant(grant.id, "dec-2", late)
        assert used.used == 2

    async def test_the_grant_that_ends_first_is_used_first(self, store: Store):
        later = await grant_of(store)
        held = await store.open(granted_ask("b9"), NOW)
        await store.vote(held.id, vote(BERT, terms=replace(TERMS, duration=60.0)), NOW)
        sooner = await store.covering(granted_ask("b2"), NOW)
        assert sooner is not None and sooner.id != later.id
        assert sooner.expires_at == NOW + 60

    async def test_other_values_pass_where_they_are_not_pinned(self, store: Store):
        await grant_of(store, GrantTerms(600.0, 3, "pinned", ("$1",)))
        same, other = (replace(granted_ask("b2"), shape=shaped(v1=value)) for value in ("one", "two"))
        assert await store.covering(same, NOW) is not None
        assert await store.covering(other, NOW) is None

    @pytest.mark.parametrize(
        "viewer", [AGENT, ANNA, BERT, CLEO, principal("x"), principal("x", "sre", kind="agent")]
    )
    async def test_who_sees_a_hold_sees_its_grant(self, store: Store, viewer: Any):
        grant = await grant_of(store)
        found = await store.find_grants(seen_by=viewer, now=NOW)
        assert (found == [grant]) == may_see(grant.held.ask, viewer)

    async def test_states_requester_and_limit_narrow_the_list(self, store: Store):
        grant = await grant_of(store)
        mine = (AGENT.issuer, AGENT.subject)
        assert await store.find_grants(states=[GrantState.LIVE], requester=mine, now=NOW) == [grant]
        assert await store.find_grants(states=[GrantState.REVOKED], now=NOW) == []
        assert await store.find_grants(requester=("x", "y"), now=NOW) == []
        assert await store.find_grants(limit=0, now=NOW) == []

    async def test_an_unknown_grant_is_not_found(self, store: Store):
        assert await store.get_grant("g-none", NOW) is None
        await refused("not_found", store.use_grant("g-none", "dec-1", NOW))
        await refused("not_found", store.revoke_grant("g-none", NOW))

    async def test_a_hundred_at_once_use_it_exactly_as_often_as_it_allows(self, store: Store):
        grant = await grant_of(store, replace(TERMS, uses=40))

        async def go(number: int) -> bool:
            try:
                await store.use_grant(grant.id, f"dec-{number}", NOW)
            except HoldError:
                return False
            return True

        assert sum(await asyncio.gather(*(go(number) for number in range(100)))) == 39


class TestSqlite:
    async def test_two_stores_over_one_file_never_spend_the_last_use_twice(self, path: Path):
        async with SqliteHoldStore(path) as one, SqliteHoldStore(path) as other:
            for attempt in range(200):
                held = await one.open(granted_ask(), NOW)
                await one.vote(held.id, vote(ANNA, terms=replace(TERMS, uses=2)), NOW)
                await one.release(held.id, f"dec-{attempt}", NOW)
                (grant,) = await one.find_grants(states=[GrantState.LIVE], now=NOW)
                race = [
                    asyncio.create_task(each.use_grant(grant.id, f"dec-{attempt}-{name}", NOW))
                    for name, each in (("one", one), ("other", other))
                ]
                ended = await asyncio.gather(*race, return_exceptions=True)
                assert sum(isinstance(outcome, Grant) for outcome in ended) == 1

    async def test_processes_share_the_uses_and_one_that_is_killed_runs_nothing_twice(self, path: Path):
        uses = 300
        async with SqliteHoldStore(path, lock_wait=30.0) as store:
            grant = await grant_of(store, GrantTerms(600.0, uses, "shape"))
            children = [start(path, "use_grants", name) for name in ("a", "b", "c")]
            try:
                for child in children:
                    assert child.stdout is not None and child.stdin is not None
                    assert child.stdout.readline() == "ready\n"
                for child in children:
                    child.stdin.write("go\n")  # type: ignore[union-attr]
                    child.stdin.flush()  # type: ignore[union-attr]
                victim = children[0]
                lines = [victim.stdout.readline() for _ in range(random.randrange(2, 20))]  # type: ignore[union-attr]
                victim.send_signal(signal.SIGKILL)
                outputs = [lines + victim.stdout.readlines()]  # type: ignore[union-attr]
                outputs += [await asyncio.to_thread(child.stdout.readlines) for child in children[1:]]  # type: ignore[union-attr]
            finally:
                for child in children:
                    child.kill()
                    child.wait()
            ran = [line.split()[1] for output in outputs for line in output if line.startswith("ran ")]
            counted = [
                line.split()[1] for output in outputs for line in output if line.startswith("counted ")
            ]
            assert len(ran) == len(set(ran))
            assert set(ran) <= set(counted)
            assert len(ran) <= uses - 1  # the killed one may have counted what it did not run
            assert len(ran) >= uses - 2
            ended = await store.get_grant(grant.id, NOW)
            assert ended is not None
            assert (ended.state, ended.used) == (GrantState.EXHAUSTED, uses)
            told = [move for move in await store.unrecorded(10_000) if move.fields.get("grant") == grant.id]
            assert [move.id for move in told] == [f"{grant.id}.{n}" for n in range(1, ended.version + 1)]
            assert {move.fields["decision_id"] for move in told if move.kind == "grant.used"} >= set(counted)

    async def test_a_hold_is_kept_as_long_as_its_grant_lives(self, path: Path):
        async with SqliteHoldStore(path) as store:
            grant = await grant_of(store)
            await store.recorded([move.id for move in await store.unrecorded()])
            assert await store.forget(NOW + 1) == 0
            await store.sweep(NOW + 600)
            assert await store.forget(NOW + 1) == 0  # its end is not in the ledger yet
            await store.recorded([move.id for move in await store.unrecorded()])
            assert await store.forget(NOW + 1) == 1
            assert await store.get_grant(grant.id, NOW) is None

    async def test_a_store_of_the_schema_before_grants_goes_on(self, path: Path):
        """As the version before made it: without the tables and the column, and with asks that knew no shape."""
        async with SqliteHoldStore(path) as store:
            held = await store.open(ask(), NOW)
            await store.vote(held.id, vote(ANNA, False, "no"), NOW)
            pending = await store.open(ask("b2"), NOW)
        with sqlite3.connect(path) as db:
            db.executescript(
                "DROP INDEX holds_by_review; DROP INDEX holds_by_review_deadline;"
                "ALTER TABLE holds DROP COLUMN review; ALTER TABLE holds DROP COLUMN review_deadline;"
                "ALTER TABLE holds DROP COLUMN glass;"
                "DROP TABLE uses; DROP TABLE grants; ALTER TABLE votes DROP COLUMN terms;"
                "UPDATE holds SET ask = json_remove(ask, '$.shape'); PRAGMA user_version = 1;"
            )
        db.close()
        async with SqliteHoldStore(path) as store:
            assert (await store.get(held.id, NOW)).votes[0].reason == "no"  # type: ignore[union-attr]
            assert (await store.vote(pending.id, vote(ANNA), NOW)).state is HoldState.APPROVED
            await grant_of(store)
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (hold_schema.SCHEMA_VERSION,)
        db.close()

    async def test_the_file_itself_forbids_more_uses_than_were_given(self, path: Path):
        async with SqliteHoldStore(path) as store:
            await grant_of(store)
        with sqlite3.connect(path) as db, pytest.raises(sqlite3.IntegrityError):
            db.execute("UPDATE grants SET used = uses + 1")
        db.close()
