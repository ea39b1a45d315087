"""The hold desk: one approval lets one request go, and only under the policy in force."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from extproc.adapters.hold_sqlite import SqliteHoldStore
from extproc.domain.demand import HoldDemand, Quorum
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.hold import HeldRequest, HoldAsk, HoldLimits, HoldState, Vote
from extproc.domain.principal import Principal
from extproc.domain.steps import Wait
from extproc.servers.desk import HoldDesk

ALICE = Principal("https://issuer", "alice", "agent", "alice")
FIONA = Principal("https://issuer", "fiona", "human", "fiona", groups=("finance",))


def ask(decision: str = "dec_1", binding: str = "b1", *, wait: float = 20.0) -> Wait:
    demand = HoldDemand((Quorum("finance"),), wait=wait, expires=3600, use_within=600, digest="sha256:1")
    held = HoldAsk(
        binding=binding, target="pay", requester=ALICE, demand=demand, rules=("t/pay",), risk=(), view={},
        decision_id=decision, session_id="ses_" + decision,
    )  # fmt: skip
    return Wait(held, wait)


def approve(reason: str = "checked") -> Vote:
    return Vote(FIONA.person, FIONA, True, reason, time.time())


def fine(held: object, now: float) -> str:
    return ""


def run(folder: Path, play: Callable[[SqliteHoldStore, HoldDesk], Awaitable[None]], **limits: int) -> None:
    async def main() -> None:
        async with SqliteHoldStore(folder / "holds.db", limits=HoldLimits(**limits)) as store:
            await play(store, HoldDesk(store, now=time.time, open_waits=50))

    asyncio.run(main())


async def opened(store: SqliteHoldStore, count: int = 1) -> str:
    while True:
        found = await store.find(states=[HoldState.PENDING], now=time.time())
        if found and found[0].waiters >= count:
            return found[0].id
        await asyncio.sleep(0.01)


def test_an_approved_request_is_released(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        waiting = asyncio.create_task(desk.settle(ask(), fine))
        await store.vote(await opened(store), approve(), time.time())
        settled = await waiting
        assert settled.outcome == "released"
        assert settled.held is not None
        assert settled.held.released_to == "dec_1"

    run(tmp_path, play)


def test_a_client_that_leaves_while_its_hold_is_opened_leaves_the_hold_too(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        stored, heard = asyncio.Event(), list[HeldRequest]()
        kept = store.open

        async def slow(ask: HoldAsk, now: float) -> HeldRequest:
            held = await kept(ask, now)
            stored.set()  # others can see it, and whoever asked does not know it yet
            await asyncio.sleep(0.05)
            return held

        store.open = slow  # type: ignore[method-assign]
        waiting = asyncio.create_task(desk.settle(ask(), fine, heard.append))
        await stored.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        (held,) = await store.find(states=[HoldState.PENDING], now=time.time())
        assert held.waiters == 0
        assert [one.id for one in heard] == [held.id]
        assert desk.waiting == 0

    run(tmp_path, play)


def test_a_store_lost_after_the_release_does_not_take_it_back(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        async def lost(hold_id: str, now: float) -> None:
            raise StoreUnavailableError("the store is gone")

        waiting = asyncio.create_task(desk.settle(ask(), fine))
        hold = await opened(store)
        store.leave = lost  # type: ignore[method-assign]
        await store.vote(hold, approve(), time.time())
        assert (await waiting).outcome == "released"

    run(tmp_path, play)


def test_a_rejected_request_is_refused(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        waiting = asyncio.create_task(desk.settle(ask(), fine))
        no = Vote(FIONA.person, FIONA, False, "no invoice", time.time())
        await store.vote(await opened(store), no, time.time())
        assert (await waiting).outcome == "rejected"

    run(tmp_path, play)


def test_without_a_wait_the_hold_is_opened_and_the_answer_comes_at_once(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        assert (await desk.settle(ask(wait=0), fine)).outcome == "waiting"
        held = await store.find(now=time.time())
        assert [(h.state, h.waiters) for h in held] == [(HoldState.PENDING, 0)]
        await store.vote(held[0].id, approve(), time.time())
        assert (await desk.settle(ask("dec_2", wait=0), fine)).outcome == "released"
        assert (await desk.settle(ask("dec_3", wait=0), fine)).outcome == "waiting"

    run(tmp_path, play)


def test_one_approval_releases_one_of_two_equal_requests(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        two = [asyncio.create_task(desk.settle(ask(f"dec_{n}", wait=20), fine)) for n in (1, 2)]
        first = await opened(store, 2)
        await store.vote(first, approve(), time.time())
        done, rest = await asyncio.wait(two, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result().outcome for task in done] == ["released"]
        second = await opened(store)
        assert second != first
        await store.vote(second, approve(), time.time())
        assert (await rest.pop()).outcome == "released"

    run(tmp_path, play)


def test_an_approval_that_policy_no_longer_wants_is_void(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        waiting = asyncio.create_task(desk.settle(ask(), lambda held, now: "rules-changed"))
        hold_id = await opened(store)
        await store.vote(hold_id, approve(), time.time())
        assert (await waiting).outcome == "void"
        held = await store.get(hold_id, time.time())
        assert held is not None
        assert (held.state, held.closed_reason) == (HoldState.VOID, "rules-changed")

    run(tmp_path, play)


def test_an_expired_token_leaves_the_approval_for_a_fresh_one(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        waiting = asyncio.create_task(desk.settle(ask(), lambda held, now: "token-expired"))
        hold_id = await opened(store)
        await store.vote(hold_id, approve(), time.time())
        assert (await waiting).outcome == "token_expired"
        assert (await desk.settle(ask("dec_2"), fine)).outcome == "released"

    run(tmp_path, play)


def test_a_client_that_leaves_ends_its_wait_and_not_the_hold(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        waiting = asyncio.create_task(desk.settle(ask(), fine))
        hold_id = await opened(store)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        again = asyncio.create_task(desk.settle(ask("dec_2"), fine))
        assert await opened(store) == hold_id
        await store.vote(hold_id, approve(), time.time())
        assert (await again).outcome == "released"
        held = await store.get(hold_id, time.time())
        assert held is not None
        assert held.waiters == 0

    run(tmp_path, play)


def test_too_many_holds_are_refused(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        assert (await desk.settle(ask(binding="b1", wait=0), fine)).outcome == "waiting"
        assert (await desk.settle(ask("dec_2", binding="b2", wait=0), fine)).outcome == "too_many"

    run(tmp_path, play, per_principal=1)


def test_too_many_waits_in_one_worker_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with SqliteHoldStore(tmp_path / "holds.db") as store:
            desk = HoldDesk(store, now=time.time, open_waits=1)
            waiting = asyncio.create_task(desk.settle(ask(), fine))
            await opened(store)
            assert (await desk.settle(ask("dec_2"), fine)).outcome == "too_many"
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert (await desk.settle(ask("dec_3", wait=0), fine)).outcome == "waiting"

    asyncio.run(main())


def test_a_lost_store_refuses(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteHoldStore(tmp_path / "missing" / "holds.db")
        (tmp_path / "missing").write_text("not a folder")
        desk = HoldDesk(store, now=time.time, open_waits=1)
        assert (await desk.settle(ask(), fine)).outcome == "unavailable"
        await store.aclose()

    asyncio.run(main())


def test_two_waiters_of_one_void_approval_are_told_the_same(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        two = [
            asyncio.create_task(desk.settle(ask(f"dec_{n}"), lambda held, now: "denied-now")) for n in (1, 2)
        ]
        await store.vote(await opened(store, 2), approve(), time.time())
        assert [(await task).outcome for task in two] == ["void", "void"]

    run(tmp_path, play)


def test_an_approval_that_can_neither_be_spent_nor_moves_ends_the_wait(tmp_path: Path) -> None:
    """As in a store that was tampered with: approved by the books, without the votes for it."""

    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        assert (await desk.settle(ask(wait=0), fine)).outcome == "waiting"
        hold_id = await opened(store, 0)
        await store.vote(hold_id, approve(), time.time())
        with sqlite3.connect(tmp_path / "holds.db") as db:
            db.execute("DELETE FROM votes")
        db.close()
        assert (await desk.settle(ask("dec_2"), fine)).outcome == "unavailable"
        held = await store.get(hold_id, time.time())
        assert held is not None
        assert (held.released_to, held.waiters) == ("", 0)

    run(tmp_path, play)


def test_whoever_waits_is_told_on_which_hold(tmp_path: Path) -> None:
    async def play(store: SqliteHoldStore, desk: HoldDesk) -> None:
        seen: list[str] = []
        await desk.settle(ask(wait=0), fine, lambda held: seen.append(held.id))
        await desk.settle(ask("dec_2", wait=0), fine, lambda held: seen.append(held.id))
        assert seen == [await opened(store, 0)] * 2

    run(tmp_path, play)
