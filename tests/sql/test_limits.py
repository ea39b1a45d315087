"""Hostile, broken and oversized texts: never an exception, never a crash, always an answer."""

from __future__ import annotations

import pytest

from extproc.domain.statement import EFFECTS
from extproc.sql import analysis, analyze, limits
from extproc.sql.walk import NOTHING_VOUCHED

LONG = 1_000_000

HOSTILE = {
    "nul": ("SELECT 'a\0b'", "NUL"),
    "nul-hides-the-rest": ("SELECT 1\0; DROP TABLE t", "NUL"),
    "lone-surrogate": ("SELECT '\ud800'", "not valid Unicode"),
    "too-long": ("SELECT '" + "x" * limits.MAX_BYTES + "'", "more than 1048576 bytes"),
    "too-long-in-bytes": ("SELECT '" + "ö" * (limits.MAX_BYTES // 2) + "'", "more than 1048576 bytes"),
    "comments": ("/*" * 300_000, "comments"),
    "nested-comments": ("/*" * 1000 + "*/" * 1000 + "SELECT 1", "comments"),
    "sum": ("SELECT 1" + "+1" * 400_000, "more than"),
    "sum-that-overflows-the-stack": ("SELECT 1" + "+1" * 40_000, "too long"),
    "union": ("SELECT 1" + " UNION ALL SELECT 1" * 20_000, "too long"),
    "casts": ("SELECT 1" + "::int" * 40_000, "too long"),
    "joins": ("SELECT * FROM t" + " JOIN t USING (x)" * 15_000, "too long"),
    "time-zones": ("SELECT a" + " AT TIME ZONE 'x'" * 20_000, "too long"),
    "is-null": ("SELECT a" + " IS NULL" * 40_000, "too long"),
    "collations": ("SELECT a" + ' COLLATE "C"' * 40_000, "too long"),
    "literals-between": ("SELECT 1" + "+'+++'" * 15_000, "too long"),
    "chain-in-brackets": ("SELECT (" * 30 + "1" + "+1" * 4_000 + ")" * 30, "too long"),
    "brackets": ("(" * 500_000, "more than"),
    "brackets-few": ("(" * 30_000, "does not parse"),
    "arrays": ("SELECT " + "ARRAY[" * 5_000 + "1" + "]" * 5_000, "too long"),
    "calls": ("SELECT " + "lower(" * 1_000 + "a" + ")" * 1_000, "nested too deeply"),
    "subqueries": ("SELECT * FROM " + "(SELECT * FROM " * 200 + "t" + ") x" * 200, "nested too deeply"),
    "cases": ("SELECT " + "CASE WHEN a THEN " * 200 + "1" + " END" * 200, "nested too deeply"),
    "not": ("SELECT " + "NOT " * 1_000 + "true", "nested too deeply"),
    "sixty-sums": ("SELECT 1" + "+1" * 60, "nested too deeply"),
    "words": ("SELECT " + ",".join(["a"] * 60_000), "words and signs"),
    "statements": ("SELECT 1;" * 2_100, "statements or"),
    "nodes": ("SELECT " + ",".join(["a[b][c]"] * 16_000), "words and signs"),
    "open-quote": ("SELECT '" + "x" * 900_000, "does not parse"),
    "open-dollar": ("SELECT $a$" + "$b$" * 200_000, "does not parse"),
    "dollars": ("$" * 90_000, "does not parse"),
    "slashes": ("/" * 900_000, "does not parse"),
    "operators": ("SELECT a " + "@" * 900_000 + " b", "does not parse"),
    "bad-escape": (r"SELECT U&'\zzzz'", "does not parse"),
    "bad-surrogate-escape": (r"SELECT U&'\d800'", "does not parse"),
    "bad-bytes-escape": (r"SELECT E'\xff'", "does not parse"),
}

HARMLESS = {
    "quotes": "SELECT " + "''" * 400_000,
    "spaces": "SELECT 1" + " " * LONG,
    "flat-list": "SELECT 1 WHERE 1 IN (" + ",".join(["1"] * 40_000) + ")",
    "many-rows": "INSERT INTO t VALUES " + ",".join(["(1, 'abc', -5)"] * 8_000),
    "long-literal": "INSERT INTO t VALUES ('" + "[-+" * 300_000 + "')",
    "long-literal-of-comment-ends": "SELECT '" + "*/ " * 300_000 + "'",
    "many-ands": "SELECT 1 FROM t WHERE a" + " AND a" * 900,
    "many-statements": "SELECT 1;" * 1_900,
    "thirty-sums": "SELECT 1" + "+1" * 30,
    "fifteen-subqueries": "SELECT * FROM " + "(SELECT * FROM " * 15 + "t" + ") x" * 15,
    "brackets": "SELECT " + "(" * 200 + "1" + ")" * 200,
    "many-minus": "INSERT INTO t VALUES " + ",".join(["(-1, '2024-01-01')"] * 9_000),
}


@pytest.mark.parametrize(("sql", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_incomplete(sql: str, reason: str) -> None:
    found = analyze(sql)
    assert not found[0].complete
    assert reason in found[0].incomplete_reason
    assert found[0].effects == EFFECTS


@pytest.mark.parametrize("sql", HARMLESS.values(), ids=HARMLESS)
def test_large_texts_that_are_not_deep_are_understood(sql: str) -> None:
    assert all(facts.complete for facts in analyze(sql)), analyze(sql)[0].incomplete_reason


def test_the_parser_never_sees_a_text_that_may_crash_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_: str) -> None:
        raise AssertionError("the parser was called")

    monkeypatch.setattr("postgast.parse", parse)
    chains = [name for name, (_, reason) in HOSTILE.items() if "too long" in reason or "more than" in reason]
    assert len(chains) > 10
    for name in chains:
        assert "AssertionError" not in analyze(HOSTILE[name][0])[0].incomplete_reason


def test_trouble_of_our_own_is_incomplete_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_: str) -> None:
        raise MemoryError

    monkeypatch.setattr("postgast.parse", parse)
    (facts,) = analysis._analyze("SELECT 'trouble of our own'", NOTHING_VOUCHED)
    assert not facts.complete
    assert facts.incomplete_reason == "the statement could not be analysed (MemoryError)"


def test_the_cache_is_bounded_and_long_texts_stay_out() -> None:
    analysis.cache_clear()
    for number in range(analysis.CACHED_TEXTS + 10):
        analyze(f"SELECT {number}")
    assert analysis._cached.cache_info().currsize == analysis.CACHED_TEXTS
    analysis.cache_clear()
    analyze("SELECT '" + "x" * analysis.CACHED_CHARACTERS + "'")
    assert analysis._cached.cache_info().currsize == 0


def test_equal_texts_share_their_facts() -> None:
    assert analyze("SELECT 'shared'") is analyze("SELECT " + "'shared'")
