"""Two CEL engines over one corpus: the portable one agrees with the reference, or does not evaluate."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.policy.engine import Condition, ConditionError, Engine, Unjudged, build_engine
from extproc.policy.facts import variables

pytest.importorskip("celpy")

REFERENCE = build_engine("cel-expr", "http", variables("http"))
PORTABLE = build_engine("cel-python", "http", variables("http"))

BODY: dict[str, Any] = {
    "amount": 5,
    "price": 1.5,
    "text": "Grüße, 世界",
    "empty": "",
    "nothing": None,
    "yes": True,
    "no": False,
    "minus": -3,
    "big": 2**62,
    "items": [{"a": 1, "name": "x"}, {"a": 2}, {"b": 3}],
    "numbers": [1, 2, 3],
    "mixed": [1, "a", None, 2.5, True],
    "tags": ["red", "blue"],
    "map": {"k": "v", "n": 1},
    "none": [],
}


def facts(**changed: Any) -> dict[str, Any]:
    """One activation; `unset=[…]` leaves facts out."""
    found: dict[str, Any] = {
        "request.method": "POST",
        "request.url_path": "/payments/7",
        "request.path": "/payments/7?q=1",
        "request.headers": {"x-team": "blue", "content-type": "application/json"},
        "request.query_params": {"q": ["1", "2"], "e": [""]},
        "request.size": 120,
        "request.body": "hello",
        "request.json": BODY,
        "connection.mtls": True,
        "principal.groups": ["support", "payments"],
        "principal.kind": "agent",
        "principal.claims": {"acr": "2", "level": 3, "nested": {"a": [1]}},
        "target.labels": {"env": "prod"},
        "risk": 40,
        "now": datetime(2024, 2, 29, 13, 45, 7, 250_000, tzinfo=UTC),
        "response.code": 200,
        "response.findings": {"EMAIL_ADDRESS": 2},
    }
    for name in changed.pop("unset", []):
        del found[name]
    found.update({name.replace("__", "."): value for name, value in changed.items()})
    return found


ACTIVATIONS = {
    "usual": facts(),
    "no-json": facts(unset=["request.json"]),
    "json-null": facts(request__json=None),
    "json-list": facts(request__json=[1, {"a": 2}, "x"]),
    "json-text": facts(request__json="text"),
    "json-empty": facts(request__json={}),
    "other-types": facts(
        request__json={
            "amount": "5",
            "price": 2,
            "text": 7,
            "yes": "true",
            "nothing": {},
            "items": {"a": 1},
            "numbers": "123",
            "tags": {"red": 1},
            "map": ["k"],
            "minus": True,
            "big": 1e300,
            "mixed": None,
        }
    ),
    "no-groups": facts(principal__groups=[], unset=["principal.claims", "now"]),
    "get": facts(request__method="GET", request__url_path="/", risk=0, response__code=503),
}

CORPUS = """
request.method == "GET"
request.method != "GET"
request.method in ["GET", "HEAD"]
!(request.method in ["GET", "HEAD"])
request.url_path.startsWith("/payments")
request.url_path.endsWith("/7")
request.url_path.contains("ment")
request.url_path.matches("^/payments/[0-9]+$")
request.url_path.matches("payments")
request.url_path.matches("(?i)^/PAYMENTS")
request.url_path.matches("")
request.url_path.size() > 3
size(request.url_path) == 11
size(request.json.text) == 9
request.json.text.contains("世")
request.json.text.startsWith("Gr\\u00fc")
request.json.text == "Gr\\u00fc\\u00dfe, 世界"
request.json.text < "H"
request.json.empty == ""
request.method < "Z" && request.method >= "A"
request.method + "x" == "POSTx"
request.headers["x-team"] == "blue"
request.headers["missing"] == "blue"
"x-team" in request.headers
"missing" in request.headers
has(request.headers.missing)
size(request.headers) == 2
request.query_params["q"][0] == "1"
request.query_params["q"][9] == "1"
"2" in request.query_params["q"]
request.query_params["q"].exists(v, v == "2")
connection.mtls
!connection.mtls
connection.mtls && request.method == "POST"
connection.mtls == true
"support" in principal.groups
principal.groups == ["support", "payments"]
principal.groups.exists(g, g.startsWith("pay"))
principal.groups.all(g, g.size() > 3)
principal.groups.exists_one(g, g == "support")
principal.groups.filter(g, g == "support").size() == 1
principal.groups.map(g, g + "!") == ["support!", "payments!"]
size(principal.groups) == 2
principal.groups[0] == "support"
principal.groups[2] == "support"
principal.claims.level > 2
principal.claims["level"] == 3
principal.claims.acr == "2"
principal.claims.level == "3"
has(principal.claims.acr)
has(principal.claims.amr)
principal.claims.nested.a[0] == 1
target.labels["env"] == "prod"
target.labels.env == "prod"
risk >= 40
risk + 10 > 45
risk * 2 == 80
risk - 50 == -10
-risk == -40
risk / 3 == 13
risk % 7 == 5
risk / 0 == 1
risk % 0 == 1
risk + 9223372036854775807 > 0
response.code >= 500
response.code in [200, 201]
response.findings["EMAIL_ADDRESS"] > 1
has(response.findings.EMAIL_ADDRESS) && response.findings.EMAIL_ADDRESS > 1
now > timestamp("2024-01-01T00:00:00Z")
now < timestamp("2024-01-01T00:00:00Z")
now - duration("24h") < timestamp("2024-02-29T00:00:00Z")
now + duration("90m") > timestamp("2024-02-29T15:00:00Z")
now - timestamp("2024-02-29T00:00:00Z") > duration("13h")
now.getFullYear() == 2024
now.getMonth() == 1
now.getDayOfMonth() == 28
now.getDate() == 29
now.getDayOfWeek() == 4
now.getDayOfYear() == 59
now.getHours() == 13
now.getMinutes() == 45
now.getSeconds() == 7
now.getHours("Europe/Berlin") == 14
now.getHours("-08:00") == 5
now.getDayOfWeek("Asia/Tokyo") == 4
now.getHours() >= 8 && now.getHours() < 18
timestamp("2024-02-29T13:45:07.25Z") == now
timestamp("2024-02-29T14:45:07.25+01:00") == now
duration("1h30m") == duration("90m")
int("5") == 5
int("x") == 5
string(risk) == "40"
request.json.amount >= 5
request.json.amount > 4.5
request.json.amount == 5.0
request.json.amount == 5
request.json.amount == "5"
request.json.amount != "5"
request.json.amount in [1, 5]
request.json.amount in [1.0, 5.0]
request.json.amount + 1 == 6
request.json.amount + 1.0 == 6.0
request.json.amount * 2 == 10
request.json.amount / 2 == 2
request.json.minus / 2 == -1
request.json.minus % 2 == -1
-request.json.amount == -5
request.json.price > 1
request.json.price == 1.5
request.json.price * 2.0 == 3.0
request.json.big * 4 > 0
request.json.big > 4611686018427387903
request.json.yes
request.json.no
!request.json.yes
!request.json.text
request.json.yes == true
request.json.yes > 0
request.json.yes == 1
request.json.nothing == null
request.json.nothing != null
request.json.amount == null
request.json == null
request.json != null
request.json.missing == 1
request.json.missing != 1
has(request.json.amount)
has(request.json.missing)
has(request.json.nothing)
has(request.json.missing.deep)
has(request.json.text.deep)
has(request.json.map.k)
has(request.json.map) && has(request.json.map.k) && request.json.map.k == "v"
has(request.json.amount) && request.json.amount > 4
!has(request.json.missing) || request.json.missing == 1
has(request.json.missing) ? request.json.missing == 1 : false
request.json["amount"] == 5
request.json[request.json.text] == 5
request.json[0] == 1
request.json[0]
request.json.map["k"] == "v"
request.json.map == request.json.map
"k" in request.json.map
"amount" in request.json
1 in request.json.numbers
"1" in request.json.numbers
request.json.text in ["a", "b"]
request.json.numbers[0] == 1
request.json.numbers[3] == 1
request.json.numbers[-1] == 1
request.json.numbers == [1, 2, 3]
request.json.numbers == [1.0, 2.0, 3.0]
request.json.numbers + [4] == [1, 2, 3, 4]
request.json.mixed[1] == "a"
request.json.mixed.exists(m, m == 2.5)
request.json.mixed.all(m, m != "zzz")
request.json.items.exists(i, i.a == 2)
request.json.items.exists(i, i.b == 3)
request.json.items.exists(i, has(i.b) && i.b == 3)
request.json.items.all(i, i.a > 0)
request.json.items.all(i, has(i.a))
request.json.items.exists_one(i, has(i.name))
request.json.items[0].a == 1
request.json.items[0].name == "x"
request.json.items[1].name == "x"
request.json.items.filter(i, has(i.a)).size() == 2
request.json.items.map(i, has(i.a)) == [true, true, false]
request.json.none.exists(x, x == 1)
request.json.none.all(x, x == 1)
request.json.map.exists(k, k == "n")
request.json.text.exists(c, c == "a")
request.json.tags.exists(t, t.startsWith("re"))
request.json.numbers.exists(n, n / 0 == 1)
request.json.numbers.exists(n, n / (n - 1) == 2)
request.json.numbers.all(n, n / (n - 1) == 2)
size(request.json.numbers) == 3
size(request.json.map) == 2
size(request.json.amount) == 1
request.json.text.size() == 9
type(request.json.amount) == int
type(request.json.amount) == double
type(request.json.amount) == string
type(request.json.price) == double
type(request.json.yes) == bool
type(request.json.text) == string
type(request.json.items) == list
type(request.json.map) == map
request.json.amount.startsWith("5")
request.json.text.matches("^G.*界$")
request.json.text.matches(request.json.tags[0])
request.method == "POST" && request.json.amount >= 5
request.method == "GET" && request.json.amount >= 5
request.json.amount >= 5 && request.method == "GET"
request.method == "POST" || request.json.missing == 1
request.json.missing == 1 || request.method == "POST"
request.json.missing == 1 || request.method == "GET"
request.json.missing == 1 && request.method == "GET"
request.json.amount || true
true || request.json.amount
request.json.amount && false
false && request.json.amount
request.json.amount && true
request.json.amount || false
request.json.yes && true
request.json.text
request.json.text == "" ? true : false
request.json.amount > 1 ? request.json.yes : request.json.no
request.json.text ? true : false
true ? true : request.json.missing
"a" < "b" && "b" > "a"
"Z" < "a"
"é" > "z"
"世" > "z"
"\\u00e9" == "é"
r"\\d" == "\\\\d"
'single' == "single"
"a\\tb" == "a\tb"
"quo\\"te".size() == 6
1 < 2 && 2 <= 2 && 3 > 2 && 3 >= 3
1.5 < 2.5
0x10 == 16
-5 < 0
1 == 1 // a comment
(request.method) == ("POST")
!!connection.mtls
!(connection.mtls && risk > 100)
"""
EXPRESSIONS = [line for line in CORPUS.strip().splitlines() if line]


def judged(engine: Engine, condition: Condition, data: dict[str, Any]) -> bool | None:
    found = engine.batch([condition]).judge(data)[0]
    return None if isinstance(found, Unjudged) else found


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_portable_engine_agrees_or_does_not_evaluate(expression: str) -> None:
    reference = REFERENCE.compile(expression)
    portable = PORTABLE.compile(expression)
    for name, data in ACTIVATIONS.items():
        wanted = judged(REFERENCE, reference, data)
        got = judged(PORTABLE, portable, data)
        assert got is None or got is wanted, (name, wanted, got)


def test_the_portable_engine_evaluates_whatever_the_reference_does() -> None:
    """Not evaluating would fail closed, but it would be of no use."""
    silent = []
    for expression in EXPRESSIONS:
        reference, portable = REFERENCE.compile(expression), PORTABLE.compile(expression)
        for name, data in ACTIVATIONS.items():
            wanted, got = judged(REFERENCE, reference, data), judged(PORTABLE, portable, data)
            if wanted is not None and got is None:
                silent.append((expression, name))
    assert silent == []


def test_both_engines_read_the_same_paths() -> None:
    from extproc.policy.syntax import reads

    for expression in EXPRESSIONS:
        wanted = reads(REFERENCE.compile(expression).syntax, variables("http"))
        assert reads(PORTABLE.compile(expression).syntax, variables("http")) == wanted, expression


OUTSIDE = """
1u == 1u
b"x" == b"x"
{"a": 1}["a"] == 1
[1, 2].exists(a, [1, 2].exists(b, a == b))
principal.groups.map(g, g == "a", g) == []
int(request.json.amount) == 5
double("1.5") == 1.5
bool("true")
bytes("a") == bytes("a")
dyn(risk) == 40
string(1.5) == "1.5"
duration("1h").getHours() == 1
google.protobuf.Timestamp{seconds: 1} == now
.request.method == "GET"
"""


@pytest.mark.parametrize("expression", OUTSIDE.strip().splitlines())
def test_the_portable_engine_refuses_what_was_not_vetted(expression: str) -> None:
    REFERENCE.compile(expression)
    with pytest.raises(ConditionError):
        PORTABLE.compile(expression)


WRONG = """
request.json.price + 1 == 2.5
request.metod == "GET"
request.method == 1
request.method && true
request == 1
nothing
risk > "a"
principal.groups == "a"
1 in principal.groups
request.method.foo == 1
request.method.nope()
connection.mtls + 1 == 2
now > 5
size(risk) == 1
request.headers[1] == "a"
principal.groups["a"] == "b"
request.method ==
has(request.json)
"text"
risk
!risk
-request.method == "a"
request.method.startsWith(1)
request.method.startsWith("a", "b")
risk ? true : false
"""


@pytest.mark.parametrize("expression", WRONG.strip().splitlines())
def test_both_engines_refuse_mistakes_at_load(expression: str) -> None:
    with pytest.raises(ConditionError) as portable:
        PORTABLE.compile(expression)
    assert all(mistake.line == 1 and mistake.column >= 1 for mistake in portable.value.mistakes)
    if expression != "has(request.json)":  # for the reference this is refused one step later, in checks.py
        with pytest.raises(ConditionError):
            REFERENCE.compile(expression)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([text for text in EXPRESSIONS if "request.json" in text]),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*BODY, "a", "b", "k"]), inner, max_size=6)
        ),
        max_leaves=12,
    ),
)
def test_any_json_is_judged_alike(expression: str, body: Any) -> None:
    data = facts(request__json=body)
    wanted = judged(REFERENCE, REFERENCE.compile(expression), data)
    got = judged(PORTABLE, PORTABLE.compile(expression), data)
    assert got is None or got is wanted, json.dumps(body)
