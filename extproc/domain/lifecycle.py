"""The life of a hold: each function takes it as it stands and returns what becomes of it, with its moves.

Stores load, call one of these and save the result, all in one transaction; so every store obeys the same table.
A hold's version is the number of its moves: nothing changes unrecorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from extproc.domain.emergency import check_breaker, check_reviewer, is_same_word, may_break
from extproc.domain.granting import check_terms, limit_record, terms_record
from extproc.domain.hold import (
    MOVES,
    REASON_LIMIT,
    BrokenGlass,
    HeldRequest,
    HoldAsk,
    HoldError,
    HoldMove,
    HoldState,
    Review,
    Verdict,
    Vote,
)
from extproc.domain.principal import Principal
from extproc.domain.quorum import (
    check_conflict,
    check_reason,
    check_shown,
    check_voter,
    earlier_vote,
    is_satisfied,
)
from extproc.domain.times import rfc3339

KINDS: dict[HoldState, str] = {state: f"hold.{state.value}" for state in HoldState} | {
    HoldState.PENDING: "hold.opened"
}
"""The record kind that tells of entering a state; a vote that decides nothing yet is `hold.vote`."""

KEPT_CLAIMS = ("acr", "amr", "auth_time", "act")
"""Claims that say how somebody proved who they are, and for whom they act. The rest is not kept."""


@dataclass(frozen=True, slots=True)
class Change:
    """A hold after something happened to it, and the moves that tell of it, oldest first."""

    held: HeldRequest
    moves: tuple[HoldMove, ...] = ()


def opened(hold_id: str, ask: HoldAsk, now: float) -> Change:
    """A new pending hold with one waiter."""
    kept = replace(ask, requester=_kept(ask.requester), view=dict(ask.view))
    held = HeldRequest(
        id=hold_id,
        ask=kept,
        state=HoldState.PENDING,
        version=0,
        created_at=now,
        expires_at=now + ask.demand.expires,
        waiters=1,
    )
    demand = ask.demand
    fields: dict[str, Any] = {
        "target": ask.target,
        "requester": kept.requester.to_record(),
        "rules": list(ask.rules),
        "risk": [{"rule": rule, "risk": risk} for rule, risk in ask.risk],
        "approvers": [{"group": quorum.group, "count": quorum.count} for quorum in demand.quorums],
        "allow_agents": demand.allow_agents,
        "demand_digest": demand.digest,
        "policy": ask.policy_digest,
        "binding": ask.binding,
        "view_digest": view_digest(kept.view),
        "expires_at": rfc3339(held.expires_at),
        "grant_limit": limit_record(demand.grant),
        "decision_id": ask.decision_id,
        "session_id": ask.session_id,
    }
    if demand.break_glass is not None:
        fields["break_glass"] = {
            "groups": [list(groups) for groups in demand.break_glass.groups],
            "review_within": int(demand.break_glass.review_within),
        }
    if demand.conflict_groups:
        fields["conflict_groups"] = list(demand.conflict_groups)
    if ask.trace_id:
        fields["trace_id"] = ask.trace_id
    return _told(held, KINDS[HoldState.PENDING], now, fields)


def voted(held: HeldRequest, vote: Vote, now: float) -> Change:
    """One more word on it. The same word again changes nothing, whatever became of the hold meanwhile.

    Raises HoldError: reason_required, not_open, self_approval, not_human, not_a_member, conflict_of_interest,
    not_shown_in_full, reason_pattern, already_voted (for other terms), too_wide, unknown_pin.
    """
    if vote.person != vote.approver.person:
        raise HoldError("conflict", "the vote names another person than its token")
    if not vote.reason.strip():
        raise HoldError("reason_required", "say why")
    check_voter(held.ask, vote.approver)
    before = earlier_vote(held.votes, vote.approver)
    if before is not None and before.approve == vote.approve:
        if before.terms != vote.terms:
            raise HoldError("already_voted", "the same person approved it for other terms")
        return Change(held)
    _check_state(held, now, HoldState.PENDING)
    if vote.approve:
        check_conflict(held.ask, held.votes, vote.approver)
        check_shown(held.ask.view)
        check_reason(held.ask, vote.reason)
    if vote.terms is not None:
        check_terms(held.ask, vote.terms)
    kept = replace(vote, approver=_kept(vote.approver), reason=vote.reason[:REASON_LIMIT], at=now)
    held = replace(held, votes=(*held.votes, kept))
    cast = _told(
        held,
        "hold.vote",
        now,
        {
            "approver": kept.approver.to_record(),
            "vote": "approve" if vote.approve else "reject",
            "reason": kept.reason,
            **({"terms": terms_record(vote.terms)} if vote.terms is not None else {}),
        },
    )
    if not vote.approve:
        return _then(cast, _moved(cast.held, Verdict.REJECT, now, by=vote.person, reason=kept.reason))
    if is_satisfied(held.ask, held.votes):
        return _then(cast, _moved(cast.held, Verdict.APPROVE, now))
    return cast


def broken(held: HeldRequest, by: Principal, reason: str, now: float) -> Change:
    """Its requester lets it go at once. The same again changes nothing, whatever became of the hold meanwhile.

    Raises HoldError: reason_required, not_allowed, not_requester, not_human, not_a_member, not_open.
    """
    if not reason.strip():
        raise HoldError("reason_required", "say why")
    check_breaker(held.ask, by)
    allowed = held.ask.demand.break_glass
    if held.glass is not None or allowed is None:
        return Change(held)
    _check_state(held, now, HoldState.PENDING)
    glass = BrokenGlass(_kept(by), reason[:REASON_LIMIT], now, now + allowed.review_within)
    told = _told(
        replace(held, glass=glass),
        "hold.break_glass",
        now,
        {
            "target": held.ask.target,
            "requester": held.ask.requester.to_record(),
            "rules": list(held.ask.rules),
            "by": glass.by.to_record(),
            "reason": glass.reason,
            "review_by": rfc3339(glass.review_by),
        },
    )
    return _then(told, _moved(told.held, Verdict.BREAK_GLASS, now, by=by.person, reason=glass.reason))


def reviewed(held: HeldRequest, review: Review, now: float) -> Change:
    """Somebody else looked at what was done in an emergency. The same word again changes nothing.

    Raises HoldError: reason_required, not_broken, self_approval, not_human, not_a_member, already_reviewed.
    """
    if not review.reason.strip():
        raise HoldError("reason_required", "say what you found")
    glass = check_reviewer(held, review.reviewer)
    if glass.review is not None:
        if is_same_word(glass.review, review):
            return Change(held)
        raise HoldError("already_reviewed", "it was reviewed already")
    kept = replace(review, reviewer=_kept(review.reviewer), reason=review.reason[:REASON_LIMIT], at=now)
    return _told(
        replace(held, glass=replace(glass, review=kept)),
        "hold.reviewed",
        now,
        {
            "reviewer": kept.reviewer.to_record(),
            "by": kept.reviewer.person,
            "justified": kept.justified,
            "reason": kept.reason,
            "overdue": now >= glass.review_by,
        },
    )


def review_overdue(held: HeldRequest, now: float) -> Change:
    """The hold at `now`: told of if nobody reviewed it in time, else as it was."""
    if held.glass is None or not held.is_review_overdue(now):
        return Change(held)
    glass = replace(held.glass, is_late=True)
    fields = {
        "target": held.ask.target,
        "requester": held.ask.requester.to_record(),
        "rules": list(held.ask.rules),
        "review_by": rfc3339(glass.review_by),
    }
    return _told(replace(held, glass=glass), "hold.review_overdue", now, fields)


def due(held: HeldRequest, now: float) -> Change:
    """All that time alone did to it until `now`."""
    gone = expired(held, now)
    return _then(gone, review_overdue(gone.held, now))


def released(held: HeldRequest, decision_id: str, now: float) -> Change:
    """The approval is spent on the request that `decision_id` names. Raises HoldError("not_open")."""
    if not decision_id:
        raise HoldError("conflict", "a release names the decision it lets go")
    _check_state(held, now, HoldState.APPROVED)
    in_emergency = held.glass is not None and may_break(held.ask, held.glass.by)
    if not is_satisfied(held.ask, held.votes) and not in_emergency:
        # cannot happen through `voted`; a store that was tampered with must not let anything go
        raise HoldError("not_open", "its votes do not satisfy its demand")
    return _moved(held, Verdict.RELEASE, now, decision_id=decision_id)


def closed(held: HeldRequest, verdict: Verdict, now: float, *, by: str = "", reason: str = "") -> Change:
    """Expire, withdraw, abandon, void or revoke.

    Raises HoldError: not_open where the table has no such move, conflict for abandoning what somebody waits on.
    """
    if verdict in (Verdict.APPROVE, Verdict.REJECT, Verdict.RELEASE, Verdict.BREAK_GLASS):
        raise HoldError("conflict", f"{verdict.value} is not a way to close a hold")
    if verdict is not Verdict.EXPIRE and held.is_overdue(now):
        raise HoldError("not_open", "it has expired")
    change = _moved(held, verdict, now, by=by, reason=reason[:REASON_LIMIT])
    if verdict is Verdict.ABANDON and held.waiters:
        raise HoldError("conflict", "another request waits on it")
    return change


def expired(held: HeldRequest, now: float) -> Change:
    """The hold at `now`: expired if its time is up, else as it was."""
    if not held.is_overdue(now):
        return Change(held)
    return _moved(held, Verdict.EXPIRE, now)


def view_bytes(view: Mapping[str, Any]) -> bytes:
    """The view as canonical JSON."""
    return json.dumps(view, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def view_digest(view: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over `view_bytes`: proves later what an approver was shown. The view is masked already."""
    return hashlib.sha256(view_bytes(view)).hexdigest()


def _check_state(held: HeldRequest, now: float, needed: HoldState) -> None:
    if held.state is not needed:
        raise HoldError("not_open", f"it is {held.state.value}, not {needed.value}")
    if held.is_overdue(now):
        raise HoldError("not_open", "it has expired")


def _moved(
    held: HeldRequest, verdict: Verdict, now: float, *, by: str = "", reason: str = "", decision_id: str = ""
) -> Change:
    state = MOVES.get((held.state, verdict))
    if state is None:
        raise HoldError("not_open", f"it is {held.state.value}: {verdict.value} is not possible")
    fields: dict[str, Any] = {"from": held.state.value, "to": state.value}
    if state is HoldState.APPROVED:
        held = replace(held, state=state, decided_at=now, use_before=now + held.ask.demand.use_within)
        fields["use_before"] = rfc3339(held.use_before)
        if held.glass is not None:
            fields["break_glass"] = True
    elif state is HoldState.RELEASED:
        held = replace(held, state=state, released_to=decision_id)
        fields["decision_id"] = decision_id
    else:
        held = replace(held, state=state, decided_at=held.decided_at or now, closed_reason=reason)
    if by:
        fields["by"] = by
    if reason:
        fields["reason"] = reason
    return _told(held, KINDS[state], now, fields)


def _told(held: HeldRequest, kind: str, now: float, fields: Mapping[str, Any]) -> Change:
    """Count the change and say it; the move's id is the hold's id and version, so a repeat is recognised."""
    held = replace(held, version=held.version + 1)
    return Change(held, (HoldMove(f"{held.id}.{held.version}", held.id, kind, now, fields),))


def _then(first: Change, second: Change) -> Change:
    return Change(second.held, first.moves + second.moves)


def _kept(principal: Principal) -> Principal:
    claims = {name: principal.claims[name] for name in KEPT_CLAIMS if name in principal.claims}
    return replace(principal, claims=claims)
