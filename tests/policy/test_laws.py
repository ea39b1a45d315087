"""Laws that hold for any set of rules."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.domain.decision import Allow, Deny, Hold, Phase, Ruling
from extproc.policy import PolicySet, PolicySource, TargetInfo, load_policies
from tests.policy.build import HOLD, judged, text
from tests.policy.build import rule as written

EFFECTS = {
    "allow": "{allow: {}, mask: pii}",
    "deny": "{deny: {}}",
    "hold": f"{{risk: 10, hold: {HOLD}}}",
    "none": "{mask: cards, risk: 20}",
}
FACTS = [f"f{index}" for index in range(4)]


@dataclass(frozen=True)
class Drawn:
    """A rule over one switch: true, false or not there."""

    name: str
    effect: str
    switch: str
    in_body: bool
    shadow: bool

    @property
    def text(self) -> str:
        where = f'request.json["{self.switch}"]' if self.in_body else f'request.headers["{self.switch}"]'
        condition = f'{where} == "1" && "{self.name}" != ""'
        return written(self.name, condition, EFFECTS[self.effect], "shadow" if self.shadow else "enforce")


@st.composite
def rules(draw: st.DrawFn) -> list[Drawn]:
    count = draw(st.integers(0, 6))
    return [
        Drawn(
            f"r{index}",
            draw(st.sampled_from(sorted(EFFECTS))),
            draw(st.sampled_from(FACTS)),
            draw(st.booleans()),
            draw(st.integers(0, 4)) == 0,
        )
        for index in range(count)
    ]


switches = st.dictionaries(st.sampled_from(FACTS), st.sampled_from(["0", "1"]))


def load(drawn: list[Drawn], default: str) -> PolicySet:
    body = text(*(rule.text for rule in drawn), default=default)
    return load_policies([PolicySource("p.yaml", body)], {"api": TargetInfo("http", {})})


def judge(drawn: list[Drawn], default: str, switch: dict[str, str]) -> Ruling:
    facts = {"request.headers": switch, "request.json": switch}
    return judged(load(drawn, default).for_target("api"), facts)


def expected(drawn: list[Drawn], default: str, switch: dict[str, str]) -> type:
    """The combination said once more, in the plainest way."""

    def counts(rule: Drawn, effect: str) -> bool:
        if rule.shadow or rule.effect != effect:
            return False
        if rule.switch not in switch:
            return effect in ("deny", "hold")
        return switch[rule.switch] == "1"

    if any(counts(rule, "deny") for rule in drawn):
        return Deny
    if any(counts(rule, "hold") for rule in drawn):
        return Hold
    if any(counts(rule, "allow") for rule in drawn) or default == "allow":
        return Allow
    return Deny


@settings(max_examples=200, deadline=None)
@given(rules(), switches, st.sampled_from(["allow", "deny"]))
def test_deny_wins_over_hold_over_allow_over_the_default(
    drawn: list[Drawn], switch: dict[str, str], default: str
) -> None:
    assert type(judge(drawn, default, switch).decision) is expected(drawn, default, switch)


@settings(max_examples=100, deadline=None)
@given(rules(), switches, st.randoms(use_true_random=False))
def test_the_order_of_rules_never_matters(drawn: list[Drawn], switch: dict[str, str], random: object) -> None:
    shuffled = list(drawn)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = judge(drawn, "deny", switch), judge(shuffled, "deny", switch)
    assert (first.decision, first.risk, first.matched, first.errors) == (
        second.decision,
        second.risk,
        second.matched,
        second.errors,
    )


@settings(max_examples=100, deadline=None)
@given(rules(), switches)
def test_shadow_rules_change_nothing(drawn: list[Drawn], switch: dict[str, str]) -> None:
    enforced = [rule for rule in drawn if not rule.shadow]
    with_shadow, without = judge(drawn, "deny", switch), judge(enforced, "deny", switch)
    assert with_shadow.decision == without.decision
    assert with_shadow.risk == without.risk


@settings(max_examples=100, deadline=None)
@given(rules(), switches, st.sampled_from(sorted(EFFECTS)))
def test_another_rule_only_ever_tightens_but_for_an_allow(
    drawn: list[Drawn], switch: dict[str, str], effect: str
) -> None:
    order = [Allow, Hold, Deny]
    before = judge(drawn, "deny", switch)
    after = judge([*drawn, Drawn("extra", effect, "f0", False, False)], "deny", switch)
    if effect in ("deny", "none"):
        assert order.index(type(after.decision)) >= order.index(type(before.decision))
    if isinstance(before.decision, Allow | Hold) and isinstance(after.decision, Allow | Hold):
        assert set(before.decision.obligations.masks) <= set(after.decision.obligations.masks)


@settings(max_examples=100, deadline=None)
@given(rules(), switches)
def test_a_final_ruling_of_the_headers_is_what_the_body_would_confirm(
    drawn: list[Drawn], switch: dict[str, str]
) -> None:
    """A decision is final early only if the body's rules could not change it."""
    found = load(drawn, "deny").for_target("api")
    early = found.judge(Phase.HEADERS, {"request.headers": switch}, None)
    if early.decision is None or isinstance(early.decision, Deny):
        return
    for body in ({}, dict.fromkeys(FACTS, "1"), dict.fromkeys(FACTS, "0")):
        forced = found._judge_request(
            Phase.BODY, {"request.json": body}, early.matched, early.risk, early.errors
        )
        assert forced.decision == early.decision
