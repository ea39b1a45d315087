"""The hold desk and grants: who is covered does not wait, policy is checked each time, a use is spent once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from extproc.adapters.hold_sqlite import SqliteHoldStore
from extproc.domain.grant import Grant, GrantState
from extproc.domain.hold import HoldState
from extproc.domain.steps import Wait
from extproc.domain.terms import GrantLimit, GrantTerms
from extproc.servers.desk import HoldDesk
from tests.servers.test_desk import fine, opened
from tests.support.holds import ANNA, ask, demand, shaped, vote

TERMS = GrantTerms(600.0, 3, "shape")


def wait(decision: str = "dec_1", binding: str = "b1", *, seconds: float = 20.0, **more: Any) -> Wait:
    limit = more.pop("limit", GrantLimit(1800.0, 20, "shape"))
    asked = ask(binding, wants=demand(grant=limit), shape=shaped(v1="one"), **more)
    return Wait(replace(asked, decision_id=decision), seconds)


def run(folder: Path, play: Callable[[SqliteHoldStore, HoldDesk], Awaitable[None]]) -> None:
    async def main() -> None:
        async with SqliteHoldStore(folder / "holds.db") as store:
            await play(store, HoldDesk(store, now=time.time, open_waits=50))

    asyncio.run(main())


async def granted(store: SqliteHoldStore, desk: HoldDesk, terms: GrantTerms = TERMS) -> Grant:
    waiting = asyncio.create_task(desk.settle(wait(), fine))
    await store.vote(await opened(store), vote(ANNA, terms=terms), time.time())
    assert (await waiting).grant is None  # the request that was held goes by its own approval
    (grant,) = await store.find_grants(now=time.time())
    return grant


def test_what_a_grant_covers_opens_no_hold_and_names_the_votes(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        grant = await granted(store, desk)
        seen: list[object] = []
        settled = await desk.settle(wait("dec_2", "b2", seconds=0), fine, seen.append)
        assert (settled.outcome, settled.code, seen) == ("released", "granted", [])
        assert settled.grant is not None and settled.held is not None
        assert (settled.grant.id, settled.grant.used) == (grant.id, 2)
        assert [each.person for each in settled.held.votes] == [ANNA.person]
        assert len(await store.find(now=time.time())) == 1

    run(tmp_path, play)


def test_the_use_after_the_last_waits(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        await granted(store, desk)
        ends = [(await desk.settle(wait(f"dec_{n}", "b2", seconds=0), fine)).outcome for n in range(2, 6)]
        assert ends == ["released", "released", "waiting", "waiting"]

    run(tmp_path, play)


def test_policy_is_asked_each_time_and_what_it_refuses_spends_nothing(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        grant = await granted(store, desk)
        for why, outcome in (
            ("denied-now", "void"),
            ("rules-changed", "void"),
            ("token-expired", "token_expired"),
        ):
            settled = await desk.settle(wait("dec_2", "b2"), lambda held, now, why=why: why)  # type: ignore[misc]
            assert settled.outcome == outcome
        current = await store.get_grant(grant.id, time.time())
        assert current is not None and (current.used, current.state) == (1, GrantState.LIVE)

    run(tmp_path, play)


def test_who_comes_second_to_the_last_use_waits(tmp_path: Path) -> None:
    """Both look while one use is left; the store lets one of them have it."""

    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        await granted(store, desk, replace(TERMS, uses=2))
        both = [asyncio.create_task(desk.settle(wait(f"dec_{n}", f"b{n}", seconds=0), fine)) for n in (2, 3)]
        assert sorted([(await each).outcome for each in both]) == ["released", "waiting"]

    run(tmp_path, play)


def test_a_grant_revoked_between_looking_and_using_lets_nothing_go(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        grant = await granted(store, desk)
        look = store.covering

        async def look_then_lose(*arguments: Any) -> Grant | None:
            found = await look(*arguments)
            if found is not None:
                await store.revoke_grant(grant.id, time.time(), by="x", reason="y")
            return found

        store.covering = look_then_lose  # type: ignore[method-assign, assignment]
        assert (await desk.settle(wait("dec_2", "b2", seconds=0), fine)).outcome == "waiting"

    run(tmp_path, play)


def test_equal_requests_that_wait_together_go_by_the_grant_of_their_approval(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        two = [asyncio.create_task(desk.settle(wait(f"dec_{n}"), fine)) for n in (1, 2)]
        await store.vote(await opened(store, 2), vote(ANNA, terms=TERMS), time.time())
        assert sorted([(await each).code for each in two]) == ["granted", "released"]

    run(tmp_path, play)


def test_the_approved_request_that_comes_back_takes_its_approval_first(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        assert (await desk.settle(wait(seconds=0), fine)).outcome == "waiting"
        hold = await opened(store, 0)
        await store.vote(hold, vote(ANNA, terms=TERMS), time.time())
        assert (await desk.settle(wait("dec_2", seconds=0), fine)).code == "released"
        assert (await store.get(hold, time.time())).state is HoldState.RELEASED  # type: ignore[union-attr]
        assert (await desk.settle(wait("dec_3", seconds=0), fine)).code == "granted"

    run(tmp_path, play)


def test_where_the_rule_says_once_no_grant_is_looked_for(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        await granted(store, desk)
        settled = await desk.settle(wait("dec_2", "b2", seconds=0, limit=GrantLimit()), fine)
        assert settled.outcome == "waiting"

    run(tmp_path, play)
