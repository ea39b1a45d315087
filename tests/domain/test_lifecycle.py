"""The table is obeyed, whatever happens in whatever order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from extproc.domain.demand import Quorum
from extproc.domain.hold import (
    MOVES,
    OPEN_STATES,
    BrokenGlass,
    HeldRequest,
    HoldError,
    HoldMove,
    HoldState,
    Review,
    Verdict,
    Vote,
)
from extproc.domain.lifecycle import (
    KINDS,
    Change,
    broken,
    closed,
    due,
    expired,
    opened,
    released,
    reviewed,
    voted,
)
from extproc.domain.principal import Principal
from extproc.domain.quorum import is_satisfied
from tests.support.holds import (
    AGENT,
    ANNA,
    BERT,
    CLEO,
    IN_EMERGENCIES,
    NOW,
    OLGA,
    ask,
    demand,
    principal,
    vote,
)

EVERYBODY = [
    ANNA,
    BERT,
    CLEO,
    AGENT,
    principal("anna-too", "sre", "dpo", person=ANNA.person),
    principal("alias", "sre", "dpo", person=AGENT.person),
    principal("robot", "sre", "dpo", kind="agent"),
    principal("stranger"),
]
DEMANDS = [
    demand(),
    demand(Quorum("sre", 2)),
    demand(Quorum("sre"), Quorum("dpo")),
    demand(allow_agents=True),
    demand(Quorum("sre", 2), break_glass=IN_EMERGENCIES),
]
EVERYBODY.append(OLGA)
BESIDE = ("hold.vote", "hold.break_glass", "hold.reviewed", "hold.review_overdue")
"""Kinds of moves that change no state."""


class Life(RuleBasedStateMachine):
    """Random votes, closings, releases and time; after each the promises hold."""

    held: HeldRequest
    moves: tuple[HoldMove, ...]
    now: float
    released_at: list[float]

    @initialize(wants=st.sampled_from(DEMANDS), requester=st.sampled_from([AGENT, OLGA]))
    def open(self, wants: Any, requester: Principal) -> None:
        self.now = NOW
        self.released_at = []
        change = opened("h-1", ask(wants=wants, requester=requester), self.now)
        self.held, self.moves = change.held, change.moves

    @rule(seconds=st.sampled_from([0.0, 1.0, 599.9, 600.0, 3599.9, 3600.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds

    @rule(who=st.sampled_from(EVERYBODY), approve=st.booleans())
    def somebody_votes(self, who: Principal, approve: bool) -> None:
        self.attempt(lambda held: voted(held, vote(who, approve), self.now))

    @rule(decision=st.sampled_from(["", "dec-1", "dec-2"]))
    def a_request_asks_to_go(self, decision: str) -> None:
        before = self.held
        if self.attempt(lambda held: released(held, decision, self.now)):
            assert before.state is HoldState.APPROVED
            assert self.now < before.use_before
            self.released_at.append(self.now)

    @rule(verdict=st.sampled_from(list(Verdict)))
    def it_is_closed(self, verdict: Verdict) -> None:
        self.attempt(lambda held: closed(held, verdict, self.now, by="x", reason="y"))

    @rule(who=st.sampled_from(EVERYBODY))
    def somebody_breaks_the_glass(self, who: Principal) -> None:
        if self.attempt(lambda held: broken(held, who, "down", self.now)):
            assert who == OLGA and self.held.ask.requester == OLGA
            assert self.held.ask.demand.break_glass is not None

    @rule(who=st.sampled_from(EVERYBODY), justified=st.booleans())
    def somebody_reviews(self, who: Principal, justified: bool) -> None:
        self.attempt(lambda held: reviewed(held, Review(who, justified, "looked", self.now), self.now))

    @rule()
    def somebody_looks(self) -> None:
        self.attempt(lambda held: due(held, self.now))

    def attempt(self, step: Any) -> bool:
        before = self.held
        try:
            change: Change = step(before)
        except HoldError:
            return False
        if change.held.state is not before.state:
            assert change.held.state in {to for (state, _), to in MOVES.items() if state is before.state}
        assert (change.held == before) == (not change.moves)
        self.held = change.held
        self.moves += change.moves
        return True

    @invariant()
    def released_only_once_and_only_by_enough_other_people(self) -> None:
        assert len(self.released_at) <= 1
        assert (
            (self.held.state is HoldState.RELEASED) == bool(self.released_at) == bool(self.held.released_to)
        )
        if self.held.state in (HoldState.APPROVED, HoldState.RELEASED):
            assert all(v.approve for v in self.held.votes)
            if self.held.glass is not None:
                assert self.held.glass.by.person == self.held.ask.requester.person
                return
            assert is_satisfied(self.held.ask, self.held.votes)
            places = sum(quorum.count for quorum in self.held.ask.demand.quorums)
            assert len({v.person for v in self.held.votes} - {self.held.ask.requester.person}) >= places

    @invariant()
    def broken_glass_is_owed_one_review_by_somebody_else(self) -> None:
        kinds = [move.kind for move in self.moves]
        assert kinds.count("hold.break_glass") == (self.held.glass is not None)
        assert kinds.count("hold.reviewed") <= kinds.count("hold.break_glass")
        assert kinds.count("hold.review_overdue") <= kinds.count("hold.break_glass")
        if self.held.glass is not None and self.held.glass.review is not None:
            assert self.held.glass.review.reviewer.person != OLGA.person
            assert self.held.glass.review.reviewer.kind == "human"

    @invariant()
    def every_change_has_its_move(self) -> None:
        assert [move.id for move in self.moves] == [f"h-1.{n}" for n in range(1, self.held.version + 1)]
        assert [m.kind for m in self.moves if m.kind not in BESIDE][-1] == KINDS[self.held.state]
        assert sum(m.kind == "hold.vote" for m in self.moves) == len(self.held.votes)
        states = [(m.fields["from"], m.fields["to"]) for m in self.moves if "from" in m.fields]
        assert [old for old, _ in states] == ["pending", *(new for _, new in states)][: len(states)]

    @invariant()
    def only_open_holds_have_a_deadline(self) -> None:
        assert (self.held.deadline is not None) == self.held.is_open == (self.held.state in OPEN_STATES)


TestLife = Life.TestCase


def in_state(state: HoldState) -> HeldRequest:
    """A hold that came to `state` by a path of the table."""
    held = opened("h-1", ask(requester=OLGA, wants=demand(break_glass=IN_EMERGENCIES)), NOW).held
    held = replace(held, waiters=0)  # whoever asked has left
    match state:
        case HoldState.PENDING:
            return held
        case HoldState.REJECTED:
            return voted(held, vote(ANNA, False), NOW).held
        case HoldState.EXPIRED:
            return expired(held, NOW + 3600).held
        case HoldState.WITHDRAWN:
            return closed(held, Verdict.WITHDRAW, NOW).held
        case HoldState.ABANDONED:
            return closed(held, Verdict.ABANDON, NOW).held
        case HoldState.VOID:
            return closed(held, Verdict.VOID, NOW).held
    held = voted(held, vote(ANNA), NOW).held
    match state:
        case HoldState.RELEASED:
            return released(held, "dec-2", NOW).held
        case HoldState.REVOKED:
            return closed(held, Verdict.REVOKE, NOW).held
    return held


@pytest.mark.parametrize("state", list(HoldState))
@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_is_not_in_the_table_cannot_happen(state: HoldState, verdict: Verdict):
    held = in_state(state)
    assert held.state is state

    def happen() -> Change:
        match verdict:
            case Verdict.APPROVE:
                return voted(held, vote(BERT), NOW)
            case Verdict.REJECT:
                return voted(held, vote(BERT, False), NOW)
            case Verdict.RELEASE:
                return released(held, "dec-3", NOW)
            case Verdict.BREAK_GLASS:
                return broken(held, OLGA, "down", NOW)
        return closed(held, verdict, NOW)

    if (state, verdict) in MOVES:
        assert happen().held.state is MOVES[state, verdict]
    else:
        with pytest.raises(HoldError) as caught:
            happen()
        assert caught.value.code == "not_open"


def test_a_hold_that_somebody_waits_on_is_not_abandoned():
    with pytest.raises(HoldError) as caught:
        closed(replace(in_state(HoldState.PENDING), waiters=1), Verdict.ABANDON, NOW)
    assert caught.value.code == "conflict"


def test_final_states_have_no_way_out():
    assert {state for state, _ in MOVES} == OPEN_STATES


def test_a_tampered_approval_lets_nothing_go():
    held = in_state(HoldState.APPROVED)
    for votes in ((), (vote(CLEO),), (vote(AGENT),)):
        forged = HeldRequest(**{**fields_of(held), "votes": votes})
        with pytest.raises(HoldError):
            released(forged, "dec-2", NOW)


def test_a_tampered_emergency_lets_nothing_go():
    held = broken(in_state(HoldState.PENDING), OLGA, "down", NOW).held
    assert released(held, "dec-2", NOW).held.state is HoldState.RELEASED
    for by in (ANNA, principal("olga"), principal("olga", "oncall", kind="agent")):
        glass = BrokenGlass(by, "down", NOW, NOW + 1000)
        with pytest.raises(HoldError):
            released(HeldRequest(**{**fields_of(held), "glass": glass}), "dec-2", NOW)


def fields_of(held: HeldRequest) -> dict[str, Any]:
    return {name: getattr(held, name) for name in HeldRequest.__dataclass_fields__}


def test_a_vote_in_another_persons_name_is_refused():
    forged = Vote(CLEO.person, ANNA, True, "x", NOW)
    with pytest.raises(HoldError) as caught:
        voted(opened("h-1", ask(), NOW).held, forged, NOW)
    assert caught.value.code == "conflict"


def test_the_time_of_a_vote_is_when_it_was_counted():
    change = voted(opened("h-1", ask(), NOW).held, vote(ANNA, at=0.0), NOW + 5)
    assert change.held.votes[0].at == NOW + 5


def test_membership_is_what_the_token_said_when_the_vote_was_cast():
    held = opened("h-1", ask(wants=demand(Quorum("sre", 2))), NOW).held
    held = voted(held, vote(ANNA), NOW).held
    no_longer = principal("anna")
    with pytest.raises(HoldError):
        voted(held, vote(no_longer), NOW)
    assert voted(held, vote(BERT), NOW).held.state is HoldState.APPROVED


def test_the_opening_move_says_what_will_be_checked():
    change = opened("h-1", ask(wants=demand(allow_agents=True)), NOW)
    fields = change.moves[0].fields
    assert fields["requester"]["subject"] == AGENT.subject
    assert fields["approvers"] == [{"group": "sre", "count": 1}]
    assert fields["allow_agents"] is True
    assert fields["expires_at"] == "2030-03-17T18:46:40.000000Z"
    assert len(fields["view_digest"]) == 64


def test_an_endless_reason_is_cut_for_the_store():
    change = voted(opened("h-1", ask(), NOW).held, vote(ANNA, reason="x" * 5000), NOW)
    assert len(change.held.votes[0].reason) == 2000


def test_a_conflict_of_interest_stops_an_approval_and_no_denial():
    dora, eve = (principal(name, "sre", "payments") for name in ("dora", "eve"))
    wants = demand(Quorum("sre", 2), conflict_groups=("payments",))
    change = opened("h-1", ask(wants=wants), NOW)
    assert change.moves[0].fields["conflict_groups"] == ["payments"]
    held = voted(change.held, vote(dora), NOW).held
    with pytest.raises(HoldError) as refused:
        voted(held, vote(eve), NOW)
    assert refused.value.code == "conflict_of_interest"
    assert voted(held, vote(dora), NOW).held == held
    assert voted(held, vote(eve, False), NOW).held.state is HoldState.REJECTED
    assert voted(held, vote(ANNA), NOW).held.state is HoldState.APPROVED


def test_an_approval_needs_what_the_rules_want_in_its_reason_and_a_denial_does_not():
    held = opened("h-1", ask(wants=demand(reason_patterns=("CHG-[0-9]+", "(?i)checked"))), NOW).held
    for reason in ("checked", "CHG-12", "CHG-x checked"):
        with pytest.raises(HoldError) as refused:
            voted(held, vote(ANNA, reason=reason), NOW)
        assert refused.value.code == "reason_pattern"
    assert voted(held, vote(ANNA, reason="Checked, see CHG-12"), NOW).held.state is HoldState.APPROVED
    assert voted(held, vote(ANNA, False, reason="no"), NOW).held.state is HoldState.REJECTED
