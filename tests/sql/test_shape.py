"""The normalised text, the fingerprint and the shape that a grant may bind to."""

from __future__ import annotations

import pytest

from extproc.sql import analyze

NORMALISED = {
    "literals": ("select 'a', 1, 1.5e3, 0x1F, b'1', x'F', true, null", "SELECT $1, $2, $3, $4, $5, $6, TRUE, NULL"),
    "escapes": (r"SELECT E'a\'b', U&'\0061', $x$b$x$, 'a''b'", "SELECT $1, $2, $3, $4"),
    "continued": ("SELECT 'a'\n  'b'", "SELECT $1"),
    "negative": ("SELECT -1, - 1", "SELECT -$1, - $2"),
    "after-parameters": ("SELECT $2, 'a', $1", "SELECT $2, $3, $1"),
    "huge-parameter": ("SELECT $99999999999999, 1", None),
    "comments": ("SELECT /* secret */ 1 -- secret\n, 2", "SELECT $1 , $2"),
    "spaces": ("  SELECT\n\t 1  ;", "SELECT $1"),
    "names": ('select Ab, "Ab", öÖ from T', 'SELECT ab, "Ab", öÖ FROM t'),
    "interval": ("SELECT interval '1 day'", "SELECT INTERVAL $1"),
    "cast": ("SELECT '1'::int", "SELECT $1::INT"),
    "password": ("ALTER ROLE bob PASSWORD 'secret'", "ALTER ROLE bob PASSWORD $1"),
    "comment-on": ("COMMENT ON TABLE t IS 'secret'", "COMMENT ON TABLE t IS $1"),
    "set": ("SET a.b = 'secret'", "SET a.b = $1"),
    "do": ("DO $$ secret $$", "DO $1"),
    "copy": ("COPY t FROM '/secret' WITH (DELIMITER ',')", "COPY t FROM $1 WITH (DELIMITER $2)"),
    "function": (
        "CREATE FUNCTION f() RETURNS int AS 'secret' LANGUAGE sql",
        "CREATE FUNCTION f() RETURNS INT AS $1 LANGUAGE SQL",
    ),
    "json-operator": ("SELECT a->>'x' FROM t", "SELECT a->>$1 FROM t"),
    "escape-character-of-a-name": (
        "SELECT * FROM U&\"d!0061\" UESCAPE '!' WHERE a = '!'",
        "SELECT * FROM U&\"d!0061\" UESCAPE '!' WHERE a = $1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "wanted"), NORMALISED.values(), ids=NORMALISED)
def test_normalised_text(sql: str, wanted: str | None) -> None:
    (facts,) = analyze(sql)
    assert "secret" not in facts.normalised
    if wanted is None:
        assert not facts.complete
    else:
        assert facts.normalised == wanted


def test_each_statement_has_its_own() -> None:
    assert [facts.normalised for facts in analyze("SELECT 'größe'; SELECT 2")] == ["SELECT $1", "SELECT $1"]


def test_values_do_not_show_in_the_facts_or_their_repr() -> None:
    secret = "4111111111111111"
    for sql in (
        f"SELECT '{secret}'",
        f"DELETE FROM t WHERE a = {secret}",
        f"DO '{secret}'",
        f"SELEC '{secret}'",
    ):
        for facts in analyze(sql):
            assert secret not in repr(facts)
            assert secret not in facts.normalised + facts.incomplete_reason


def test_equal_structures_have_equal_fingerprints() -> None:
    one, other, third = (
        analyze(sql)[0].fingerprint
        for sql in (
            "SELECT a FROM t WHERE b = 1",
            "select  a from t where b = 'x' -- y",
            "SELECT a FROM u WHERE b = 1",
        )
    )
    assert one == other != third


def test_a_shape_tells_tables_apart_that_a_fingerprint_does_not() -> None:
    one, other = (analyze(f"DELETE FROM t_{year} WHERE id = 1")[0] for year in (2019, 2020))
    assert one.fingerprint == other.fingerprint
    assert one.shape != other.shape


def test_spelling_does_not_change_the_shape() -> None:
    one, other = analyze("delete from T where ID=5"), analyze("DELETE FROM t /* x */ WHERE id=7")
    assert one[0].shape == other[0].shape == "DELETE FROM t WHERE id=$1"


@pytest.mark.parametrize(
    "sql",
    [
        "SET ROLE 'x'",
        "COPY t FROM '/x'",
        "DO $$ x $$",
        "CREATE FUNCTION f() RETURNS int AS 'x' LANGUAGE sql",
        "SELECT pg_read_file('x')",
        "SELECT set_config('role', 'x', false)",
        "SELECT run_sql('x')",
        "EXECUTE p(1)",
        "SELECT a::mood FROM t",
    ],
)
def test_where_a_literal_is_more_than_a_value_there_is_no_shape(sql: str) -> None:
    assert analyze(sql)[0].shape == ""
