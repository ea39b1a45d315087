"""What an approver is told about the last one of the same kind."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.comparison import differences, kind_of


def payment(body: str, *, query: Any = None, headers: Any = (("accept", "*/*"),)) -> dict[str, Any]:
    return {
        "facts": {"protocol": "http", "target": "api", "method": "POST", "host": "bank", "path": "/payments",
                  "risk": [{"rule": "r", "risk": len(body)}], "reason": "twice"},
        "normalised": {"url_path": "/payments", "query": query or {}},
        "raw": {"path": f"/payments?{query}", "headers": [list(pair) for pair in headers], "body": body},
        "truncated": False,
    }  # fmt: skip


def statement(text: str, *parameters: str | None, role: str = "writer") -> dict[str, Any]:
    return {
        "facts": {"protocol": "postgres", "verbs": ["DELETE"], "role": role, "in_transaction": False},
        "normalised": {"statements": ["DELETE FROM orders WHERE id = $1"]},
        "raw": {"text": text, "parameters": list(parameters)},
        "truncated": False,
    }


def told(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    return [(d.where, d.before, d.now) for d in differences(before, now)]


def test_values_of_a_json_body_are_told_by_their_place():
    before = payment('{"amount": 10, "to": {"iban": "DE1"}, "tags": ["a"]}')
    now = payment('{"to": {"iban": "DE2", "name": "X"}, "amount": 5000, "tags": ["a", "b"]}')
    assert told(before, now) == [
        ("body.to.iban", '"DE1"', '"DE2"'),
        ("body.to.name", None, '"X"'),
        ("body.amount", "10", "5000"),
        ("body.tags[1]", None, '"b"'),
    ]


def test_what_we_think_of_it_is_no_difference():
    assert told(payment('{"a": 1}'), payment('{ "a":1 }')) == []


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ('{"a": 1}', '{"a": "1"}', [("body.a", "1", '"1"')]),
        ('{"a": 1.0}', '{"a": 1.00}', [("body.a", "1.0", "1.00")]),
        ('{"a": 1}', "plain", [("body", None, '"plain"'), ("body.a", "1", None)]),
        ('{"a":1,"a":2}', '{"a":3,"a":2}', [("body", '"{\\"a\\":1,\\"a\\":2}"', '"{\\"a\\":3,\\"a\\":2}"')]),
        ("[]", "[null]", [("body[0]", None, "null"), ("body", "[]", None)]),
        ("[" * 5000, "]" * 10, [("body", json.dumps("[" * 5000)[:500] + "…", json.dumps("]" * 10))]),
        ('{"a.b": 1}', '{"a": {"b": 1}}', [("body.a.b", None, "1"), ('body["a.b"]', "1", None)]),
        ('{"a": NaN}', '{"a": null}', [("body.a", "NaN", "null")]),
    ],
)  # fmt: skip
def test_odd_bodies_hide_nothing(before: str, now: str, expected: Any):
    assert told(payment(before), payment(now)) == expected


def test_queries_and_headers_are_told_once():
    before = payment("", query={"dry": ["1"]}, headers=[("accept", "a"), ("accept", "b")])
    now = payment("", headers=[("accept", "a"), ("x-run", "1")])
    assert told(before, now) == [
        ("query", None, "{}"),
        ("headers.accept", '"a, b"', '"a"'),
        ("headers.x-run", None, '"1"'),
        ("query.dry[0]", '"1"', None),
    ]


def test_a_statement_s_text_parameters_and_role_are_told():
    before, now = (
        statement("DELETE FROM orders WHERE id = $1", "7"),
        statement("delete /**/ x", None, role="o"),
    )
    assert told(before, now) == [
        ("role", '"writer"', '"o"'),
        ("text", '"DELETE FROM orders WHERE id = $1"', '"delete /**/ x"'),
        ("parameters[0]", '"7"', "null"),
    ]


def test_of_one_kind_are_statements_of_one_shape_and_requests_to_one_place():
    assert kind_of(statement("a")) == kind_of(statement("b", "1"))
    assert kind_of(payment("a")) == kind_of(payment("b", query={"x": ["1"]}))
    assert kind_of(payment("a")) != kind_of(statement("a"))
    other = payment("a")
    other["facts"]["method"] = "PUT"
    assert kind_of(other) != kind_of(payment("a"))


@pytest.mark.parametrize("view", [{}, {"facts": 1, "normalised": None}, {"normalised": {"statements": []}}])
def test_a_view_without_facts_is_of_no_kind(view: dict[str, Any]):
    assert kind_of(view) is None
    assert differences(view, view) == []


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values, values)
def test_bodies_differ_exactly_when_their_values_do(before: Any, now: Any):
    found = differences(payment(json.dumps(before)), payment(json.dumps(now)))
    assert (found == []) == (json.dumps(before, sort_keys=True) == json.dumps(now, sort_keys=True))
    assert all(each.before != each.now for each in found)
