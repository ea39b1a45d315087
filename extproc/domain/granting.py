"""The life of a grant: what an approver may give, what all of them agreed on, what it covers, and its moves.

Each function takes things as they stand and returns what becomes of them, as in `lifecycle.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from extproc.domain.grant import GRANT_MOVES, Grant, GrantEvent, GrantState
from extproc.domain.hold import REASON_LIMIT, HeldRequest, HoldAsk, HoldError, HoldMove, Vote
from extproc.domain.quorum import is_satisfied
from extproc.domain.terms import SCOPES, GrantLimit, GrantTerms, Scope
from extproc.domain.times import rfc3339


@dataclass(frozen=True, slots=True)
class GrantChange:
    """A grant after something happened to it, and the moves that tell of it, oldest first."""

    grant: Grant
    moves: tuple[HoldMove, ...] = ()


# ---------------------------------------------------------------------- terms


def scopes(ask: HoldAsk) -> tuple[Scope, ...]:
    """The scopes an approver of `ask` may choose from, narrowest first; none when an approval is for once."""
    limit = ask.demand.grant
    if limit.is_once:
        return ()
    allowed = SCOPES[: SCOPES.index(limit.scope) + 1]
    return tuple(
        scope
        for scope in allowed
        if scope == "exact" or (ask.shape is not None and (scope == "shape" or ask.shape.values))
    )


def check_terms(ask: HoldAsk, terms: GrantTerms) -> None:
    """Raises HoldError: too_wide where the rule does not allow that much, unknown_pin."""
    limit = ask.demand.grant
    if limit.is_once:
        raise HoldError("too_wide", "the rule lets an approval be used once")
    if terms.uses < 2 or terms.duration <= 0:
        raise HoldError("conflict", "a grant is for two uses or more, and for some time")
    if terms.uses > limit.uses:
        raise HoldError("too_wide", f"the rule allows {limit.uses} uses at most")
    if terms.duration > limit.duration:
        raise HoldError("too_wide", f"the rule allows {limit.duration:g} seconds at most")
    if terms.scope not in scopes(ask):
        known = ", ".join(scopes(ask))
        raise HoldError("too_wide", f"the scopes that can be granted here are: {known}")
    pinnable = ask.shape.values if ask.shape is not None else {}
    if terms.scope == "pinned" and not terms.pins:
        raise HoldError("unknown_pin", "say which values must stay as they are")
    if terms.pins and terms.scope != "pinned":
        raise HoldError("unknown_pin", "only the scope `pinned` has values that must stay")
    if any(name not in pinnable for name in terms.pins):
        raise HoldError("unknown_pin", "a value of that name is not in it")


def agreed(ask: HoldAsk, votes: Iterable[Vote]) -> GrantTerms | None:
    """What every approver agreed on: the narrowest of their terms, every pin of any. None means once."""
    given = [vote.terms for vote in votes if vote.approve]
    terms = [each for each in given if each is not None]
    if not terms or len(terms) < len(given):
        return None
    scope = min((each.scope for each in terms), key=SCOPES.index)
    pins = {pin for each in terms for pin in each.pins} if scope == "pinned" else set[str]()
    return GrantTerms(
        duration=min(each.duration for each in terms),
        uses=min(each.uses for each in terms),
        scope=scope,
        pins=tuple(sorted(pins)),
    )


def meaning(ask: HoldAsk, scope: Scope, pins: tuple[str, ...] = ()) -> str:
    """What a grant of that scope lets go, in words an approver reads."""
    if scope == "exact" or ask.shape is None:
        return "exactly this request"
    if scope == "shape":
        return f"{ask.shape.same}, {ask.shape.free}"
    kept = f"as here: {', '.join(pins)}" if pins else "the pinned ones"
    return f"{ask.shape.same}, {ask.shape.free} but {kept}"


def terms_record(terms: GrantTerms) -> dict[str, Any]:
    """The ledger's form; `for` in whole seconds."""
    kept: dict[str, Any] = {"for": int(terms.duration), "uses": terms.uses, "scope": terms.scope}
    return kept | {"pins": list(terms.pins)} if terms.pins else kept


def limit_record(limit: GrantLimit) -> dict[str, Any]:
    """The most the rule allows, in the ledger's form."""
    return {"for": int(limit.duration), "uses": limit.uses, "scope": limit.scope}


# ---------------------------------------------------------------------- life


def made(grant_id: str, held: HeldRequest, now: float) -> GrantChange | None:
    """The grant of a hold that was approved just now; None when it was approved for once."""
    terms = agreed(held.ask, held.votes)
    if terms is None or held.glass is not None:  # an emergency is for once, whatever was agreed on before
        return None
    ask = held.ask
    key = ask.binding if terms.scope == "exact" or ask.shape is None else ask.shape.key
    grant = Grant(
        id=grant_id,
        held=held,
        key=key,
        terms=terms,
        state=GrantState.LIVE,
        version=0,
        made_at=now,
        expires_at=now + terms.duration,
    )
    return _told(
        grant,
        "grant.made",
        now,
        {
            "target": ask.target,
            "requester": ask.requester.to_record(),
            "rules": list(ask.rules),
            "demand_digest": ask.demand.digest,
            "terms": terms_record(terms),
            "covers": meaning(ask, terms.scope, terms.pins),
            "key": key,
            "expires_at": rfc3339(grant.expires_at),
            "approvers": [vote.person for vote in held.votes if vote.approve],
        },
    )


def covers(grant: Grant, ask: HoldAsk, now: float) -> bool:
    """Whether a request may go by this grant: live, in time, the same key, and every pinned value the same."""
    if not grant.is_live or grant.is_overdue(now) or grant.used >= grant.terms.uses:
        return False
    if grant.terms.scope == "exact":
        return grant.key == ask.binding
    theirs, mine = ask.shape, grant.held.ask.shape
    if theirs is None or mine is None or theirs.key != grant.key:
        return False
    return all(pin in mine.values and mine.values[pin] == theirs.values.get(pin) for pin in grant.terms.pins)


def used(grant: Grant, decision_id: str, now: float) -> GrantChange:
    """One more request goes by it. Raises HoldError("not_open")."""
    if not decision_id:
        raise HoldError("conflict", "a use names the decision it lets go")
    if not grant.is_live:
        raise HoldError("not_open", f"the grant is {grant.state.value}")
    if grant.is_overdue(now):
        raise HoldError("not_open", "the grant has expired")
    if grant.used >= grant.terms.uses:
        raise HoldError("not_open", "the grant is used up")
    held = grant.held
    if not is_satisfied(held.ask, held.votes) or agreed(held.ask, held.votes) != grant.terms:
        # cannot happen through `made`; a store that was tampered with must not let anything go
        raise HoldError("not_open", "its votes do not bear it")
    number = grant.used + 1
    is_last = number == grant.terms.uses
    event = GrantEvent.LAST_USE if is_last else GrantEvent.USE
    grant = replace(grant, used=number, state=_state(grant, event))
    fields = {"decision_id": decision_id, "use": number, "uses": grant.terms.uses}
    change = _told(grant, "grant.used", now, fields)
    if not is_last:
        return change
    last = _told(change.grant, "grant.exhausted", now, {})
    return GrantChange(last.grant, change.moves + last.moves)


def revoked(grant: Grant, now: float, *, by: str = "", reason: str = "") -> GrantChange:
    """It ends now. Raises HoldError("not_open")."""
    if grant.is_overdue(now):
        raise HoldError("not_open", "the grant has expired")
    return _ended(grant, GrantEvent.REVOKE, now, by=by, reason=reason[:REASON_LIMIT])


def expired(grant: Grant, now: float) -> GrantChange:
    """The grant at `now`: expired if its time is up, else as it was."""
    return _ended(grant, GrantEvent.EXPIRE, now) if grant.is_overdue(now) else GrantChange(grant)


def _ended(grant: Grant, event: GrantEvent, now: float, *, by: str = "", reason: str = "") -> GrantChange:
    grant = replace(grant, state=_state(grant, event), closed_reason=reason)
    fields: dict[str, Any] = {"used": grant.used, "uses": grant.terms.uses}
    if by:
        fields["by"] = by
    if reason:
        fields["reason"] = reason
    return _told(grant, f"grant.{grant.state.value}", now, fields)


def _state(grant: Grant, event: GrantEvent) -> GrantState:
    state = GRANT_MOVES.get((grant.state, event))
    if state is None:
        raise HoldError("not_open", f"the grant is {grant.state.value}")
    return state


def _told(grant: Grant, kind: str, now: float, fields: Mapping[str, Any]) -> GrantChange:
    """Count the change and say it; the move's id is the grant's id and version, so a repeat is recognised."""
    grant = replace(grant, version=grant.version + 1)
    move = HoldMove(f"{grant.id}.{grant.version}", grant.held.id, kind, now, {"grant": grant.id, **fields})
    return GrantChange(grant, (move,))
