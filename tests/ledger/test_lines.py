import json
from enum import StrEnum
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.ledger.lines import (
    MAX_LINE,
    ZERO_HASH,
    Chain,
    PayloadPlace,
    RecordError,
    canonical,
    format_time,
    is_writer_id,
    new_writer_id,
    parse_line,
    parse_time,
    role_of,
)

AT = 1_795_456_200.123456
whole_numbers = st.integers(-(2**53) + 1, 2**53 - 1)
texts = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | whole_numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)
names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True).filter(
    lambda name: name not in {"v", "writer", "seq", "prev", "at", "kind", "payloads"}
)


def test_a_line_begins_with_its_envelope_and_ends_with_its_payloads():
    chain = Chain("worker0-a")
    place = PayloadPlace("ab" * 32, 5, "000000000000.payloads:0")
    line = chain.encode("intent", AT, {"zeta": 1, "alpha": {"b": 2, "a": "é"}}, {"request": place})
    assert line == (
        b'{"v":1,"writer":"worker0-a","seq":0,"prev":"' + b"0" * 64 + b'","at":"2026-11-23T17:50:00.123456Z",'
        b'"kind":"intent","alpha":{"a":"\xc3\xa9","b":2},"zeta":1,"payloads":{"request":{"commitment":"'
        + b"ab" * 32
        + b'","ref":"000000000000.payloads:0","size":5}}}'
    )


def test_each_line_names_the_hash_of_the_one_before():
    chain = Chain("w")
    first = chain.encode("start", AT, {})
    second = json.loads(chain.encode("stop", AT, {}))
    assert second["prev"] == sha256(first).hexdigest()
    assert (second["seq"], chain.seq) == (1, 2)


def test_a_rewound_chain_writes_the_same_line_again():
    chain = Chain("w")
    mark = chain.mark()
    first = chain.encode("intent", AT, {"a": 1})
    chain.rewind(mark)
    assert chain.encode("intent", AT, {"a": 1}) == first


@given(st.dictionaries(names, values, max_size=6))
def test_what_is_written_is_read_back_and_is_canonical(fields):
    line = Chain("w").encode("intent", AT, fields)
    record = parse_line(line)
    assert record.fields == fields
    assert record.hash == sha256(line).hexdigest()
    assert canonical(record) == line
    assert b"\n" not in line


class Color(StrEnum):
    RED = "red"


def test_an_enum_of_text_is_its_text():
    assert b'"color":"red"' in Chain("w").encode("x", AT, {"color": Color.RED, "in": [Color.RED]})


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"a": 1.5}, id="float"),
        pytest.param({"a": {"b": [1, {"c": 0.0}]}}, id="deep float"),
        pytest.param({"a": (1, 2.0)}, id="float in a tuple"),
        pytest.param({"a": float("nan")}, id="nan"),
        pytest.param({"a": 2**53}, id="beyond 53 bits"),
        pytest.param({"a": -(2**53)}, id="below 53 bits"),
        pytest.param({"a": b"bytes"}, id="bytes"),
        pytest.param({"a": {1: 2}}, id="a name that is no text"),
        pytest.param({"a": "\ud800"}, id="lone surrogate"),
        pytest.param({"a": {1, 2}}, id="set"),
        pytest.param({"seq": 7}, id="reserved name"),
        pytest.param({"payloads": {}}, id="reserved payloads"),
        pytest.param({"a": "x" * MAX_LINE}, id="too long"),
    ],
)
def test_what_has_no_canonical_form_is_refused_and_moves_nothing(fields):
    chain = Chain("w")
    with pytest.raises(RecordError) as refusal:
        chain.encode("intent", AT, fields)
    assert chain.mark() == (0, ZERO_HASH)
    assert "xxx" not in str(refusal.value)


def holds_a_float(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(holds_a_float, value.values()))
    return any(map(holds_a_float, value)) if isinstance(value, list | tuple) else isinstance(value, float)


@given(
    st.dictionaries(
        names,
        st.recursive(
            st.none() | st.booleans() | whole_numbers | texts | st.floats(),
            lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(texts, inner),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_a_float_is_refused_wherever_it_stands_and_nothing_else_is(fields):
    chain = Chain("w")
    if holds_a_float(fields):
        with pytest.raises(RecordError):
            chain.encode("intent", AT, fields)
    else:
        assert chain.encode("intent", AT, fields).endswith(b"}")


def test_nesting_too_deep_is_refused():
    value: object = 1
    for _ in range(2000):
        value = [value]
    with pytest.raises(RecordError):
        Chain("w").encode("intent", AT, {"a": value})


@pytest.mark.parametrize("kind", ["", "Intent", "a b", 'a"', "1a", "a" * 65])
def test_a_malformed_kind_is_refused(kind):
    with pytest.raises(RecordError):
        Chain("w").encode(kind, AT, {})


@pytest.mark.parametrize("at", [-1.0, -0.1, 253_402_300_800.0, float("nan"), float("inf")])
def test_a_time_without_four_digit_year_is_refused(at):
    with pytest.raises(RecordError):
        Chain("w").encode("intent", at, {})


@given(st.integers(0, 4_102_444_800_000_000))
def test_times_survive_writing(micros):
    assert abs(parse_time(format_time(micros / 1_000_000)) - micros) <= 1


def test_names_of_later_starts_sort_later():
    early = new_writer_id("worker0", 1_795_456_200.0, b"\xff\xff\xff\xff")
    late = new_writer_id("worker0", 1_795_456_200.000001, b"\0\0\0\0")
    assert early == "worker0-20261123t175000000000z-ffffffff"
    assert early < late
    assert role_of(late) == "worker0"


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "A", "a--b", "-a", "a" * 97, "a\n", "checkpoints.log", "é"]
)
def test_names_that_are_no_writer_ids(name):
    assert not is_writer_id(name)


GOOD = Chain("w").encode("intent", AT, {"a": 1})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        GOOD[:-1],
        GOOD + b"}",
        GOOD.replace(b'"v":1', b'"v":2'),
        GOOD.replace(b'"v":1', b'"v":true'),
        GOOD.replace(b'"seq":0', b'"seq":-1'),
        GOOD.replace(b'"seq":0', b'"seq":"0"'),
        GOOD.replace(b'"seq":0,', b""),
        GOOD.replace(b"intent", b"Intent"),
        GOOD.replace(b"2026-11", b"2026-13"),
        GOOD.replace(b".123456Z", b".123456+"),
        GOOD.replace(b"000000", b"00000g", 1),
        GOOD.replace(b'"a":1', b'"payloads":[]'),
        GOOD.replace(b'"a":1', b'"payloads":{"x":{"commitment":"00","ref":"","size":1}}'),
        GOOD.replace(b'"a":1', b'"payloads":{"x":1}'),
    ],
)
def test_lines_that_are_no_records(line):
    with pytest.raises(RecordError):
        parse_line(line)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_a_record_error(data):
    try:
        parse_line(data)
    except RecordError:
        pass
