"""Values of rows: columns by name, entities by looking, types that stay valid."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.errors import PolicyError
from extproc.domain.mask import MaskSpec
from extproc.masking import compile_masker
from extproc.masking.rows import FLOAT8, FLOAT8_LITTLE, INT8_LITTLE, RowMasks, compile_rows, split_name
from tests.support.governed import SECRETS

TEXT, INT4, INT8, JSON, JSONB, NUMERIC, TEXTS, BYTEA = 25, 23, 20, 114, 3802, 1700, 1009, 17
JSONBS, INT8S = 3807, 1016
CARD = "4111111111111111"


def masks(*columns: str, operator: str = "replace", entities: tuple[str, ...] = ()) -> RowMasks:
    specs = [MaskSpec("m", columns=columns, entities=entities, operator=operator)]  # type: ignore[arg-type]
    return compile_rows(specs, SECRETS, compile_masker(specs, SECRETS))


LOOKING = masks(entities=("EMAIL_ADDRESS", "CREDIT_CARD"))


@pytest.mark.parametrize(
    ("rule", "column", "is_meant"),
    [
        ("users.email", ("public", "users", "email"), True),
        ("users.email", ("other", "users", "email"), True),
        ("app.users.email", ("other", "users", "email"), False),
        ("*.ssn", ("public", "anything", "ssn"), True),
        ("users.*", ("public", "users", "id"), True),
        ("email", ("public", "users", "email"), True),
        ("users.email", ("public", "users2", "email"), False),
        ('"Odd.Table".email', ("public", "Odd.Table", "email"), True),
    ],
)
def test_a_column_rule_means_what_it_says(rule: str, column: tuple[str, str, str], is_meant: bool) -> None:
    assert (masks(rule).operator(*column) is not None) is is_meant


@pytest.mark.parametrize("name", ["users.email", "email", "users.*", "*", "public.users.email"])
def test_a_name_that_could_be_a_masked_column_counts_as_one(name: str) -> None:
    assert masks("users.email").may_cover(name)
    assert not masks("users.email").may_cover("orders.id")


@pytest.mark.parametrize("name", ["a.b.c.d", "users.", ".email", ""])
def test_a_rule_that_names_no_column_stops_the_load(name: str) -> None:
    with pytest.raises(PolicyError):
        masks(name)


def test_where_rules_meet_the_strictest_wins() -> None:
    specs = [
        MaskSpec("a", columns=("users.email",), operator="partial"),
        MaskSpec("b", columns=("*.email",), operator="null"),
    ]
    both = compile_rows(specs, SECRETS, compile_masker(specs, SECRETS))
    operator = both.operator("public", "users", "email")
    assert operator is not None and operator.name == "null"


@pytest.mark.parametrize(
    ("type_oid", "format", "value", "masked"),
    [
        (TEXT, 0, b"ada@example.com", b"[t.c]"),
        (TEXT, 1, b"ada@example.com", b"[t.c]"),
        (INT4, 0, b"36", None),
        (INT4, 1, b"\0\0\0\x24", None),
        (JSON, 0, b'{"a": 1}', b'"[t.c]"'),
        (JSONB, 1, b'\x01{"a": 1}', b'\x01"[t.c]"'),
        (BYTEA, 1, b"\x00\xff", None),
        (TEXT, 0, b"\xff\xfe", None),
    ],
)
def test_a_masked_column_keeps_its_type_valid(
    type_oid: int, format: int, value: bytes, masked: bytes | None
) -> None:
    rules = masks("t.c")
    operator = rules.operator("s", "t", "c")
    assert operator is not None
    assert rules.whole(operator, "t.c", type_oid, format, "utf-8")(value)[0] == masked


@pytest.mark.parametrize(
    ("type_oid", "format", "value", "masked"),
    [
        (TEXT, 0, b"write to ada@example.com", b"write to [EMAIL_ADDRESS]"),
        (TEXT, 1, b"nothing here", b"nothing here"),
        (JSONB, 1, b'\x01{"m": "ada@example.com"}', b'\x01{"m": "[EMAIL_ADDRESS]"}'),
        (TEXTS, 0, b"{ada@example.com,x}", b"{[EMAIL_ADDRESS],x}"),
        (INT8, 0, CARD.encode(), None),
        (INT8, 1, struct.pack("!q", int(CARD)), None),
        (INT8, 1, struct.pack("!q", 12), struct.pack("!q", 12)),
        (INT8_LITTLE, 1, struct.pack("<q", int(CARD)), None),
        (FLOAT8, 1, struct.pack("!d", int(CARD)), None),
        (FLOAT8, 1, struct.pack("!d", 1.5), struct.pack("!d", 1.5)),
        (FLOAT8, 1, struct.pack("!d", float("inf")), struct.pack("!d", float("inf"))),
        (FLOAT8_LITTLE, 1, struct.pack("<d", int(CARD)), None),
        (NUMERIC, 1, struct.pack("!hhhh4h", 4, 3, 0, 0, 4111, 1111, 1111, 1111), None),
        (
            TEXTS,
            1,
            struct.pack("!iiiiii", 1, 0, 25, 1, 1, 15) + b"ada@example.com",
            struct.pack("!iiiiii", 1, 0, 25, 1, 1, 15) + b"[EMAIL_ADDRESS]",
        ),
        (TEXTS, 1, struct.pack("!iiiiii", 1, 0, 25, 9, 1, 99) + b"ada@example.com", None),
        (
            TEXTS,
            0,
            b'{{"a b",ada@example.com},{NULL,"\\"q\\""}}',
            b'{{"a b",[EMAIL_ADDRESS]},{NULL,"\\"q\\""}}',
        ),
        (TEXTS, 0, b"{broken ada@example.com", None),
        (JSONBS, 0, b'{"{\\"m\\": \\"ada@example.com\\"}"}', b'{"{\\"m\\": \\"[EMAIL_ADDRESS]\\"}"}'),
        (INT8S, 0, b"{12,4111111111111111}", b"{12,NULL}"),
        (BYTEA, 0, b"\\x" + b"ada@example.com".hex().encode(), None),
        (BYTEA, 0, b"\\x0102", b"\\x0102"),
        (JSON, 0, b"{broken", None),
    ],
)
def test_what_is_found_in_a_value_is_masked_in_its_type(
    type_oid: int, format: int, value: bytes, masked: bytes | None
) -> None:
    search = LOOKING.search(type_oid, format, "utf-8")
    assert search is not None
    assert search(value)[0] == masked


@given(
    st.binary(max_size=60),
    st.sampled_from([TEXT, INT8, JSON, JSONB, NUMERIC, TEXTS, JSONBS, INT8S, BYTEA, FLOAT8, FLOAT8_LITTLE]),
    st.integers(0, 1),
)
def test_any_bytes_at_all_give_a_value_or_null(value: bytes, type_oid: int, format: int) -> None:
    search = LOOKING.search(type_oid, format, "utf-8")
    assert search is not None
    masked, found = search(value)
    assert found or masked == value


@given(st.text(max_size=40))
def test_a_masked_json_value_is_json(text: str) -> None:
    rules = masks("t.c")
    operator = rules.operator("s", "t", "c")
    assert operator is not None
    masked, _ = rules.whole(operator, "t.c", JSON, 0, "utf-8")(json.dumps(text).encode())
    assert masked is not None and isinstance(json.loads(masked), str)


@pytest.mark.parametrize(
    ("name", "parts"), [("a.b", ["a", "b"]), ('"a.b".c', ["a.b", "c"]), ('"a""b"', ['a"b'])]
)
def test_quoted_names_hold_dots(name: str, parts: list[str]) -> None:
    assert split_name(name) == parts
