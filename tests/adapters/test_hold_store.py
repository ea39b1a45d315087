"""What every hold store promises, and what SQLite promises on top."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.hold_sqlite import SqliteHoldStore, new_hold_id
from extproc.domain.demand import Quorum
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.hold import MOVES, HoldError, HoldLimits, HoldState, Verdict
from extproc.domain.lifecycle import KINDS
from extproc.domain.quorum import may_see
from tests.adapters.conftest import MakeStore, Store
from tests.support.holds import AGENT, ANNA, BERT, CLEO, NOW, ask, demand, principal, vote

DECIDING = [Verdict.APPROVE, Verdict.REJECT, Verdict.RELEASE, Verdict.BREAK_GLASS]
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def refused(code: str, call: Any) -> None:
    with pytest.raises(HoldError) as caught:
        await call
    assert caught.value.code == code


class TestAnyHoldStore:
    async def test_open_holds_are_counted_by_state_with_the_oldest_of_each(self, make: MakeStore):
        store = make()
        assert await store.standing() == []
        first = await store.open(ask("one"), NOW - 50)
        await store.open(ask("two"), NOW - 20)
        gone = await store.open(ask("three"), NOW - 90)
        approved = await store.open(ask("four"), NOW - 10)
        await store.close(gone.id, Verdict.WITHDRAW, NOW)
        await store.vote(approved.id, vote(ANNA), NOW)
        found = {each.state: (each.count, each.oldest) for each in await store.standing()}
        assert found == {HoldState.PENDING: (2, first.created_at), HoldState.APPROVED: (1, NOW - 10)}

    async def test_an_ask_opens_a_pending_hold_with_one_waiter(self, store: Store):
        held = await store.open(ask(), NOW)
        assert (held.state, held.waiters, held.version) == (HoldState.PENDING, 1, 1)
        assert held.expires_at == NOW + 3600
        assert held.ask == ask()
        assert await store.get(held.id, NOW) == held

    async def test_a_new_hold_keeps_no_second_copy_of_its_view(self, store: Store):
        """Thousands may wait, and each holds on to what it asked."""
        asked = ask()
        held = await store.open(asked, NOW)
        assert all(held.ask.view[section] is part for section, part in asked.view.items())
        assert held.ask.view

    async def test_an_equal_ask_joins_and_moves_nothing(self, store: Store):
        first = await store.open(ask(), NOW)
        second = await store.open(ask(), NOW + 1)
        assert (second.id, second.waiters, second.version) == (first.id, 2, 1)
        assert second.created_at == NOW

    async def test_who_leaves_ends_a_wait_and_not_the_hold(self, store: Store):
        held = await store.open(ask(), NOW)
        await store.leave(held.id, NOW)
        await store.leave(held.id, NOW)  # once too often changes nothing
        left = await store.get(held.id, NOW)
        assert left is not None
        assert (left.state, left.waiters) == (HoldState.PENDING, 0)

    async def test_nobody_abandons_what_another_request_waits_on(self, store: Store):
        """The store looks, for whoever asks for it cannot know who joins meanwhile."""
        held = await store.open(ask(), NOW)
        await store.leave(held.id, NOW)
        await store.open(ask(), NOW)
        await refused("conflict", store.close(held.id, Verdict.ABANDON, NOW, reason="gone"))
        await store.leave(held.id, NOW)
        closed = await store.close(held.id, Verdict.ABANDON, NOW, reason="gone")
        assert (closed.state, closed.closed_reason) == (HoldState.ABANDONED, "gone")

    async def test_one_approval_releases_exactly_one_request(self, store: Store):
        held = await store.open(ask(), NOW)
        approved = await store.vote(held.id, vote(ANNA), NOW + 1)
        assert (approved.state, approved.use_before) == (HoldState.APPROVED, NOW + 601)
        released = await store.release(held.id, "dec-2", NOW + 2)
        assert (released.state, released.released_to) == (HoldState.RELEASED, "dec-2")
        await refused("not_open", store.release(held.id, "dec-3", NOW + 2))
        await refused("not_open", store.release(held.id, "dec-2", NOW + 2))

    async def test_the_next_equal_request_asks_anew_after_a_release(self, store: Store):
        held = await store.open(ask(), NOW)
        await store.vote(held.id, vote(ANNA), NOW)
        joined = await store.open(ask(), NOW)
        assert (joined.id, joined.state) == (held.id, HoldState.APPROVED)
        await store.release(held.id, "dec-2", NOW)
        again = await store.open(ask(), NOW)
        assert again.id != held.id
        assert again.state is HoldState.PENDING

    async def test_a_pending_hold_cannot_be_released(self, store: Store):
        held = await store.open(ask(), NOW)
        await refused("not_open", store.release(held.id, "dec-2", NOW))

    async def test_a_rejection_is_final(self, store: Store):
        held = await store.open(ask(), NOW)
        rejected = await store.vote(held.id, vote(ANNA, False, "no"), NOW)
        assert (rejected.state, rejected.closed_reason) == (HoldState.REJECTED, "no")
        await refused("not_open", store.vote(held.id, vote(BERT), NOW))
        await refused("not_open", store.release(held.id, "dec-2", NOW))

    async def test_two_of_two_are_needed_and_a_repeated_vote_is_one(self, store: Store):
        held = await store.open(ask(wants=demand(Quorum("sre", 2))), NOW)
        once = await store.vote(held.id, vote(ANNA), NOW)
        twice = await store.vote(held.id, vote(ANNA, reason="again"), NOW)
        assert once == twice
        assert once.state is HoldState.PENDING
        done = await store.vote(held.id, vote(BERT), NOW)
        assert done.state is HoldState.APPROVED
        assert [v.person for v in done.votes] == [ANNA.person, BERT.person]

    async def test_a_repeated_vote_is_accepted_when_it_had_already_decided(self, store: Store):
        held = await store.open(ask(), NOW)
        approved = await store.vote(held.id, vote(ANNA), NOW)
        assert await store.vote(held.id, vote(ANNA), NOW) == approved

    async def test_an_approver_may_still_turn_it_down(self, store: Store):
        held = await store.open(ask(wants=demand(Quorum("sre", 2))), NOW)
        await store.vote(held.id, vote(ANNA), NOW)
        assert (await store.vote(held.id, vote(ANNA, False), NOW)).state is HoldState.REJECTED

    @pytest.mark.parametrize(
        ("code", "approver"),
        [
            ("self_approval", AGENT),
            ("self_approval", principal("agent-7", "sre")),
            ("self_approval", principal("alias", "sre", person=AGENT.person)),
            ("not_human", principal("agent-8", "sre", kind="agent")),
            ("not_human", principal("robot", "sre", kind="service")),
            ("not_a_member", CLEO),
            ("not_a_member", principal("nobody")),
        ],
    )
    async def test_who_may_not_decide_changes_nothing(self, store: Store, code: str, approver: Any):
        held = await store.open(ask(), NOW)
        await refused(code, store.vote(held.id, vote(approver), NOW))
        await refused(code, store.vote(held.id, vote(approver, False), NOW))
        assert await store.get(held.id, NOW) == held

    async def test_a_reason_is_required(self, store: Store):
        held = await store.open(ask(), NOW)
        await refused("reason_required", store.vote(held.id, vote(ANNA, reason=" \n"), NOW))

    async def test_what_was_cut_can_be_rejected_but_not_approved(self, store: Store):
        held = await store.open(ask(view={"facts": {}, "raw": {"body": "x", "truncated": ["body"]}}), NOW)
        await refused("not_shown_in_full", store.vote(held.id, vote(ANNA), NOW))
        assert (await store.vote(held.id, vote(ANNA, False), NOW)).state is HoldState.REJECTED

    async def test_an_undecided_hold_expires_at_its_second(self, store: Store):
        held = await store.open(ask(), NOW)
        before = await store.get(held.id, NOW + 3599.9)
        assert before is not None
        assert before.state is HoldState.PENDING
        after = await store.get(held.id, NOW + 3600)
        assert after is not None
        assert after.state is HoldState.EXPIRED

    async def test_a_vote_after_expiry_is_too_late_even_if_nobody_looked(self, store: Store):
        held = await store.open(ask(), NOW)
        await refused("not_open", store.vote(held.id, vote(ANNA), NOW + 3600))
        late = await store.get(held.id, NOW)
        assert late is not None
        assert late.state is HoldState.EXPIRED

    async def test_an_approval_unused_in_time_expires(self, store: Store):
        held = await store.open(ask(), NOW)
        await store.vote(held.id, vote(ANNA), NOW + 10)
        await refused("not_open", store.release(held.id, "dec-2", NOW + 610))
        late = await store.get(held.id, NOW + 610)
        assert late is not None
        assert late.state is HoldState.EXPIRED

    async def test_an_equal_ask_after_expiry_opens_a_new_hold(self, store: Store):
        held = await store.open(ask(), NOW)
        again = await store.open(ask(), NOW + 3600)
        assert again.id != held.id
        old = await store.get(held.id, NOW + 3600)
        assert old is not None
        assert old.state is HoldState.EXPIRED

    async def test_a_sweep_expires_what_is_overdue_and_only_that(self, store: Store):
        await store.open(ask("b1"), NOW)
        await store.open(ask("b2"), NOW + 100)
        assert await store.sweep(NOW + 3600) == 1
        assert await store.sweep(NOW + 3600) == 0
        kinds = [move.kind for move in await store.unrecorded()]
        assert kinds == ["hold.opened", "hold.opened", "hold.expired"]

    @pytest.mark.parametrize("verdict", [v for v in Verdict if v not in DECIDING])
    @pytest.mark.parametrize("approved", [False, True])
    async def test_closing_follows_the_table(self, store: Store, verdict: Verdict, approved: bool):
        held = await store.open(ask(), NOW)
        await store.leave(held.id, NOW)
        if approved:
            held = await store.vote(held.id, vote(ANNA), NOW)
        expected = MOVES.get((held.state, verdict))
        if expected is None:
            await refused("not_open", store.close(held.id, verdict, NOW))
            return
        closed = await store.close(held.id, verdict, NOW, by="somebody", reason="because")
        assert (closed.state, closed.closed_reason) == (expected, "because")
        await refused("not_open", store.close(held.id, verdict, NOW))
        await refused("not_open", store.release(held.id, "dec-2", NOW))

    @pytest.mark.parametrize("verdict", DECIDING)
    async def test_deciding_is_not_closing(self, store: Store, verdict: Verdict):
        held = await store.open(ask(), NOW)
        await refused("conflict", store.close(held.id, verdict, NOW))

    async def test_an_unknown_hold_is_none_or_an_error(self, store: Store):
        assert await store.get("h-none", NOW) is None
        await refused("not_found", store.vote("h-none", vote(ANNA), NOW))
        await refused("not_found", store.release("h-none", "dec-2", NOW))
        await refused("not_found", store.close("h-none", Verdict.WITHDRAW, NOW))
        await refused("not_found", store.changed("h-none", 1, 1.0))

    async def test_one_principal_and_all_together_are_bounded(self, make: MakeStore):
        store = make(limits=HoldLimits(per_principal=2, total=3))
        other = principal("agent-8", kind="agent")
        await store.open(ask("b1"), NOW)
        await store.open(ask("b2"), NOW)
        await refused("too_many", store.open(ask("b3"), NOW))
        await store.open(ask("b2"), NOW)  # joining needs no room
        await store.open(ask("b4", requester=other), NOW)
        await refused("too_many", store.open(ask("b5", requester=principal("third", kind="agent")), NOW))
        assert (await store.open(ask("b6"), NOW + 3600)).state is HoldState.PENDING  # expiry makes room

    async def test_waiters_on_one_hold_are_bounded_until_it_is_approved(self, make: MakeStore):
        store = make(limits=HoldLimits(waiters=2))
        held = await store.open(ask(), NOW)
        await store.open(ask(), NOW)
        await refused("too_many", store.open(ask(), NOW))
        await store.vote(held.id, vote(ANNA), NOW)
        assert (await store.open(ask(), NOW)).state is HoldState.APPROVED

    async def test_the_list_is_newest_first_and_filtered(self, store: Store):
        other = principal("agent-8", kind="agent")
        first = await store.open(ask("b1"), NOW)
        second = await store.open(ask("b2", requester=other), NOW + 1)
        third = await store.open(ask("b3"), NOW + 2)
        await store.vote(third.id, vote(ANNA), NOW + 3)
        ids = [held.id for held in await store.find(now=NOW + 3)]
        assert ids == [third.id, second.id, first.id]
        pending = await store.find(states=[HoldState.PENDING], now=NOW + 3)
        assert [held.id for held in pending] == [second.id, first.id]
        own = await store.find(requester=(other.issuer, other.subject), now=NOW + 3)
        assert [held.id for held in own] == [second.id]
        assert [held.id for held in await store.find(limit=1, now=NOW + 3)] == [third.id]
        assert await store.find(states=[HoldState.PENDING], now=NOW + 9999) == []

    async def test_the_list_shows_each_viewer_what_he_may_see(self, store: Store):
        agents_too = demand(Quorum("bots"), allow_agents=True)
        asks = [
            ask("b1"),
            ask("b2", wants=demand(Quorum("dpo"))),
            ask("b3", requester=principal("agent-8", kind="agent", person=ANNA.person)),
            ask("b4", requester=ANNA, wants=demand(Quorum("dpo"))),
            ask("b5", wants=agents_too),
            ask("b6", wants=demand(Quorum("sre"), Quorum("dpo"))),
        ]
        for n, each in enumerate(asks):
            await store.open(each, NOW + n)
        everything = await store.find(now=NOW)
        viewers = [ANNA, BERT, CLEO, AGENT, principal("agent-8", "sre", kind="agent", person=ANNA.person)]
        viewers += [principal("bot", "bots", kind="agent"), principal("stranger", '"', "sr%")]
        for viewer in viewers:
            seen = await store.find(seen_by=viewer, now=NOW)
            assert seen == [held for held in everything if may_see(held.ask, viewer)]
        assert [len(await store.find(seen_by=v, now=NOW)) for v in viewers] == [4, 5, 3, 4, 1, 1, 0]

    async def test_every_change_leaves_a_move_and_the_moves_tell_the_story(self, store: Store):
        held = await store.open(ask(wants=demand(Quorum("sre"), Quorum("dpo"))), NOW)
        await store.vote(held.id, vote(ANNA), NOW + 1)
        await store.vote(held.id, vote(CLEO, reason="fine by me"), NOW + 2)
        done = await store.release(held.id, "dec-2", NOW + 3)
        moves = await store.unrecorded()
        assert [move.kind for move in moves] == [
            "hold.opened", "hold.vote", "hold.vote", "hold.approved", "hold.released",
        ]  # fmt: skip
        assert [move.at for move in moves] == [NOW, NOW + 1, NOW + 2, NOW + 2, NOW + 3]
        assert [move.id for move in moves] == [f"{held.id}.{n}" for n in range(1, done.version + 1)]
        assert moves[2].fields["reason"] == "fine by me"
        assert moves[2].fields["approver"]["person"] == CLEO.person
        assert moves[4].fields == {"from": "approved", "to": "released", "decision_id": "dec-2"}

    async def test_a_recorded_move_is_not_told_again(self, store: Store):
        await store.open(ask("b1"), NOW)
        await store.open(ask("b2"), NOW)
        (first,) = await store.unrecorded(1)
        await store.recorded([first.id])
        await store.recorded([first.id, "no such move"])
        (second,) = await store.unrecorded()
        assert second.id != first.id

    async def test_claims_that_prove_nothing_are_not_kept(self, store: Store):
        asker = principal("agent-9", kind="agent", acr="high", home_address="12 Some Street")
        held = await store.open(ask(requester=asker), NOW)
        assert held.ask.requester.claims == {"acr": "high"}

    async def test_who_waits_is_told_of_a_change(self, store: Store):
        held = await store.open(ask(), NOW)
        waiting = asyncio.create_task(store.changed(held.id, held.version, 30.0))
        await asyncio.sleep(0)
        await store.vote(held.id, vote(ANNA), NOW)
        changed = await waiting
        assert changed is not None
        assert changed.state is HoldState.APPROVED

    async def test_a_change_that_came_first_is_told_at_once(self, store: Store):
        held = await store.open(ask(), NOW)
        await store.vote(held.id, vote(ANNA), NOW)
        changed = await store.changed(held.id, held.version, 30.0)
        assert changed is not None
        assert changed.version == 3

    async def test_no_change_in_time_is_none(self, store: Store):
        held = await store.open(ask(), NOW)
        assert await store.changed(held.id, held.version, 0.01) is None

    async def test_joining_and_leaving_wake_nobody(self, store: Store):
        held = await store.open(ask(), NOW)
        waiting = asyncio.create_task(store.changed(held.id, held.version, 0.2))
        await store.open(ask(), NOW)
        await store.leave(held.id, NOW)
        assert await waiting is None

    async def test_news_of_any_hold_end_the_wait(self, store: Store):
        assert await store.news(0, 0.0) == 0
        waiting = asyncio.create_task(store.news(0, 30.0))
        await asyncio.sleep(0)
        await store.open(ask(), NOW)
        assert await waiting == 1
        assert await store.news(1, 0.01) == 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "holds.db"


def start(path: Path, job: str, argument: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.adapters.hold_process", str(path), job, argument],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


class TestSqlite:
    async def test_nobody_else_may_read_the_file(self, path: Path):
        old = os.umask(0)
        try:
            async with SqliteHoldStore(path) as store:
                await store.open(ask(), NOW)
                modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        finally:
            os.umask(old)
        assert modes == {"holds.db": 0o600, "holds.db-wal": 0o600, "holds.db-shm": 0o600}

    async def test_a_file_that_others_can_read_is_refused(self, path: Path):
        async with SqliteHoldStore(path):
            pass
        path.chmod(0o640)
        with pytest.raises(StoreUnavailableError, match="0600"):
            await SqliteHoldStore(path).check()

    async def test_holds_outlive_the_process(self, path: Path):
        async with SqliteHoldStore(path) as store:
            held = await store.open(ask(), NOW)
            held = await store.vote(held.id, vote(ANNA), NOW)
        async with SqliteHoldStore(path) as store:
            kept = await store.get(held.id, NOW)
        assert kept is not None
        assert (kept.ask, kept.state, kept.votes) == (held.ask, held.state, held.votes)
        assert kept.waiters == 0  # the process that waited has ended

    async def test_commits_reach_the_disk_before_anybody_is_told(self, path: Path):
        async with SqliteHoldStore(path) as store:
            settings = await store._sqlite.run(
                lambda db: [
                    db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
                ]
            )
        assert settings == ["wal", 2]  # 2 is FULL

    async def test_another_schema_is_refused(self, path: Path):
        async with SqliteHoldStore(path):
            pass
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
        with pytest.raises(StoreUnavailableError, match="schema 3"):
            await SqliteHoldStore(path).check()

    async def test_another_programs_database_is_refused(self, path: Path):
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE theirs (a)")
        db.close()
        path.chmod(0o600)
        with pytest.raises(StoreUnavailableError):
            await SqliteHoldStore(path).check()

    async def test_a_corrupt_file_is_refused(self, path: Path):
        path.write_bytes(os.urandom(8192))
        path.chmod(0o600)
        store = SqliteHoldStore(path)
        for call in (store.open(ask(), NOW), store.get("h-1", NOW), store.unrecorded()):
            with pytest.raises(StoreUnavailableError):
                await call
        await store.aclose()

    async def test_a_corrupt_row_is_unavailable_rather_than_misread(self, path: Path):
        async with SqliteHoldStore(path) as store:
            held = await store.open(ask(), NOW)
            with sqlite3.connect(path) as db:
                db.execute("UPDATE holds SET ask = '{}'")
            db.close()
            with pytest.raises(StoreUnavailableError):
                await store.get(held.id, NOW)

    async def test_a_missing_folder_is_unavailable(self, tmp_path: Path):
        with pytest.raises(StoreUnavailableError):
            await SqliteHoldStore(tmp_path / "none" / "holds.db").check()

    async def test_a_locked_file_is_unavailable_and_usable_again_later(self, path: Path):
        async with SqliteHoldStore(path, lock_wait=0.05) as store:
            blocker = sqlite3.connect(path, isolation_level=None)
            blocker.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailableError, match="locked"):
                await store.open(ask(), NOW)
            blocker.execute("ROLLBACK")
            blocker.close()
            assert (await store.open(ask(), NOW)).waiters == 1

    async def test_a_full_disk_is_unavailable_and_leaves_nothing_half_done(self, path: Path):
        async with SqliteHoldStore(path) as store:
            held = await store.open(ask(), NOW)
            pages = "PRAGMA max_page_count = {}"
            await store._sqlite.run(lambda db: db.execute(pages.format(1)).fetchone())
            with pytest.raises(StoreUnavailableError, match="full"):
                for n in range(1000):
                    await store.open(ask(f"full-{n}", requester=principal(f"a-{n}", kind="agent")), NOW)
            await store._sqlite.run(lambda db: db.execute(pages.format(100000)).fetchone())
            holds = await store.find(limit=10_000, now=NOW)
            assert len(holds) == len(await store.unrecorded(10_000))
            assert (await store.vote(held.id, vote(ANNA), NOW)).state is HoldState.APPROVED

    async def test_after_it_is_closed_it_is_unavailable(self, path: Path):
        store = SqliteHoldStore(path)
        held = await store.open(ask(), NOW)
        waiting = asyncio.create_task(store.changed(held.id, held.version, 30.0))
        while not store._waits._poller:
            await asyncio.sleep(0)
        await store.aclose()
        with pytest.raises(StoreUnavailableError):
            await waiting
        with pytest.raises(StoreUnavailableError):
            await store.get(held.id, NOW)
        await store.aclose()

    async def test_a_store_that_is_lost_while_waiting_says_so(self, path: Path, monkeypatch: Any):
        store = SqliteHoldStore(path)
        held = await store.open(ask(), NOW)

        async def lost(*_: object) -> Any:
            raise StoreUnavailableError("gone")

        monkeypatch.setattr(store._waits, "_look", lost)
        with pytest.raises(StoreUnavailableError):
            await store.changed(held.id, held.version, 30.0)
        await store.aclose()

    async def test_nobody_waiting_means_no_polling(self, path: Path):
        async with SqliteHoldStore(path) as store:
            held = await store.open(ask(), NOW)
            before = store._waits._poller
            await store.changed(held.id, held.version, 0.01)
            after = store._waits._poller
            assert before is None
            assert after is not None
            await asyncio.wait_for(after, 10)

    async def test_a_cancelled_opening_leaves_no_waiter(self, path: Path):
        store = SqliteHoldStore(path)
        held = await store.open(ask(), NOW)
        opening = asyncio.create_task(store.open(ask(), NOW))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        waiters = 0
        for _ in range(1000):
            kept = await store.get(held.id, NOW)
            waiters = kept.waiters if kept else -1
            if waiters == 1 and not store._leaving:
                break
        assert waiters == 1
        await store.aclose()

    async def test_waiters_of_a_process_that_died_do_not_count(self, path: Path):
        child = start(path, "live", "dies")
        try:
            assert child.stdout is not None
            child.stdout.readline()
        finally:
            child.kill()
            child.wait()
        async with SqliteHoldStore(path) as store:
            assert {held.waiters for held in await store.find(now=NOW)} == {0}

    async def test_a_hold_that_expires_wakes_who_waits(self, path: Path):
        clock = [NOW]
        async with SqliteHoldStore(path, clock=lambda: clock[0]) as store:
            held = await store.open(ask(), NOW)
            clock[0] = NOW + 3600
            changed = await store.changed(held.id, held.version, 30.0)
            assert changed is not None
            assert changed.state is HoldState.EXPIRED

    async def test_a_change_by_another_process_wakes_who_waits(self, path: Path):
        async with SqliteHoldStore(path, clock=lambda: NOW) as store:
            held = await store.open(ask(), NOW)
            with start(path, "approve_one", held.id) as child:
                assert child.stdin is not None
                assert child.stdout is not None
                await asyncio.to_thread(child.stdout.readline)
                waiting = asyncio.create_task(store.changed(held.id, held.version, 30.0))
                child.stdin.write("go\n")
                child.stdin.flush()
                changed = await waiting
            assert changed is not None
            assert changed.state is HoldState.APPROVED

    async def test_the_wait_for_another_process_is_at_most_two_looks(self, path: Path, monkeypatch: Any):
        async with SqliteHoldStore(path, clock=lambda: NOW) as store, SqliteHoldStore(path) as other:
            held = await store.open(ask(), NOW)
            looks: list[object] = []
            real = store._waits._look

            async def look(seen: Any, ids: Any) -> Any:
                looks.append(seen)
                return await real(seen, ids)

            monkeypatch.setattr(store._waits, "_look", look)
            waiting = asyncio.create_task(store.changed(held.id, held.version, 30.0))
            while len(looks) < 2:
                await asyncio.sleep(0.005)
            await other.vote(held.id, vote(ANNA), NOW)
            looks.clear()
            assert await waiting is not None
            assert len(looks) <= 2  # 50 ms apart

    async def test_two_processes_spend_two_hundred_approvals_once_each(self, path: Path):
        async with SqliteHoldStore(path, limits=HoldLimits(per_principal=1000)) as store:
            for n in range(200):
                held = await store.open(ask(f"b{n}"), NOW)
                await store.vote(held.id, vote(ANNA), NOW)
            children = [start(path, "release_all", name) for name in ("left", "right")]
            for child in children:
                assert child.stdout is not None
                await asyncio.to_thread(child.stdout.readline)
            outputs = await asyncio.gather(
                *(asyncio.to_thread(child.communicate, "go\n", 60) for child in children)
            )
            won = [set(out.split()) for out, _ in outputs]
            assert [child.returncode for child in children] == [0, 0]
            assert len(won[0]) + len(won[1]) == 200
            assert not won[0] & won[1]
            released = await store.find(states=[HoldState.RELEASED], limit=1000, now=NOW)
            assert len(released) == 200
            for held in released:
                name = "left" if held.id in won[0] else "right"
                assert held.released_to == f"{name}-{held.id}"

    async def test_two_connections_race_for_one_approval_and_one_wins(self, path: Path):
        limits = HoldLimits(per_principal=1000)
        async with SqliteHoldStore(path, limits=limits) as one, SqliteHoldStore(path, limits=limits) as two:
            for n in range(200):
                held = await one.open(ask(f"b{n}"), NOW)
                await two.vote(held.id, vote(ANNA), NOW)
                outcomes = await asyncio.gather(
                    one.release(held.id, "one", NOW), two.release(held.id, "two", NOW), return_exceptions=True
                )
                lost = [outcome for outcome in outcomes if isinstance(outcome, HoldError)]
                assert [error.code for error in lost] == ["not_open"]

    @pytest.mark.parametrize("seed", range(8))
    async def test_after_a_kill_every_change_has_its_move(self, path: Path, seed: int):
        """Killed while it works: the lines it wrote were promised, and nothing is there without its move."""
        child = start(path, "live", str(seed))
        try:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(random.Random(seed).randrange(1, 40))]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        finally:
            child.kill()
            child.wait()
        promised: dict[str, int] = {}
        for line in lines:
            if line.endswith("\n"):
                hold_id, version = line.split()
                promised[hold_id] = int(version)
        async with SqliteHoldStore(path) as store:
            holds = {held.id: held for held in await store.find(limit=100_000, now=NOW)}
            moves = await store.unrecorded(100_000)
        assert promised
        assert promised.keys() <= holds.keys()
        for held in holds.values():
            own = [move for move in moves if move.hold_id == held.id]
            assert [move.id for move in own] == [f"{held.id}.{n}" for n in range(1, held.version + 1)]
            assert held.version >= promised.get(held.id, 0)
            assert [move.kind for move in own if move.kind != "hold.vote"][-1] == KINDS[held.state]
            assert len(held.votes) == sum(move.kind == "hold.vote" for move in own)

    async def test_only_closed_and_recorded_holds_are_forgotten(self, path: Path):
        async with SqliteHoldStore(path) as store:
            done, unrecorded, pending = [await store.open(ask(f"b{n}"), NOW) for n in range(3)]
            await store.close(done.id, Verdict.WITHDRAW, NOW)
            await store.recorded([move.id for move in await store.unrecorded()])
            await store.close(unrecorded.id, Verdict.WITHDRAW, NOW)
            assert await store.forget(NOW) == 0
            assert await store.forget(NOW + 1) == 1
            left = {held.id for held in await store.find(now=NOW)}
            assert left == {unrecorded.id, pending.id}

    def test_ids_are_short_and_do_not_repeat(self):
        ids = {new_hold_id() for _ in range(1000)}
        assert len(ids) == 1000
        assert {len(each) for each in ids} == {14}
