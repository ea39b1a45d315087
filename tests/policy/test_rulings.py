"""How rules become one ruling: combination, phases, errors, risk, shadows, obligations, holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from extproc.domain.decision import Allow, Deny, HeaderChange, Hold, Obligations, Phase, RecordDetail
from extproc.domain.demand import BreakGlass, Quorum
from extproc.domain.errors import ProtocolError
from extproc.domain.terms import GrantLimit
from extproc.policy import RuleSet
from tests.policy.build import HOLD, judged, policies, request, rule, rule_set, text

ALWAYS = 'request.method == "POST"'
NEVER = 'request.method == "GET"'
IN_BODY = "request.json.amount == 5"
UNKNOWN = 'request.headers["x-absent"] == "1"'
UNKNOWN_IN_BODY = "request.json.absent == 1"
IN_RESPONSE = "response.code == 200"


def one(when: str, then: str, **kwargs: str) -> RuleSet:
    return rule_set(rule("r", when, then), **kwargs)


def test_nothing_matched_means_the_default() -> None:
    denied = judged(one(NEVER, "{allow: {}}"), request())
    assert denied.decision == Deny("no-rule-matched", "no rule allows this request")
    allowed = judged(one(NEVER, "{deny: {}}", default="allow"), request())
    assert allowed.decision == Allow()


def test_a_target_without_a_file_denies_everything() -> None:
    found = judged(policies().for_target("api"), request())
    assert isinstance(found.decision, Deny)
    assert found.decision.code == "no-rule-matched"
    assert policies().for_target("never-heard-of").judge(Phase.HEADERS, {}, None).decision == found.decision


def test_any_default_deny_wins_over_the_other_files() -> None:
    both = policies(text(name="a", default="allow"), text(name="b", default="deny"))
    assert isinstance(judged(both.for_target("api"), request()).decision, Deny)
    open_ = policies(text(name="a", default="allow"), text(name="b", default="allow"))
    assert judged(open_.for_target("api"), request()).decision == Allow()


DENY = "{deny: {message: no, status: 404, code: hidden}}"
COMBINATIONS = [
    (("allow",), Allow),
    (("hold",), Hold),
    (("deny",), Deny),
    (("allow", "hold"), Hold),
    (("allow", "deny"), Deny),
    (("hold", "deny"), Deny),
    (("allow", "hold", "deny"), Deny),
    (("none",), Deny),
]
THEN = {"allow": "{allow: {}}", "hold": f"{{hold: {HOLD}}}", "deny": DENY, "none": "{mask: pii}"}


@pytest.mark.parametrize("when", [ALWAYS, IN_BODY])
@pytest.mark.parametrize(("effects", "wanted"), COMBINATIONS)
def test_deny_wins_over_hold_over_allow(effects: tuple[str, ...], wanted: type, when: str) -> None:
    rules = [
        rule(f"r{index}", f"{when} && {index} == {index}", THEN[effect])
        for index, effect in enumerate(effects)
    ]
    assert type(judged(rule_set(*rules), request()).decision) is wanted
    assert type(judged(rule_set(*reversed(rules)), request()).decision) is wanted


def test_a_denial_names_its_rule_message_status_and_code() -> None:
    assert judged(one(ALWAYS, DENY), request()).decision == Deny("hidden", "no", "p/r", 404)
    plain = judged(one(ALWAYS, "{deny: {}}"), request()).decision
    assert plain == Deny("rule-denied", "denied by the rule p/r", "p/r", 403)


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [UNKNOWN, UNKNOWN_IN_BODY])
def test_a_denial_that_cannot_be_evaluated_denies(when: str) -> None:
    found = judged(rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("r", when, DENY)), request())
    assert isinstance(found.decision, Deny)
    assert (found.decision.code, found.decision.rule, found.decision.status) == ("rule-error", "p/r", 404)
    assert found.errors == ("p/r: a key or index is not there",)
    assert [match.rule for match in found.matched if match.errored] == ["p/r"]


def test_a_hold_that_cannot_be_evaluated_holds() -> None:
    assert isinstance(judged(one(UNKNOWN, f"{{hold: {HOLD}}}"), request()).decision, Hold)


def test_an_allow_that_cannot_be_evaluated_allows_nothing() -> None:
    assert isinstance(judged(one(UNKNOWN, "{allow: {}}"), request()).decision, Deny)


@pytest.mark.parametrize("when", [UNKNOWN, UNKNOWN_IN_BODY])
def test_masks_and_records_of_a_rule_that_cannot_be_evaluated_apply(when: str) -> None:
    then = (
        "{allow: {}, mask: pii, record: {request: masked, response: masked}, "
        "headers: {response: {set: {x-note: a}, remove: [server]}}}"
    )
    found = judged(rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("r", when, then)), request()).decision
    assert found == Allow(
        Obligations(("p/pii",), "masked", "masked", HeaderChange(), HeaderChange(remove=("server",)))
    )


def test_a_value_that_is_no_boolean_does_not_evaluate() -> None:
    facts = request(request__json={"flag": "yes"})
    assert isinstance(judged(one("request.json.flag", "{allow: {}}"), facts).decision, Deny)
    denied = judged(rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("r", "request.json.flag", DENY)), facts)
    assert isinstance(denied.decision, Deny)
    assert denied.errors == ("p/r: the result is not true or false",)


def test_a_condition_that_looks_boolean_may_still_give_something_else() -> None:
    when = f"{ALWAYS} ? request.json.flag : false"
    facts = request(request__json={"flag": "yes"})
    found = judged(rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("r", when, DENY)), facts)
    assert isinstance(found.decision, Deny)
    assert found.errors == ("p/r: the result is not true or false",)


def test_one_rule_s_trouble_stays_its_own() -> None:
    rules = rule_set(
        rule("bad", UNKNOWN, "{allow: {}, mask: cards}"), rule("good", ALWAYS, "{allow: {}, mask: pii}")
    )
    found = judged(rules, request())
    assert found.decision == Allow(Obligations(("p/cards", "p/pii")))
    assert [(match.rule, match.errored) for match in found.matched] == [("p/bad", True), ("p/good", False)]


def test_a_fact_that_cannot_be_had_matters_only_where_the_outcome_hangs_on_it() -> None:
    when = f"{NEVER} && request.json.amount > 1"
    facts = request(request__json=None)
    assert (
        judged(rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("r", when, DENY)), facts).decision == Allow()
    )
    when = f"{ALWAYS} && request.json.amount > 1"
    found = judged(rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("r", when, DENY)), facts)
    assert found.errors == ("p/r: a fact is not available",)
    assert isinstance(found.decision, Deny)


def test_errors_hold_no_values() -> None:
    facts = request(request__json={"secret-canary": 2**80, "amount": "canary-value"})
    rules = rule_set(
        rule("a", 'request.json["secret-canary"] > 1', DENY),
        rule("b", "request.json.amount > 1", DENY),
        rule("c", "request.json[request.json.amount] > 1", DENY),
        default="allow",
    )
    found = judged(rules, facts)
    assert len(found.errors) == 3
    assert "canary" not in repr(found)


class Broken(Mapping[str, object]):
    """Facts that fail on one name."""

    def __init__(self, name: str, error: Exception) -> None:
        self._facts = request()
        self._name = name
        self._error = error

    def __getitem__(self, name: str) -> object:
        if name == self._name:
            raise self._error
        return self._facts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)


def test_a_protocol_error_of_the_facts_goes_through() -> None:
    facts = Broken("request.json", ProtocolError("duplicate-key", "twice"))
    with pytest.raises(ProtocolError, match="twice"):
        judged(one(IN_BODY, "{allow: {}}"), facts)


def test_any_other_error_of_the_facts_makes_the_fact_unavailable() -> None:
    facts = Broken("request.json", RuntimeError("boom"))
    found = judged(one(IN_BODY, DENY, default="allow"), facts)
    assert found.errors == ("p/r: a fact is not available",)


def test_a_shadow_rule_never_causes_a_refusal() -> None:
    facts = Broken("request.json", ProtocolError("duplicate-key", "twice"))
    rules = rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("r", IN_BODY, DENY, "shadow"))
    assert judged(rules, facts).decision == Allow()


def test_only_the_facts_that_rules_read_are_asked_for() -> None:
    asked: list[str] = []

    class Watched(dict[str, object]):
        def __getitem__(self, name: str) -> object:
            asked.append(name)
            return super().__getitem__(name)

    rules = rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("b", '"x" in principal.groups', "{deny: {}}"))
    rules.judge(Phase.HEADERS, Watched(request()), None)
    assert sorted(asked) == ["principal.groups", "request.method"]


# --- phases -----------------------------------------------------------------------------------------


def test_a_denial_in_the_headers_phase_is_final_at_once() -> None:
    rules = rule_set(rule("d", ALWAYS, DENY), rule("b", IN_BODY, f"{{hold: {HOLD}}}"))
    assert isinstance(rules.judge(Phase.HEADERS, request(), None).decision, Deny)


@pytest.mark.parametrize(
    "then", [DENY, f"{{hold: {HOLD}}}", "{mask: pii}", "{risk: 5}", "{allow: {}, mask: pii}"]
)
def test_an_allow_waits_for_body_rules_that_could_add_to_it(then: str) -> None:
    rules = rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("b", "request.json.amount == 6", then))
    first = rules.judge(Phase.HEADERS, request(), None)
    assert first.decision is None
    assert rules.judge(Phase.BODY, request(), first).decision == Allow()


def test_an_allow_does_not_wait_for_another_plain_allow() -> None:
    rules = rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("b", IN_BODY, "{allow: {}}"))
    assert rules.judge(Phase.HEADERS, request(), None).decision == Allow()


def test_without_an_allow_yet_the_body_may_bring_one() -> None:
    rules = one(IN_BODY, "{allow: {}}")
    first = rules.judge(Phase.HEADERS, request(), None)
    assert first.decision is None
    assert rules.judge(Phase.BODY, request(), first).decision == Allow()


def test_the_default_denies_at_once_when_the_body_can_bring_nothing() -> None:
    rules = rule_set(rule("a", NEVER, "{allow: {}}"), rule("b", IN_BODY, DENY))
    assert isinstance(rules.judge(Phase.HEADERS, request(), None).decision, Deny)


def test_obligations_of_both_phases_add_up() -> None:
    rules = rule_set(
        rule("a", ALWAYS, "{allow: {}, mask: pii, record: {request: masked}}"),
        rule("b", IN_BODY, "{mask: cards, record: {response: masked}}"),
    )
    found = judged(rules, request()).decision
    assert found == Allow(Obligations(("p/cards", "p/pii"), "masked", "masked"))


def test_judging_the_body_first_judges_the_headers_too() -> None:
    rules = rule_set(rule("a", ALWAYS, "{allow: {}, mask: pii}"), rule("b", IN_BODY, "{mask: cards}"))
    assert rules.judge(Phase.BODY, request(), None).decision == judged(rules, request()).decision


def test_a_ruling_of_another_rule_set_is_judged_anew() -> None:
    old = rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("b", IN_BODY, "{mask: cards}"))
    new = rule_set(rule("a", ALWAYS, DENY), rule("b", IN_BODY, "{mask: cards}"))
    before = old.judge(Phase.HEADERS, request(), None)
    assert before.decision is None
    assert isinstance(new.judge(Phase.BODY, request(), before).decision, Deny)


def test_response_rules_deny_mask_and_record() -> None:
    rules = rule_set(
        rule("a", ALWAYS, "{allow: {}, mask: pii}"),
        rule("b", IN_RESPONSE, "{mask: cards, record: {response: masked}}"),
        rule("c", "response.code >= 500", "{deny: {status: 502}}"),
    )
    assert judged(rules, request(), response=True).decision == Allow(
        Obligations(("p/cards", "p/pii"), record_response="masked")
    )
    denied = judged(rules, request(response__code=503), response=True)
    assert isinstance(denied.decision, Deny)
    assert denied.decision.status == 502
    assert [match.rule for match in denied.matched] == ["p/a", "p/c"]


def test_a_released_hold_is_judged_by_its_response() -> None:
    rules = rule_set(
        rule("h", ALWAYS, f"{{mask: pii, hold: {HOLD}}}"), rule("b", IN_RESPONSE, "{mask: cards}")
    )
    held = judged(rules, request())
    assert isinstance(held.decision, Hold)
    after = rules.judge(Phase.RESPONSE, request(), held)
    assert after.decision == Allow(Obligations(("p/cards", "p/pii")))


def test_a_response_that_cannot_be_judged_is_withheld() -> None:
    rules = rule_set(
        rule("a", ALWAYS, "{allow: {}}"), rule("d", "response.json.secret == true", "{deny: {}}")
    )
    found = judged(rules, request(), response=True)
    assert isinstance(found.decision, Deny)
    assert found.decision.code == "rule-error"


def test_a_denied_request_stays_denied_in_the_response_phase() -> None:
    rules = rule_set(rule("d", ALWAYS, DENY), rule("b", IN_RESPONSE, "{mask: cards}"))
    before = judged(rules, request())
    assert rules.judge(Phase.RESPONSE, request(), before) == before


def test_a_hold_that_was_not_decided_before_is_not_taken_for_released() -> None:
    rules = rule_set(rule("h", IN_BODY, f"{{hold: {HOLD}}}"), rule("b", IN_RESPONSE, "{mask: cards}"))
    assert isinstance(rules.judge(Phase.RESPONSE, request(), None).decision, Hold)


# --- risk -------------------------------------------------------------------------------------------


def test_risk_adds_up_and_is_read_after_the_others_of_its_phase() -> None:
    rules = rule_set(
        rule("a-reads-risk", "risk >= 70", f"{{risk: 5, hold: {HOLD}}}"),
        rule("b", ALWAYS, "{allow: {}, risk: 60}"),
        rule("c", 'principal.kind == "agent"', "{risk: 10}"),
    )
    found = rules.judge(Phase.HEADERS, request(), None)
    assert isinstance(found.decision, Hold)
    assert found.risk == 75
    assert {match.rule: match.risk for match in found.matched} == {"p/a-reads-risk": 5, "p/b": 60, "p/c": 10}


def test_risk_accumulates_across_phases() -> None:
    rules = rule_set(
        rule("a", ALWAYS, "{allow: {}, risk: 60}"),
        rule("b", IN_BODY, "{risk: 20}"),
        rule("c", "risk >= 80 && response.code == 200", "{deny: {}}"),
    )
    assert judged(rules, request()).risk == 80
    assert isinstance(judged(rules, request(), response=True).decision, Deny)
    assert judged(rules, request(request__json={"amount": 1}), response=True).risk == 60


def test_risk_of_a_rule_that_cannot_be_evaluated_counts() -> None:
    rules = rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("b", UNKNOWN, "{risk: 30}"))
    assert judged(rules, request()).risk == 30


# --- shadow -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", [DENY, f"{{hold: {HOLD}}}", "{mask: pii, risk: 50}", "{allow: {}}"])
@pytest.mark.parametrize("when", [ALWAYS, IN_BODY, UNKNOWN])
def test_a_shadow_rule_is_recorded_and_changes_nothing(then: str, when: str) -> None:
    rules = rule_set(rule("a", ALWAYS, "{allow: {}}"), rule("s", when, then, "shadow"))
    found = judged(rules, request())
    assert found.decision == Allow()
    assert found.risk == 0
    assert [match.rule for match in found.matched if match.shadow] == ["p/s"]
    assert rules.max_wait == 0
    assert rules.all_obligations == Obligations()


def test_a_shadow_allow_allows_nothing() -> None:
    assert isinstance(judged(rule_set(rule("s", ALWAYS, "{allow: {}}", "shadow")), request()).decision, Deny)


def test_counts_say_what_each_rule_would_have_done() -> None:
    rules = rule_set(
        rule("a", ALWAYS, "{allow: {}}"),
        rule("s", 'principal.kind == "agent"', DENY, "shadow"),
        rule("u", UNKNOWN, "{risk: 1}"),
    )
    for kind in ("agent", "human", "agent"):
        judged(rules, request(principal__kind=kind))
    counts = rules.counts()
    shadow = counts["p/s"]
    assert (shadow.shadow, shadow.judged, shadow.matched, shadow.errored) == (True, 3, 2, 0)
    assert (counts["p/u"].matched, counts["p/u"].errored) == (0, 3)


# --- obligations and holds --------------------------------------------------------------------------


def test_header_changes_add_up_and_removal_wins() -> None:
    rules = rule_set(
        rule("a", ALWAYS, "{allow: {}, headers: {request: {set: {X-Team: b, x-keep: k}}}}"),
        rule("b", 'principal.kind == "agent"', "{headers: {request: {set: {x-team: a}, remove: [x-gone]}}}"),
        rule(
            "c",
            '"payments" in principal.groups',
            "{headers: {request: {remove: [x-keep]}, response: {remove: [Server]}}}",
        ),
    )
    found = judged(rules, request()).decision
    assert isinstance(found, Allow)
    assert found.obligations.request_headers == HeaderChange((("x-team", "a"),), ("x-gone", "x-keep"))
    assert found.obligations.response_headers == HeaderChange((), ("server",))


def test_every_matching_hold_must_be_satisfied() -> None:
    rules = rule_set(
        rule(
            "a",
            ALWAYS,
            "{hold: {approvers: {all_of: [{group: finance, count: 2}, {group: dpo}]}, wait: 60s, expires: 2h, "
            "use_within: 30m, reason: one, conflict_groups: [vendor, payments], "
            'reason_pattern: "CHG-[0-9]+", allow_agents: true, resumable: true, '
            "grant: {max: {for: 30m, uses: 20, scope: shape}}}}",
        ),
        rule(
            "b",
            'principal.kind == "agent"',
            "{hold: {approvers: {group: finance}, wait: 90s, expires: 1h, use_within: 1h, reason: two, "
            "resumable: true, conflict_groups: [ops, vendor], grant: {max: {for: 1h, uses: 5, scope: pinned}}}}",
        ),
    )
    found = judged(rules, request()).decision
    assert isinstance(found, Hold)
    assert found.rules == ("p/a", "p/b")
    demand = found.demand
    assert demand.quorums == (Quorum("dpo", 1), Quorum("finance", 2))
    assert (demand.wait, demand.expires, demand.use_within) == (60, 3600, 1800)
    assert demand.grant == GrantLimit(1800, 5, "pinned")
    assert demand.reason == "one; two"
    assert demand.reason_patterns == ("CHG-[0-9]+",)
    assert demand.conflict_groups == ("ops", "payments", "vendor")
    assert (demand.allow_agents, demand.resumable) == (False, True)


@pytest.mark.parametrize(
    ("second", "allowed"),
    [
        ("{groups: [leads], review_within: 4h}", BreakGlass((("leads",), ("ops", "sre")), 4 * 3600)),
        ("{groups: [sre, ops]}", BreakGlass((("ops", "sre"),), 12 * 3600)),
        ("", None),
    ],
)
def test_glass_breaks_only_where_every_matching_hold_lets_it(second: str, allowed: BreakGlass | None) -> None:
    also = f", break_glass: {second}" if second else ""
    rules = rule_set(
        rule("a", ALWAYS, "{hold: {group: f, break_glass: {groups: [sre, ops], review_within: 12h}}}"),
        rule("b", ALWAYS, f"{{hold: {{group: f{also}}}}}"),
    )
    found = judged(rules, request()).decision
    assert isinstance(found, Hold)
    assert found.demand.break_glass == allowed


def test_a_hold_s_digest_covers_the_deciding_rules_and_nothing_else() -> None:
    hold = rule("h", ALWAYS, f"{{hold: {HOLD}}}")
    other = rule("z", NEVER, DENY)

    def digest(*rules: str) -> str:
        found = judged(rule_set(*rules), request()).decision
        assert isinstance(found, Hold)
        return found.demand.digest

    assert digest(hold) == digest(hold, other)
    changed = hold.replace("group: finance", "group: dba")
    assert digest(hold) != digest(changed)
    assert digest(hold) != digest(hold, rule("h2", "principal.kind == 'agent'", f"{{hold: {HOLD}}}"))


def test_what_a_set_needs_comes_from_when_and_from_then() -> None:
    def needs(when: str, then: str) -> tuple[bool, bool]:
        found = one(when, then)
        return found.needs_request_body, found.needs_response_body

    assert needs(ALWAYS, "{allow: {}}") == (False, False)
    assert needs(IN_BODY, "{allow: {}}") == (True, False)
    assert needs("request.size > 1", "{allow: {}}") == (True, False)
    assert needs(ALWAYS, f"{{hold: {HOLD}}}") == (True, False)
    assert needs(ALWAYS, "{allow: {}, record: {request: masked}}") == (True, False)
    assert needs(ALWAYS, "{allow: {}, mask: pii}") == (False, True)
    assert needs(ALWAYS, "{allow: {}, record: {response: masked}}") == (False, True)
    assert needs("response.code > 1", "{deny: {}}") == (False, False)
    assert needs("response.json.x == 1", "{deny: {}}") == (False, True)
    assert needs('response.findings["EMAIL_ADDRESS"] > 3', "{deny: {}}") == (False, True)


def test_a_set_knows_its_phases_longest_wait_and_all_obligations() -> None:
    rules = rule_set(
        rule("a", ALWAYS, "{allow: {}, mask: pii, headers: {response: {set: {x-a: b}, remove: [server]}}}"),
        rule("b", IN_RESPONSE, "{mask: cards}"),
        rule("h", NEVER, f"{{hold: {HOLD}}}"),
        rule("i", 'request.method == "PUT"', "{hold: {group: x, wait: 5m}}"),
    )
    assert [rules.has_phase(phase) for phase in Phase] == [True, False, True, False]
    assert rules.max_wait == 300
    masked: RecordDetail = "none"
    assert rules.all_obligations == Obligations(
        ("p/cards", "p/pii"), masked, masked, HeaderChange(), HeaderChange(remove=("server",))
    )


def test_files_for_one_target_combine() -> None:
    allow = text(rule("a", ALWAYS, "{allow: {}, mask: pii}"), name="one")
    extra = text(rule("a", ALWAYS, "{mask: cards}"), name="two")
    found = policies(allow, extra)
    assert judged(found.for_target("api"), request()).decision == Allow(Obligations(("one/pii", "two/cards")))
    assert set(found.masks) == {"one/pii", "one/cards", "two/pii", "two/cards"}


def test_a_label_selector_governs_every_target_that_carries_the_labels() -> None:
    from extproc.policy import TargetInfo

    body = text(rule("a", ALWAYS, "{allow: {}}")).replace(
        "target: api", "target: {labels: {env: prod, tier: '1'}}"
    )
    targets = {
        "both": TargetInfo("http", {"env": "prod", "tier": "1", "more": "x"}),
        "half": TargetInfo("http", {"env": "prod"}),
    }
    found = policies(body, targets=targets)
    assert judged(found.for_target("both"), request()).decision == Allow()
    assert isinstance(judged(found.for_target("half"), request()).decision, Deny)
    assert found.files[0].targets == ("both",)


def test_digests_change_with_what_they_cover() -> None:
    base = text(rule("a", ALWAYS, "{allow: {}}"), rule("b", NEVER, "{deny: {}}"))
    changed = base.replace("EMAIL_ADDRESS", "IBAN_CODE")
    one_, other = policies(base), policies(changed)
    assert one_.digest.startswith("sha256:")
    assert one_.digest == policies(base).digest
    assert one_.digest != other.digest
    assert one_.for_target("api").digest != other.for_target("api").digest
    rules = {found.id: found.digest for found in one_.for_target("api").rules}
    again = {found.id: found.digest for found in other.for_target("api").rules}
    assert rules == again
    assert len(set(rules.values())) == 2


def test_a_rule_s_digest_does_not_depend_on_how_it_is_written() -> None:
    flow = text(rule("a", ALWAYS, "{allow: {}, mask: [pii, cards]}"))
    block = flow.replace("    mode: enforce\n", "").replace("[pii, cards]", "[cards, pii]")
    first, second = policies(flow).for_target("api"), policies(block).for_target("api")
    assert first.rules[0].digest == second.rules[0].digest
    assert first.digest != second.digest


def test_rulings_carry_the_rule_set_s_digest() -> None:
    rules = one(ALWAYS, "{allow: {}}")
    assert judged(rules, request()).policy_digest == rules.digest
