"""What every hold store promises of broken glass: it runs once, it is told, and its review is owed until it is done."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from extproc.adapters.hold_postgres_schema import MIGRATIONS, SCHEMA_VERSION, migrate
from extproc.adapters.hold_sqlite import SqliteHoldStore
from extproc.domain.demand import BreakGlass, Quorum
from extproc.domain.hold import HeldRequest, HoldError, HoldState, Review, ReviewState, Verdict
from extproc.domain.terms import GrantLimit, GrantTerms
from extproc.ledger.lines import encode_fields
from tests.adapters.conftest import NewSchema, Store, dsn_of
from tests.support.holds import AGENT, ANNA, BERT, CLEO, NOW, OLGA, ask, demand, principal, vote
from tests.support.postgres import Postgres

pytestmark = pytest.mark.anyio
WITHIN = 4 * 3600.0
ALLOWED = demand(Quorum("sre", 2), break_glass=BreakGlass((("oncall", "leads"),), WITHIN))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def review(reviewer: Any = ANNA, *, justified: bool = True, reason: str = "the site was down") -> Review:
    return Review(reviewer, justified, reason, NOW)


async def opened(store: Store, **options: Any) -> HeldRequest:
    return await store.open(ask(**{"requester": OLGA, "wants": ALLOWED, **options}), NOW)


async def refused(code: str, call: Any) -> None:
    with pytest.raises(HoldError) as caught:
        await call
    assert caught.value.code == code


async def kinds(store: Store) -> list[str]:
    return [move.kind for move in await store.unrecorded()]


async def test_its_requester_lets_it_go_at_once_and_once(store: Store):
    held = await opened(store)
    broken = await store.break_glass(held.id, OLGA, "the site is down", NOW + 5)
    assert broken.state is HoldState.APPROVED
    assert broken.glass is not None
    assert (broken.glass.reason, broken.glass.review_by) == ("the site is down", NOW + 5 + WITHIN)
    assert (await store.release(held.id, "dec-1", NOW + 6)).state is HoldState.RELEASED
    await refused("not_open", store.release(held.id, "dec-2", NOW + 6))
    kept = await store.get(held.id, NOW + 7)
    assert kept is not None and kept.glass == broken.glass
    assert await kinds(store) == ["hold.opened", "hold.break_glass", "hold.approved", "hold.released"]
    told = (await store.unrecorded())[1].fields
    assert told["by"]["person"] == OLGA.person and told["reason"] == "the site is down"
    # the next equal request waits again
    assert (await opened(store)).id != held.id


async def test_every_move_of_it_can_be_a_line_of_the_ledger(store: Store):
    held = await opened(store)
    await store.break_glass(held.id, OLGA, "down", NOW)
    await store.sweep(NOW + WITHIN)
    await store.review(held.id, review(), NOW + WITHIN)
    for move in await store.unrecorded():
        encode_fields(move.kind, move.fields)


async def test_the_same_word_again_changes_nothing(store: Store):
    held = await opened(store)
    first = await store.break_glass(held.id, OLGA, "down", NOW)
    assert await store.break_glass(held.id, OLGA, "down", NOW) == first
    await store.release(held.id, "dec-1", NOW)
    assert (await store.break_glass(held.id, OLGA, "down", NOW)).state is HoldState.RELEASED
    done = await store.review(held.id, review(), NOW)
    assert await store.review(held.id, review(), NOW) == done


@pytest.mark.parametrize(
    ("code", "who", "options"),
    [
        ("not_allowed", OLGA, {"wants": demand()}),
        ("not_requester", principal("oscar", "oncall"), {}),
        ("not_member", principal("olga"), {}),
        ("not_human", principal("olga", "oncall", kind="agent"), {}),
        ("not_human", AGENT, {"requester": AGENT}),
        # a person may stand behind an agent, but the agent's request is not an emergency of theirs
        ("not_human", OLGA, {"requester": principal("bot", kind="agent", person=OLGA.person)}),
        ("not_member", OLGA, {"wants": demand(break_glass=BreakGlass((("oncall",), ("leads",)), WITHIN))}),
    ],
)
async def test_who_may_not_changes_nothing(store: Store, code: str, who: Any, options: Any):
    held = await opened(store, **options)
    await refused(code.replace("not_member", "not_a_member"), store.break_glass(held.id, who, "down", NOW))
    await refused("reason_required", store.break_glass(held.id, who, " ", NOW))
    assert await store.get(held.id, NOW) == held


async def test_only_a_pending_hold_has_glass(store: Store):
    denied = await opened(store)
    await store.vote(denied.id, vote(ANNA, False), NOW)
    await refused("not_open", store.break_glass(denied.id, OLGA, "down", NOW))
    late = await opened(store)
    await refused("not_open", store.break_glass(late.id, OLGA, "down", NOW + 3600))
    await refused("conflict", store.close(late.id, Verdict.BREAK_GLASS, NOW))


async def test_an_unused_emergency_expires_and_can_be_revoked(store: Store):
    one, two = await opened(store), await opened(store, binding="b2")
    await store.break_glass(one.id, OLGA, "down", NOW)
    await store.break_glass(two.id, OLGA, "down", NOW)
    await store.close(two.id, Verdict.REVOKE, NOW, by=ANNA.person, reason="no")
    await refused("not_open", store.release(two.id, "dec-1", NOW))
    await refused("not_open", store.release(one.id, "dec-1", NOW + 600))
    owed = await store.find(reviews=[ReviewState.OPEN], now=NOW + 600)
    assert {held.id for held in owed} == {one.id, two.id}  # its glass is broken all the same


async def test_an_emergency_gives_no_grant(store: Store):
    wants = demand(Quorum("sre", 2), break_glass=ALLOWED.break_glass, grant=GrantLimit(1800.0, 20, "exact"))
    held = await opened(store, wants=wants)
    await store.vote(held.id, vote(ANNA, terms=GrantTerms(600.0, 5, "exact")), NOW)
    await store.break_glass(held.id, OLGA, "down", NOW)
    await store.release(held.id, "dec-1", NOW)
    assert await store.find_grants(now=NOW) == []


@pytest.mark.parametrize(
    ("code", "reviewer"),
    [
        ("self_approval", OLGA),
        ("self_approval", principal("olga-too", "sre", person=OLGA.person)),
        ("not_a_member", CLEO),
        ("not_human", principal("robot", "sre", kind="agent")),
    ],
)
async def test_somebody_else_reviews(store: Store, code: str, reviewer: Any):
    held = await opened(store, wants=demand(break_glass=ALLOWED.break_glass, allow_agents=True))
    await refused("not_broken", store.review(held.id, review(), NOW))
    await store.break_glass(held.id, OLGA, "down", NOW)
    await refused(code, store.review(held.id, review(reviewer), NOW))
    await refused("reason_required", store.review(held.id, review(reason=" "), NOW))
    kept = await store.get(held.id, NOW)
    assert kept is not None and kept.glass is not None and kept.glass.state is ReviewState.OPEN


async def test_a_review_ends_what_is_owed(store: Store):
    held = await opened(store)
    await store.break_glass(held.id, OLGA, "down", NOW)
    await store.release(held.id, "dec-1", NOW)
    done = await store.review(held.id, review(justified=False, reason="it could have waited"), NOW + 60)
    assert done.state is HoldState.RELEASED
    assert done.glass is not None and done.glass.review is not None
    assert (done.glass.review.at, done.glass.review.justified) == (NOW + 60, False)
    await refused("already_reviewed", store.review(held.id, review(BERT), NOW + 60))
    assert await store.find(reviews=[ReviewState.OPEN, ReviewState.OVERDUE], now=NOW + 10 * WITHIN) == []
    assert [held.id for held in await store.find(reviews=[ReviewState.DONE], now=NOW)] == [held.id]
    last = (await store.unrecorded())[-1]
    assert (last.kind, last.fields["justified"], last.fields["overdue"]) == ("hold.reviewed", False, False)


async def test_a_review_that_does_not_come_is_told_once_and_stays_owed(store: Store):
    held = await opened(store)
    await store.break_glass(held.id, OLGA, "down", NOW)
    await store.release(held.id, "dec-1", NOW)
    assert await store.sweep(NOW + WITHIN - 1) == 0
    assert await store.sweep(NOW + WITHIN) == 1
    assert await store.sweep(NOW + WITHIN) == 0
    assert [each.id for each in await store.find(reviews=[ReviewState.OVERDUE], now=NOW + WITHIN)] == [
        held.id
    ]
    assert (await kinds(store)).count("hold.review_overdue") == 1
    await store.review(held.id, review(), NOW + WITHIN + 60)
    assert (await store.unrecorded())[-1].fields["overdue"] is True


async def test_looking_at_it_tells_as_well(store: Store):
    held = await opened(store)
    await store.break_glass(held.id, OLGA, "down", NOW)
    kept = await store.get(held.id, NOW + WITHIN)
    assert kept is not None and kept.glass is not None and kept.glass.state is ReviewState.OVERDUE
    assert (await kinds(store))[-2:] == ["hold.expired", "hold.review_overdue"]


async def test_what_is_owed_is_not_forgotten(store: Store):
    if not hasattr(store, "forget"):
        return  # a store in memory forgets with its test
    held = await opened(store)
    await store.break_glass(held.id, OLGA, "down", NOW)
    await store.release(held.id, "dec-1", NOW)

    async def all_recorded() -> None:
        await store.recorded([move.id for move in await store.unrecorded()])

    await all_recorded()
    assert await store.forget(NOW + 1) == 0
    await store.review(held.id, review(), NOW)
    await all_recorded()
    assert await store.forget(NOW + 1) == 1


async def test_a_file_from_before_it_gets_its_columns(tmp_path: Path):
    path = tmp_path / "holds.db"
    async with SqliteHoldStore(path) as store:
        held = await opened(store)
    with sqlite3.connect(path) as db:
        db.executescript(
            "DROP INDEX holds_by_review; DROP INDEX holds_by_review_deadline;"
            "ALTER TABLE holds DROP COLUMN review; ALTER TABLE holds DROP COLUMN review_deadline;"
            "ALTER TABLE holds DROP COLUMN glass; PRAGMA user_version = 2;"
        )
    db.close()
    async with SqliteHoldStore(path) as store:
        assert (await store.break_glass(held.id, OLGA, "down", NOW)).glass is not None


async def test_tables_from_before_it_are_migrated(postgres_server: Any, postgres_schema: NewSchema):
    server: Postgres = postgres_server()
    db = await asyncpg.connect(dsn_of(server))
    await db.execute("CREATE SCHEMA before_it; SET search_path TO before_it")
    await db.execute("CREATE TABLE extproc_schema (version integer NOT NULL)")
    await db.execute("INSERT INTO extproc_schema VALUES (1)")
    await db.execute(MIGRATIONS[1])
    assert await migrate(db, "before_it") == (1, SCHEMA_VERSION)
    await db.fetch("SELECT review, review_deadline FROM before_it.holds")
    await db.close()
