"""What hides or moves text is spelled out, and no two texts look alike afterwards."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.display import INVISIBLE, escape_for_display, escape_json, escape_unprintable

texts = st.text(st.characters(categories=None) | st.sampled_from("\x1b\u202e\u200b\\u{}AE20"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, naïve, 日本語, 🙂", "plain text, naïve, 日本語, 🙂"),
        ("\x1b[31mred", "\\u{1B}[31mred"),
        ("a\x00b\x07c\x7fd\x9be", "a\\u{0}b\\u{7}c\\u{7F}d\\u{9B}e"),
        ("line\nline\rline\ttab", "line\\u{A}line\\u{D}line\\u{9}tab"),
        ("pay\u202eeno\u202c", "pay\\u{202E}eno\\u{202C}"),
        ("\u2066iso\u2069", "\\u{2066}iso\\u{2069}"),
        ("ad\u200bmin ad\u00admin", "ad\\u{200B}min ad\\u{AD}min"),
        ("ad\ufeffmin ad\u2060min", "ad\\u{FEFF}min ad\\u{2060}min"),
        ("no\u00a0break em\u2003space", "no\\u{A0}break em\\u{2003}space"),
        ("line\u2028sep para\u2029sep", "line\\u{2028}sep para\\u{2029}sep"),
        ("tag\U000e0041 var\ufe0f", "tag\\u{E0041} var\\u{FE0F}"),
        ("hangul\u3164 braille\u2800", "hangul\\u{3164} braille\\u{2800}"),
        ("\ud800", "\\u{D800}"),
        ("literal \\u{202E}", "literal \\u{5C}u{202E}"),
        ("back\\slash \\n \\u0041", "back\\slash \\n \\u0041"),
    ],
)  # fmt: skip
def test_each_is_spelled_out(text: str, shown: str):
    assert escape_for_display(text) == shown


def test_lines_and_tabs_stay_where_lines_are_wanted():
    assert escape_for_display("a\n\tb\r\x0b", multiline=True) == "a\n\tb\\u{D}\\u{B}"


def test_no_character_of_a_hiding_kind_is_left_anywhere_in_unicode():
    hiding = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) in hiding or (unicodedata.category(char) == "Zs" and char != " "):
            assert escape_for_display(char) == f"\\u{{{code:X}}}"
        elif code not in INVISIBLE:
            assert escape_for_display(char) == char


@given(texts)
def test_what_comes_out_is_printable(text: str):
    shown = escape_for_display(text)
    assert shown.isprintable()
    assert not INVISIBLE & set(map(ord, shown))
    shown.encode()


@given(texts, texts)
def test_different_texts_look_different(one: str, two: str):
    assert (escape_for_display(one) == escape_for_display(two)) == (one == two)


@given(texts)
def test_a_second_channel_changes_nothing_more(text: str):
    assert escape_unprintable(escape_for_display(text)) == escape_for_display(text)


def test_json_values_are_escaped_through_and_through():
    value = {"a\x1b": ["\u202e", {"b": ("\x00", 1, 1.5, None, True)}], 7: "ok"}
    assert escape_json(value) == {
        "a\\u{1B}": ["\\u{202E}", {"b": ["\\u{0}", 1, 1.5, None, True]}], "7": "ok",
    }  # fmt: skip
