"""Holds in one Postgres database that several machines share.

Every change takes one transaction-level advisory lock first, so changes happen one after the other, as in SQLite:
what was read cannot change before it is written, and moves are numbered in the order in which they became true.
Holds move at the pace of people. Whoever waits is told by NOTIFY, and looks again every second in case one is lost.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]
import msgspec

from extproc.adapters.hold_postgres_schema import SCHEMA_VERSION, version_of
from extproc.adapters.hold_schema import STANDING
from extproc.adapters.hold_sqlite import DEFAULT_LIMITS, new_grant_id, new_hold_id
from extproc.adapters.hold_waits import Seen, Waits
from extproc.adapters.process_name import process_name
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
from extproc.domain.terms import GrantTerms

T = TypeVar("T")
Db = Any
"""An asyncpg connection."""
Work = Callable[[Db, list[tuple[str, int]], float], Awaitable[T]]
"""What a transaction does: with its connection, the news to be told of it, and the seconds to add to the time that
its caller took for now."""

LOCK = 0x65787468
"""Key of the advisory lock, with the schema's name: "exth"."""
POLL = 1.0
"""Seconds between two looks while somebody waits: a lost NOTIFY costs no more."""
BEAT = 10.0
"""Seconds between two signs of life. The waiters of a process that was not heard of for 60 s no longer count; the
lease on the outbox ends 15 s after its holder last took moves out."""
SMALLEST_SKEW = 1.0
"""Seconds below which a clock counts as right."""
COMMAND_SECONDS = 5.0

LOST = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that was cut off in the middle
    OSError,
    TimeoutError,
)
HOLD = """h.doc, (SELECT coalesce(sum(w.count), 0) FROM waiters w JOIN processes p ON p.name = w.process
    WHERE w.hold_id = h.id AND p.seen_at > now() - interval '60 seconds')"""
GRANT = (
    "g.id, g.hold_id, g.key, g.state, g.version, g.made_at, g.expires_at, g.used, g.closed_reason, g.terms"
)


class PostgresHoldStore:
    """See `HoldStore` and `GrantStore`. Use it from one event loop, and `aclose()` it there.

    `dsn` is a libpq URI that `check_dsn` accepts. Times are the database's: a machine whose clock is a second or more
    off is corrected by the difference, which is measured each time a connection is taken from the pool
    (`local_clock`). A change happens at the caller's time plus what it waited for its turn (`monotonic`). The tables
    are made by `extproc store migrate`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "extproc",
        limits: HoldLimits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.time,
        local_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = new_hold_id,
        notify: bool = True,
    ) -> None:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
            raise ValueError("not a schema name")
        self._dsn = dsn
        self._schema = schema
        self._limits = limits
        self._local_clock = local_clock
        self._monotonic = monotonic
        self._new_id = new_id
        self._notify = notify
        self._process = process_name()
        self._channel = f"extproc_{schema}"[:63]
        self._pool: Any = None
        self._connecting = asyncio.Lock()
        self._skew = 0.0
        self._listener: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._waits = Waits(self._look, self.sweep, clock, interval=POLL)

    async def __aenter__(self) -> PostgresHoldStore:
        await self.check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def check(self) -> None:
        """Connect now, so that wrong tables show at start. Raises StoreUnavailableError."""
        async with self._connection() as db:
            await db.fetchval("SELECT count(*) FROM holds")

    async def aclose(self) -> None:
        """Waiting calls raise StoreUnavailableError; requests of this process no longer count as waiters."""
        if self._closed:
            return
        await self._waits.aclose()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._closed = True
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait({self._listener})
        if self._pool is not None:
            try:
                async with asyncio.timeout(COMMAND_SECONDS):
                    await self._pool.execute("DELETE FROM processes WHERE name = $1", self._process)
                    await self._pool.close()
            except Exception:
                self._pool.terminate()  # it is not heard of any more, so its waiters stop counting by themselves

    # -- changes ----------------------------------------------------------------------------------------------

    async def open(self, ask: HoldAsk, now: float) -> HeldRequest:
        async def work(db: Db, told: list[tuple[str, int]], late: float) -> HeldRequest:
            at = now + late
            is_new = False
            held = await _load(db, "h.binding = $1 AND h.deadline IS NOT NULL", ask.binding)
            if held is not None and held.is_overdue(at):
                await self._save(db, told, held, lifecycle.expired(held, at), at)
                held = None
            if held is None:
                await self._check_room(db, told, ask.requester, at)
                change = lifecycle.opened(self._new_id(), ask, at)
                await _insert(db, change)
                told.append((change.held.id, change.held.version))
                held, is_new = change.held, True
            elif held.state is HoldState.PENDING and held.waiters >= self._limits.waiters:
                raise HoldError("too_many", "too many requests wait on this hold already")
            await db.execute(
                """INSERT INTO processes VALUES ($1, now())
                ON CONFLICT (name) DO UPDATE SET seen_at = now()""",
                self._process,
            )
            await db.execute(
                """INSERT INTO waiters AS w VALUES ($1, $2, 1)
                ON CONFLICT (hold_id, process) DO UPDATE SET count = w.count + 1""",
                held.id,
                self._process,
            )
            # what was just opened is not read back: a second copy of the ask would live as long as the wait
            return held if is_new else await _load(db, "h.id = $1", held.id) or held

        running = asyncio.ensure_future(self._change(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(lambda done: self._leave_for(done, now))
            raise

    async def leave(self, hold_id: str, now: float) -> None:
        async def work(db: Db, told: list[tuple[str, int]], late: float) -> None:
            key = (hold_id, self._process)
            gone = await db.execute(
                "DELETE FROM waiters WHERE hold_id = $1 AND process = $2 AND count = 1", *key
            )
            if gone == "DELETE 0":
                await db.execute(
                    "UPDATE waiters SET count = count - 1 WHERE hold_id = $1 AND process = $2", *key
                )

        await self._change(work)

    async def vote(self, hold_id: str, vote: Vote, now: float) -> HeldRequest:
        return await self._move(hold_id, now, lambda held, at: lifecycle.voted(held, vote, at))

    async def break_glass(self, hold_id: str, by: Principal, reason: str, now: float) -> HeldRequest:
        return await self._move(hold_id, now, lambda held, at: lifecycle.broken(held, by, reason, at))

    async def review(self, hold_id: str, review: Review, now: float) -> HeldRequest:
        return await self._move(hold_id, now, lambda held, at: lifecycle.reviewed(held, review, at))

    async def release(self, hold_id: str, decision_id: str, now: float) -> HeldRequest:
        return await self._move(hold_id, now, lambda held, at: lifecycle.released(held, decision_id, at))

    async def close(
        self, hold_id: str, verdict: Verdict, now: float, *, by: str = "", reason: str = ""
    ) -> HeldRequest:
        return await self._move(
            hold_id, now, lambda held, at: lifecycle.closed(held, verdict, at, by=by, reason=reason)
        )

    async def sweep(self, now: float) -> int:
        at = now + self._skew
        async with self._connection() as db:
            due = await db.fetchval(
                "SELECT EXISTS (SELECT 1 FROM holds WHERE deadline <= $1)"
                " OR EXISTS (SELECT 1 FROM holds WHERE review_deadline <= $1)"
                " OR EXISTS (SELECT 1 FROM grants WHERE deadline <= $1)",
                at,
            )
        return await self._change(lambda db, told, late: self._expire(db, told, now + late)) if due else 0

    # -- grants -----------------------------------------------------------------------------------------------

    async def covering(self, ask: HoldAsk, now: float) -> Grant | None:
        at = now + self._skew
        keys = [ask.binding, ask.shape.key if ask.shape is not None else ask.binding]
        async with self._connection() as db:
            if await db.fetchval(
                "SELECT EXISTS (SELECT 1 FROM holds WHERE binding = $1 AND state = 'approved' AND deadline > $2)",
                ask.binding,
                at,
            ):
                return None  # that approval is there to be used
            rows = await db.fetch(
                f"SELECT {GRANT} FROM grants g WHERE g.key = ANY($1) AND g.deadline > $2"  # noqa: S608
                " ORDER BY g.expires_at, g.id LIMIT 100",
                keys,
                at,
            )
            for row in rows:
                grant = await _grant(db, row)
                if granting.covers(grant, ask, at):
                    return grant
        return None

    async def use_grant(self, grant_id: str, decision_id: str, now: float) -> Grant:
        async def use(db: Db, told: list[tuple[str, int]], grant: Grant, at: float) -> Grant:
            if await db.fetchval(
                "SELECT EXISTS (SELECT 1 FROM uses WHERE grant_id = $1 AND decision_id = $2)",
                grant_id,
                decision_id,
            ):
                return grant
            change = granting.used(grant, decision_id, at)
            await _update_grant(db, change)
            await db.execute(
                "INSERT INTO uses VALUES ($1, $2, $3, $4)", grant.id, change.grant.used, decision_id, at
            )
            return change.grant

        return await self._move_grant(grant_id, now, use)

    async def revoke_grant(self, grant_id: str, now: float, *, by: str = "", reason: str = "") -> Grant:
        async def revoke(db: Db, told: list[tuple[str, int]], grant: Grant, at: float) -> Grant:
            change = granting.revoked(grant, at, by=by, reason=reason)
            await _update_grant(db, change)
            held = grant.held
            if held.state is HoldState.APPROVED and not held.is_overdue(at):
                closed = lifecycle.closed(held, Verdict.REVOKE, at, by=by, reason=reason)
                await self._save(db, told, held, closed, at)
            return await _load_grant(db, "g.id = $1", grant_id) or change.grant

        return await self._move_grant(grant_id, now, revoke)

    async def get_grant(self, grant_id: str, now: float) -> Grant | None:
        async with self._connection() as db:
            grant = await _load_grant(db, "g.id = $1", grant_id)
        if grant is None or not grant.is_overdue(now + self._skew):
            return grant

        async def same(db: Db, told: list[tuple[str, int]], grant: Grant, at: float) -> Grant:
            return grant

        return await self._move_grant(grant_id, now, same)

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
        where, values = _narrow("g.state", states, requester, seen_by)
        async with self._connection() as db:
            rows = await db.fetch(
                f"SELECT {GRANT} FROM grants g JOIN holds h ON h.id = g.hold_id WHERE {where}"  # noqa: S608
                f" ORDER BY g.made_at DESC, g.seq DESC LIMIT {int(limit)}",
                *values,
            )
            return [await _grant(db, row) for row in rows]

    # -- looking ----------------------------------------------------------------------------------------------

    async def get(self, hold_id: str, now: float) -> HeldRequest | None:
        async with self._connection() as db:
            held = await _load(db, "h.id = $1", hold_id)
        at = now + self._skew
        if held is None or not (held.is_overdue(at) or held.is_review_overdue(at)):
            return held
        return await self._move(hold_id, now, lambda held, at: lifecycle.due(held, at))

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
        where, values = _narrow("h.state", states, requester, seen_by)
        if reviews:
            values.append([state.value for state in reviews])
            where += f" AND h.review = ANY(${len(values)})"
        async with self._connection() as db:
            rows = await db.fetch(
                f"SELECT {HOLD} FROM holds h WHERE {where}"  # noqa: S608  (constants only)
                f" ORDER BY h.created_at DESC, h.seq DESC LIMIT {int(limit)}",
                *values,
            )
        return [_held(row) for row in rows]

    async def changed(self, hold_id: str, version: int, timeout: float) -> HeldRequest | None:
        with self._waits.waiting(hold_id, version) as told:
            current = await self._number(hold_id)  # after signing up: none is missed
            if current is None:
                raise HoldError("not_found", "no such hold")
            if current == version and not await told(timeout):
                return None
        async with self._connection() as db:
            return await _load(db, "h.id = $1", hold_id)

    async def news(self, since: int, timeout: float) -> int:
        ends_at = asyncio.get_running_loop().time() + timeout
        while True:
            with self._waits.waiting("", since) as told:
                number = await self._number("") or 0
                left = ends_at - asyncio.get_running_loop().time()
                if number != since or left <= 0:
                    return number
                # perhaps it is told of what was counted already: news come back to who sent them
                await told(left)

    # -- the outbox -------------------------------------------------------------------------------------------

    async def unrecorded(self, limit: int = 100) -> list[HoldMove]:
        """Only for the process that has the lease: of several machines one brings each move to its ledger."""
        if await self.oldest_unrecorded() is None:
            return []  # the usual case, asked several times a second, needs no lock

        async def work(db: Db, told: list[tuple[str, int]], late: float) -> list[HoldMove]:
            mine = await db.fetchval(
                """INSERT INTO lease AS l VALUES ('outbox', $1, now() + interval '15 seconds')
                ON CONFLICT (name) DO UPDATE SET process = $1, until = now() + interval '15 seconds'
                WHERE l.process = $1 OR l.until < now() RETURNING true""",
                self._process,
            )
            if not mine:
                return []
            rows = await db.fetch(
                "SELECT id, hold_id, kind, at, fields FROM moves WHERE NOT recorded ORDER BY seq LIMIT $1",
                limit,
            )
            return [HoldMove(row[0], row[1], row[2], row[3], json.loads(row[4])) for row in rows]

        return await self._change(work)

    async def oldest_unrecorded(self) -> float | None:
        async with self._connection() as db:
            at = await db.fetchval("SELECT at FROM moves WHERE NOT recorded ORDER BY seq LIMIT 1")
        return None if at is None else float(at)

    async def recorded(self, move_ids: Sequence[str]) -> None:
        async with self._connection() as db:
            await db.execute("UPDATE moves SET recorded = true WHERE id = ANY($1)", list(move_ids))

    async def forget(self, before: float) -> int:
        """Drop closed holds that were made before `before` and whose every move a ledger has; how many."""

        async def work(db: Db, told: list[tuple[str, int]], late: float) -> int:
            old = [
                row[0]
                for row in await db.fetch(
                    """SELECT id FROM holds h WHERE created_at < $1 AND deadline IS NULL
                    AND review NOT IN ('open', 'overdue')
                    AND NOT EXISTS (SELECT 1 FROM moves m WHERE m.hold_id = h.id AND NOT m.recorded)
                    AND NOT EXISTS (SELECT 1 FROM grants g WHERE g.hold_id = h.id AND g.deadline IS NOT NULL)""",
                    before,
                )
            ]
            await db.execute("DELETE FROM moves WHERE hold_id = ANY($1)", old)
            await db.execute("DELETE FROM holds WHERE id = ANY($1)", old)
            await db.execute("DELETE FROM processes WHERE seen_at < now() - interval '60 seconds'")
            return len(old)

        return await self._change(work)

    async def standing(self) -> list[HoldsOpen]:
        """Open holds by state, of all machines."""
        async with self._connection() as db:
            found = await db.fetch(STANDING)
        return [HoldsOpen(HoldState(state), count, oldest) for state, count, oldest in found]

    # -- transactions -----------------------------------------------------------------------------------------

    async def _move(
        self, hold_id: str, now: float, step: Callable[[HeldRequest, float], Change]
    ) -> HeldRequest:
        """Load, step, save. A hold that is overdue expires first, and stays so when the step then fails."""

        async def work(db: Db, told: list[tuple[str, int]], late: float) -> HeldRequest | HoldError:
            at = now + late
            held = await _load(db, "h.id = $1", hold_id)
            if held is None:
                return HoldError("not_found", "no such hold")
            due = lifecycle.due(held, at)
            await self._save(db, told, held, due, at)
            try:
                change = step(due.held, at)
            except HoldError as error:
                return error
            await self._save(db, told, due.held, change, at)
            return change.held

        outcome = await self._change(work)
        if isinstance(outcome, HoldError):
            raise outcome
        return outcome

    async def _move_grant(
        self,
        grant_id: str,
        now: float,
        step: Callable[[Db, list[tuple[str, int]], Grant, float], Awaitable[Grant]],
    ) -> Grant:
        """As `_move`, for a grant; `step` saves what it does."""

        async def work(db: Db, told: list[tuple[str, int]], late: float) -> Grant | HoldError:
            at = now + late
            grant = await _load_grant(db, "g.id = $1", grant_id)
            if grant is None:
                return HoldError("not_found", "no such grant")
            due = granting.expired(grant, at)
            if due.moves:
                await _update_grant(db, due)
            try:
                grant = await step(db, told, due.grant, at)
            except HoldError as error:
                return error
            told.append((grant.id, grant.version))
            return grant

        outcome = await self._change(work)
        if isinstance(outcome, HoldError):
            raise outcome
        return outcome

    async def _save(
        self, db: Db, told: list[tuple[str, int]], before: HeldRequest, change: Change, at: float
    ) -> bool:
        """A changed hold. Its approval makes its grant, its revocation ends it."""
        if not change.moves:
            return False
        held = change.held
        await db.execute(
            """UPDATE holds SET state = $2, version = $3, deadline = $4, released_to = $5, doc = $6, review = $7,
            review_deadline = $8 WHERE id = $1""",
            held.id, held.state.value, held.version, held.deadline, held.released_to, _doc(held),
            held.glass.state.value if held.glass is not None else "", held.review_deadline,
        )  # fmt: skip
        await _insert_moves(db, change.moves)
        told.append((held.id, held.version))
        if held.state is before.state:
            return True
        if held.state is HoldState.APPROVED:
            made = granting.made(new_grant_id(), held, at)
            if made is not None:
                await _insert_grant(db, made)
        elif held.state is HoldState.REVOKED:
            grant = await _load_grant(db, "g.hold_id = $1", held.id)
            if grant is not None and grant.is_live:
                by = str(change.moves[-1].fields.get("by", ""))
                ended = (
                    granting.expired(grant, at)
                    if grant.is_overdue(at)
                    else granting.revoked(grant, at, by=by, reason=held.closed_reason)
                )
                await _update_grant(db, ended)
        return True

    async def _expire(self, db: Db, told: list[tuple[str, int]], at: float) -> int:
        rows = await db.fetch(
            f"SELECT {HOLD} FROM holds h WHERE h.deadline <= $1 OR h.review_deadline <= $1 LIMIT 1000",  # noqa: S608
            at,
        )
        grants = await db.fetch(f"SELECT {GRANT} FROM grants g WHERE g.deadline <= $1 LIMIT 1000", at)  # noqa: S608
        for row in grants:
            await _update_grant(db, granting.expired(await _grant(db, row), at))
        for row in rows:
            held = _held(row)
            await self._save(db, told, held, lifecycle.due(held, at), at)
        return len(rows) + len(grants)

    async def _check_room(self, db: Db, told: list[tuple[str, int]], requester: Principal, at: float) -> None:
        await self._expire(db, told, at)
        total, own = await db.fetchrow(
            """SELECT count(*), count(*) FILTER (WHERE issuer = $1 AND subject = $2)
            FROM holds WHERE deadline IS NOT NULL""",
            requester.issuer,
            requester.subject,
        )
        if own >= self._limits.per_principal:
            raise HoldError("too_many", f"{own} of this principal's requests are held already")
        if total >= self._limits.total:
            raise HoldError("too_many", f"{total} requests are held already")

    async def _change(self, work: Work[T]) -> T:
        """One write transaction that a caller who leaves does not cut short."""
        task = asyncio.ensure_future(self._transaction(work, self._monotonic()))
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has left; the next call will show it

    async def _transaction(self, work: Work[T], asked: float) -> T:
        told: list[tuple[str, int]] = []
        async with self._connection() as db, db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", LOCK, self._schema)
            # what was in time when it was asked may be overdue now that it is its turn
            outcome = await work(db, told, self._skew + self._monotonic() - asked)
            if told and self._notify:
                news = json.dumps(told[-200:])  # who misses one looks within a second
                await db.execute("SELECT pg_notify($1, $2)", self._channel, news)
        self._waits.tell(told)
        return outcome

    # -- connections ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Db]:
        """Any trouble with the database is StoreUnavailableError."""
        if self._closed:
            raise StoreUnavailableError("the hold store is closed")
        try:
            if self._pool is None:
                await self._connect()
            async with self._pool.acquire(timeout=COMMAND_SECONDS) as db:
                yield db
        except (HoldError, StoreUnavailableError):
            raise
        except LOST as error:
            raise StoreUnavailableError(f"the hold store cannot be used ({type(error).__name__})") from error
        except (ValueError, msgspec.ValidationError) as error:  # what is stored is not what we stored
            raise StoreUnavailableError("the hold store holds what we did not write") from error

    async def _connect(self) -> None:
        async with self._connecting:
            if self._pool is not None:
                return
            pool = await asyncpg.create_pool(
                self._dsn, min_size=1, max_size=4, timeout=COMMAND_SECONDS, command_timeout=COMMAND_SECONDS,
                server_settings=self._server_settings(), setup=self._measure,
            )  # fmt: skip
            try:
                version = await version_of(pool)
                if version != SCHEMA_VERSION:
                    raise StoreUnavailableError(
                        f"the hold store's tables are of version {version}, not {SCHEMA_VERSION}: "
                        "run extproc store migrate"
                    )
            except BaseException:
                await pool.close()
                raise
            self._pool = pool
            self._listener = asyncio.create_task(self._listen(), name="hold-store-listen")

    async def _measure(self, db: Db) -> None:
        """How far this machine's clock is from the database's."""
        before = self._local_clock()
        theirs = float(await db.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
        after = self._local_clock()
        skew = theirs - min(max(theirs, before), after)  # an answer that took long says nothing about clocks
        self._skew = skew if abs(skew) >= SMALLEST_SKEW else 0.0

    def _server_settings(self) -> dict[str, str]:
        return {
            "search_path": self._schema,
            "application_name": "extproc",
            "lock_timeout": "4s",
            "statement_timeout": "5s",
            "idle_in_transaction_session_timeout": "10s",
            "synchronous_commit": "on",
            # whoever gets the advisory lock must see what the one before it wrote, whatever the role's default is
            "default_transaction_isolation": "read committed",
        }

    async def _listen(self) -> None:
        """For ever: hear what others changed, and say that this process is there."""
        while True:
            db: Db = None
            try:
                db = await asyncpg.connect(
                    self._dsn, timeout=COMMAND_SECONDS, command_timeout=COMMAND_SECONDS,
                    server_settings=self._server_settings(),
                )  # fmt: skip
                await db.add_listener(self._channel, self._heard)
                while True:
                    await db.execute("UPDATE processes SET seen_at = now() WHERE name = $1", self._process)
                    await asyncio.sleep(BEAT)
            except LOST:
                await asyncio.sleep(POLL)  # meanwhile whoever waits looks for himself
            finally:
                if db is not None:
                    db.terminate()

    def _heard(self, db: Db, pid: int, channel: str, payload: object) -> None:
        try:
            news = [(str(name), int(number)) for name, number in json.loads(str(payload))]
        except (ValueError, TypeError):
            return  # not ours: anybody who may connect may notify
        self._waits.tell(news)

    async def _number(self, hold_id: str) -> int | None:
        async with self._connection() as db:
            if hold_id:
                found = await db.fetchval("SELECT version FROM holds WHERE id = $1", hold_id)
            else:
                found = await db.fetchval("SELECT coalesce(max(seq), 0) FROM moves")
        return None if found is None else int(found)

    async def _look(self, seen: Seen | None, hold_ids: Sequence[str]) -> tuple[Seen, dict[str, int]]:
        async with self._connection() as db:
            newest = int(await db.fetchval("SELECT coalesce(max(seq), 0) FROM moves"))
            if seen == (0, newest):
                return (0, newest), {}
            rows = await db.fetch("SELECT id, version FROM holds WHERE id = ANY($1)", list(hold_ids))
        return (0, newest), {**{row[0]: row[1] for row in rows}, "": newest}

    def _leave_for(self, opening: asyncio.Future[HeldRequest], now: float) -> None:
        if opening.cancelled() or opening.exception() is not None:
            return
        leaving = asyncio.ensure_future(self.leave(opening.result().id, now))
        self._running.add(leaving)
        leaving.add_done_callback(self._done)


async def _load(db: Db, where: str, value: str) -> HeldRequest | None:
    row = await db.fetchrow(f"SELECT {HOLD} FROM holds h WHERE {where}", value)  # noqa: S608  (constants only)
    return _held(row) if row is not None else None


def _held(row: Sequence[Any]) -> HeldRequest:
    return replace(msgspec.convert(json.loads(row[0]), HeldRequest), waiters=int(row[1]))


def _doc(held: HeldRequest) -> str:
    return json.dumps(msgspec.to_builtins(replace(held, waiters=0)))


async def _insert(db: Db, change: Change) -> None:
    held, ask = change.held, change.held.ask
    await db.execute(
        """INSERT INTO holds (id, binding, issuer, subject, person, allow_agents, asked, state, version, created_at,
        deadline, released_to, doc) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)""",
        held.id, ask.binding, ask.requester.issuer, ask.requester.subject, ask.requester.person,
        ask.demand.allow_agents, sorted({quorum.group for quorum in ask.demand.quorums}), held.state.value,
        held.version, held.created_at, held.deadline, held.released_to, _doc(held),
    )  # fmt: skip
    await _insert_moves(db, change.moves)


async def _insert_moves(db: Db, moves: Sequence[HoldMove]) -> None:
    for move in moves:
        await db.execute(
            "INSERT INTO moves (id, hold_id, kind, at, fields) VALUES ($1, $2, $3, $4, $5)",
            move.id, move.hold_id, move.kind, move.at, json.dumps(move.fields),
        )  # fmt: skip


async def _load_grant(db: Db, where: str, value: str) -> Grant | None:
    row = await db.fetchrow(f"SELECT {GRANT} FROM grants g WHERE {where}", value)  # noqa: S608  (constants only)
    return await _grant(db, row) if row is not None else None


async def _grant(db: Db, row: Sequence[Any]) -> Grant:
    held = await _load(db, "h.id = $1", row[1])
    if held is None:
        raise StoreUnavailableError("a grant has lost its hold")  # the foreign key forbids it
    return Grant(
        id=row[0], held=held, key=row[2], state=GrantState(row[3]), version=row[4], made_at=row[5],
        expires_at=row[6], used=row[7], closed_reason=row[8],
        terms=msgspec.convert(json.loads(row[9]), GrantTerms),
    )  # fmt: skip


async def _insert_grant(db: Db, change: GrantChange) -> None:
    grant = change.grant
    await db.execute(
        """INSERT INTO grants (id, hold_id, key, state, version, made_at, expires_at, deadline, uses, used,
        closed_reason, terms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)""",
        grant.id, grant.held.id, grant.key, grant.state.value, grant.version, grant.made_at, grant.expires_at,
        grant.expires_at if grant.is_live else None, grant.terms.uses, grant.used, grant.closed_reason,
        json.dumps(msgspec.to_builtins(grant.terms)),
    )  # fmt: skip
    await _insert_moves(db, change.moves)


async def _update_grant(db: Db, change: GrantChange) -> None:
    grant = change.grant
    await db.execute(
        """UPDATE grants SET state = $2, version = $3, deadline = $4, used = $5, closed_reason = $6
        WHERE id = $1""",
        grant.id, grant.state.value, grant.version, grant.expires_at if grant.is_live else None, grant.used,
        grant.closed_reason,
    )  # fmt: skip
    await _insert_moves(db, change.moves)


def _narrow(
    column: str,
    states: Sequence[HoldState] | Sequence[GrantState],
    requester: tuple[str, str] | None,
    seen_by: Principal | None,
) -> tuple[str, list[Any]]:
    """Conditions on the hold `h`. That of `seen_by` is `quorum.may_see` in SQL; the contract test compares them."""
    where, values = ["true"], list[Any]()

    def take(value: Any) -> str:
        values.append(value)
        return f"${len(values)}"

    if states:
        where.append(f"{column} = ANY({take([state.value for state in states])})")
    if requester is not None:
        where.append(f"h.issuer = {take(requester[0])} AND h.subject = {take(requester[1])}")
    if seen_by is not None:
        human = seen_by.kind == "human"
        own = f"(h.issuer = {take(seen_by.issuer)} AND h.subject = {take(seen_by.subject)})"
        if human:
            own += f" OR h.person = {take(seen_by.person)}"
        asked = f"h.asked && {take(list(seen_by.groups))}::text[]"
        where.append(f"({own} OR ({'true' if human else 'h.allow_agents'} AND {asked}))")
    return " AND ".join(where), values
