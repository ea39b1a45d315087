"""Holds to test with: asks, people, votes, and a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from extproc.domain import granting, lifecycle
from extproc.domain.demand import BreakGlass, HoldDemand, Quorum
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
from extproc.domain.principal import Principal, PrincipalKind
from extproc.domain.quorum import may_see
from extproc.domain.terms import GrantTerms, Shape

NOW = 1_900_000_000.0
ISSUER = "https://issuer.test"
AUDIENCE = "extproc-approvals"
CLIENT = "approvals-console"


def principal(
    subject: str,
    *groups: str,
    kind: PrincipalKind = "human",
    person: str = "",
    issuer: str = ISSUER,
    client_id: str = CLIENT,
    audience: tuple[str, ...] = (AUDIENCE,),
    **claims: Any,
) -> Principal:
    return Principal(
        issuer=issuer,
        subject=subject,
        kind=kind,
        person=person or f"{subject}@people.test",
        groups=groups,
        client_id=client_id,
        audience=audience,
        claims=claims,
    )


AGENT = principal("agent-7", "agents", kind="agent")
ANNA = principal("anna", "sre")
BERT = principal("bert", "sre", "dpo")
CLEO = principal("cleo", "dpo")
OLGA = principal("olga", "oncall")
"""May break the glass of her own requests where `IN_EMERGENCIES` is allowed."""
IN_EMERGENCIES = BreakGlass((("oncall",),), 4 * 3600.0)


def demand(*quorums: Quorum, **changes: Any) -> HoldDemand:
    made = HoldDemand(
        quorums=quorums or (Quorum("sre"),),
        wait=30.0,
        expires=3600.0,
        use_within=600.0,
        digest="d" * 64,
        reason="writes wait",
    )
    return replace(made, **changes)


def ask(
    binding: str = "b1",
    *,
    requester: Principal = AGENT,
    wants: HoldDemand | None = None,
    view: dict[str, Any] | None = None,
    shape: Shape | None = None,
) -> HoldAsk:
    return HoldAsk(
        binding=binding,
        target="customers-api",
        requester=requester,
        demand=wants or demand(),
        rules=("payments/risky-writes-wait",),
        risk=(("payments/risky-writes-wait", 60),),
        view=view
        if view is not None
        else {
            "facts": {"method": "POST", "path": "/payments"},
            "normalised": {"body": {"amount": 10}},
            "raw": {"body": '{"amount": 10}'},
        },
        decision_id="dec-1",
        session_id="ses-1",
        policy_digest="p" * 64,
        trace_id="t" * 32,
        shape=shape,
    )


def vote(
    approver: Principal,
    approve: bool = True,
    reason: str = "looks right",
    at: float = NOW,
    terms: GrantTerms | None = None,
) -> Vote:
    return Vote(approver.person, approver, approve, reason, at, terms)


def shaped(key: str = "s1", **values: str) -> Shape:
    """A shape whose pinnable values are `values`: what stands for the digest of each."""
    return Shape(
        key, "the same statement", "any values", {f"${name[1:]}": value for name, value in values.items()}
    )


class MemoryHoldStore:
    """The same promises as any store, for one process and one test."""

    def __init__(self, *, limits: HoldLimits | None = None) -> None:
        self._limits = limits or HoldLimits()
        self._holds: dict[str, HeldRequest] = {}
        self._moves: list[HoldMove] = []
        self._recorded: set[str] = set()
        self._grants: dict[str, Grant] = {}
        self._uses: set[tuple[str, str]] = set()
        self._news = asyncio.Condition()

    async def open(self, ask: HoldAsk, now: float) -> HeldRequest:
        await self.sweep(now)
        held = next((h for h in self._holds.values() if h.is_open and h.ask.binding == ask.binding), None)
        if held is None:
            opened = [h for h in self._holds.values() if h.is_open]
            mine = (ask.requester.issuer, ask.requester.subject)
            own = [h for h in opened if (h.ask.requester.issuer, h.ask.requester.subject) == mine]
            if len(own) >= self._limits.per_principal or len(opened) >= self._limits.total:
                raise HoldError("too_many", "too many holds")
            return await self._keep(lifecycle.opened(f"h-{len(self._holds)}", ask, now))
        if held.state is HoldState.PENDING and held.waiters >= self._limits.waiters:
            raise HoldError("too_many", "too many waiters")
        self._holds[held.id] = replace(held, waiters=held.waiters + 1)
        return self._holds[held.id]

    async def leave(self, hold_id: str, now: float) -> None:
        held = self._holds[hold_id]
        self._holds[hold_id] = replace(held, waiters=max(0, held.waiters - 1))

    async def get(self, hold_id: str, now: float) -> HeldRequest | None:
        held = self._holds.get(hold_id)
        return held and await self._keep(lifecycle.due(held, now))

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
        found = [
            held
            for held in reversed(self._holds.values())
            if (not states or held.state in states)
            and (requester in (None, (held.ask.requester.issuer, held.ask.requester.subject)))
            and (seen_by is None or may_see(held.ask, seen_by))
            and (not reviews or (held.glass is not None and held.glass.state in reviews))
        ]
        return sorted(found, key=lambda held: -held.created_at)[:limit]

    async def vote(self, hold_id: str, vote: Vote, now: float) -> HeldRequest:
        return await self._keep(lifecycle.voted(await self._standing(hold_id, now), vote, now))

    async def break_glass(self, hold_id: str, by: Principal, reason: str, now: float) -> HeldRequest:
        return await self._keep(lifecycle.broken(await self._standing(hold_id, now), by, reason, now))

    async def review(self, hold_id: str, review: Review, now: float) -> HeldRequest:
        return await self._keep(lifecycle.reviewed(await self._standing(hold_id, now), review, now))

    async def release(self, hold_id: str, decision_id: str, now: float) -> HeldRequest:
        return await self._keep(lifecycle.released(await self._standing(hold_id, now), decision_id, now))

    async def close(
        self, hold_id: str, verdict: Verdict, now: float, *, by: str = "", reason: str = ""
    ) -> HeldRequest:
        held = await self._standing(hold_id, now)
        return await self._keep(lifecycle.closed(held, verdict, now, by=by, reason=reason))

    async def changed(self, hold_id: str, version: int, timeout: float) -> HeldRequest | None:
        if hold_id not in self._holds:
            raise HoldError("not_found", "no such hold")
        async with self._news:
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait_for(lambda: self._holds[hold_id].version != version)
            except TimeoutError:
                return None
        return self._holds[hold_id]

    async def news(self, since: int, timeout: float) -> int:
        async with self._news:
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait_for(lambda: len(self._moves) > since)
            except TimeoutError:
                pass
        return len(self._moves)

    async def standing(self) -> list[HoldsOpen]:
        still = [held for held in self._holds.values() if held.is_open]
        return [
            HoldsOpen(state, len(here), min(held.created_at for held in here))
            for state in HoldState
            if (here := [held for held in still if held.state is state])
        ]

    async def sweep(self, now: float) -> int:
        due = [h for h in self._holds.values() if h.is_overdue(now) or h.is_review_overdue(now)]
        for held in due:
            await self._keep(lifecycle.due(held, now))
        over = [grant for grant in self._grants.values() if grant.is_overdue(now)]
        for grant in over:
            await self._keep_grant(granting.expired(grant, now))
        return len(due) + len(over)

    async def covering(self, ask: HoldAsk, now: float) -> Grant | None:
        if any(
            held.ask.binding == ask.binding and held.state is HoldState.APPROVED and not held.is_overdue(now)
            for held in self._holds.values()
        ):
            return None
        found = [grant for grant in self._grants.values() if granting.covers(grant, ask, now)]
        return min(found, key=lambda grant: (grant.expires_at, grant.id), default=None)

    async def use_grant(self, grant_id: str, decision_id: str, now: float) -> Grant:
        grant = await self._standing_grant(grant_id, now)
        if (grant_id, decision_id) in self._uses:
            return grant
        change = granting.used(grant, decision_id, now)
        self._uses.add((grant_id, decision_id))
        return await self._keep_grant(change)

    async def get_grant(self, grant_id: str, now: float) -> Grant | None:
        grant = self._grants.get(grant_id)
        return grant and await self._keep_grant(granting.expired(grant, now))

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
        found = [
            grant
            for grant in reversed(self._grants.values())
            if (not states or grant.state in states)
            and requester in (None, (grant.held.ask.requester.issuer, grant.held.ask.requester.subject))
            and (seen_by is None or may_see(grant.held.ask, seen_by))
        ]
        return sorted(found, key=lambda grant: -grant.made_at)[:limit]

    async def revoke_grant(self, grant_id: str, now: float, *, by: str = "", reason: str = "") -> Grant:
        grant = await self._standing_grant(grant_id, now)
        await self._keep_grant(granting.revoked(grant, now, by=by, reason=reason))
        held = self._holds[grant.held.id]
        if held.state is HoldState.APPROVED and not held.is_overdue(now):
            await self._keep(lifecycle.closed(held, Verdict.REVOKE, now, by=by, reason=reason))
        return self._grants[grant_id]

    async def _standing_grant(self, grant_id: str, now: float) -> Grant:
        grant = await self.get_grant(grant_id, now)
        if grant is None:
            raise HoldError("not_found", "no such grant")
        return grant

    async def _keep_grant(self, change: GrantChange) -> Grant:
        self._grants[change.grant.id] = change.grant
        self._moves += change.moves
        if change.moves:
            async with self._news:
                self._news.notify_all()
        return change.grant

    async def unrecorded(self, limit: int = 100) -> list[HoldMove]:
        return [move for move in self._moves if move.id not in self._recorded][:limit]

    async def oldest_unrecorded(self) -> float | None:
        moves = await self.unrecorded(1)
        return moves[0].at if moves else None

    async def recorded(self, move_ids: Sequence[str]) -> None:
        self._recorded.update(move_ids)

    async def _standing(self, hold_id: str, now: float) -> HeldRequest:
        held = await self.get(hold_id, now)
        if held is None:
            raise HoldError("not_found", "no such hold")
        return held

    async def _keep(self, change: Change) -> HeldRequest:
        held, before = change.held, self._holds.get(change.held.id)
        self._holds[held.id] = held
        self._moves += change.moves
        for grant_id, grant in list(self._grants.items()):
            if grant.held.id == held.id:
                self._grants[grant_id] = replace(grant, held=held)
                if held.state is HoldState.REVOKED and grant.is_live:
                    at, by = change.moves[-1].at, str(change.moves[-1].fields.get("by", ""))
                    ended = granting.revoked(self._grants[grant_id], at, by=by, reason=held.closed_reason)
                    await self._keep_grant(ended)
        if held.state is HoldState.APPROVED and before is not None and before.state is HoldState.PENDING:
            made = granting.made(f"g-{len(self._grants)}", held, held.decided_at)
            if made is not None:
                await self._keep_grant(made)
        if change.moves:
            async with self._news:
                self._news.notify_all()
        return change.held
