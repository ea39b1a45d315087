"""Holds as the approvals API shows them. Every text in them is escaped for display, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from extproc.domain.comparison import MOST, differences
from extproc.domain.demand import Quorum
from extproc.domain.display import escape_json
from extproc.domain.emergency import may_break, may_review
from extproc.domain.errors import ExtprocError
from extproc.domain.hold import VIEW_SECTIONS, BrokenGlass, HeldRequest, HoldAsk, HoldState, Vote
from extproc.domain.lifecycle import view_digest
from extproc.domain.principal import Principal
from extproc.domain.quorum import check_shown, may_approve, missing, objection, owns
from extproc.domain.times import rfc3339
from extproc.servers.grants_shape import grant_offered, terms_shown
from extproc.servers.people import person_shown


def summary(held: HeldRequest, viewer: Principal) -> dict[str, Any]:
    """One line of the list: who wants what, what it needs, and what the viewer may do about it."""
    return cast(dict[str, Any], escape_json(_summary(held, viewer), multiline=False))


def full(held: HeldRequest, viewer: Principal) -> dict[str, Any]:
    """One hold with all an approver needs: our facts first, then the normalised request, then the raw one."""
    ask = held.ask
    shown = {**_summary(held, viewer), "votes": [_vote(ask, vote) for vote in held.votes]}
    shown |= {
        "allow_agents": ask.demand.allow_agents,
        "closed_reason": held.closed_reason or None,
        "released_to": held.released_to or None,
        "binding": ask.binding,
        "view_digest": view_digest(ask.view),
        "demand_digest": ask.demand.digest,
        "policy_digest": ask.policy_digest,
        "decision_id": ask.decision_id,
        "session_id": ask.session_id,
        "trace_id": ask.trace_id or None,
    }
    escaped = cast(dict[str, Any], escape_json(shown, multiline=False))
    sections = [name for name in VIEW_SECTIONS if name in ask.view]
    ordered = {name: ask.view[name] for name in [*sections, *(n for n in ask.view if n not in sections)]}
    escaped["view"] = escape_json(ordered)  # bodies and statements have lines
    return escaped


def _summary(held: HeldRequest, viewer: Principal) -> dict[str, Any]:
    ask = held.ask
    pending = held.state is HoldState.PENDING
    return {
        "id": held.id,
        "state": held.state.value,
        "version": held.version,
        "target": ask.target,
        "title": _title(held),
        "requester": person_shown(ask.requester),
        "reason": ask.demand.reason,
        "reason_patterns": list(ask.demand.reason_patterns),
        "rules": list(ask.rules),
        "risk": {
            "total": sum(points for _, points in ask.risk),
            "parts": [{"rule": rule, "risk": points} for rule, points in ask.risk],
        },
        "approvers": _groups(ask.demand.quorums),
        "conflict_groups": list(ask.demand.conflict_groups),
        "missing": _groups(missing(ask, held.votes)) if pending else [],
        "created_at": rfc3339(held.created_at),
        "expires_at": rfc3339(held.expires_at),
        "decided_at": rfc3339(held.decided_at) if held.decided_at else None,
        "use_before": rfc3339(held.use_before) if held.use_before else None,
        "waiters": held.waiters,
        "shown_in_full": _is_shown(held),
        "grant": grant_offered(held),
        "break_glass": _glass(held.glass),
        "may": may(held, viewer),
    }


def compared(held: HeldRequest, last: HeldRequest | None) -> dict[str, Any]:
    """What is another in it than in `last`, the one of its kind that was approved before."""
    if last is None:
        return {"last": None, "differences": [], "more": 0}
    found = differences(last.ask.view, held.ask.view)
    shown = {
        "last": {
            "id": last.id,
            "requester": person_shown(last.ask.requester),
            "decided_at": rfc3339(last.decided_at),
            "approvers": sorted({vote.person for vote in last.votes if vote.approve}),
        },
        "differences": [{"where": d.where, "before": d.before, "now": d.now} for d in found[:MOST]],
        "more": max(0, len(found) - MOST),
    }
    return cast(dict[str, Any], escape_json(shown))


def may(held: HeldRequest, viewer: Principal) -> list[str]:
    """What this viewer can do with it now, as the last part of a path."""
    mine = owns(held.ask, viewer)
    decides = not objection(held.ask, viewer)
    actions = {
        "approve": held.state is HoldState.PENDING and may_approve(held.ask, held.votes, viewer),
        "deny": held.state is HoldState.PENDING and decides,
        "withdraw": held.state is HoldState.PENDING and mine,
        "revoke": held.state is HoldState.APPROVED and (decides or mine),
        "break-glass": held.state is HoldState.PENDING and may_break(held.ask, viewer),
        "review": may_review(held, viewer),
    }
    return [action for action, possible in actions.items() if possible]


def _is_shown(held: HeldRequest) -> bool:
    try:
        check_shown(held.ask.view)
    except ExtprocError:
        return False
    return True


TITLE = ("method", "verbs", "host", "path", "tables_written", "tables_read")
"""The facts a title is made of, in order."""


def _title(held: HeldRequest) -> str:
    """A line to tell holds apart in a list: the verb and the object, from our own facts."""
    facts = held.ask.view.get("facts")
    if not isinstance(facts, dict):
        return ""
    parts = [facts.get(name) for name in TITLE]
    texts = [
        " ".join(map(str, part)) if isinstance(part, list | tuple) else str(part) for part in parts if part
    ]
    line = " ".join(texts)
    return line if len(line) <= 200 else line[:200] + "…"


def _groups(quorums: Iterable[Quorum]) -> list[dict[str, Any]]:
    return [{"group": quorum.group, "count": quorum.count} for quorum in quorums]


def _glass(glass: BrokenGlass | None) -> dict[str, Any] | None:
    """Who let it go in an emergency, and what somebody else found."""
    if glass is None:
        return None
    found = glass.review
    return {
        "by": person_shown(glass.by),
        "reason": glass.reason,
        "at": rfc3339(glass.at),
        "review_by": rfc3339(glass.review_by),
        "review_state": glass.state.value,
        "review": None
        if found is None
        else {
            "reviewer": person_shown(found.reviewer),
            "justified": found.justified,
            "reason": found.reason,
            "at": rfc3339(found.at),
        },
    }


def _vote(ask: HoldAsk, vote: Vote) -> dict[str, Any]:
    return {
        "vote": "approve" if vote.approve else "deny",
        "approver": person_shown(vote.approver),
        "reason": vote.reason,
        "at": rfc3339(vote.at),
        "grant": terms_shown(ask, vote.terms),
    }
