"""What stays of a request when its values are taken out, and which of them can be pinned."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.principal import Principal
from extproc.domain.request import Headers, RequestHead
from extproc.domain.statement import Statement, StatementKind
from extproc.domain.terms import Shape
from extproc.pipeline.facts import HttpFacts
from extproc.pipeline.parameters import read_parameter
from extproc.pipeline.shapes import MAX_VALUES, http_shape
from extproc.pipeline.statement_shapes import statement_shape
from extproc.protocols.http.head import read_request_line
from extproc.sql import analyze
from extproc.sql.dialects import analyze as analyze_any
from extproc.sql.shape import literals, normalise
from tests.support.governed import NOW, governance

KEY = b"k" * 32
ALICE = Principal("https://issuer", "alice", "agent", "alice")
BOB = Principal("https://issuer", "bob", "agent", "bob")


def sql(
    text: str,
    *parameters: str | None,
    who: Principal = ALICE,
    target: str = "db",
    where: tuple[str, ...] = ("shop", "app", "app_owner"),
    transaction: str = "I",
    rules: str = "r",
    kind: StatementKind | None = None,
    type_oid: int = 25,
) -> Shape | None:
    values = tuple(
        read_parameter(type_oid, 0, None if value is None else value.encode(), "utf-8")
        for value in parameters
    )
    statement = Statement(text, analyze(text), values, kind or ("bound" if parameters else "simple"))
    return statement_shape(KEY, who, target, where, statement, transaction, rules)


def of(shape: Shape | None) -> Shape:
    assert shape is not None
    return shape


PAY = "DELETE FROM payments WHERE id = 5 AND state = 'open'"

SAME = {
    "literals": "DELETE FROM payments WHERE id = 99 AND state = 'x'",
    "words-and-comments": "delete  from payments -- now\n where id = 5 and state = 'open';",
}
OTHER = {
    "another-table": "DELETE FROM refunds WHERE id = 5 AND state = 'open'",
    "another-condition": "DELETE FROM payments WHERE id = 5 OR state = 'open'",
    "without-a-condition": "DELETE FROM payments WHERE id = 5",
    "a-keyword-for-a-value": "DELETE FROM payments WHERE id = 5 AND state = NULL",
    "a-column-for-a-value": "DELETE FROM payments WHERE id = 5 AND state = state",
    "a-function-for-a-value": "DELETE FROM payments WHERE id = 5 AND state = lower('open')",
    "quoted-otherwise": "DELETE FROM \"Payments\" WHERE id = 5 AND state = 'open'",
    "more-values": "DELETE FROM payments WHERE id IN (5, 6) AND state = 'open'",
}
NONE = {
    "ddl": "DROP TABLE payments",
    "a-file": "COPY payments FROM '/tmp/x'",
    "a-setting": "SET search_path = 'a'",
    "an-unknown-function": "SELECT f(1) FROM payments",
    "a-prepared-one": "EXECUTE p(1)",
    "two-at-once": "DELETE FROM a WHERE id = 1; DELETE FROM b WHERE id = 1",
    "no-sql": "DELETE FRM",
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_values_words_and_comments_are_no_part_of_a_shape(text: str) -> None:
    assert of(sql(text)).key == of(sql(PAY)).key


@pytest.mark.parametrize("text", OTHER.values(), ids=OTHER)
def test_anything_else_is(text: str) -> None:
    assert of(sql(text)).key != of(sql(PAY)).key


@pytest.mark.parametrize("text", NONE.values(), ids=NONE)
def test_where_a_literal_may_be_more_than_a_value_there_is_no_shape(text: str) -> None:
    assert sql(text) is None


def mysql(text: str, *parameters: str) -> Shape | None:
    values = tuple(read_parameter(25, 0, value.encode(), "utf-8") for value in parameters)
    facts = analyze_any(text, "mysql", database="shop", server="10.11.6-MariaDB")
    statement = Statement(text, facts, values, "bound" if parameters else "simple")
    return statement_shape(KEY, ALICE, "db", ("shop",), statement, "I", "r")


def test_values_of_mysql_are_found_as_its_own_lexer_finds_them() -> None:
    """Postgres' lexer would take backslashes, backquotes and double quotes for something else."""
    one = of(mysql("UPDATE `a\"b` SET note = 'it\\'s', x = \"y\" WHERE id = ? # it's", "7"))
    other = of(mysql("UPDATE `a\"b` SET note = 'z', x = _latin1'y' WHERE id = ?", "8"))
    assert one.key == other.key
    assert set(one.values) == set(other.values) == {"?1", "?2", "?3"}
    assert all(one.values[name] != other.values[name] for name in one.values)
    assert mysql("SET @a = 1") is None


@pytest.mark.parametrize(
    "change",
    [
        {"who": BOB},
        {"target": "other"},
        {"where": ("shop", "app", "root")},
        {"transaction": "T"},
        {"rules": "q"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_shape_is_of_one_caller_target_session_and_set_of_rules(change: dict[str, Any]) -> None:
    assert of(sql(PAY, **change)).key != of(sql(PAY)).key
    assert of(sql(PAY, **change)).values["$1"] != of(sql(PAY)).values["$1"]


def test_a_parameter_and_a_literal_are_both_values() -> None:
    bound = of(sql("DELETE FROM payments WHERE id = $1 AND state = 'open'", "5"))
    assert bound.key == of(sql(PAY)).key
    assert set(bound.values) == set(of(sql(PAY)).values) == {"$1", "$2"}
    assert bound.values["$2"] == of(sql(PAY)).values["$2"]
    assert bound.values["$1"] != of(sql(PAY)).values["$1"]  # not given the same way: pinned, it waits


def test_a_pinned_parameter_is_its_type_and_its_bytes() -> None:
    text = "DELETE FROM payments WHERE id = $1"
    five = of(sql(text, "5")).values["$1"]
    assert five == of(sql(text, "5")).values["$1"]
    for other in (sql(text, "6"), sql(text, None), sql(text, ""), sql(text, "5", type_oid=23)):
        assert of(other).values["$1"] != five
        assert of(other).key == of(sql(text, "5")).key
    assert of(sql(text, None)).values["$1"] != of(sql(text, "")).values["$1"]


def test_a_parameter_that_the_text_does_not_use_takes_no_literals_place() -> None:
    text = "DELETE FROM payments WHERE id = 5"
    assert of(sql(text, "1")).values == of(sql(text, "2")).values == of(sql(text)).values


def test_copied_data_and_functions_have_no_shape() -> None:
    assert sql(PAY, kind="copy") is None
    assert sql(PAY, kind="function") is None


def test_no_value_shows_in_a_shape() -> None:
    assert "canary" not in repr(sql("DELETE FROM payments WHERE id = $1 AND b = 'canary'", "canary"))


@given(
    st.lists(st.sampled_from(["1", "'a'", "$1", "$2", "x", "E'\\n'", "b'1'", "/* c */", "1.5"]), max_size=8)
)
def test_literals_are_named_as_the_normalised_text_names_them(parts: list[str]) -> None:
    text = "SELECT " + ", ".join(parts)
    named = literals(text)
    words = normalise(text).replace(",", " ").split()
    assert set(named) <= {word for word in words if word.startswith("$")}
    back = [named.get(word, word) for word in words]
    assert back == ["SELECT", *(part for part in parts if part != "/* c */")]


# ---------------------------------------------------------------------- HTTP


def http(
    path: str = "/pay/a?now=1",
    body: bytes = b'{"amount": 10, "to": {"name": "ACME"}}',
    *,
    method: str = "POST",
    host: str = "api",
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),),
    who: Principal = ALICE,
    rules: str = "r",
    volatile: frozenset[str] = frozenset(),
) -> Shape:
    plan = governance("default: deny").targets["api"]
    fields = ((":method", method), (":scheme", "http"), (":authority", host), (":path", path), *headers)
    head = RequestHead("api", Headers(fields), end_of_stream=not body)
    facts = HttpFacts(head, read_request_line(head.headers), who, plan, frozenset(), "ses", NOW)
    facts.body = body
    return http_shape(KEY, who, facts, rules, (volatile,), frozenset())


def test_values_of_query_and_body_are_no_part_of_a_request_shape() -> None:
    for other in (
        http("/pay/a?now=2"),
        http(body=b"{}"),
        http(body=b""),
        http(headers=(("content-type", "application/json"), ("user-agent", "x"), ("traceparent", "y"))),
    ):
        assert other.key == http().key


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/pay/b?now=1"}, {"path": "/pay/a"}, {"path": "/pay/a?now=1&more=1"}, {"path": "/pay/a?now=1;more=1"},
        {"path": "/pay/%61?now=1"}, {"method": "PUT"}, {"host": "other"}, {"who": BOB}, {"rules": "q"},
        {"headers": (("content-type", "text/plain"),)},
        {"headers": (("content-type", "application/json"), ("x-tenant", "b"))},
        {"headers": (("content-type", "application/json"), ("cookie", "b"))},
    ],
    ids=str,
)  # fmt: skip
def test_everything_else_of_a_request_is(change: dict[str, Any]) -> None:
    assert http(**change).key != http().key


def test_a_volatile_header_may_differ() -> None:
    one, other = (
        http(headers=(("idempotency-key", key),), volatile=frozenset({"idempotency-key"})) for key in "ab"
    )
    assert one.key == other.key


def test_values_have_names_people_can_say() -> None:
    shape = http(body=b'{"amount": 10, "to": {"name": "ACME", "a/b~c": null}, "tags": ["x", true]}')
    assert list(shape.values) == [
        "?now", "body", "/amount", "/to/name", "/to/a~1b~0c", "/tags/0", "/tags/1",
    ]  # fmt: skip


def test_a_value_is_pinned_as_what_it_is() -> None:
    def amount(text: str) -> str:
        return http(body=f'{{"amount": {text}}}'.encode()).values["/amount"]

    assert amount("10") == amount(" 10 ")
    assert len({amount(text) for text in ("10", '"10"', "10.5", "true", "1", "null", '"null"')}) == 7


def test_every_value_of_a_repeated_parameter_counts() -> None:
    assert http("/p?a=1&a=2").values["?a"] != http("/p?a=1").values["?a"]
    assert http("/p?a=1&a=2").values["?a"] != http("/p?a=1%002").values["?a"]


def test_a_body_that_could_be_read_in_two_ways_offers_no_members() -> None:
    for body in (b'{"a": 1, "a": 2}', b"\xff", b"{", b"[" * 2000):
        assert set(http(body=body).values) == {"?now", "body"}


def test_a_name_that_would_be_masked_is_not_offered() -> None:
    shape = http(body=json.dumps({"ada@example.com": 1, "fine": 1}).encode())
    assert "/fine" in shape.values
    assert not any("ada" in name for name in shape.values)


def test_a_large_body_offers_a_bounded_number_of_values() -> None:
    assert len(http(body=json.dumps(list(range(5000))).encode()).values) == MAX_VALUES
    assert len(http(body=json.dumps({f"m{n}": n for n in range(5000)}).encode()).values) == MAX_VALUES
