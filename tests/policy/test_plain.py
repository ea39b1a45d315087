"""Conditions that Python judges by itself: whatever the facts are, they mean what CEL says they mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.policy.engine import Condition
from extproc.policy.plain import PlainBatch, translate
from tests.policy.test_both_engines import ACTIVATIONS, EXPRESSIONS, REFERENCE, facts

CONDITIONS = [REFERENCE.compile(text) for text in EXPRESSIONS]
WEIRD: dict[str, dict[str, Any]] = {
    "nothing": {},
    "text-is-number": facts(request__method=7),
    "text-is-bytes": facts(request__method=b"GET"),
    "lone-surrogate": facts(request__url_path="/payments/\ud800"),
    "surrogate-in-list": facts(principal__groups=["support", "\udfff"]),
    "surrogate-in-map": facts(request__headers={"x-team": "\ud800"}),
    "number-in-list": facts(principal__groups=["support", 3]),
    "number-in-map": facts(target__labels={"env": 3}),
    "list-is-tuple": facts(principal__groups=("support",)),
    "map-is-list": facts(request__headers=["x-team"]),
    "truth-is-number": facts(connection__mtls=1),
    "number-is-truth": facts(risk=True),
    "number-too-big": facts(risk=2**63),
    "number-too-small": facts(response__code=-(2**63) - 1),
    "number-is-fraction": facts(risk=40.0),
    "fraction-in-map": facts(response__findings={"EMAIL_ADDRESS": 2.5}),
    "beyond-latin": facts(request__url_path="/payments/世𝄞/7", principal__groups=["𝄞"]),
}


@pytest.mark.parametrize("name", [*ACTIVATIONS, *WEIRD])
def test_each_condition_is_judged_as_the_engine_judges_it(name: str) -> None:
    data = (ACTIVATIONS | WEIRD)[name]
    for condition in CONDITIONS:
        wanted = REFERENCE.batch([condition]).judge(data)
        assert PlainBatch(REFERENCE, [condition]).judge(data) == wanted, condition.text


@pytest.mark.parametrize("name", [*ACTIVATIONS, *WEIRD])
def test_plain_and_other_conditions_together_keep_their_places(name: str) -> None:
    data = (ACTIVATIONS | WEIRD)[name]
    assert PlainBatch(REFERENCE, CONDITIONS).judge(data) == REFERENCE.batch(CONDITIONS).judge(data)


PLAIN = """
request.method == "GET"
request.method in ["GET", "HEAD"]
!(request.method in ["GET", "HEAD"])
request.url_path.startsWith("/a") || request.url_path.endsWith("/b") || request.url_path.contains("c")
has(request.headers.x) && request.headers.x == request.headers["y"]
"x" in request.headers && "a" in request.query_params["x"]
"staff" in principal.groups && principal.groups != ["staff"]
connection.mtls == true ? risk >= 40 : size(principal.groups) > 2
request.path.size() == 4 && response.findings["EMAIL_ADDRESS"] > 0
"""


@pytest.mark.parametrize("text", PLAIN.strip().splitlines())
def test_what_rules_mostly_say_is_plain(text: str) -> None:
    assert translate(REFERENCE.compile(text).syntax) is not None


OTHER = """
request.url_path.matches("^/a")
request.json.amount == 5
principal.claims.level == 3
principal.groups[0] == "a"
principal.groups.exists(g, g == "a")
request.query_params == request.query_params
now > timestamp("2024-01-01T00:00:00Z")
risk + 1 > 2
request.method + "a" == "GETa"
request.method < "H"
risk in [1, 2]
1.5 < 2.5
1u == 1u
"""


@pytest.mark.parametrize("text", OTHER.strip().splitlines())
def test_what_python_might_see_otherwise_is_left_to_the_engine(text: str) -> None:
    assert translate(REFERENCE.compile(text).syntax) is None


def test_a_condition_nested_too_deep_for_python_is_left_to_the_engine() -> None:
    deep = REFERENCE.compile(" && ".join(['request.method == "GET"'] * 300))
    for data in (ACTIVATIONS["usual"], ACTIVATIONS["get"]):
        assert PlainBatch(REFERENCE, [deep]).judge(data) == REFERENCE.batch([deep]).judge(data)


TEXTS = [
    "request.method",
    "request.url_path",
    'request.headers["x"]',
    '"GET"',
    '"/a/ü"',
    '""',
    'target.labels["env"]',
]
texts = st.sampled_from(TEXTS)
lists = st.sampled_from(["principal.groups", '["GET", "x"]', 'request.query_params["x"]', "[request.method]"])
numbers = st.sampled_from(
    ["risk", "response.code", "40", "-1", "size(request.method)", "principal.groups.size()"]
)
leaves = st.one_of(
    st.builds("{} {} {}".format, texts, st.sampled_from(["==", "!="]), texts),
    st.builds("{} {} {}".format, numbers, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), numbers),
    st.builds("{}.{}({})".format, texts, st.sampled_from(["startsWith", "endsWith", "contains"]), texts),
    st.builds("{} in {}".format, texts, lists),
    st.builds("{} in {}".format, texts, st.sampled_from(["request.headers", "target.labels"])),
    st.builds("{} == {}".format, lists, lists),
    st.sampled_from(["connection.mtls", "true", "has(request.headers.x)", "has(target.labels.env)"]),
)
expressions = st.recursive(
    leaves,
    lambda inner: (
        st.builds("({} && {})".format, inner, inner)
        | st.builds("({} || {})".format, inner, inner)
        | st.builds("!({})".format, inner)
        | st.builds("({} ? {} : {})".format, inner, inner, inner)
    ),
    max_leaves=8,
)
words = st.sampled_from(["GET", "x", "/a/ü", "/a", "", "世"]) | st.text(max_size=3)
activations = st.fixed_dictionaries(
    {},
    optional={
        "request.method": words,
        "request.url_path": words,
        "request.headers": st.dictionaries(st.just("x"), words),
        "request.query_params": st.dictionaries(st.just("x"), st.lists(words, max_size=2)),
        "principal.groups": st.lists(words, max_size=3),
        "target.labels": st.dictionaries(st.just("env"), words),
        "connection.mtls": st.booleans(),
        "risk": st.sampled_from([-1, 0, 40, 2**63 - 1, -(2**63)]),
        "response.code": st.integers(0, 600),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(expressions, min_size=1, max_size=3), activations)
def test_any_plain_condition_is_judged_as_the_engine_judges_it(
    found: list[str], data: dict[str, Any]
) -> None:
    conditions: list[Condition] = [REFERENCE.compile(text) for text in found]
    assert all(translate(condition.syntax) is not None for condition in conditions)
    assert PlainBatch(REFERENCE, conditions).judge(data) == REFERENCE.batch(conditions).judge(data)
