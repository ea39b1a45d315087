"""Case files, explanations, and the facts they are judged by."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from extproc.domain.decision import Allow
from extproc.domain.errors import PolicyError
from extproc.policy import PolicySource
from extproc.policy.case_facts import build_database_facts, build_facts
from extproc.policy.cases import Case, read_cases, run_case
from extproc.policy.explain import Explained, explain
from extproc.policy.facts import variables
from extproc.policy.junit import junit_report
from extproc.sql.dialects import analyze
from tests.policy.build import HOLD, TARGETS, policies, rule, text

POLICY = policies(
    text(
        rule("reads", 'request.method == "GET" && "readers" in principal.groups', "{allow: {}, mask: pii}"),
        rule("pays", 'request.method == "POST" && request.json.amount < 10', "{allow: {}, risk: 5}"),
        rule("waits", 'request.method == "POST" && request.json.amount >= 10', f"{{hold: {HOLD}}}"),
        rule("closed", 'request.url_path.startsWith("/admin")', "{deny: {status: 404, code: gone}}"),
        rule("watched", 'principal.kind == "agent"', "{deny: {}}", "shadow"),
        rule("claims", 'principal.claims.dept == "x" && request.headers["x-a"] == "b"', "{allow: {}}"),
    )
)


def cases(written: str) -> list[Case]:
    return read_cases(PolicySource("p.cases.yaml", written), "p", POLICY)


def differences(expect: str, request: str = "{method: GET}", more: str = "") -> tuple[str, ...]:
    head = "cases:\n  - name: c\n    principal: {groups: [readers]}\n"
    written = f"{head}    request: {request}\n    expect: {expect}\n{more}"
    return run_case(cases(written)[0], POLICY).differences


@pytest.mark.parametrize(
    ("expect", "request_"),
    [
        (
            "{decision: allow, rule: reads, obligations: {masks: [pii]}, risk: 0, shadow: watched}",
            "{method: GET}",
        ),
        (
            "{decision: allow, rule: p/reads, obligations: {masks: p/pii, record: {}, headers: {}}}",
            "{method: GET}",
        ),
        ("{decision: deny, rule: closed, code: gone, status: 404}", "{path: /admin/x}"),
        ("{decision: allow, risk: 5}", "{method: POST, json: {amount: 3}}"),
        ("{decision: hold, rule: waits}", "{method: POST, json: {amount: 30}}"),
    ],
)
def test_a_case_that_holds_has_no_differences(expect: str, request_: str) -> None:
    assert differences(expect, request_) == ()


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ("{decision: deny}", 'decision: expected "deny", got "allow"'),
        ("{rule: pays}", 'rule: expected "pays", got "p/reads"'),
        ("{code: x}", 'code: expected "x", got null'),
        ("{status: 403}", "status: expected 403, got null"),
        ("{risk: 1}", "risk: expected 1, got 0"),
        ("{shadow: []}", 'shadow: expected [], got ["p/watched"]'),
        ("{obligations: {masks: []}}", 'obligations.masks: expected [], got ["p/pii"]'),
        (
            "{obligations: {record: {request: masked}}}",
            'obligations.record: expected {"request": "masked"}, got {}',
        ),
        (
            "{obligations: {colour: red}}",
            'obligations.colour: expected "red", got "unknown obligation colour"',
        ),
    ],
)
def test_a_case_that_does_not_hold_says_how(expect: str, said: str) -> None:
    assert differences(expect) == (said,)


def test_a_case_with_a_response_goes_on_after_the_hold() -> None:
    more = "    response: {code: 201}\n"
    assert differences("{decision: allow}", "{method: POST, json: {amount: 30}}", more) == ()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "p.cases.yaml:1:1: the file is empty"),
        ("cases: []", "the file holds no cases"),
        ("case: []", 'unknown key "case"; did you mean "cases"?'),
        ("cases: [{request: {}, expect: {}}]", "a case needs name"),
        ("cases: [{name: a, expect: {}}]", "a case needs request"),
        ("cases: [{name: a, request: {}}]", "a case needs expect"),
        ("cases: [{name: a, request: {metod: GET}, expect: {}}]", 'did you mean "method"?'),
        ("cases: [{name: a, request: {}, expect: {decison: allow}}]", 'did you mean "decision"?'),
        ("cases: [{name: a, target: b, request: {}, expect: {}}]", 'unknown target "b"'),
        ("cases: [{name: a, request: {path: /%ff}, expect: {}}]", 'case "a": UnicodeDecodeError'),
        (
            "cases: [{name: a, request: {headers: {content-type: application/json}, body: '{'}, expect: {}}]",
            "JSONDecodeError",
        ),
        (
            "cases: [{name: a, request: {}, expect: {}}, {name: a, request: {}, expect: {}}]",
            "here a second time",
        ),
        ("cases: [{name: a, now: tomorrow, request: {}, expect: {}}]", "ValueError"),
    ],
)
def test_a_mistake_in_a_case_file_is_named(written: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        cases(written)
    assert said in str(caught.value)


def test_values_in_cases_are_json_values() -> None:
    body = "{a: 1, b: 1.5, c: true, d: null, e: no, f: '1', g: [0x1F, 1_000, 2024-01-01], h: -0}"
    case = cases(f"cases: [{{name: a, request: {{json: {body}}}, expect: {{}}}}]")[0]
    assert case.facts["request.json"] == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": None,
        "e": "no",
        "f": "1",
        "g": ["0x1F", "1_000", "2024-01-01"],
        "h": 0,
    }


def test_every_fact_of_the_table_is_built() -> None:
    facts = build_facts({"json": {}}, {}, {"json": {}}, {"name": "api", "kind": "http", "labels": {}})
    assert set(facts) == set(variables("http")) - {"risk"}


def test_every_fact_of_a_database_is_built() -> None:
    target = {"name": "db", "kind": "postgres", "labels": {}}
    facts = build_database_facts({"sql": "SELECT 1"}, {}, target, analyze("SELECT 1", "postgres"))
    assert [set(variables("postgres")) ^ set(each) for each in facts] == [{"risk"}]


def test_secret_headers_are_no_facts() -> None:
    headers = {
        "Authorization": "Bearer x",
        "Cookie": "y",
        "Proxy-Authorization": "z",
        "X-A": "b",
        ":path": "/",
    }
    facts = build_facts({"headers": headers}, {}, {"headers": {"Set-Cookie": "s", "server": "t"}}, {})
    assert facts["request.headers"] == {"x-a": "b"}
    assert facts["response.headers"] == {"server": "t"}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/customers/7",
        "/a%20b",
        "/%61dmin",
        "/%C3%BC",
        "/x?a=1&a=2&b=",
        "/x?q=a%2Bb+c",
        "/x?",
        "/a=b",
        "/x?k",
        "/x?a=%26",
    ],
)
@pytest.mark.parametrize("body", [None, {"amount": 5, "text": "ü"}, [1], ""])
def test_cases_see_the_facts_that_traffic_sees(path: str, body: object) -> None:
    """The proxy's own builder and the one for cases agree on every fact of the request."""
    import json
    from dataclasses import replace

    from extproc.domain.principal import Principal
    from extproc.domain.request import Headers, RequestHead, Source
    from extproc.pipeline.facts import FactUnavailableError, HttpFacts
    from extproc.protocols.http.head import read_request_line
    from tests.support.governed import denying

    plan = replace(denying().targets["api"], labels=TARGETS["api"].labels, request_limit=1000)
    raw = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
    items = [(":method", "POST"), (":scheme", "https"), (":authority", "api.example"), (":path", path)]
    items += [("x-a", "1"), ("authorization", "Bearer s"), ("cookie", "c")]
    if raw:
        items.append(("content-type", "application/json"))
    head = RequestHead("api", Headers(tuple(items)), not raw, Source("192.0.2.1:40000", False, ""))
    person = Principal("https://issuer.example", "ada", "human", "ada@x", ("g",), "cli", claims={"a": 1})
    line = read_request_line(head.headers)
    live = HttpFacts(head, line, person, plan, frozenset(), "case", 1767225600.0)
    live.body = raw
    principal = {
        "subject": "ada",
        "kind": "human",
        "person": "ada@x",
        "groups": ["g"],
        "client_id": "cli",
        "claims": {"a": 1},
    }
    request: dict[str, object] = {
        "method": "POST",
        "path": path,
        "headers": {"x-a": "1", "authorization": "s", "cookie": "c"},
    }
    if body is not None:
        request["json"] = body
    built = build_facts(
        request, principal, None, {"name": "api", "kind": "http", "labels": dict(TARGETS["api"].labels)}
    )
    for name in variables("http"):
        if name.startswith("response.") or name == "risk":
            continue
        try:
            wanted = live[name]
        except FactUnavailableError:
            assert name not in built, name
            continue
        assert built[name] == wanted, name


def test_the_time_of_a_case_can_be_set() -> None:
    case = cases("cases: [{name: a, now: '2024-02-29T12:00:00+00:00', request: {}, expect: {}}]")[0]
    assert case.facts["now"] == datetime(2024, 2, 29, 12, tzinfo=UTC)


# --- explain ----------------------------------------------------------------------------------------


def explained(request: dict[str, object], principal: dict[str, object] | None = None) -> dict[str, Explained]:
    facts = build_facts(request, principal or {}, None, {"name": "api", "kind": "http", "labels": {}})
    found = explain(
        POLICY.for_target("api"), facts, mask=lambda value: value.replace("ada@example.com", "<EMAIL>")
    )
    return {part.rule: part for part in found}


def test_explain_shows_each_rule_s_truth_and_what_it_read() -> None:
    found = explained(
        {"method": "POST", "path": "/admin/ada@example.com", "json": {"amount": 12, "iban": "x"}}
    )
    assert found["p/waits"].truth == "true"
    assert [(read.path, read.shown) for read in found["p/waits"].reads] == [
        ("request.json.amount", "12"),
        ("request.method", "POST"),
    ]
    assert found["p/pays"].truth == "false"
    assert [(read.path, read.shown) for read in found["p/closed"].reads] == [
        ("request.url_path", "/admin/<EMAIL>")
    ]
    assert found["p/watched"].shadow


def test_explain_says_what_was_not_there() -> None:
    found = explained({"method": "POST"})
    assert (found["p/waits"].truth, found["p/waits"].reason) == ("not evaluated", "a fact is not available")
    assert [(read.path, read.shown) for read in found["p/waits"].reads] == [
        ("request.json", "not available"),
        ("request.method", "POST"),
    ]
    no_key = explained({"method": "POST", "json": {"other": 1}})["p/waits"]
    assert (no_key.reads[0].path, no_key.reads[0].shown) == ("request.json.amount", "not there")


def test_explain_shows_claims_by_type_and_cuts_long_values() -> None:
    request: dict[str, object] = {"path": "/" + "x" * 100, "headers": {"x-a": "\x1b[31mred"}}
    found = explained(request, {"claims": {"dept": "top-secret"}})
    claims = {read.path: read.shown for read in found["p/claims"].reads}
    assert claims == {"principal.claims.dept": "(string)", "request.headers['x-a']": "\\u{1B}[31mred"}
    assert found["p/closed"].reads[0].shown == "/" + "x" * 63 + "… (101 characters)"


def test_explaining_counts_nothing() -> None:
    fresh = policies(text(rule("a", 'request.method == "GET"', "{allow: {}}")))
    facts = build_facts({}, {}, None, {})
    explain(fresh.for_target("api"), facts, mask=str)
    assert fresh.for_target("api").counts()["p/a"].judged == 0


def test_a_junit_report_names_cases_and_failures() -> None:
    import xml.etree.ElementTree as ElementTree

    good = cases(
        "cases: [{name: good, principal: {groups: [readers]}, request: {}, expect: {decision: allow}}]"
    )[0]
    bad = cases("cases: [{name: 'bad <&>', request: {method: POST}, expect: {decision: allow}}]")[0]
    results = [run_case(good, POLICY), run_case(bad, POLICY)]
    assert isinstance(results[0].ruling.decision, Allow)
    root = ElementTree.fromstring(junit_report(results))
    assert [(suite.get("tests"), suite.get("failures")) for suite in root] == [("2", "1")]
    failure = root.find("./testsuite/testcase[@name='bad <&>']/failure")
    assert failure is not None
    assert failure.get("message") == 'decision: expected "allow", got "hold"'
