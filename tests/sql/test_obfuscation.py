"""However it is written, it is the same statement; and what looks like one but is a literal is none."""

from __future__ import annotations

import pytest

from extproc.sql import analyze

DELETES = {
    "case": "dElEtE fRoM Users",
    "line-comment": "DELETE -- x\nFROM users",
    "comment": "DELETE/**/FROM/* DROP */users",
    "nested-comment": "DELETE /* a /* b */ ; SELECT */ FROM users",
    "comment-in-front": "/* SELECT */ -- SELECT\nDELETE FROM users",
    "tabs-and-newlines": "DELETE\t\r\n\f\vFROM\nusers",
    "quoted-name": 'DELETE FROM "users"',
    "unicode-name": r'DELETE FROM U&"\0075sers"',
    "unicode-name-own-escape": "DELETE FROM U&\"@0075sers\" UESCAPE '@'",
    "unicode-name-long": r'DELETE FROM U&"\+000075sers"',
    "only-and-star": "DELETE FROM ONLY (users)",
    "alias": 'DELETE FROM users AS "SELECT"',
    "semicolons": ";;DELETE FROM users;;",
    "after-a-literal": "DELETE FROM users WHERE $tag$;$tag$ = ';'",
}
LITERALS = {
    "single-quotes": "SELECT '; DELETE FROM users --'",
    "doubled-quotes": "SELECT 'it''s; DELETE FROM users'",
    "backslash-is-plain": r"SELECT 'a\', 'b; DELETE FROM users; --'",
    "escape-string": r"SELECT E'a\'; DELETE FROM users; --'",
    "dollar": "SELECT $$; DELETE FROM users; $$",
    "dollar-with-tag": "SELECT $a$ $$; DELETE FROM users $$ $a$",
    "unicode-string": r"SELECT U&'\003B DELETE FROM users'",
    "continued": "SELECT 'a'\n'; DELETE FROM users'",
    "bits": "SELECT B'101', X'1F'",
    "national": "SELECT N'; DELETE FROM users'",
    "quoted-identifier": 'SELECT 1 AS "; DELETE FROM users"',
    "comment": "SELECT 1 /* ; DELETE FROM users */ -- ; DELETE",
    "nested-comment": "SELECT 1 /* /* */ ; DELETE FROM users */",
}
SEVERAL = {
    "two": ("SELECT 1; DELETE FROM users", ["SELECT", "DELETE"]),
    "after-escape-string": (r"SELECT E'\\'; DELETE FROM users", ["SELECT", "DELETE"]),
    "after-plain-backslash": (r"SELECT '\'; DELETE FROM users", ["SELECT", "DELETE"]),
    "after-comment": ("SELECT 1 /* /* */ */; DELETE FROM users", ["SELECT", "DELETE"]),
    "after-unicode-string": (r"SELECT U&'\0027'; DELETE FROM users", ["SELECT", "DELETE"]),
    "after-dollar": ("SELECT $a$b$a$; DELETE FROM users", ["SELECT", "DELETE"]),
    "after-quoted-identifier": ('SELECT 1 AS "a""b"; DELETE FROM users', ["SELECT", "DELETE"]),
    "no-break-space-is-a-letter": ("SELECT 1 AS a\u00a0b; DELETE FROM users", ["SELECT", "DELETE"]),
    "rule-with-several": ("CREATE RULE r AS ON INSERT TO t DO (DELETE FROM u; SELECT 1); COMMIT", ["CREATE", "COMMIT"]),
}  # fmt: skip


PAIRS = {
    "ordinality": "SELECT * FROM unnest($1::int[]) WITH/**/ORDINALITY u(v)",
    "not-in": "SELECT 1 FROM t WHERE a NOT /* x */ IN (1)",
    "nulls-first": "SELECT 1 FROM t ORDER BY a NULLS -- x\n FIRST",
    "time-zone": "SELECT a::timestamp WITH /* x */ TIME ZONE FROM t",
    "escape": "SELECT * FROM U&\"d!0061ta\" /* x */ UESCAPE /* y */ '!'",
}


@pytest.mark.parametrize("sql", PAIRS.values(), ids=PAIRS)
def test_a_comment_within_a_pair_of_words_changes_nothing(sql: str) -> None:
    assert analyze(sql)[0].effects == ("read",)


@pytest.mark.parametrize("sql", DELETES.values(), ids=DELETES)
def test_a_delete_in_any_dress(sql: str) -> None:
    (facts,) = analyze(sql)
    assert (facts.verb, facts.effects, facts.tables_written) == ("DELETE", ("write",), ("users",))
    assert not facts.has_where


@pytest.mark.parametrize("sql", LITERALS.values(), ids=LITERALS)
def test_a_literal_is_no_statement(sql: str) -> None:
    (facts,) = analyze(sql)
    assert (facts.verb, facts.effects, facts.complete) == ("SELECT", ("read",), True)
    assert "DELETE" not in facts.normalised.replace('"; DELETE FROM users"', "")


@pytest.mark.parametrize(("sql", "verbs"), SEVERAL.values(), ids=SEVERAL)
def test_several_statements_are_told_apart(sql: str, verbs: list[str]) -> None:
    found = analyze(sql)
    assert [facts.verb for facts in found] == verbs
    assert {facts.statements for facts in found} == {len(verbs)}


def test_ranges_are_bytes_of_utf8() -> None:
    text = "SELECT 'größe';  DELETE FROM größe ; SELECT 1"
    raw = text.encode()
    parts = [raw[facts.start : facts.end].decode().strip() for facts in analyze(text)]
    assert parts == ["SELECT 'größe'", "DELETE FROM größe", "SELECT 1"]


def test_look_alike_letters_are_other_names() -> None:
    (facts,) = analyze("SELECT * FROM u\u0455ers")  # a Cyrillic letter
    assert facts.tables_read == ("u\u0455ers",)
    assert not analyze("\uff33ELECT 1")[0].complete  # a full-width S


def test_backslashes_are_ambiguous_where_the_server_reads_them_otherwise() -> None:
    hidden = r"SELECT '\'; DELETE FROM users; --'"
    assert [facts.verb for facts in analyze(hidden)] == ["SELECT", "DELETE"]
    (facts,) = analyze(hidden, standard_strings=False)
    assert not facts.complete
    assert "standard_conforming_strings" in facts.incomplete_reason
    assert analyze("SELECT 'a'", standard_strings=False)[0].complete
