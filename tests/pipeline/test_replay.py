"""What other policies would have said of a record, and what cannot be told."""

from typing import Any

import pytest

from extproc.pipeline.replay import replay, unplayed_rules
from extproc.policy import PolicySource, TargetInfo, load_policies
from extproc.sql.dialects import analyze

PRINCIPAL = {"issuer": "https://i", "subject": "bot", "kind": "agent", "person": "p", "groups": ["support"]}
HTTP: dict[str, Any] = {
    "principal": PRINCIPAL,
    "target": "api",
    "verdict": "allow",
    "code": "allowed",
    "session_id": "s",
    "request": {
        "method": "GET",
        "scheme": "https",
        "host": "api.example",
        "path": "/customers/7?x=1",
        "source": "::1",
    },
}
SQL: dict[str, Any] = {
    **{name: HTTP[name] for name in ("principal", "verdict", "code", "session_id")},
    "target": "db",
    "operation": "statement",
    "connection": {"user": "u", "database": "d", "role": "app", "source": "::1"},
    "statement": {
        "text": "SELECT card FROM customers",
        "verbs": ["SELECT"],
        "effects": ["read"],
        "tables_read": ["customers"],
        "tables_written": [],
        "transaction": "I",
    },
}


def policies(*rules: tuple[str, str], default: str = "deny", target: str = "api"):
    """Each rule is (`allow`, `deny`, `hold` or `risk`, condition)."""
    then = {
        "allow": "{allow: {}}",
        "deny": "{deny: {}}",
        "hold": "{hold: {approvers: {all_of: [{group: g, count: 1}]}}}",
        "risk": "{risk: 50}",
        "shadow": "{deny: {}}",
    }
    text = "apiVersion: extproc/v1\nkind: Policy\nmetadata: {name: p}\n"
    text += f"target: {target}\ndefault: {default}\nrules:\n"
    for number, (effect, when) in enumerate(rules):
        mode = ", mode: shadow" if effect == "shadow" else ""
        text += f"- {{name: r{number}, when: '{when}', then: {then[effect]}{mode}}}\n"
    targets = {"api": TargetInfo("http", {"env": "prod"}), "db": TargetInfo("postgres", {})}
    return load_policies([PolicySource("p.yaml", text)], targets)


CASES = {
    "a rule that matches": ([("allow", 'request.method == "GET"')], {"allow"}),
    "nothing matches": ([("allow", 'request.method == "POST"')], {"deny"}),
    "the decoded path": ([("deny", 'request.url_path == "/customers/7"'), ("allow", "true")], {"deny"}),
    "query, host and groups": (
        [
            (
                "hold",
                'request.query_params["x"] == ["1"] && request.host == "api.example" && "support" in principal.groups',
            )
        ],
        {"hold"},
    ),
    "labels and the address": (
        [("allow", 'target.labels["env"] == "prod" && source.address == "::1"')],
        {"allow"},
    ),
    "the time": ([("allow", 'now > timestamp("2026-01-01T00:00:00Z")')], {"allow"}),
    "risk": ([("risk", "true"), ("deny", "risk >= 50"), ("allow", "true")], {"deny"}),
    "shadow rules change nothing": ([("shadow", "true"), ("allow", "true")], {"allow"}),
    "a body that only matters elsewhere": (
        [("deny", 'request.method == "POST" && request.json.amount > 5'), ("allow", "true")],
        {"allow"},
    ),
    "a denial whatever the body was": (
        [("hold", "request.json.amount > 5"), ("deny", 'request.method == "GET"')],
        {"deny"},
    ),
    "a body that decides": ([("hold", "request.json.amount > 5"), ("allow", "true")], {"allow", "hold"}),
    "a header that decides": ([("allow", 'request.headers["x"] == "1"')], {"allow", "deny"}),
    "a claim that decides": (
        [("deny", 'principal.claims["x"] == "1"'), ("allow", "true")],
        {"allow", "deny"},
    ),
    "risk that hangs on a header": (
        [("risk", 'request.headers["x"] == "1"'), ("deny", "risk >= 50"), ("allow", "true")],
        {"allow", "deny"},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_recorded_request_is_judged_as_far_as_it_can_be(case):
    rules, after = case
    found = replay(HTTP, 1_795_000_000.0, policies(*rules), analyze)
    assert set(found.after) == after
    assert found.is_certain == (len(after) == 1)
    assert bool(found.missing) == (len(after) > 1)
    assert found.has_changed == (found.is_certain and after != {"allow"})


def test_an_allowing_default_is_overruled():
    assert replay(HTTP, 0.0, policies(("deny", "request.json.x == 1"), default="allow"), analyze).after == (
        "allow",
        "deny",
    )
    assert replay(HTTP, 0.0, policies(("hold", "true"), default="allow"), analyze).after == ("hold",)


def test_a_masked_path_is_not_taken_for_the_path():
    masked = {**HTTP, "request": {**HTTP["request"], "path": "/customers/[US_SSN]", "altered": ["path"]}}
    found = replay(masked, 0.0, policies(("allow", 'request.url_path.startsWith("/customers/")')), analyze)
    assert (found.after, found.missing) == (("allow", "deny"), ("request.url_path",))
    assert replay(masked, 0.0, policies(("allow", 'request.method == "GET"')), analyze).after == ("allow",)


def test_what_a_person_answered_is_not_what_the_rules_said():
    released = {**HTTP, "code": "released", "hold": {"id": "h"}}
    assert not replay(released, 0.0, policies(("hold", "true")), analyze).has_changed
    assert replay(released, 0.0, policies(("allow", "true")), analyze).has_changed


SQL_CASES = {
    "effects": ([("allow", 'sql.effects == ["read"]')], {"allow"}),
    "tables and verb": ([("hold", '"customers" in sql.tables_read && sql.verb == "SELECT"')], {"hold"}),
    "columns, read from the text again": ([("deny", '"card" in sql.columns')], {"deny"}),
    "the connection": ([("allow", 'connection.user == "u" && connection.role == "app"')], {"allow"}),
    "no parameters": ([("allow", "sql.parameters.size() == 0")], {"allow"}),
    "the application's name": ([("allow", 'session.application == "psql"')], {"allow", "deny"}),
}


@pytest.mark.parametrize("case", SQL_CASES.values(), ids=SQL_CASES.keys())
def test_a_recorded_statement_is_judged_as_far_as_it_can_be(case):
    rules, after = case
    assert set(replay(SQL, 0.0, policies(*rules, target="db"), analyze).after) == after


def test_a_masked_statement_keeps_what_was_recorded_of_it():
    masked = {**SQL, "statement": {**SQL["statement"], "text": "SELECT '[EMAIL_ADDRESS]'", "altered": True}}
    assert replay(
        masked, 0.0, policies(("allow", '"customers" in sql.tables_read'), target="db"), analyze
    ).after == ("allow",)
    found = replay(masked, 0.0, policies(("allow", "sql.has_where"), target="db"), analyze)
    assert found.missing == ("sql.has_where",)


def test_views_that_were_looked_through_stay_so():
    through = {
        **SQL,
        "statement": {
            **SQL["statement"],
            "text": "SELECT * FROM a_view",
            "tables_read": ["a_view", "secrets"],
        },
    }
    assert replay(
        through, 0.0, policies(("deny", '"secrets" in sql.tables_read'), target="db"), analyze
    ).after == ("deny",)


def test_masked_parameters_are_missing_and_plain_ones_are_not():
    def asked(**parameter):
        one = {"type": 25, "format": 0, "size": 1, "digest": "d", **parameter}
        return {**SQL, "statement": {**SQL["statement"], "parameters": [one], "parameter_count": 1}}

    rules = policies(("allow", 'sql.parameters[0] == "7"'), target="db")
    assert replay(asked(text="7"), 0.0, rules, analyze).after == ("allow",)
    assert replay(asked(text="[X]", altered=True), 0.0, rules, analyze).missing == ("sql.parameters",)
    assert replay(asked(), 0.0, rules, analyze).missing == ("sql.parameters",)


NOT_COMPARED = {
    "nobody known": {**HTTP, "principal": None},
    "a login": {**SQL, "operation": "login"},
    "an unknown target": {**HTTP, "target": "elsewhere"},
    "unseen": {**HTTP, "verdict": "unseen"},
    "no rule's refusal": {**HTTP, "verdict": "deny", "code": "bad-path"},
    "several masked statements": {
        **SQL,
        "statement": {
            **SQL["statement"],
            "text": "SELECT 1; SELECT 2",
            "verbs": ["SELECT", "SELECT"],
            "altered": True,
        },
    },
    "a statement that is not understood": {**SQL, "statement": {**SQL["statement"], "incomplete": ["x"]}},
    "a path that is no UTF-8": {**HTTP, "request": {**HTTP["request"], "path": "/%ff"}},
}


@pytest.mark.parametrize("intent", NOT_COMPARED.values(), ids=NOT_COMPARED.keys())
def test_what_cannot_be_compared_says_why(intent):
    found = replay(intent, 0.0, policies(("allow", "true")), analyze)
    assert found.skipped
    assert found.after == ()


def test_rules_over_responses_are_named_as_not_replayed():
    found = policies(("deny", "response.code == 500"), ("allow", "true"))
    assert unplayed_rules(found.for_target("api")) == ["p/r0"]
