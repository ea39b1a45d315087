"""What is known of a MySQL server's tables, and what views are made of."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from extproc.pipeline.catalogue import FIRST_USER_OID
from extproc.pipeline.mysql_catalogue import (
    MOST_QUESTIONS,
    UNKNOWN_OID,
    MysqlCatalogues,
    Tables,
    TablesReader,
)

Row = tuple[bytes | None, ...]
NOW = 1000.0


def table(schema: str, name: str, *columns: str, generated: Sequence[str] = ()) -> list[Row]:
    return [
        (
            b"a",
            schema.encode(),
            name.encode(),
            column.encode(),
            str(n).encode(),
            b"x" if column in generated else b"",
        )
        for n, column in enumerate(columns, 1)
    ]


def view(schema: str, name: str, text: str, *columns: str) -> list[Row]:
    return [*table(schema, name, *columns), (b"v", schema.encode(), name.encode(), text.encode(), None, None)]


CUSTOMERS = table("shop", "customers", "id", "Email")


def known(*rows: Row) -> Tables:
    made = Tables()
    names = {(str(row[1], "ascii"), str(row[2], "ascii")) for row in rows if row[1] and row[2]}
    made.take(sorted(names), rows, "utf-8", NOW)
    made.define()
    return made


def reader() -> TablesReader:
    return MysqlCatalogues().reader("db", "shop", "app")


def test_only_what_a_statement_names_is_asked_for_and_believed_for_a_second() -> None:
    made = reader()
    made.begin("I")
    question = made.question(["shop.customers"], NOW, checked=False)
    assert question.count("information_schema.COLUMNS") == 1
    assert (
        "customers" not in question
    )  # names are written so that no mode of the server can read them otherwise
    made.answered(CUSTOMERS, "utf-8", NOW, "I")
    assert made.question(["shop.customers"], NOW, checked=True) == ""
    assert made.question(["shop.customers"], NOW + 0.9, checked=False) == ""
    assert made.question(["shop.customers"], NOW + 1.1, checked=False)
    assert made.current.knows("shop.customers")


def test_what_changed_is_looked_for_at_once() -> None:
    made = reader()
    made.begin("I")
    made.question(["shop.customers"], NOW, checked=False)
    made.answered(CUSTOMERS, "utf-8", NOW, "I")
    made.changed(NOW)
    assert made.question(["shop.customers"], NOW + 0.1, checked=False)
    made.answered(table("shop", "customers", "id"), "utf-8", NOW + 0.1, "I")
    assert made.question(["shop.customers"], NOW + 0.1, checked=True) == ""
    (relation,) = made.current.named("shop.customers")
    assert relation.columns == {1: "id"}


def test_a_table_that_is_gone_is_not_known_any_more() -> None:
    made = known(*CUSTOMERS)
    made.take([("shop", "customers")], [], "utf-8", NOW)
    assert not made.knows("shop.customers")
    assert made.place("shop", "customers", "email")[0] == UNKNOWN_OID


def test_views_are_followed_and_no_more_questions_than_some() -> None:
    made = reader()
    made.begin("I")
    asked = 0
    while made.question(["shop.v0"], NOW, checked=False):
        rows = view(
            "shop", f"v{asked}", f"select `shop`.`v{asked + 1}`.`a` AS `a` from `shop`.`v{asked + 1}`", "a"
        )
        made.answered(rows, "utf-8", NOW, "I")
        asked += 1
    assert asked == MOST_QUESTIONS
    (relation,) = made.current.named("shop.v0")
    assert relation.definition is not None  # and the deepest that was not asked for hides what it shows
    (deepest,) = made.current.named(f"shop.v{asked - 1}")
    assert deepest.definition == {}


def test_the_same_answer_changes_nothing() -> None:
    made = known(*CUSTOMERS)
    version = made.version
    made.take([("shop", "customers")], CUSTOMERS, "utf-8", NOW + 5)
    assert made.version == version


@pytest.mark.parametrize(
    ("text", "columns", "origins"),
    [
        ("select `shop`.`customers`.`id` AS `a`,`shop`.`customers`.`Email` AS `b` from `shop`.`customers`", "ab", "12"),
        ("select `c`.`email` AS `a` from `shop`.`customers` `c`", "a", "2"),
        ("select ucase(`shop`.`customers`.`email`) AS `a`,`shop`.`customers`.`id` AS `b` from `shop`.`customers`",
         "ab", "-1"),
        ("select `c`.`email` AS `a` from (`shop`.`customers` `c` join `shop`.`customers` `d`)", "a", "2"),
        ("select `shop`.`customers`.`email` AS `a` from `shop`.`customers` union select 'x' AS `x`", "a", "-"),
        ("select `x`.`e` AS `a` from (select `shop`.`customers`.`email` AS `e` from `shop`.`customers`) `x`", "a", "-"),
        ("with x as (select `shop`.`customers`.`email` AS `b` from `shop`.`customers`) select `x`.`b` AS `a` from `x`",
         "a", "-"),
        ("select 1 AS `a`,`shop`.`customers`.`id` AS `b` from `shop`.`customers`", "ab", "-1"),
        ("select distinct `shop`.`customers`.`id` AS `a` from `shop`.`customers`", "a", "-"),
    ],
)  # fmt: skip
def test_a_views_columns_are_what_they_are_made_of(text: str, columns: str, origins: str) -> None:
    made = known(*CUSTOMERS, *view("shop", "v", text, *columns))
    (customers,) = made.named("shop.customers")
    (relation,) = made.named("shop.v")
    assert relation.definition is not None
    found = [relation.definition[number] for number in sorted(relation.definition)]
    assert [str(column.origin[1]) if column.origin else "-" for column in found] == list(origins)
    everything = {(customers.oid, 1), (customers.oid, 2)}
    assert all(column.origin or everything <= column.reads for column in found)


@pytest.mark.parametrize(
    "text", ["", "select", "select `a`.`b` AS `a` from `a`.`missing`", "select /* /*! ' AS `a`"]
)
def test_a_view_that_cannot_be_read_shows_nothing(text: str) -> None:
    made = known(*CUSTOMERS, *view("shop", "v", text, "a"))
    (relation,) = made.named("shop.v")
    if text:
        assert relation.definition == {}


def test_where_a_result_column_comes_from() -> None:
    made = known(*CUSTOMERS, *table("other", "orders", "id"))
    (customers,) = made.named("shop.customers")
    assert made.place("", "", "") == (0, 0)
    assert made.place("shop", "customers", "EMAIL") == (customers.oid, 2)
    assert made.place("shop", "customers", "phone")[0] == customers.oid  # and no column: hidden
    assert made.place("", "customers", "id") == (
        customers.oid,
        0,
    )  # of a temporary result: any of its columns
    assert made.place("information_schema", "TABLES", "TABLE_NAME")[0] < FIRST_USER_OID
    assert made.place("shop", "orders", "id")[0] == UNKNOWN_OID


def test_generated_columns_read_the_others() -> None:
    made = known(*table("shop", "t", "id", "email", "shouted", generated=["shouted"]))
    (relation,) = made.named("shop.t")
    assert relation.generated == {3: {1, 2}}


def test_what_the_server_never_says_is_an_error() -> None:
    for rows in (
        [(b"a", b"shop", b"t", b"c", b"one", b"")],
        [(b"a",)],
        [(b"a", b"shop", b"t", b"\xff", b"1", b"")],
    ):
        with pytest.raises((ValueError, LookupError)):
            known(*rows) if len(rows[0]) > 2 else Tables().take([], rows, "utf-8", NOW)
