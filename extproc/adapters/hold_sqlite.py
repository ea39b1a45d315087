"""Holds in one SQLite file that several processes on one machine share.

WAL with `synchronous=FULL`: a commit is on the disk before anybody is told. With NORMAL a power cut could undo
the last commits, and an approval that was already spent would be there to be spent again. Holds move at the pace
of people, so a quarter of a millisecond per change costs nothing.

All blocking work runs in one thread of its own, which also owns the one connection; the event loop never waits.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from extproc.adapters import grant_rows
from extproc.adapters import hold_rows as rows
from extproc.adapters.hold_schema import STANDING, prepare
from extproc.adapters.hold_waits import Seen, Waits
from extproc.adapters.process_name import process_name
from extproc.adapters.sqlite_thread import SqliteThread
from extproc.domain import granting, lifecycle
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.grant import Grant, GrantState
from extproc.domain.granting import GrantChange
from extproc.domain.hold import (
    HeldRequest,
    HoldAsk,
    HoldError,
    HoldLimits,
    HoldMove,
    HoldsOpen,
    HoldState,
    Review,
    ReviewState,
    Verdict,
    Vote,
)
from extproc.domain.lifecycle import Change
from extproc.domain.principal import Principal

T = TypeVar("T")

LOCK_WAIT = 2.0
"""Seconds to wait for another process's transaction before saying that the store is unavailable."""
DEFAULT_LIMITS = HoldLimits()


def new_hold_id() -> str:
    """Sixty random bits, short enough to type: `h-` and twelve of 32 letters that are hard to mix up."""
    return "h-" + _letters()


def new_grant_id() -> str:
    """As for holds, with `g-`."""
    return "g-" + _letters()


def _letters() -> str:
    return "".join(secrets.choice("23456789abcdefghijkmnpqrstuvwxyz") for _ in range(12))


class SqliteHoldStore:
    """See `HoldStore` and `GrantStore`. Use it from one event loop, and `aclose()` it there.

    `clock` (Unix seconds) is asked only while somebody waits, to expire what is overdue.
    """

    def __init__(
        self,
        path: Path,
        *,
        limits: HoldLimits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.time,
        lock_wait: float = LOCK_WAIT,
        new_id: Callable[[], str] = new_hold_id,
    ) -> None:
        self._limits = limits
        self._new_id = new_id
        self._process = process_name()
        self._sqlite = SqliteThread(path, prepare, lock_wait)
        self._leaving: set[asyncio.Future[None]] = set()
        self._closed = False
        self._waits = Waits(self._look, self.sweep, clock)

    async def __aenter__(self) -> SqliteHoldStore:
        await self.check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def check(self) -> None:
        """Open the file now, so that a wrong schema or mode shows at start. Raises StoreUnavailableError."""
        await self._sqlite.run(lambda db: db.execute("SELECT count(*) FROM holds").fetchone())

    async def aclose(self) -> None:
        """Waiting calls raise StoreUnavailableError; requests of this process no longer count as waiters."""
        if self._closed:
            return
        self._closed = True
        await self._waits.aclose()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        try:
            if self._sqlite.connections:
                await self._sqlite.run(self._forget_own_waiters)
        except StoreUnavailableError:
            pass  # the next process to open the file forgets them, since this one is gone
        await self._sqlite.aclose()

    # -- changes ----------------------------------------------------------------------------------------------

    async def open(self, ask: HoldAsk, now: float) -> HeldRequest:
        def work(db: sqlite3.Connection) -> HeldRequest:
            is_new = False
            held = rows.load_open(db, ask.binding)
            if held is not None and held.is_overdue(now):
                self._save(db, held, lifecycle.expired(held, now), now)
                held = None
            if held is None:
                self._check_room(db, ask.requester, now)
                change = lifecycle.opened(self._new_id(), ask, now)
                rows.insert(db, change)
                self._waits.told_from_thread(change.held)
                held, is_new = change.held, True
            elif held.state is HoldState.PENDING and held.waiters >= self._limits.waiters:
                raise HoldError("too_many", "too many requests wait on this hold already")
            db.execute(
                """INSERT INTO waiters VALUES (?, ?, 1)
                ON CONFLICT (hold_id, process) DO UPDATE SET count = count + 1""",
                (held.id, self._process),
            )
            # what was just opened is not read back: a second copy of the ask would live as long as the wait
            return held if is_new else rows.load(db, held.id) or held

        running = asyncio.ensure_future(self._change(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # nobody is left to call leave(), yet the transaction may be under way
            running.add_done_callback(lambda done: self._leave_for(done, now))
            raise

    async def leave(self, hold_id: str, now: float) -> None:
        def work(db: sqlite3.Connection) -> None:
            key = (hold_id, self._process)
            gone = db.execute("DELETE FROM waiters WHERE hold_id = ? AND process = ? AND count = 1", key)
            if not gone.rowcount:
                db.execute("UPDATE waiters SET count = count - 1 WHERE hold_id = ? AND process = ?", key)

        await self._change(work)

    async def vote(self, hold_id: str, vote: Vote, now: float) -> HeldRequest:
        return await self._move(hold_id, now, lambda held: lifecycle.voted(held, vote, now))

    async def break_glass(self, hold_id: str, by: Principal, reason: str, now: float) -> HeldRequest:
        return await self._move(hold_id, now, lambda held: lifecycle.broken(held, by, reason, now))

    async def review(self, hold_id: str, review: Review, now: float) -> HeldRequest:
        return await self._move(hold_id, now, lambda held: lifecycle.reviewed(held, review, now))

    async def release(self, hold_id: str, decision_id: str, now: float) -> HeldRequest:
        return await self._move(hold_id, now, lambda held: lifecycle.released(held, decision_id, now))

    async def close(
        self, hold_id: str, verdict: Verdict, now: float, *, by: str = "", reason: str = ""
    ) -> HeldRequest:
        return await self._move(
            hold_id, now, lambda held: lifecycle.closed(held, verdict, now, by=by, reason=reason)
        )

    async def sweep(self, now: float) -> int:
        if not await self._sqlite.run(lambda db: rows.overdue(db, now) or grant_rows.overdue(db, now)):
            return 0  # the usual case takes no write lock
        return await self._change(lambda db: self._expire(db, now))

    # -- grants -----------------------------------------------------------------------------------------------

    async def covering(self, ask: HoldAsk, now: float) -> Grant | None:
        found = await self._sqlite.run(lambda db: grant_rows.candidates(db, ask, now))
        return next((grant for grant in found if granting.covers(grant, ask, now)), None)

    async def use_grant(self, grant_id: str, decision_id: str, now: float) -> Grant:
        def use(db: sqlite3.Connection, grant: Grant) -> Grant:
            if grant_rows.is_used_for(db, grant_id, decision_id):
                return grant
            change = granting.used(grant, decision_id, now)
            grant_rows.update(db, change, decision_id=decision_id, now=now)
            return change.grant

        return await self._move_grant(grant_id, now, use)

    async def revoke_grant(self, grant_id: str, now: float, *, by: str = "", reason: str = "") -> Grant:
        def revoke(db: sqlite3.Connection, grant: Grant) -> Grant:
            change = granting.revoked(grant, now, by=by, reason=reason)
            grant_rows.update(db, change)
            held = grant.held
            if held.state is HoldState.APPROVED and not held.is_overdue(now):
                self._save(db, held, lifecycle.closed(held, Verdict.REVOKE, now, by=by, reason=reason), now)
            return grant_rows.load(db, grant_id) or change.grant

        return await self._move_grant(grant_id, now, revoke)

    async def get_grant(self, grant_id: str, now: float) -> Grant | None:
        grant = await self._sqlite.run(lambda db: grant_rows.load(db, grant_id))
        if grant is None or not grant.is_overdue(now):
            return grant
        return await self._move_grant(grant_id, now, lambda db, grant: grant)

    async def find_grants(
        self,
        *,
        states: Sequence[GrantState] = (),
        requester: tuple[str, str] | None = None,
        seen_by: Principal | None = None,
        limit: int = 100,
        now: float,
    ) -> list[Grant]:
        await self.sweep(now)
        return await self._sqlite.run(
            lambda db: grant_rows.select(db, states=states, requester=requester, seen_by=seen_by, limit=limit)
        )

    # -- looking ----------------------------------------------------------------------------------------------

    async def get(self, hold_id: str, now: float) -> HeldRequest | None:
        held = await self._sqlite.run(lambda db: rows.load(db, hold_id))
        if held is None or not (held.is_overdue(now) or held.is_review_overdue(now)):
            return held
        return await self._move(hold_id, now, lambda held: lifecycle.due(held, now))

    async def find(
        self,
        *,
        states: Sequence[HoldState] = (),
        requester: tuple[str, str] | None = None,
        seen_by: Principal | None = None,
        reviews: Sequence[ReviewState] = (),
        limit: int = 100,
        now: float,
    ) -> list[HeldRequest]:
        await self.sweep(now)
        return await self._sqlite.run(
            lambda db: rows.select(
                db, states=states, requester=requester, seen_by=seen_by, reviews=reviews, limit=limit
            )
        )

    async def changed(self, hold_id: str, version: int, timeout: float) -> HeldRequest | None:
        with self._waits.waiting(hold_id, version) as told:
            current = await self._sqlite.run(
                lambda db: self._number(db, hold_id)
            )  # after signing up: none is missed
            if current is None:
                raise HoldError("not_found", "no such hold")
            if current == version and not await told(timeout):
                return None
        return await self._sqlite.run(lambda db: rows.load(db, hold_id))

    async def news(self, since: int, timeout: float) -> int:
        with self._waits.waiting("", since) as told:
            current = await self._sqlite.run(lambda db: self._number(db, ""))
            if timeout > 0 and current == since:
                await told(timeout)
        return await self._sqlite.run(lambda db: self._number(db, "")) or 0

    # -- the outbox -------------------------------------------------------------------------------------------

    async def unrecorded(self, limit: int = 100) -> list[HoldMove]:
        def work(db: sqlite3.Connection) -> list[HoldMove]:
            found = db.execute(
                "SELECT id, hold_id, kind, at, fields FROM moves WHERE recorded = 0 ORDER BY seq LIMIT ?",
                (limit,),
            )
            return [rows.read_move(row) for row in found]

        return await self._sqlite.run(work)

    async def oldest_unrecorded(self) -> float | None:
        def work(db: sqlite3.Connection) -> float | None:
            row = db.execute("SELECT at FROM moves WHERE recorded = 0 ORDER BY seq LIMIT 1").fetchone()
            return None if row is None else float(row[0])

        return await self._sqlite.run(work)

    async def recorded(self, move_ids: Sequence[str]) -> None:
        await self._change(
            lambda db: db.executemany("UPDATE moves SET recorded = 1 WHERE id = ?", [(i,) for i in move_ids])
        )

    async def forget(self, before: float) -> int:
        """Drop closed holds that were made before `before` and whose every move the ledger has; how many."""

        def work(db: sqlite3.Connection) -> int:
            old = """SELECT id FROM holds h WHERE created_at < ? AND deadline IS NULL
                AND review NOT IN ('open', 'overdue')
                AND NOT EXISTS (SELECT 1 FROM moves WHERE hold_id = h.id AND recorded = 0)
                AND NOT EXISTS (SELECT 1 FROM grants WHERE hold_id = h.id AND deadline IS NOT NULL)"""
            db.execute(f"DELETE FROM moves WHERE hold_id IN ({old})", (before,))  # noqa: S608
            return db.execute(f"DELETE FROM holds WHERE id IN ({old})", (before,)).rowcount  # noqa: S608

        return await self._change(work)

    async def standing(self) -> list[HoldsOpen]:
        """Open holds by state, as the books have them."""
        found = await self._sqlite.run(lambda db: db.execute(STANDING).fetchall())
        return [HoldsOpen(HoldState(state), count, oldest) for state, count, oldest in found]

    # -- in the thread ----------------------------------------------------------------------------------------

    async def _move(self, hold_id: str, now: float, step: Callable[[HeldRequest], Change]) -> HeldRequest:
        """Load, step, save. A hold that is overdue expires first, and stays so when the step then fails."""

        def work(db: sqlite3.Connection) -> HeldRequest | HoldError:
            held = rows.load(db, hold_id)
            if held is None:
                return HoldError("not_found", "no such hold")
            due = lifecycle.due(held, now)
            self._save(db, held, due, now)
            try:
                change = step(due.held)
            except HoldError as error:
                return error
            self._save(db, due.held, change, now)
            return change.held

        outcome = await self._change(work)
        if isinstance(outcome, HoldError):
            raise outcome
        return outcome

    async def _move_grant(
        self, grant_id: str, now: float, step: Callable[[sqlite3.Connection, Grant], Grant]
    ) -> Grant:
        """As `_move`, for a grant; `step` saves what it does."""

        def work(db: sqlite3.Connection) -> Grant | HoldError:
            grant = grant_rows.load(db, grant_id)
            if grant is None:
                return HoldError("not_found", "no such grant")
            due = granting.expired(grant, now)
            if due.moves:
                grant_rows.update(db, due)
            try:
                grant = step(db, due.grant)
            except HoldError as error:
                return error
            self._waits.told_from_thread(grant)
            return grant

        outcome = await self._change(work)
        if isinstance(outcome, HoldError):
            raise outcome
        return outcome

    def _save(self, db: sqlite3.Connection, before: HeldRequest, change: Change, now: float) -> bool:
        """A changed hold. Its approval makes its grant, its revocation ends it."""
        if not change.moves:
            return False
        rows.update(db, before, change)
        self._waits.told_from_thread(change.held)
        if change.held.state is before.state:
            return True
        if change.held.state is HoldState.APPROVED:
            made = granting.made(new_grant_id(), change.held, now)
            if made is not None:
                grant_rows.insert(db, made)
        elif change.held.state is HoldState.REVOKED:
            grant = grant_rows.load_of_hold(db, change.held.id)
            if grant is not None and grant.is_live:
                grant_rows.update(db, self._ended(grant, change, now))
        return True

    @staticmethod
    def _ended(grant: Grant, change: Change, now: float) -> GrantChange:
        if grant.is_overdue(now):
            return granting.expired(grant, now)
        by = str(change.moves[-1].fields.get("by", ""))
        return granting.revoked(grant, now, by=by, reason=change.held.closed_reason)

    def _expire(self, db: sqlite3.Connection, now: float) -> int:
        due = [held for held in (rows.load(db, hold_id) for hold_id in rows.overdue(db, now)) if held]
        grants = [
            grant for grant in (grant_rows.load(db, id_) for id_ in grant_rows.overdue(db, now)) if grant
        ]
        for grant in grants:
            grant_rows.update(db, granting.expired(grant, now))
        return len(grants) + sum(self._save(db, held, lifecycle.due(held, now), now) for held in due)

    def _check_room(self, db: sqlite3.Connection, requester: Principal, now: float) -> None:
        self._expire(db, now)
        total, own = db.execute(
            """SELECT count(*), coalesce(sum(issuer = ? AND subject = ?), 0)
            FROM holds WHERE deadline IS NOT NULL""",
            (requester.issuer, requester.subject),
        ).fetchone()
        if own >= self._limits.per_principal:
            raise HoldError("too_many", f"{own} of this principal's requests are held already")
        if total >= self._limits.total:
            raise HoldError("too_many", f"{total} requests are held already")

    def _number(self, db: sqlite3.Connection, hold_id: str) -> int | None:
        """A hold's version; for the empty id the number of the newest move of all."""
        if not hold_id:
            row = db.execute("SELECT coalesce(max(seq), 0) FROM moves").fetchone()
        else:
            row = db.execute("SELECT version FROM holds WHERE id = ?", (hold_id,)).fetchone()
        return None if row is None else int(row[0])

    async def _look(self, seen: Seen | None, hold_ids: Sequence[str]) -> tuple[Seen, dict[str, int]]:
        """SQLite's change counter, and, if it is not `seen`, the numbers of `hold_ids`."""

        def work(db: sqlite3.Connection) -> tuple[Seen, dict[str, int]]:
            # changes when another connection commits; our own changes are told in memory
            counter = (self._sqlite.connections, int(db.execute("PRAGMA data_version").fetchone()[0]))
            if counter == seen:
                return counter, {}
            found = db.execute(
                "SELECT id, version FROM holds WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(hold_ids),),
            )
            return counter, {**dict(found.fetchall()), "": self._number(db, "") or 0}

        return await self._sqlite.run(work)

    def _leave_for(self, opening: asyncio.Future[HeldRequest], now: float) -> None:
        if opening.cancelled() or opening.exception() is not None:
            return
        leaving = asyncio.ensure_future(self.leave(opening.result().id, now))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._left)

    def _left(self, leaving: asyncio.Future[None]) -> None:
        self._leaving.discard(leaving)
        if not leaving.cancelled():
            leaving.exception()  # a lost store: this process's waiters are forgotten when it ends

    async def _change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """One write transaction. What `work` tells the waiting is held back until it is committed."""
        return await self._sqlite.change(work, self._waits.send_from_thread, self._waits.drop_from_thread)

    def _forget_own_waiters(self, db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM waiters WHERE process = ?", (self._process,))
