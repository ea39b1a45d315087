"""Who may decide on a hold, and when enough different people have agreed.

A person is known by `person`, and by (issuer, subject): two votes that share either are one person's.
The people of a conflict group count as one person, who asked among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import re2

from extproc.domain.demand import HoldDemand, Quorum
from extproc.domain.hold import VIEW_SECTIONS, HoldAsk, HoldError, Vote
from extproc.domain.principal import Principal

PATTERN_OPTIONS = re2.Options()
PATTERN_OPTIONS.log_errors = False


def is_requester(ask: HoldAsk, principal: Principal) -> bool:
    """The same caller, or the same person behind another account."""
    mine = ask.requester
    return principal.person == mine.person or (principal.issuer, principal.subject) == (
        mine.issuer,
        mine.subject,
    )


def owns(ask: HoldAsk, principal: Principal) -> bool:
    """May read and withdraw it as its requester: people over all their accounts, software only as itself."""
    if principal.kind == "human":
        return is_requester(ask, principal)
    return (principal.issuer, principal.subject) == (ask.requester.issuer, ask.requester.subject)


def may_see(ask: HoldAsk, principal: Principal) -> bool:
    """Its requester, and whoever belongs to those asked to decide."""
    return owns(ask, principal) or is_approver(ask.demand, principal)


def is_approver(demand: HoldDemand, principal: Principal) -> bool:
    """Human (unless the rule admits software) and a member of a demanded group, by the token at hand."""
    if principal.kind != "human" and not demand.allow_agents:
        return False
    return any(quorum.group in principal.groups for quorum in demand.quorums)


def check_voter(ask: HoldAsk, approver: Principal) -> None:
    """Raises HoldError: self_approval, not_human, not_a_member. There is no exception for anybody."""
    if not approver.person:
        raise HoldError("not_human", "the token names no person")
    if is_requester(ask, approver):
        raise HoldError("self_approval", "whoever asked for it may not decide on it")
    if approver.kind != "human" and not ask.demand.allow_agents:
        raise HoldError("not_human", f"a principal of kind {approver.kind} may not decide; people do")
    if not is_approver(ask.demand, approver):
        raise HoldError("not_a_member", "not a member of any group that is asked to decide")


def objection(ask: HoldAsk, principal: Principal) -> str:
    """Why `principal` may not decide on it: the code `check_voter` would raise, or empty."""
    try:
        check_voter(ask, principal)
    except HoldError as error:
        return error.code
    return ""


def check_conflict(ask: HoldAsk, votes: Iterable[Vote], approver: Principal) -> None:
    """Raises HoldError("conflict_of_interest"): of a conflict group, somebody else asked for it or approved it."""
    groups = conflicts(ask.demand, approver)
    if not groups.isdisjoint(ask.requester.groups):
        raise HoldError("conflict_of_interest", "whoever asked for it is of the same conflict group")
    for vote in votes:
        if vote.approve and not groups.isdisjoint(vote.approver.groups) and not _is_same(vote, approver):
            raise HoldError("conflict_of_interest", "somebody of the same conflict group has approved it")


def may_approve(ask: HoldAsk, votes: Iterable[Vote], approver: Principal) -> bool:
    """May decide on it, and nothing that was shown or said speaks against an approval."""
    try:
        check_voter(ask, approver)
        check_conflict(ask, votes, approver)
        check_shown(ask.view)
    except HoldError:
        return False
    return True


def conflicts(demand: HoldDemand, principal: Principal) -> frozenset[str]:
    """The conflict groups of somebody."""
    return frozenset(demand.conflict_groups).intersection(principal.groups)


def check_reason(ask: HoldAsk, reason: str) -> None:
    """Raises HoldError("reason_pattern") where a rule wants something in it, a ticket's number say, that is not."""
    for pattern in ask.demand.reason_patterns:
        if not re2.compile(pattern, PATTERN_OPTIONS).search(reason):
            raise HoldError("reason_pattern", f"the rule wants a reason that matches {pattern}")


def check_shown(view: Mapping[str, object]) -> None:
    """Raises HoldError("not_shown_in_full") when the view says that something was cut."""
    parts = [view, *(view.get(section) for section in VIEW_SECTIONS)]
    if any(isinstance(part, Mapping) and part.get("truncated") for part in parts):
        raise HoldError("not_shown_in_full", "what is not shown in full cannot be approved")


def earlier_vote(votes: Iterable[Vote], approver: Principal) -> Vote | None:
    """The latest vote of the same person."""
    found = None
    for vote in votes:
        if _is_same(vote, approver):
            found = vote
    return found


def _is_same(vote: Vote, approver: Principal) -> bool:
    account = (vote.approver.issuer, vote.approver.subject)
    return vote.person == approver.person or account == (approver.issuer, approver.subject)


def is_satisfied(ask: HoldAsk, votes: Sequence[Vote]) -> bool:
    """Every place of every quorum is taken by somebody else. A demand without places is never satisfied."""
    return bool(ask.demand.quorums) and not missing(ask, votes)


def missing(ask: HoldAsk, votes: Sequence[Vote]) -> tuple[Quorum, ...]:
    """The places still free, by group in the demand's order."""
    return free_places(ask.demand, ask.requester, votes)


def free_places(demand: HoldDemand, requester: Principal, votes: Sequence[Vote]) -> tuple[Quorum, ...]:
    """What `missing` says, of a demand alone. The order of the votes makes no difference.

    A place of a quorum meets a person who is in its group: the most that can be taken at once is a
    maximum bipartite matching (augmenting paths; both sides are small).
    """
    places = [quorum.group for quorum in demand.quorums for _ in range(max(quorum.count, 1))]
    people = _people(demand, requester, votes)
    taken: dict[int, int] = {}  # person -> place

    def seat(place: int, asked: set[int]) -> bool:
        for person, groups in enumerate(people):
            if places[place] not in groups or person in asked:
                continue
            asked.add(person)
            if person not in taken or seat(taken[person], asked):
                taken[person] = place
                return True
        return False

    free: dict[str, int] = {}
    for place, group in enumerate(places):
        if not seat(place, set()):
            free[group] = free.get(group, 0) + 1
    return tuple(Quorum(group, count) for group, count in free.items())


def _people(demand: HoldDemand, requester: Principal, votes: Sequence[Vote]) -> list[frozenset[str]]:
    """The groups of each different person whose approval counts.

    Votes that share a person or an account are joined until nothing joins any more; whoever turns out to be
    the requester that way counts for nothing, nor does anybody who also rejected.
    """
    own = _names(demand, requester)
    joined: list[tuple[set[object], list[Vote]]] = [(set(own), [])]
    for vote in votes:
        names = {vote.person, *_names(demand, vote.approver)}
        same, other = [vote], []
        for known in joined:
            if known[0].isdisjoint(names):
                other.append(known)
            else:
                names |= known[0]
                same += known[1]
        joined = [*other, (names, same)]
    people = [
        frozenset(group for vote in same for group in vote.approver.groups)
        for names, same in joined
        if names.isdisjoint(own) and all(_counts(demand, vote) for vote in same)
    ]
    return sorted(people, key=sorted)


def _names(demand: HoldDemand, principal: Principal) -> set[object]:
    """What makes two principals count as one: the person, the account, a conflict group."""
    shared = {("conflict", group) for group in conflicts(demand, principal)}
    return {principal.person, (principal.issuer, principal.subject), *shared}


def _counts(demand: HoldDemand, vote: Vote) -> bool:
    if not vote.approve or not vote.person:
        return False
    return vote.approver.kind == "human" or demand.allow_agents
