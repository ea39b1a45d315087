"""Holds to test with: asks, people, votes, and a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from extproc.domain import lifecycle
from extproc.domain.decision import HoldDemand, Quorum
from extproc.domain.hold import (
    HeldRequest,
    HoldAsk,
    HoldError,
    HoldLimits,
    HoldMove,
    HoldState,
    Verdict,
    Vote,
)
from extproc.domain.lifecycle import Change
from extproc.domain.principal import Principal, PrincipalKind
from extproc.domain.quorum import may_see

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
    )


def vote(approver: Principal, approve: bool = True, reason: str = "looks right", at: float = NOW) -> Vote:
    return Vote(approver.person, approver, approve, reason, at)


class MemoryHoldStore:
    """The same promises as any store, for one process and one test."""

    def __init__(self, *, limits: HoldLimits | None = None) -> None:
        self._limits = limits or HoldLimits()
        self._holds: dict[str, HeldRequest] = {}
        self._moves: list[HoldMove] = []
        self._recorded: set[str] = set()
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
        return held and await self._keep(lifecycle.expired(held, now))

    async def find(
        self,
        *,
        states: Sequence[HoldState] = (),
        requester: tuple[str, str] | None = None,
        seen_by: Principal | None = None,
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
        ]
        return sorted(found, key=lambda held: -held.created_at)[:limit]

    async def vote(self, hold_id: str, vote: Vote, now: float) -> HeldRequest:
        return await self._keep(lifecycle.voted(await self._standing(hold_id, now), vote, now))

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

    async def sweep(self, now: float) -> int:
        due = [held for held in self._holds.values() if held.is_overdue(now)]
        for held in due:
            await self._keep(lifecycle.expired(held, now))
        return len(due)

    async def unrecorded(self, limit: int = 100) -> list[HoldMove]:
        return [move for move in self._moves if move.id not in self._recorded][:limit]

    async def recorded(self, move_ids: Sequence[str]) -> None:
        self._recorded.update(move_ids)

    async def _standing(self, hold_id: str, now: float) -> HeldRequest:
        held = await self.get(hold_id, now)
        if held is None:
            raise HoldError("not_found", "no such hold")
        return held

    async def _keep(self, change: Change) -> HeldRequest:
        self._holds[change.held.id] = change.held
        self._moves += change.moves
        if change.moves:
            async with self._news:
                self._news.notify_all()
        return change.held
