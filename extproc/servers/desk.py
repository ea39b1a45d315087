"""Where a held request waits: open or join the hold, wait, check policy again, spend the approval once.

A request that a grant covers does not wait: policy is checked again and one use of the grant is spent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from extproc.domain.errors import StoreUnavailableError
from extproc.domain.grant import ApprovalStore
from extproc.domain.hold import HeldRequest, HoldAsk, HoldError, HoldState, Verdict
from extproc.domain.steps import Wait
from extproc.pipeline import HoldSettled

ENDED = {
    HoldState.REJECTED: "rejected",
    HoldState.EXPIRED: "closed",
    HoldState.WITHDRAWN: "closed",
    HoldState.ABANDONED: "closed",
    HoldState.REVOKED: "closed",
    HoldState.VOID: "void",
}


class HoldDesk:
    """One for all requests of a worker. `open_waits` bounds how many wait here at once."""

    def __init__(self, store: ApprovalStore, *, now: Callable[[], float], open_waits: int) -> None:
        self._store = store
        self._now = now
        self._room = open_waits
        self._most = open_waits

    @property
    def waiting(self) -> int:
        """Requests that wait here now."""
        return self._most - self._room

    async def settle(
        self,
        wait: Wait,
        recheck: Callable[[HeldRequest, float], str],
        joined: Callable[[HeldRequest], None] = lambda held: None,
    ) -> HoldSettled:
        """Wait until released, decided otherwise, or out of time.

        `recheck` judges the request again under the policy in force and returns why it may not go on, or "".
        `joined` is told of the hold as soon as the request waits on it, and also where it was cancelled just before.
        A cancelled wait leaves the hold as it is: the client may come back and join it.
        """
        if self._room <= 0:
            return HoldSettled("too_many")
        self._room -= 1
        try:
            return await self._settle(wait, recheck, joined)
        except HoldError as error:
            return HoldSettled("too_many" if error.code == "too_many" else "unavailable")
        except StoreUnavailableError:
            return HoldSettled("unavailable")
        finally:
            self._room += 1

    async def abandon(self, held: HeldRequest, reason: str) -> None:
        """Whoever asked is gone for good: close the hold, unless somebody else waits on it or it was decided."""
        try:
            await self._store.close(held.id, Verdict.ABANDON, self._now(), reason=reason)
        except (HoldError, StoreUnavailableError):
            pass  # it moved, another request waits on it, or it expires by itself

    async def _settle(
        self,
        wait: Wait,
        recheck: Callable[[HeldRequest, float], str],
        joined: Callable[[HeldRequest], None],
    ) -> HoldSettled:
        deadline = self._now() + wait.wait
        while True:
            granted = await self._by_grant(wait, recheck)
            if granted is not None:
                return granted
            held = await self._open(wait.ask, joined)
            try:
                settled = await self._until_decided(held, wait, recheck, deadline)
            finally:
                await self._leave(held)
            if settled is not None:
                return settled
            # another equal request used the approval: this one asks anew, in the time that is left

    async def _open(self, ask: HoldAsk, joined: Callable[[HeldRequest], None]) -> HeldRequest:
        """The hold on which the request waits from now on.

        A client that leaves meanwhile is told of it all the same: the hold may be in the store already.
        """
        opening = asyncio.ensure_future(self._store.open(ask, self._now()))
        try:
            held = await asyncio.shield(opening)
        except asyncio.CancelledError:
            try:
                held = await asyncio.shield(opening)
            except (HoldError, StoreUnavailableError):
                pass  # there is none
            else:
                joined(held)
                await self._leave(held)
            raise
        joined(held)
        return held

    async def _leave(self, held: HeldRequest) -> None:
        """The request no longer waits. Shielded: a client that leaves cancels us, and the count must still go down."""
        try:
            await asyncio.shield(self._store.leave(held.id, self._now()))
        except StoreUnavailableError:
            pass  # a count that stays too high; what was released stays released

    async def _by_grant(self, wait: Wait, recheck: Callable[[HeldRequest, float], str]) -> HoldSettled | None:
        """Go by a grant that covers this request; None when there is none and it must wait."""
        if wait.ask.demand.grant.is_once:
            return None
        while (grant := await self._store.covering(wait.ask, self._now())) is not None:
            now = self._now()
            why = recheck(grant.held, now)
            if why:
                return HoldSettled("token_expired" if why == "token-expired" else "void", grant.held)
            try:
                used = await self._store.use_grant(grant.id, wait.ask.decision_id, now)
            except HoldError:
                current = await self._store.get_grant(grant.id, now)
                if current is not None and current.is_live and current.version == grant.version:
                    return HoldSettled(
                        "unavailable", grant.held
                    )  # it did not move: trying again would not end
                continue  # somebody else had the last use, or it was revoked: another may cover it
            return HoldSettled("released", used.held, used)
        return None

    async def _until_decided(
        self, held: HeldRequest, wait: Wait, recheck: Callable[[HeldRequest, float], str], deadline: float
    ) -> HoldSettled | None:
        while True:
            now = self._now()
            if held.state is HoldState.APPROVED:
                why = recheck(held, now)
                if why == "token-expired":
                    return HoldSettled("token_expired", held)
                try:
                    if why:
                        closed = await self._store.close(held.id, Verdict.VOID, now, reason=why)
                        return HoldSettled("void", closed)
                    released = await self._store.release(held.id, wait.ask.decision_id, now)
                    return HoldSettled("released", released)
                except HoldError:
                    # another waiter, a revocation or the clock came first; look at what became of it
                    current = await self._store.get(held.id, now)
                    if current is None:
                        return HoldSettled("closed", held)
                    if current.version == held.version:
                        return HoldSettled(
                            "unavailable", held
                        )  # it did not move, so trying again would not end
                    held = current
                    continue
            if held.state is HoldState.RELEASED:
                if held.released_to == wait.ask.decision_id:
                    return HoldSettled("released", held)
                return None
            if held.state is not HoldState.PENDING:
                ended = ENDED[held.state]
                return HoldSettled(
                    "rejected" if ended == "rejected" else "void" if ended == "void" else "closed", held
                )
            left = deadline - now
            if left <= 0:
                return HoldSettled("waiting", held)
            changed = await self._store.changed(held.id, held.version, left)
            if changed is not None:
                held = changed
                continue
            current = await self._store.get(held.id, self._now())
            if current is None:
                return HoldSettled("closed", held)
            held = current
