"""Every mistake stops the load and names its place."""

from __future__ import annotations

import pytest

from extproc.domain.errors import PolicyError
from extproc.policy import PolicyLoadError, PolicySource, TargetInfo, named_targets
from tests.policy.build import HOLD, judged, policies, request, rule, text

GET = 'request.method == "GET"'


def problems(*texts: str) -> list[str]:
    """What the load complains about, without the file."""
    with pytest.raises(PolicyLoadError) as caught:
        policies(*texts)
    return [str(problem).removeprefix("policies/0.yaml:") for problem in caught.value.problems]


MISTAKES: dict[str, tuple[str, str]] = {
    # name: (rule, what one of the problems says)
    "unknown-name": (
        rule("r", 'request.metod == "GET"', "{allow: {}}"),
        '9:7: rule "r": unknown name "request.metod"; did you mean "request.method"?',
    ),
    "unknown-function": (rule("r", "has_where(request.path)", "{allow: {}}"), 'unknown name "has_where"'),
    "wrong-type": (
        rule("r", "request.method == 1", "{allow: {}}"),
        "9:22: rule \"r\": found no matching overload for '_==_' applied to '(string, int)'",
    ),
    "not-bool": (rule("r", "request.method", "{allow: {}}"), "the condition is of type string, not bool"),
    "syntax": (rule("r", "request.method ==", "{allow: {}}"), "Syntax error"),
    "root-alone": (
        rule("r", "target == 1", "{allow: {}}"),
        '"target" alone is not a fact; the facts are target.name',
    ),
    "has-whole": (rule("r", "has(request.json)", "{allow: {}}"), "has(request.json) asks about a whole fact"),
    "has-whole-typed": (
        rule("r", 'has(request.method) == "x"', "{allow: {}}"),
        "has(request.method) asks about a whole fact",
    ),
    "hiding-variable": (
        rule("r", "principal.groups.exists(risk, risk == 'a')", "{allow: {}}"),
        'the macro variable "risk" hides',
    ),
    "never-true": (rule("r", f"false && {GET}", "{allow: {}}"), "the condition is never true"),
    "never-evaluates": (rule("r", "1 / 0 == 1", "{allow: {}}"), "can never be evaluated"),
    "bad-pattern": (
        rule("r", 'request.path.matches("[")', "{allow: {}}"),
        '"".matches("[") can never be evaluated',
    ),
    "bad-time": (
        rule("r", 'now > timestamp("2024")', "{allow: {}}"),
        'timestamp("2024") can never be evaluated',
    ),
    "bad-duration": (
        rule("r", 'now - duration("1 day") > now', "{allow: {}}"),
        'duration("1 day") can never be evaluated',
    ),
    "capital-header": (
        rule("r", 'request.headers["X-Team"] == "a"', "{allow: {}}"),
        'header names are in lower case in request.headers: "x-team"',
    ),
    "capital-header-in": (
        rule("r", '"X-Team" in response.headers', "{deny: {}}"),
        'header names are in lower case in response.headers: "x-team"',
    ),
    "secret-header": (
        rule("r", "has(request.headers.cookie)", "{allow: {}}"),
        'request.headers never holds "cookie"',
    ),
    "pseudo-header": (
        rule("r", 'request.headers[":path"] == "/"', "{allow: {}}"),
        'request.headers never holds ":path"',
    ),
    "unknown-kind": (
        rule("r", 'principal.kind == "agnet"', "{allow: {}}"),
        'principal.kind is one of human, agent, service, machine, never "agnet"; did you mean "agent"?',
    ),
    "unknown-kind-in": (
        rule("r", '!(principal.kind in ["human", "robot"])', "{allow: {}}"),
        'never "robot"',
    ),
    "then-empty": (rule("r", GET, "{}"), "then does nothing"),
    "two-effects": (
        rule("r", GET, "{allow: {}, deny: {}}"),
        "then has allow and deny; a rule has one of them",
    ),
    "unknown-key": (
        rule("r", GET, "{alow: {}}"),
        '11:12: rule "r": then: unknown key "alow"; did you mean "allow"?',
    ),
    "unknown-deny-key": (rule("r", GET, "{deny: {mesage: x}}"), 'did you mean "message"?'),
    "bad-status": (rule("r", GET, "{deny: {status: 200}}"), "status is between 400 and 599"),
    "bad-code": (rule("r", GET, "{deny: {code: Not OK}}"), "code: small letters, digits and dashes"),
    "bad-mode": (
        rule("r", GET, "{allow: {}}", "shaddow"),
        'mode is one of enforce, shadow, not "shaddow"; did you mean "shadow"?',
    ),
    "unknown-mask": (rule("r", GET, "{allow: {}, mask: pi}"), 'unknown mask "pi"; did you mean "pii"?'),
    "no-masks": (rule("r", GET, "{allow: {}, mask: []}"), "mask names no mask"),
    "mask-on-deny": (rule("r", GET, "{deny: {}, mask: pii}"), "mask has nothing to act on: the rule denies"),
    "record-on-deny": (
        rule("r", GET, "{deny: {}, record: {response: masked}}"),
        "record has nothing to act on",
    ),
    "headers-on-deny": (
        rule("r", GET, "{deny: {}, headers: {response: {remove: [a]}}}"),
        "headers has nothing to act on",
    ),
    "bad-detail": (
        rule("r", GET, "{allow: {}, record: {request: full}}"),
        "record.request is one of none, masked",
    ),
    "risk-text": (rule("r", GET, "{allow: {}, risk: high}"), "risk is a whole number"),
    "risk-negative": (rule("r", GET, "{allow: {}, risk: -5}"), "risk is between 1 and 1000"),
    "hold-nobody": (rule("r", GET, "{hold: {wait: 1m}}"), "a hold without approvers could never be approved"),
    "hold-empty-list": (
        rule("r", GET, "{hold: {approvers: {all_of: []}}}"),
        "a hold without approvers could never be approved",
    ),
    "hold-zero": (rule("r", GET, "{hold: {approvers: {group: a, count: 0}}}"), "count is between 1 and 50"),
    "hold-no-group": (rule("r", GET, "{hold: {approvers: {count: 1}}}"), "approvers: group is missing"),
    "hold-twice": (
        rule("r", GET, "{hold: {approvers: {all_of: [{group: a}, {group: a}]}}}"),
        'the group "a" is named twice',
    ),
    "hold-both": (
        rule("r", GET, "{hold: {group: a, approvers: {group: b}}}"),
        "approvers and group say the same",
    ),
    "wait-too-long": (rule("r", GET, "{hold: {group: a, wait: 2h}}"), "wait is longer than 1h"),
    "wait-over-expiry": (
        rule("r", GET, "{hold: {group: a, wait: 10m, expires: 5m}}"),
        "wait (10m) is longer than expires (5m)",
    ),
    "expires-zero": (
        rule("r", GET, "{hold: {group: a, wait: 0s, expires: 0s}}"),
        "with expires: 0 no approval could ever be used",
    ),
    "use-within-zero": (
        rule("r", GET, "{hold: {group: a, use_within: 0s}}"),
        "with use_within: 0 no approval could ever be used",
    ),
    "bad-duration-text": (rule("r", GET, "{hold: {group: a, wait: soon}}"), "wait is a duration such as"),
    "grant-without-for": (
        rule("r", GET, "{hold: {group: a, grant: {max: {uses: 5}}}}"),
        "a grant of more than one request needs a duration",
    ),
    "grant-shape": (
        rule("r", GET, "{hold: {group: a, grant: {max: {for: 1m, scope: all}}}}"),
        "scope is one of exact, pinned, shape",
    ),
    "reason-pattern": (
        rule("r", GET, '{hold: {group: a, reason_pattern: "(["}}'),
        "reason_pattern is no regular expression: missing ]",
    ),
    "reason-pattern-long": (
        rule("r", GET, "{hold: {group: a, reason_pattern: " + "x" * 201 + "}}"),
        "reason_pattern has more than 200 characters",
    ),
    "conflict-of-nobody": (
        rule("r", GET, "{hold: {group: a, conflict_groups: []}}"),
        "conflict_groups: names no group",
    ),
    "conflict-group": (
        rule("r", GET, "{hold: {group: a, conflict_groups: [{b: c}]}}"),
        "conflict_groups is text",
    ),
    "conflict-groups-many": (
        rule("r", GET, f"{{hold: {{group: a, conflict_groups: {[f'g{n}' for n in range(51)]}}}}}"),
        "conflict_groups: at most 50 groups",
    ),
    "break-glass-for-nobody": (
        rule("r", GET, "{hold: {group: a, break_glass: {groups: []}}}"),
        "break_glass: groups: names no group",
    ),
    "break-glass-without-groups": (
        rule("r", GET, "{hold: {group: a, break_glass: {review_within: 1h}}}"),
        "break_glass: without groups nobody could ever use it",
    ),
    "break-glass-in-a-hurry": (
        rule("r", GET, "{hold: {group: a, break_glass: {groups: [b], review_within: 5s}}}"),
        "break_glass: review_within is a minute or more",
    ),
    "break-glass-key": (
        rule("r", GET, "{hold: {group: a, break_glass: {groups: [b], by: c}}}"),
        'break_glass: unknown key "by"',
    ),
    "break-glass-group": (
        rule("r", GET, "{hold: {group: a, break_glass: {groups: [[b]]}}}"),
        "break_glass: groups is text",
    ),
    "grant-of-one-use": (
        rule("r", GET, "{hold: {group: a, grant: {max: {for: 1m, scope: shape}}}}"),
        "uses counts the held request itself, so a grant needs uses of 2 or more",
    ),
    "grant-of-no-use": (
        rule("r", GET, "{hold: {group: a, grant: {max: {for: 1m, uses: 0}}}}"),
        "uses is between 1 and 10000",
    ),
    "grant-too-short": (
        rule("r", GET, "{hold: {group: a, grant: {max: {for: 500ms, uses: 2}}}}"),
        "a grant of more than one request is for a second at least",
    ),
    "grant-too-long": (
        rule("r", GET, "{hold: {group: a, grant: {max: {for: 31d, uses: 2}}}}"),
        "for is longer than 30d",
    ),
    "grant-unknown-part": (
        rule("r", GET, "{hold: {group: a, grant: {max: {for: 1m, uses: 2, times: 3}}}}"),
        "times",
    ),
    "grant-words": (rule("r", GET, "{hold: {group: a, grant: {}}}"), "grant is {max: {for, uses, scope}}"),
    "hold-in-response": (
        rule("r", "response.code > 1", f"{{hold: {HOLD}}}"),
        "a rule over the response cannot hold",
    ),
    "allow-in-response": (
        rule("r", "response.code > 1", "{allow: {}}"),
        "a rule over the response cannot allow",
    ),
    "request-header-in-response": (
        rule("r", "response.code > 1", "{headers: {request: {remove: [a]}}}"),
        "request headers cannot be changed",
    ),
    "request-record-in-response": (
        rule("r", "response.code > 1", "{record: {request: masked}}"),
        "record.request comes too late",
    ),
    "no-when": ("  - name: r\n    then: {allow: {}}\n", 'rule "r": when is a CEL condition'),
    "no-then": ("  - name: r\n    when: 'true'\n", 'rule "r": then is missing'),
    "no-name": ("  - when: 'true'\n    then: {allow: {}}\n", "a rule needs a name"),
    "bad-name": (
        "  - name: a b\n    when: 'true'\n    then: {allow: {}}\n",
        "a rule's name: letters, digits",
    ),
    "twice": (rule("r", GET, "{allow: {}}") * 2, 'rule "r" is here a second time (first at line 7)'),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_rule_is_named_with_its_place(name: str) -> None:
    written, wanted = MISTAKES[name]
    found = problems(text(written))
    assert any(wanted in problem for problem in found), found


@pytest.mark.parametrize(
    "header",
    [
        "Connection",
        "keep-alive",
        "TE",
        "transfer-encoding",
        "upgrade",
        "Host",
        "content-length",
        "Authorization",
        "proxy-authorization",
        ":path",
        ":authority",
        "x-envoy-retry-on",
        "bad name",
        "",
    ],
)
@pytest.mark.parametrize(
    "then",
    [
        '{{allow: {{}}, headers: {{request: {{set: {{"{0}": a}}}}}}}}',
        '{{allow: {{}}, headers: {{response: {{remove: ["{0}"]}}}}}}',
    ],
)
def test_some_headers_are_out_of_reach(header: str, then: str) -> None:
    found = problems(text(rule("r", GET, then.format(header))))
    assert len(found) == 1
    assert "headers." in found[0] or "remove" in found[0]


@pytest.mark.parametrize("value", ['"a\\r\\nb: c"', '"a\\nb"', '" a"', '"\\u4e16"', '"\\0"'])
def test_header_values_cannot_carry_more_than_a_value(value: str) -> None:
    assert problems(text(rule("r", GET, f"{{allow: {{}}, headers: {{request: {{set: {{x-a: {value}}}}}}}}}")))


FILE_MISTAKES = {
    "version": ("extproc/v1", "extproc/v2", "1:13: apiVersion is extproc/v1"),
    "kind": ("kind: Policy", "kind: Polcy", "kind is Policy"),
    "name": ("{name: p}", "{}", "metadata: {name: …} is missing"),
    "bad-name": ("{name: p}", "{name: 'p q'}", "the policy's name: letters"),
    "target": ("target: api", "target: apy", '4:9: unknown target "apy"; did you mean "api"?'),
    "no-target": ("target: api\n", "", "target is missing"),
    "empty-selector": ("target: api", "target: {labels: {}}", "names at least one label"),
    "selector-of-an-unknown-kind": (
        "target: api",
        "target: {kind: mysq, labels: {a: b}}",
        "kind is one of http, mysql, postgres",
    ),
    "bad-selector": ("target: api", "target: {label: {a: b}}", 'unknown key "label"; did you mean "labels"?'),
    "default": (
        "default: deny",
        "default: dany",
        'default is one of deny, allow, not "dany"; did you mean "deny"?',
    ),
    "unknown-key": (
        "default: deny",
        "defalt: deny",
        '5:1: a policy file: unknown key "defalt"; did you mean "default"?',
    ),
    "duplicate-key": (
        "default: deny",
        "default: deny\ndefault: allow",
        'the key "default" is here a second time (first at line 5)',
    ),
    "mask-nothing": (
        "{entities: [EMAIL_ADDRESS], operator: partial}",
        "{operator: partial}",
        'mask "pii" masks nothing',
    ),
    "mask-operator": ("operator: partial", "operator: blur", "operator is one of keep, partial"),
    "mask-entity": ("EMAIL_ADDRESS", "email", "entities: names such as EMAIL_ADDRESS"),
    "mask-path": ('"$..card"', "card", "a path starts with $"),
    "mask-replacement": (
        "operator: partial",
        "operator: partial, replacement: x",
        "replacement belongs to the operator replace",
    ),
    "mask-keep": (
        'paths: ["$..card"]',
        'paths: ["$..card"], keep_last: 2',
        "keep_last belongs to the operator partial",
    ),
    "anchor": ("target: api", "target: &a api", "anchors and aliases are not part of the format"),
    "tag": ("target: api", "target: !!str api", "tags are not part of the format"),
    "two-documents": ("default: deny", "default: deny\n---\na: b", "a file holds one document"),
    "yaml": ("target: api", "target: [api", "not valid YAML"),
}


@pytest.mark.parametrize("name", FILE_MISTAKES)
def test_a_mistake_in_a_file_is_named_with_its_place(name: str) -> None:
    before, after, wanted = FILE_MISTAKES[name]
    body = text(rule("r", GET, "{allow: {}}"))
    assert before in body
    found = problems(body.replace(before, after, 1))
    assert any(wanted in problem for problem in found), found


def test_columns_alone_mask_nothing_on_http() -> None:
    body = text(rule("r", GET, "{allow: {}, mask: pii}")).replace(
        "entities: [EMAIL_ADDRESS]", 'columns: ["*.ssn"]'
    )
    assert any('the mask "pii" has only columns' in problem for problem in problems(body))


def test_all_problems_are_listed_at_once_and_in_order() -> None:
    body = text(
        rule("a", "request.metod == 1 && nothing", "{alow: {}}"),
        rule("b", GET, "{hold: {wait: 2h}}"),
        rule("b", "tru", "{deny: {status: 1}}"),
    )
    found = problems(body)
    assert len(found) == 8
    lines = [int(problem.split(":")[0]) for problem in found]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("written", "line", "column"),
    [
        ('    when: request.metod == "GET"\n', 8, 11),
        ("    when: 'request.metod == \"GET\"'\n", 8, 12),
        ('    when: "request.metod == \\"GET\\""\n', 8, 12),
        ('    when: |-\n      true &&\n      request.metod == "GET"\n', 10, 7),
        ('    when: >-\n      true &&\n      request.metod == "GET"\n', 10, 7),
        ('    when: true &&\n      request.metod == "GET"\n', 9, 7),
        ('    when: |\n      // a comment\n      request.metod == "GET"\n', 10, 7),
    ],
)
def test_a_mistake_inside_a_condition_is_placed_in_the_file(written: str, line: int, column: int) -> None:
    body = text(f"  - name: r\n{written}    then: {{allow: {{}}}}\n")
    assert problems(body)[0].startswith(f"{line}:{column}: ")


def test_the_same_policy_name_in_two_files_is_refused() -> None:
    body = text(rule("r", GET, "{allow: {}}"))
    with pytest.raises(
        PolicyError, match=r'policies/1\.yaml:3:18: the policy "p" is also in policies/0\.yaml'
    ):
        policies(body, body)


@pytest.mark.parametrize(
    ("rules", "dead"),
    [
        ([("d", "true", "{deny: {}}"), ("a", GET, "{allow: {}}")], "a"),
        ([("d", "true", "{deny: {}}"), ("m", "response.code > 1", "{mask: pii}")], "m"),
        ([("d", "request.size >= 0 || true", "{deny: {}}"), ("a", GET, "{allow: {}}")], "a"),
        ([("d", GET, "{deny: {}}"), ("a", f" {GET} ", "{allow: {}}")], "a"),
    ],
)
def test_a_rule_that_a_denial_always_beats_is_refused(rules: list[tuple[str, str, str]], dead: str) -> None:
    found = problems(text(*(rule(*parts) for parts in rules)))
    assert len(found) == 1
    assert f'rule "{dead}": never has an effect' in found[0]


def test_a_denial_of_everything_alone_is_fine() -> None:
    policies(text(rule("freeze", "true", "{deny: {message: frozen}}")))
    policies(text(rule("freeze", "true", "{deny: {}}", "shadow"), rule("a", GET, "{allow: {}}")))


def test_facts_belong_to_kinds_of_targets() -> None:
    body = text(rule("r", GET, "{allow: {}}"))
    with pytest.raises(PolicyError, match=r'"request\.method" is not known for targets of kind postgres'):
        policies(body, targets={"api": TargetInfo("postgres", {})})
    policies(
        text(rule("r", '"a" in principal.groups', "{allow: {}}")), targets={"api": TargetInfo("postgres", {})}
    )


def test_a_selector_may_name_a_kind() -> None:
    good = text(rule("r", '"read" in sql.effects', "{allow: {}}")).replace(
        "target: api", "target: {kind: mysql, labels: {a: b}}"
    )
    targets = {kind: TargetInfo(kind, {"a": "b"}) for kind in ("http", "mysql", "postgres")}
    assert policies(good, targets=targets).files[0].targets == ("mysql",)
    source = PolicySource("p.yaml", good)
    assert {info.kind for info in named_targets([source]).values()} == {"mysql"}


def test_a_selector_that_matches_nothing_is_still_checked() -> None:
    body = text(rule("r", "request.metod == 1", "{allow: {}}")).replace(
        "target: api", "target: {labels: {a: b}}"
    )
    assert "did you mean" in problems(body)[0]
    good = text(rule("r", GET, "{allow: {}}")).replace("target: api", "target: {labels: {a: b}}")
    assert policies(good).files[0].targets == ()


def test_yaml_1_1_has_no_say_in_what_a_word_means() -> None:
    body = text(rule("no", GET, "{deny: {message: off, code: yes}}")).replace("{name: p}", "{name: on}")
    found = policies(body).for_target("api").rules[0]
    assert found.id == "on/no"
    assert found.spec.deny is not None
    assert (found.spec.deny.message, found.spec.deny.code) == ("off", "yes")


def test_an_unknown_engine_is_refused_by_name() -> None:
    with pytest.raises(PolicyError, match='unknown CEL engine "cel-exp"; did you mean "cel-expr"'):
        policies(text(), engine="cel-exp")


@pytest.mark.parametrize("engine", ["cel-expr", "cel-python"])
def test_both_engines_load_and_refuse_alike(engine: str) -> None:
    assert policies(text(rule("r", GET, "{allow: {}}")), engine=engine).engine == engine
    with pytest.raises(PolicyError, match=r'unknown name "request\.metod"; did you mean'):
        policies(text(rule("r", 'request.metod == "a"', "{allow: {}}")), engine=engine)
    with pytest.raises(PolicyError, match="asks about a whole fact"):
        policies(text(rule("r", "has(request.json)", "{allow: {}}")), engine=engine)


def test_a_condition_at_the_parser_s_limit_still_works_among_others() -> None:
    """The parser allows so many levels; a list of conditions takes one of them."""
    deepest = None
    for depth in range(1, 60):
        condition = f"{'[' * depth}1{']' * depth} == {'[' * depth}1{']' * depth} && {GET}"
        try:
            policies(text(rule("r", condition, "{allow: {}}")))
        except PolicyError:
            break
        deepest = condition
    assert deepest is not None
    found = policies(text(rule("deep", deepest, "{allow: {}}"), rule("other", GET, "{risk: 1}"))).for_target(
        "api"
    )
    ruling = judged(found, request(request__method="GET"))
    assert [match.rule for match in ruling.matched] == ["p/deep", "p/other"]
    assert ruling.errors == ()
