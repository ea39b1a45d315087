"""Only what rules read is handed to the engine, and no rule can tell the difference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.policy.checked import read_expression
from extproc.policy.engine import build_engine
from extproc.policy.facts import variables
from extproc.policy.projection import Paths
from extproc.policy.syntax import reads
from tests.policy.test_both_engines import EXPRESSIONS

ENGINE = build_engine("cel-expr", "http", variables("http"))


def paths_of(expression: str) -> Paths:
    return reads(ENGINE.compile(expression).syntax, variables("http"))["request.json"]


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("request.json.amount > 1", {"amount": 5}),
        ('request.json["amount"] > 1', {"amount": 5}),
        ("request.json.user.name == 'a'", {"user": {"name": "ada"}}),
        ("has(request.json.user.name)", {"user": {"name": "ada"}}),
        ("has(request.json.user)", {"user": {}}),
        ("request.json.items[1].a == 1", {"items": [None, {"a": 2}]}),
        ("request.json.missing == 1", {}),
        ("request.json.amount > 1 && request.json.user.name == 'a'", {"amount": 5, "user": {"name": "ada"}}),
        ("request.json.items.exists(i, i.a == 1)", {"items": [{"a": 1, "b": 1}, {"a": 2}]}),
        ("size(request.json.items) == 2", {"items": [{"a": 1, "b": 1}, {"a": 2}]}),
    ],
)
def test_only_the_paths_that_a_rule_reads_are_kept(expression: str, kept: object) -> None:
    body = {
        "amount": 5,
        "user": {"name": "ada", "iban": "secret"},
        "items": [{"a": 1, "b": 1}, {"a": 2}],
        "rest": ["x"] * 100,
    }
    assert paths_of(expression).keeps(body) == kept


@pytest.mark.parametrize(
    "expression",
    [
        "request.json == null",
        'request.json[request.method] == "x"',
        "request.json.exists(k, k == 'a')",
        '"a" in request.json',
        "size(request.json) > 1",
        "[request.json, 1][0] == 1",
    ],
)
def test_dynamic_use_keeps_the_whole(expression: str) -> None:
    assert paths_of(expression).whole


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "b", "amount", "items", "map", "k", "name", "numbers"]), inner, max_size=5
        )
    ),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [text for text in EXPRESSIONS if "request.json" in text and "request.json ==" not in text]
    ),
    JSON,
)
def test_no_rule_can_tell_the_projection_from_the_whole(expression: str, body: Any) -> None:
    condition = ENGINE.compile(expression)
    batch = ENGINE.batch([condition])
    rest = {"request.method": "POST"}
    whole = batch.judge({**rest, "request.json": body})[0]
    kept = batch.judge({**rest, "request.json": paths_of(expression).keeps(body)})[0]
    if isinstance(whole, bool):
        assert kept is whole
    elif "range" not in whole.reason and "type" not in whole.reason and "failed" not in whole.reason:
        # a number or text elsewhere that the engine has no room for is no longer in the way
        assert kept == whole


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_an_expression_or_a_value_error(data: bytes) -> None:
    try:
        read_expression(data)
    except (ValueError, RecursionError):
        pass


def test_a_cut_expression_is_a_value_error() -> None:
    whole = ENGINE.compile('request.json.a == 1 && request.method in ["GET"]').program.serialize()
    for cut in range(1, len(whole)):
        try:
            read_expression(whole[:cut])
        except ValueError:
            continue
        pytest.fail(f"cut at {cut} was read")
