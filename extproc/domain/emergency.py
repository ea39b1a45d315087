"""Breaking the glass: a requester lets their own request go at once, with a reason, and somebody else must review it.

Only where the rule allows it, only people, only people of a named group, and for that one request. What is asked of
an approver otherwise is asked of the reviewer afterwards.
"""

from __future__ import annotations

from extproc.domain.hold import BrokenGlass, HeldRequest, HoldAsk, HoldError, Review
from extproc.domain.principal import Principal
from extproc.domain.quorum import check_conflict, check_voter, conflicts, is_requester


def check_breaker(ask: HoldAsk, by: Principal) -> None:
    """Raises HoldError: not_allowed, not_requester, not_human, not_a_member."""
    allowed = ask.demand.break_glass
    if allowed is None:
        raise HoldError("not_allowed", "no rule lets anybody go without approval here")
    if by.kind != "human" or ask.requester.kind != "human" or not by.person:
        raise HoldError("not_human", "only a person can break the glass, and only for a request of their own")
    if not is_requester(ask, by):
        raise HoldError("not_requester", "only who asked for it can break the glass")
    if any(set(by.groups).isdisjoint(groups) for groups in allowed.groups):
        raise HoldError("not_a_member", "not a member of a group that may break the glass")


def may_break(ask: HoldAsk, by: Principal) -> bool:
    """Whether `check_breaker` lets them."""
    try:
        check_breaker(ask, by)
    except HoldError:
        return False
    return True


def check_reviewer(held: HeldRequest, reviewer: Principal) -> BrokenGlass:
    """What is to be reviewed.

    Raises HoldError: not_broken, self_approval, not_human, not_a_member, conflict_of_interest.
    """
    glass = held.glass
    if glass is None:
        raise HoldError("not_broken", "nobody broke the glass for it, so there is nothing to review")
    if reviewer.kind != "human":
        raise HoldError("not_human", "people review")
    check_voter(held.ask, reviewer)
    check_conflict(held.ask, (), reviewer)
    own = (glass.by.issuer, glass.by.subject)
    if reviewer.person == glass.by.person or (reviewer.issuer, reviewer.subject) == own:
        raise HoldError("self_approval", "whoever broke the glass may not review it")
    if not conflicts(held.ask.demand, reviewer).isdisjoint(glass.by.groups):
        raise HoldError("conflict_of_interest", "whoever broke the glass is of the same conflict group")
    return glass


def may_review(held: HeldRequest, reviewer: Principal) -> bool:
    """A review is owed and they can give it."""
    try:
        return check_reviewer(held, reviewer).review is None
    except HoldError:
        return False


def is_same_word(before: Review, review: Review) -> bool:
    """The same person finds the same again: a repeated call."""
    return before.reviewer.person == review.reviewer.person and before.justified == review.justified
