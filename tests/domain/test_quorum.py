"""Enough different people, never the requester, never software unless the rule says so."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.demand import HoldDemand, Quorum
from extproc.domain.hold import HoldError, Vote
from extproc.domain.principal import Principal
from extproc.domain.quorum import (
    check_conflict,
    check_shown,
    check_voter,
    is_satisfied,
    may_approve,
    may_see,
    missing,
    objection,
    owns,
)
from tests.support.holds import AGENT, ANNA, BERT, CLEO, ask, demand, principal, vote

GROUPS = ("sre", "dpo", "sec")

people = st.builds(
    lambda subject, person, groups, kind: principal(subject, *groups, kind=kind, person=person),
    st.sampled_from(["a", "b", "c", "d", "agent-7"]),
    st.sampled_from(["p1", "p2", "p3", "p4", AGENT.person]),
    st.sets(st.sampled_from(GROUPS)).map(lambda names: tuple(sorted(names))),
    st.sampled_from(["human", "human", "human", "agent", "service"]),
)
votes = st.lists(people.map(vote), max_size=7)
demands = st.builds(
    lambda counts, agents, conflicts: demand(
        *(Quorum(g, n) for g, n in counts), allow_agents=agents, conflict_groups=conflicts
    ),
    st.lists(st.tuples(st.sampled_from(GROUPS), st.integers(1, 3)), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([(), (), ("sec",), ("dpo", "sec"), ("agents",)]),
)


def distinct(cast: list[Vote], wants: HoldDemand) -> list[list[Vote]]:
    """Who is whom, by brute force: accounts, persons and conflicts that touch are one, the requester's are nobody's."""

    def same(one: Principal, two: Principal) -> bool:
        account = (one.issuer, one.subject) == (two.issuer, two.subject)
        conflict = set(wants.conflict_groups) & set(one.groups) & set(two.groups)
        return one.person == two.person or account or bool(conflict)

    clusters: list[list[Vote]] = []
    for each in cast:
        touching = [c for c in clusters if any(same(each.approver, other.approver) for other in c)]
        clusters = [c for c in clusters if c not in touching] + [[each, *itertools.chain(*touching)]]
    clusters = [c for c in clusters if not any(same(v.approver, AGENT) for v in c)]
    return [c for c in clusters if wants.allow_agents or all(v.approver.kind == "human" for v in c)]


def by_hand(wants: HoldDemand, cast: list[Vote]) -> bool:
    """Whether some assignment of different people to all places exists, by trying them all."""
    places = [quorum.group for quorum in wants.quorums for _ in range(quorum.count)]
    known = [{g for v in c for g in v.approver.groups} for c in distinct(cast, wants)]
    if len(known) < len(places):
        return False
    return any(
        all(place in groups for place, groups in zip(places, chosen, strict=True))
        for chosen in itertools.permutations(known, len(places))
    )


@given(demands, votes)
def test_it_is_satisfied_exactly_when_different_people_can_take_every_place(
    wants: HoldDemand, cast: list[Vote]
):
    assert is_satisfied(ask(wants=wants), cast) == by_hand(wants, cast)


@given(demands, votes)
def test_it_is_never_satisfied_with_fewer_people_than_places(wants: HoldDemand, cast: list[Vote]):
    if is_satisfied(ask(wants=wants), cast):
        persons = {v.person for v in cast if v.person != AGENT.person}
        assert len(persons) >= sum(quorum.count for quorum in wants.quorums)


@given(demands, votes, st.randoms(use_true_random=False))
def test_the_order_of_votes_makes_no_difference(wants: HoldDemand, cast: list[Vote], chance: Any):
    shuffled = list(cast)
    chance.shuffle(shuffled)
    assert missing(ask(wants=wants), cast) == missing(ask(wants=wants), shuffled)


@given(demands, votes)
def test_a_repeated_vote_adds_nothing(wants: HoldDemand, cast: list[Vote]):
    assert missing(ask(wants=wants), cast) == missing(ask(wants=wants), [*cast, *cast])


@given(demands, votes)
def test_what_is_missing_and_what_is_taken_add_up(wants: HoldDemand, cast: list[Vote]):
    free = sum(quorum.count for quorum in missing(ask(wants=wants), cast))
    places = sum(quorum.count for quorum in wants.quorums)
    assert max(0, places - len(distinct(cast, wants))) <= free <= places


@pytest.mark.parametrize(
    ("quorums", "who", "free"),
    [
        ((Quorum("sre"),), (), (Quorum("sre"),)),
        ((Quorum("sre"),), (ANNA,), ()),
        ((Quorum("sre", 2),), (ANNA,), (Quorum("sre", 1),)),
        ((Quorum("sre", 2),), (ANNA, BERT), ()),
        ((Quorum("sre"), Quorum("dpo")), (BERT,), (Quorum("dpo"),)),
        ((Quorum("sre"), Quorum("dpo")), (BERT, ANNA), ()),  # Bert makes room for Anna
        ((Quorum("sre"), Quorum("dpo")), (ANNA, CLEO), ()),
        ((Quorum("sre"), Quorum("dpo"), Quorum("dpo")), (ANNA, BERT, CLEO), ()),
        ((Quorum("sre"), Quorum("sre")), (ANNA,), (Quorum("sre"),)),
    ],
)
def test_one_person_takes_one_place(quorums: tuple[Quorum, ...], who: tuple[Principal, ...], free: Any):
    assert missing(ask(wants=demand(*quorums)), [vote(each) for each in who]) == free


def test_a_demand_without_places_is_never_satisfied():
    nobody = ask(wants=HoldDemand(quorums=(), wait=1, expires=1, use_within=1, digest="d"))
    assert not is_satisfied(nobody, [])
    assert not is_satisfied(nobody, [vote(ANNA)])


def test_a_place_for_nobody_still_needs_somebody():
    assert not is_satisfied(ask(wants=demand(Quorum("sre", 0))), [])


def test_two_accounts_of_one_person_count_once():
    other = principal("anna-admin", "sre", person=ANNA.person)
    assert not is_satisfied(ask(wants=demand(Quorum("sre", 2))), [vote(ANNA), vote(other)])


def test_one_account_with_two_persons_counts_once():
    renamed = principal("anna", "sre", person="new-name@people.test")
    assert not is_satisfied(ask(wants=demand(Quorum("sre", 2))), [vote(ANNA), vote(renamed)])


def test_a_person_who_is_linked_to_the_requester_counts_for_nothing():
    linked = [vote(principal("x", "sre", person=AGENT.person)), vote(principal("x", "sre", person="p9"))]
    assert not is_satisfied(ask(), linked)


def test_who_rejected_does_not_count_as_agreeing():
    assert not is_satisfied(ask(), [vote(ANNA), vote(ANNA, False)])


DORA = principal("dora", "dpo", "payments")
EVE = principal("eve", "dpo", "payments")
ROLES = (Quorum("sre"), Quorum("dpo", 2))


def test_of_a_conflict_group_one_person_counts():
    wants = demand(*ROLES, conflict_groups=("payments",))
    assert missing(ask(wants=wants), [vote(ANNA), vote(DORA), vote(EVE)]) == (Quorum("dpo"),)
    assert is_satisfied(ask(wants=wants), [vote(ANNA), vote(DORA), vote(CLEO)])
    assert is_satisfied(ask(wants=demand(*ROLES)), [vote(ANNA), vote(DORA), vote(EVE)])


def test_who_asked_is_of_their_conflict_group_as_well():
    clerk = principal("clerk", "payments")
    wants = demand(Quorum("dpo"), conflict_groups=("payments",))
    held = ask(requester=clerk, wants=wants)
    assert not is_satisfied(held, [vote(DORA)])
    with pytest.raises(HoldError, match="whoever asked for it") as refused:
        check_conflict(held, [], DORA)
    assert refused.value.code == "conflict_of_interest"
    assert not may_approve(held, [], DORA)
    assert objection(held, DORA) == ""  # to deny it is open to her
    assert may_approve(held, [], CLEO)
    assert is_satisfied(held, [vote(DORA), vote(CLEO)])


def test_a_second_of_a_conflict_group_may_deny_and_not_approve():
    held = ask(wants=demand(*ROLES, conflict_groups=("payments",)))
    with pytest.raises(HoldError, match="has approved it"):
        check_conflict(held, [vote(DORA)], EVE)
    check_conflict(held, [vote(DORA)], DORA)  # her own word again
    check_conflict(held, [vote(DORA)], CLEO)
    check_conflict(held, [vote(ANNA)], EVE)


@pytest.mark.parametrize(
    ("approver", "code"),
    [
        (ANNA, ""),
        (AGENT, "self_approval"),
        (principal("alias", "sre", person=AGENT.person), "self_approval"),
        (principal(AGENT.subject, "sre", person="another"), "self_approval"),
        (principal("agent-8", "sre", kind="agent"), "not_human"),
        (principal("agent-8", "sre", kind="machine"), "not_human"),
        (CLEO, "not_a_member"),
        (principal("x", "SRE"), "not_a_member"),
    ],
)
def test_who_may_decide(approver: Principal, code: str):
    assert objection(ask(), approver) == code


def test_software_may_decide_only_where_the_rule_says_so():
    robot = principal("agent-8", "sre", kind="agent")
    check_voter(ask(wants=demand(allow_agents=True)), robot)
    assert objection(ask(wants=demand(allow_agents=True)), AGENT) == "self_approval"


def test_the_same_subject_of_another_issuer_is_somebody_else():
    assert objection(ask(), principal(AGENT.subject, "sre", issuer="https://other.test", person="p")) == ""


def test_a_token_without_a_person_decides_nothing():
    nameless = Principal(issuer="i", subject="s", kind="human", person="", groups=("sre",))
    assert objection(ask(), nameless) == "not_human"


@pytest.mark.parametrize(
    ("viewer", "mine", "visible"),
    [
        (AGENT, True, True),
        (principal("owner", person=AGENT.person), True, True),
        (principal("agent-8", "sre", kind="agent", person=AGENT.person), False, False),
        (ANNA, False, True),
        (CLEO, False, False),
    ],
)
def test_who_sees_it(viewer: Principal, mine: bool, visible: bool):
    assert (owns(ask(), viewer), may_see(ask(), viewer)) == (mine, visible)


@pytest.mark.parametrize(
    "view",
    [
        {"truncated": True},
        {"truncated": ["raw.body"]},
        {"facts": {"truncated": 1}},
        {"raw": {"body": "x", "truncated": "yes"}},
        {"normalised": {"truncated": {"body": 5}}},
    ],
)
def test_a_view_that_says_it_was_cut_cannot_be_approved(view: dict[str, Any]):
    with pytest.raises(HoldError, match="in full"):
        check_shown(view)


@pytest.mark.parametrize(
    "view",
    [
        {},
        {"truncated": False, "raw": {"truncated": []}},
        {"raw": {"body": {"truncated": True}}},
        {"raw": "truncated"},
    ],
)
def test_a_request_that_happens_to_speak_of_truncation_was_not_cut(view: dict[str, Any]):
    check_shown(view)
