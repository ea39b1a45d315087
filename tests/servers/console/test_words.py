"""How values read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.servers.console.words import flat, laid_out, marked, relative, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (90, "1 min 30 s"), (3600, "1 h"), (7500, "2 h 5 min"), (90061, "1 d 1 h"),
     (-5, "0 s")],
)  # fmt: skip
def test_a_length_of_time_has_two_units(seconds: float, text: str):
    assert span(seconds) == text


def test_times_are_seen_from_now():
    assert relative("2030-01-01T00:01:00.000000Z", 1893456000.0) == "in 1 min"
    assert relative("2029-12-31T23:00:00.000000Z", 1893456000.0) == "1 h ago"


def test_markup_is_text_and_escapes_stand_out():
    assert marked("<b>\\u{202E}&") == '&lt;b&gt;<span class="escape">\\u{202E}</span>&amp;'


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    )
)
def test_laid_out_json_says_the_same(value: object):
    text = json.dumps(value)
    shown = laid_out(text)
    if isinstance(value, dict | list):
        assert json.loads(shown) == value
    else:
        assert shown == ""


@pytest.mark.parametrize(
    "text", ["", "x", "{", "}", '{"a": "b', '{"a": 1}}', "[" * 100 + "]" * 100, '{"a" "', "[1,2", "{]"]
)
def test_what_is_no_json_is_not_laid_out(text: str):
    assert laid_out(text) == ""


def test_every_token_stays_as_it_was_sent():
    assert laid_out('{"a":1.0,"a":1e5,"b":"\\u0041"}') == '{\n  "a": 1.0,\n  "a": 1e5,\n  "b": "\\u0041"\n}'


def test_a_value_reads_as_its_leaves():
    assert list(flat({"a": [1, {"b": None}], "c": True, "d": {}})) == [
        ("a[0]", "1"), ("a[1].b", "null"), ("c", "yes"), ("d", "none"),
    ]  # fmt: skip
