"""A grant is never wider than the rule and than any approver, never used beyond its uses, and its table is obeyed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from extproc.domain import granting
from extproc.domain.demand import Quorum
from extproc.domain.grant import GRANT_MOVES, Grant, GrantEvent, GrantState
from extproc.domain.granting import agreed, check_terms, covers, made, meaning, scopes, used
from extproc.domain.hold import HeldRequest, HoldError, HoldMove
from extproc.domain.lifecycle import opened, voted
from extproc.domain.terms import SCOPES, GrantLimit, GrantTerms
from tests.support.holds import ANNA, BERT, NOW, ask, demand, shaped, vote

WIDE = GrantLimit(1800.0, 20, "shape")
TERMS = GrantTerms(600.0, 3, "shape")


def asked(limit: GrantLimit = WIDE, *quorums: Quorum, **more: Any) -> Any:
    more.setdefault("shape", shaped(v1="one", v2="two"))
    return ask(wants=demand(*quorums, grant=limit), **more)


def approved(terms: GrantTerms | None = TERMS, *others: GrantTerms | None) -> HeldRequest:
    """A hold that as many people approved as there are terms."""
    given = [terms, *others]
    held = opened("h-1", asked(WIDE, Quorum("sre", len(given))), NOW).held
    for who, each in zip((ANNA, BERT), given, strict=False):
        held = voted(held, vote(who, terms=each), NOW).held
    return held


def granted(terms: GrantTerms = TERMS) -> Grant:
    change = made("g-1", approved(terms), NOW)
    assert change is not None
    return change.grant


class Life(RuleBasedStateMachine):
    """Random uses, revocations and time; after each the promises hold."""

    grant: Grant
    moves: tuple[HoldMove, ...]
    now: float
    ran: list[float]

    @initialize(uses=st.integers(2, 4))
    def make(self, uses: int) -> None:
        self.now, self.ran = NOW, []
        change = made("g-1", approved(GrantTerms(600.0, uses, "shape")), NOW)
        assert change is not None
        self.grant, self.moves = change.grant, change.moves

    @rule(seconds=st.sampled_from([0.0, 1.0, 299.0, 599.9, 600.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds

    @rule(decision=st.sampled_from(["", "dec-1", "dec-2"]))
    def a_request_goes(self, decision: str) -> None:
        if self.attempt(lambda grant: used(grant, decision, self.now)):
            assert self.now < self.grant.expires_at
            self.ran.append(self.now)

    @rule()
    def it_is_revoked(self) -> None:
        self.attempt(lambda grant: granting.revoked(grant, self.now, by="x", reason="y"))

    @rule()
    def somebody_looks(self) -> None:
        self.attempt(lambda grant: granting.expired(grant, self.now))

    def attempt(self, step: Any) -> bool:
        before = self.grant
        try:
            change = step(before)
        except HoldError:
            return False
        if change.moves:
            assert change.grant.state in {
                to for (state, _), to in GRANT_MOVES.items() if state is before.state
            }
        self.grant, self.moves = change.grant, self.moves + change.moves
        return True

    @invariant()
    def never_more_runs_than_uses(self) -> None:
        assert self.grant.used == 1 + len(self.ran) <= self.grant.terms.uses
        assert (self.grant.state is GrantState.EXHAUSTED) == (self.grant.used == self.grant.terms.uses)

    @invariant()
    def every_change_has_its_move(self) -> None:
        assert [move.id for move in self.moves] == [f"g-1.{n}" for n in range(1, self.grant.version + 1)]
        assert all(move.fields["grant"] == "g-1" and move.hold_id == "h-1" for move in self.moves)
        kinds = [move.kind for move in self.moves]
        assert kinds.count("grant.used") == len(self.ran)
        assert (kinds[-1] == f"grant.{self.grant.state.value}") == (not self.grant.is_live)


TestLife = Life.TestCase


@pytest.mark.parametrize("event", GrantEvent)
@pytest.mark.parametrize("state", GrantState)
def test_what_is_not_in_the_table_cannot_happen(state: GrantState, event: GrantEvent) -> None:
    grant = replace(granted(), state=state, used=2 if event is GrantEvent.LAST_USE else 1)
    steps = {
        GrantEvent.USE: lambda: used(grant, "dec-1", NOW),
        GrantEvent.LAST_USE: lambda: used(grant, "dec-1", NOW),
        GrantEvent.EXPIRE: lambda: granting.expired(grant, NOW + 600),
        GrantEvent.REVOKE: lambda: granting.revoked(grant, NOW),
    }
    if (state, event) in GRANT_MOVES:
        assert steps[event]().grant.state is GRANT_MOVES[state, event]
    elif event is GrantEvent.EXPIRE:
        assert steps[event]() == granting.GrantChange(grant)
    else:
        with pytest.raises(HoldError) as refused:
            steps[event]()
        assert refused.value.code == "not_open"


# ---------------------------------------------------------------------- terms

REFUSED: dict[str, tuple[Any, GrantTerms, str]] = {
    "once-only": (asked(GrantLimit()), TERMS, "too_wide"),
    "more-uses": (asked(GrantLimit(1800, 2, "shape")), TERMS, "too_wide"),
    "longer": (asked(GrantLimit(599, 20, "shape")), TERMS, "too_wide"),
    "wider": (asked(GrantLimit(1800, 20, "pinned")), TERMS, "too_wide"),
    "no-shape": (asked(shape=None), TERMS, "too_wide"),
    "nothing-to-pin": (asked(shape=shaped()), GrantTerms(600, 3, "pinned", ("$1",)), "too_wide"),
    "unknown-pin": (asked(), GrantTerms(600, 3, "pinned", ("$1", "$9")), "unknown_pin"),
    "no-pin": (asked(), GrantTerms(600, 3, "pinned"), "unknown_pin"),
    "pins-of-a-shape": (asked(), GrantTerms(600, 3, "shape", ("$1",)), "unknown_pin"),
    "one-use": (asked(), GrantTerms(600, 1, "shape"), "conflict"),
    "no-time": (asked(), GrantTerms(0, 3, "shape"), "conflict"),
}


@pytest.mark.parametrize(("wanted", "terms", "code"), REFUSED.values(), ids=REFUSED)
def test_an_approver_may_only_narrow_the_rule(wanted: Any, terms: GrantTerms, code: str) -> None:
    with pytest.raises(HoldError) as refused:
        voted(opened("h-1", wanted, NOW).held, vote(ANNA, terms=terms), NOW)
    assert refused.value.code == code


def test_the_most_the_rule_allows_is_allowed() -> None:
    check_terms(asked(), GrantTerms(1800.0, 20, "shape"))
    check_terms(asked(), GrantTerms(1.0, 2, "pinned", ("$1", "$2")))
    check_terms(asked(shape=None), GrantTerms(1800.0, 20, "exact"))


def test_the_scopes_on_offer_are_those_that_mean_something() -> None:
    assert scopes(asked()) == SCOPES
    assert scopes(asked(shape=shaped())) == ("exact", "shape")
    assert scopes(asked(shape=None)) == ("exact",)
    assert scopes(asked(GrantLimit(60, 5, "exact"))) == ("exact",)
    assert scopes(asked(GrantLimit())) == ()


def test_the_same_person_cannot_approve_for_other_terms_later() -> None:
    held = opened("h-1", asked(WIDE, Quorum("sre", 2)), NOW).held
    once = voted(held, vote(ANNA, terms=TERMS), NOW).held
    assert voted(once, vote(ANNA, terms=TERMS), NOW).moves == ()
    for terms in (None, replace(TERMS, uses=2)):
        with pytest.raises(HoldError) as refused:
            voted(once, vote(ANNA, terms=terms), NOW)
        assert refused.value.code == "already_voted"


some_terms = st.none() | st.builds(
    lambda duration, uses, scope, pins: GrantTerms(duration, uses, scope, pins if scope == "pinned" else ()),
    st.integers(1, 1800).map(float),
    st.integers(2, 20),
    st.sampled_from(SCOPES),
    st.sets(st.sampled_from(["$1", "$2"]), min_size=1).map(lambda pins: tuple(sorted(pins))),
)


@given(st.tuples(some_terms, some_terms))
def test_what_is_agreed_is_within_what_each_gave(terms: tuple[GrantTerms | None, ...]) -> None:
    held = approved(*terms)
    both = agreed(held.ask, held.votes)
    assert (both is None) == (None in terms)
    for each in terms:
        if both is None or each is None:
            continue
        assert both.duration <= each.duration and both.uses <= each.uses
        assert SCOPES.index(both.scope) <= SCOPES.index(each.scope)
        if both.scope == "pinned":
            assert set(each.pins) <= set(both.pins)
        check_terms(held.ask, both)


# ---------------------------------------------------------------------- covering


def test_a_grant_covers_its_shape_and_nothing_else() -> None:
    grant = granted()
    assert covers(grant, asked(binding="b2", shape=shaped(v1="other")), NOW)
    assert not covers(grant, asked(shape=shaped("s2", v1="one")), NOW)
    assert not covers(grant, asked(shape=None), NOW)
    assert not covers(grant, asked(), NOW + 600)
    assert not covers(replace(grant, used=3), asked(), NOW)
    assert not covers(replace(grant, state=GrantState.REVOKED), asked(), NOW)


def test_a_pinned_value_must_be_the_same_and_be_there() -> None:
    grant = granted(GrantTerms(600, 3, "pinned", ("$1",)))
    assert covers(grant, asked(binding="b2", shape=shaped(v1="one", v2="other")), NOW)
    assert not covers(grant, asked(binding="b2", shape=shaped(v1="other", v2="two")), NOW)
    assert not covers(grant, asked(binding="b2", shape=shaped(v2="two")), NOW)


def test_an_exact_grant_covers_the_same_binding_alone() -> None:
    grant = granted(GrantTerms(600, 3, "exact"))
    assert covers(grant, asked(), NOW)
    assert not covers(grant, asked(binding="b2"), NOW)


def test_an_approval_for_once_makes_no_grant() -> None:
    assert made("g-1", approved(None), NOW) is None
    assert made("g-1", approved(TERMS, None), NOW) is None


def test_a_grant_that_its_votes_do_not_bear_lets_nothing_go() -> None:
    grant = granted()
    for tampered in (
        replace(grant, terms=replace(TERMS, uses=9)),
        replace(grant, held=replace(grant.held, votes=())),
        replace(grant, held=approved(None)),
    ):
        with pytest.raises(HoldError):
            used(tampered, "dec-1", NOW)


def test_an_approver_is_told_which_values_do_not_count() -> None:
    wanted = asked()
    assert meaning(wanted, "exact") == "exactly this request"
    assert meaning(wanted, "shape") == "the same statement, any values"
    assert meaning(wanted, "pinned", ("$2",)) == "the same statement, any values but as here: $2"
