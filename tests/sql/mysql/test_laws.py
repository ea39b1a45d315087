"""Laws that hold for any text: Hypothesis writes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.domain.statement import EFFECTS, VERBS, StatementFacts
from extproc.sql.mysql import Session, TextFacts, analyze
from extproc.sql.mysql.analysis import MAX_BYTES, MAX_STATEMENTS
from extproc.sql.mysql.shape import literals
from extproc.sql.mysql.tokens import tokenize
from tests.sql.mysql.servers import MARIADB, MYSQL, one
from tests.sql.mysql.test_statements import EXPRESSIONS, INCOMPLETE, TABLE

_WORDS = """
SELECT FROM WHERE DELETE UPDATE SET INSERT INTO VALUES WITH AS ( ) , ; * . a t users 1 'x' ? @v @@x /* */ /*! /*!50000
-- # UNION ALL JOIN ON = + - :: CASE WHEN THEN END NOT AND OR ORDER BY GROUP lower EXPLAIN ANALYZE PREPARE EXECUTE CALL
DO HANDLER LOAD USE SHOW KILL " ` E'\\' é x'41' 0x1 CREATE TABLE VIEW TRIGGER BEGIN LIKE IN INTERVAL DAY CAST LIMIT
"""
WORDS = st.sampled_from([*_WORDS.split(), "\n", "\x00"])
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(WORDS, max_size=40).map(" ".join),
    st.lists(WORDS, max_size=40).map("".join),
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)
SESSIONS = st.sampled_from(
    [MARIADB, MYSQL, Session(), MARIADB.with_mode("ANSI,NO_BACKSLASH_ESCAPES"), MYSQL.with_charset("latin1")]
)
SOURCES = [sql for sql, _, _ in TABLE.values()]
STATEMENTS = st.sampled_from([sql for sql in SOURCES if sql and ";" not in sql])
SPACE = st.sampled_from([" ", "\n", "\t ", " /* ' ; */ ", " -- ' ; DROP TABLE x\n", " # ; \n", "\r\n\f\v"])


def check(found: TextFacts) -> None:
    """What is true of the facts of any text."""
    assert found.facts
    assert len(found.facts) == len(found.after)
    for facts in found.facts:
        assert facts.verb in VERBS
        assert set(facts.verbs) <= set(VERBS)
        assert list(facts.effects) == sorted(set(facts.effects))
        assert set(facts.effects_seen) <= set(facts.effects) <= set(EFFECTS)
        assert set(facts.columns_used) <= set(facts.columns)
        assert facts.complete is (facts.incomplete_reason == "")
        assert facts.complete or (facts.effects == EFFECTS and not facts.has_where and not facts.shape)
        assert facts.verb or not facts.complete or facts == StatementFacts(statements=0, end=facts.end)
        assert 0 <= facts.start <= facts.end


@given(TEXTS, SESSIONS)
@settings(max_examples=400, deadline=None)
def test_any_text_gives_facts(text: str | bytes, session: Session) -> None:
    check(analyze(text, session))


@given(st.sampled_from([*SOURCES, *INCOMPLETE.values()]), st.data(), SESSIONS)
@settings(max_examples=300, deadline=None)
def test_a_damaged_statement_gives_facts(sql: str, data: st.DataObject, session: Session) -> None:
    at = data.draw(st.integers(0, len(sql)))
    junk = data.draw(st.one_of(st.text(max_size=5), WORDS))
    cut = data.draw(st.integers(0, 5))
    check(analyze(sql[:at] + junk + sql[at + cut :], session))


@given(STATEMENTS, SPACE, SPACE, st.booleans())
@settings(max_examples=200, deadline=None)
def test_spaces_comments_and_capitals_change_nothing(sql: str, space: str, front: str, swap: bool) -> None:
    parts = []
    tokens = tokenize(sql, MARIADB)
    for token, follows in zip(tokens, [*tokens[1:], None], strict=True):
        part = sql[token.start : token.end]
        parts.append(part.swapcase() if swap and token.word else part)
        joined = follows is not None and not follows.is_apart and (
            follows.is_sign("(", ".") or token.is_sign(".", "@@") or follows.kind == "variable"
        )  # fmt: skip
        parts.append("" if joined or follows is None else space)
    plain, dressed = one(sql), one(front + "".join(parts))
    ignored: dict[str, Any] = {"start": 0, "end": 0, "normalised": ""}
    assert replace(dressed, **ignored) == replace(plain, **ignored)
    assert dressed.normalised.replace(" ", "") == plain.normalised.replace(" ", "")


@given(
    st.lists(
        STATEMENTS.filter(lambda sql: not sql.startswith(("USE", "CALL", "CREATE", "ALTER"))),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=100, deadline=None)
def test_statements_together_are_what_they_are_alone(parts: list[str]) -> None:
    together = analyze(";\n".join(parts), MARIADB).facts
    same: dict[str, Any] = {"statements": 0, "start": 0, "end": 0}
    assert [replace(facts, **same) for facts in together] == [replace(one(part), **same) for part in parts]


@given(STATEMENTS)
@settings(max_examples=150, deadline=None)
def test_wrapping_never_hides_an_effect(sql: str) -> None:
    plain = one(sql)
    quoted = sql.replace("\\", "\\\\").replace("'", "''")
    for wrapped in (
        f"/*! {sql} */",
        sql if sql.startswith("TABLE") else f"ANALYZE {sql}",
        f"PREPARE p FROM '{quoted}'",
        f"EXECUTE IMMEDIATE '{quoted}'",
    ):
        facts = one(wrapped)
        assert set(facts.effects) >= set(plain.effects)
        assert facts.complete is False or set(facts.tables_written) >= set(plain.tables_written)


@given(st.sampled_from(EXPRESSIONS), st.sampled_from(["SELECT {} FROM t", "DELETE FROM t WHERE {}", "DO {}"]))
@settings(max_examples=100, deadline=None)
def test_every_column_of_an_expression_is_found(expression: str, around: str) -> None:
    sql = around.format(expression) + (" WINDOW w1 AS (PARTITION BY a)" if "w1" in expression else "")
    facts = one(sql)
    names = {
        token.value for token in tokenize(expression.replace("@@a", ""), MARIADB) if token.word in ("A", "B")
    }
    assert not facts.complete or names <= {name.split(".")[-1] for name in facts.columns}


def test_normalised_text_shape_and_literals() -> None:
    sql = "select  A, 'x' from T where b = ? and c in (1, 0x1F) -- d"
    facts = one(sql)
    assert facts.normalised == "SELECT a, ?2 FROM t WHERE b = ?1 AND c IN (?3, ?4)"
    assert facts.shape == facts.normalised
    assert literals(tokenize(sql, MARIADB), sql) == {"?2": "'x'", "?3": "1", "?4": "0x1F"}
    assert one("SET @a = 1").shape == ""
    assert one("SELECT f(1)").shape == ""


def test_fingerprints_leave_literals_and_the_length_of_lists_out() -> None:
    same = [
        "INSERT INTO t VALUES (1, 'a')",
        "insert into t values (2, ?), (3, 0x1)",
        "INSERT INTO t VALUES (1), (2), (3) /* x */",
    ]
    assert len({one(sql).fingerprint for sql in same}) == 1
    assert one("INSERT INTO u VALUES (1)").fingerprint != one(same[0]).fingerprint
    assert one("SELECT 1 IN (1, 2, 3)").fingerprint == one("SELECT 5 IN (4)").fingerprint


LARGE = {
    "bytes": "SELECT '" + "x" * MAX_BYTES + "'",
    "brackets": "SELECT " + "(" * 500 + "1" + ")" * 500,
    "brackets-in-from": "SELECT 1 FROM " + "(" * 500 + "t" + ")" * 500,
    "subqueries": "SELECT " + "(SELECT " * 100 + "1" + ")" * 100,
    "not": "SELECT " + "NOT " * 5_000 + "1",
    "minus": "SELECT " + "- " * 5_000 + "1",
    "case": "SELECT " + "CASE WHEN 1 THEN " * 500 + "1" + " END" * 500,
    "functions": "SELECT " + "lower(" * 500 + "1" + ")" * 500,
    "statements": "SELECT 1;" * (MAX_STATEMENTS + 1),
    "words": "SELECT " + "1," * 60_000 + "1",
    "immediate": "EXECUTE IMMEDIATE 'EXECUTE IMMEDIATE ''EXECUTE IMMEDIATE ''''SELECT 1'''''''",
    "open-brackets": "SELECT " + "(" * 20_000,
    "open-subqueries": "SELECT * FROM " + "(SELECT * FROM " * 5_000,
    "columns": "SELECT " + "a.b," * 10_000 + "c",
}


@pytest.mark.parametrize("sql", LARGE.values(), ids=LARGE)
def test_what_is_too_large_or_too_deep_is_incomplete(sql: str) -> None:
    found = analyze(sql, MARIADB)
    check(found)
    assert not found.facts[0].complete or "IMMEDIATE" in sql


def test_many_rows_and_long_lists_are_read() -> None:
    rows = ", ".join(f"({number}, 'name {number}', NULL, {number}.5)" for number in range(2_000))
    assert one(f"INSERT INTO t VALUES {rows}").effects == ("write",)
    assert one(f"SELECT a FROM t WHERE b IN ({', '.join(map(str, range(5_000)))})").complete
    assert one("SELECT 1" + " + 1" * 500).complete
    assert one("SELECT 1 FROM t WHERE a = 1" + " OR a = 2" * 500).complete
    assert one("SELECT " + "(" * 15 + "1" + ")" * 15).complete


FOLLOWED = {
    "SET sql_mode = 'ANSI_QUOTES'": MARIADB.with_mode("ANSI_QUOTES"),
    "SET SESSION sql_mode = ANSI": MARIADB.with_mode("ANSI"),
    "SET @@session.sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES'": MARIADB.with_mode(
        "NO_BACKSLASH_ESCAPES"
    ),
    "SET sql_mode = 'STRICT_ALL_TABLES'": MARIADB,
    "SET NAMES latin1": MARIADB.with_charset("latin1"),
    "SET character_set_client = 'cp949'": None,
    "SET NAMES utf8mb3": MARIADB,
    "SET NAMES gbk": None,
    "SET NAMES DEFAULT": None,
    "SET sql_mode = DEFAULT": None,
    "USE other": replace(MARIADB, database="other"),
    "EXECUTE IMMEDIATE 'SET NAMES latin1'": None,
    "SET STATEMENT sql_mode = 'ANSI' FOR SELECT 1": None,
    "BEGIN NOT ATOMIC SET NAMES gbk; END": None,
    "EXECUTE p": None,
    "garbage": None,
}


@pytest.mark.parametrize(("sql", "session"), FOLLOWED.items())
def test_changes_of_the_session_are_followed_or_not_understood(sql: str, session: Session | None) -> None:
    found = analyze(sql, MARIADB)
    assert found.facts[0].complete is (session is not None)
    assert found.after == (session or replace(MARIADB, readable=False),)


def test_another_reading_is_followed_only_where_it_stands_alone() -> None:
    found = analyze("SET sql_mode = 'ANSI_QUOTES'; SELECT \"a\" FROM t", MARIADB)
    assert [facts.complete for facts in found.facts] == [False, False]
    assert [session.readable for session in found.after] == [False, False]
    ansi = analyze("SET sql_mode = 'ANSI_QUOTES'", MARIADB).after[0]
    assert one('SELECT "a" FROM t', ansi).columns == ("shop.t.a",)
    assert one('SELECT "a" FROM t').columns == ()


def test_what_is_not_understood_but_changes_no_reading_leaves_the_session() -> None:
    found = analyze("SELECT * FROM JSON_TABLE('[]', '$' COLUMNS (a int PATH '$')) x; SELECT 1", MARIADB)
    assert [facts.complete for facts in found.facts] == [False, True]
    assert found.after == (MARIADB, MARIADB)


def test_a_procedure_may_leave_another_database() -> None:
    found = analyze("CALL p(); SELECT * FROM t", MARIADB)
    assert [facts.complete for facts in found.facts] == [True, False]
    assert not found.after[0].readable
    (alone,) = analyze("CALL p()", MARIADB).facts
    assert alone.effects == ("unknown_function",)
