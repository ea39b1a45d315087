"""Grants as the approvals API shows them: what one lets go in words, how much of it is left, who gave it."""

from __future__ import annotations

from typing import Any, cast

from extproc.domain.display import escape_json
from extproc.domain.grant import Grant
from extproc.domain.granting import agreed, meaning, scopes
from extproc.domain.hold import HeldRequest, HoldAsk, HoldState
from extproc.domain.principal import Principal
from extproc.domain.quorum import objection, owns
from extproc.domain.terms import GrantTerms
from extproc.domain.times import rfc3339
from extproc.servers.people import person_shown


def terms_shown(ask: HoldAsk, terms: GrantTerms | None) -> dict[str, Any] | None:
    """What somebody gives, `for` in seconds; None is once."""
    if terms is None:
        return None
    return {
        "for": int(terms.duration),
        "uses": terms.uses,
        "scope": terms.scope,
        "pins": list(terms.pins),
        "covers": meaning(ask, terms.scope, terms.pins),
    }


def grant_offered(held: HeldRequest) -> dict[str, Any] | None:
    """What an approver may give beyond this one request; None where the rule lets an approval be used once."""
    ask = held.ask
    limit = ask.demand.grant
    allowed = scopes(ask)
    if not allowed:
        return None
    return {
        "max": {"for": int(limit.duration), "uses": limit.uses, "scope": allowed[-1]},
        "scopes": [{"scope": scope, "covers": meaning(ask, scope)} for scope in allowed],
        "pinnable": list(ask.shape.values) if ask.shape is not None and "pinned" in allowed else [],
        "agreed": terms_shown(ask, agreed(ask, held.votes)),
    }


def grant_shown(grant: Grant, viewer: Principal) -> dict[str, Any]:
    """One grant as `viewer` sees it. Every text is escaped for display."""
    held, ask = grant.held, grant.held.ask
    decides = not objection(ask, viewer)
    shown = {
        "id": grant.id,
        "hold": held.id,
        "state": grant.state.value,
        "version": grant.version,
        "target": ask.target,
        "requester": person_shown(ask.requester),
        "rules": list(ask.rules),
        "terms": terms_shown(ask, grant.terms),
        "used": grant.used,
        "held_request_ran": held.state is HoldState.RELEASED,
        "made_at": rfc3339(grant.made_at),
        "expires_at": rfc3339(grant.expires_at),
        "closed_reason": grant.closed_reason or None,
        "approvers": [person_shown(vote.approver) for vote in held.votes if vote.approve],
        "demand_digest": ask.demand.digest,
        "may": ["revoke"] if grant.is_live and (decides or owns(ask, viewer)) else [],
    }
    return cast(dict[str, Any], escape_json(shown, multiline=False))
