"""Laws that hold for any text: Hypothesis writes them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import postgast
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.domain.statement import EFFECTS, VERBS, StatementFacts
from extproc.sql import analyze
from tests.sql.test_statements import TABLE

_WORDS = """
SELECT FROM WHERE DELETE UPDATE SET INSERT INTO VALUES WITH AS ( ) [ ] , ; * . a t users 1 'x' $1 $$ /* */ -- UNION
ALL JOIN ON = + - :: int CASE WHEN THEN END NOT AND OR ORDER BY lower EXPLAIN ANALYZE COPY TO PROGRAM DO EXECUTE
PREPARE " E'\\' U& é
"""
WORDS = st.sampled_from([*_WORDS.split(), "\n", "\x00"])
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(WORDS, max_size=40).map(" ".join),
    st.lists(WORDS, max_size=40).map("".join),
    st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)
STATEMENTS = st.sampled_from([sql for sql, _, _ in TABLE.values() if ";" not in sql and sql])
SPACE = st.sampled_from(
    [" ", "\n", "\t ", " /* x */ ", " /* /* ' */ */ ", " -- ' ; DROP TABLE x\n", "\r\n\f\v"]
)


def check(found: tuple[StatementFacts, ...]) -> None:
    """What is true of the facts of any text."""
    assert found
    for facts in found:
        assert facts.verb in VERBS
        assert set(facts.verbs) <= set(VERBS)
        assert list(facts.effects) == sorted(set(facts.effects))
        assert set(facts.effects_seen) <= set(facts.effects) <= set(EFFECTS)
        assert set(facts.columns_used) <= set(facts.columns)
        assert facts.complete is (facts.incomplete_reason == "")
        assert facts.complete or (facts.effects == EFFECTS and not facts.has_where and not facts.shape)
        assert 0 <= facts.start <= facts.end


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_any_text_gives_facts(text: str) -> None:
    found = analyze(text)
    check(found)
    check(analyze(text, standard_strings=False))


@given(st.sampled_from([sql for sql, _, _ in TABLE.values()]), st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_statement_gives_facts(sql: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(sql)))
    junk = data.draw(st.one_of(st.text(max_size=5), WORDS))
    cut = data.draw(st.integers(0, 5))
    check(analyze(sql[:at] + junk + sql[at + cut :]))


@given(STATEMENTS, SPACE, SPACE, st.booleans())
@settings(max_examples=300, deadline=None)
def test_spaces_comments_and_capitals_change_nothing(sql: str, space: str, front: str, swap: bool) -> None:
    tokens = postgast.scan(sql).tokens
    raw = sql.encode()
    parts = []
    for token in tokens:
        part = raw[token.start : token.end].decode()
        parts.append(part.swapcase() if swap and token.keyword_kind else part)
    if re.search(r"OPERATOR|U&", sql):  # the parts of these are one word to the lexer
        return
    written = front + space.join(parts)
    plain, dressed = analyze(sql)[0], analyze(written)[0]
    ignored: dict[str, Any] = {"start": 0, "end": 0, "normalised": "", "fingerprint": "", "copy": None}
    assert replace(dressed, **ignored) == replace(plain, **ignored)
    assert dressed.fingerprint == plain.fingerprint
    assert dressed.normalised.replace(" ", "") == plain.normalised.replace(" ", "")


@given(st.lists(STATEMENTS, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_statements_together_are_what_they_are_alone(parts: list[str]) -> None:
    together = analyze(";\n".join(parts))
    alone = [analyze(part)[0] for part in parts]
    same: dict[str, Any] = {"statements": 0, "start": 0, "end": 0}
    assert [replace(facts, **same) for facts in together] == [replace(facts, **same) for facts in alone]


@given(STATEMENTS)
@settings(max_examples=150, deadline=None)
def test_wrapping_never_hides_an_effect(sql: str) -> None:
    plain = analyze(sql)[0]
    for wrapped in (f"EXPLAIN ANALYZE {sql}", f"PREPARE p AS {sql}", f"WITH x AS ({sql}) SELECT 1"):
        (facts, *_) = analyze(wrapped)
        assert set(facts.effects) >= set(plain.effects)
        assert facts.complete is False or set(facts.tables_written) >= set(plain.tables_written)
