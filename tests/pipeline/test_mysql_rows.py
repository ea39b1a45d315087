"""Rows of MySQL as a record shows them, hostile bytes included."""

from __future__ import annotations

import pytest

from extproc.pipeline.mysql_rows import mysql_rows
from extproc.pipeline.row_sample import OMITTED
from extproc.protocols.mysql import Column
from extproc.protocols.mysql.packets import LONGEST, build_packets
from extproc.protocols.mysql.results import BIT, DATETIME, JSON, LONG, build_binary_row, build_text_row

STRING = 253


def column(kind: int = STRING, charset: int = 45, flags: int = 0, *, is_binary: bool = False) -> Column:
    return Column("c", "shop", "t", "c", kind, charset, flags, is_binary)


def test_every_whole_row_is_shown_wherever_the_sample_was_cut() -> None:
    sent = build_packets(build_text_row([b"one", None]), 3) + build_packets(build_text_row([b"two", b"x"]), 4)
    read = mysql_rows((column(), column()))
    for cut in range(len(sent) + 1):
        found = list(read(bytearray(sent[:cut]), 0, "utf-8"))
        whole = (cut >= 9) + (cut == len(sent))
        assert [end for end, _ in found] == [9, len(sent)][:whole]
        assert [[text for text, _ in row] for _, row in found] == [["one", None], ["two", "x"]][:whole]


def test_a_row_of_several_packets_is_one_row() -> None:
    value = b"y" * LONGEST
    sent = bytearray(build_packets(build_text_row([value]), 0))
    ((end, ((text, _),)),) = mysql_rows((column(),))(sent, 0, "utf-8")
    assert end == len(sent) and text == value.decode()


@pytest.mark.parametrize(
    ("placed", "value", "shown"),
    [
        (column(JSON), b"{}", "{}"),
        (column(BIT), b"\x01", OMITTED),
        (column(STRING, 63), b"abc", OMITTED),
        (column(LONG, 63), b"12", "12"),
        (column(), b"\xff", OMITTED),
        (column(LONG, 63, is_binary=True), b"\xff\xff\xff\xff", "-1"),
        (column(LONG, 63, 0x20, is_binary=True), b"\xff\xff\xff\xff", "4294967295"),
        (column(DATETIME, 63, is_binary=True), b"\x01\x02", OMITTED),
    ],
)
def test_values_are_text_or_left_out(placed: Column, value: bytes, shown: str) -> None:
    row = build_binary_row([value], [placed]) if placed.is_binary else build_text_row([value])
    ((_, ((text, is_json),)),) = mysql_rows((placed,))(bytearray(build_packets(row, 0)), 0, "utf-8")
    assert (text, is_json) == (shown, placed.type == JSON)


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("junk", [b"\xfe\xff", b"\x09abc", b"\x01", b""])
def test_what_is_no_row_is_left_out(junk: bytes, is_binary: bool) -> None:
    found = list(mysql_rows((column(is_binary=is_binary),))(bytearray(build_packets(junk, 0)), 0, "utf-8"))
    assert [row for _, row in found] == [[(OMITTED, False)]]
