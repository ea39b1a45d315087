"""What recurs is read once, what is long each time."""

from __future__ import annotations

import pytest

from extproc.domain.recurring import LONGEST, MOST, recurring


def test_a_short_text_is_read_once_and_a_long_one_each_time() -> None:
    read: list[str] = []

    @recurring
    def size(text: str) -> int:
        read.append(text)
        return len(text)

    short, long = "s" * LONGEST, "l" * (LONGEST + 1)
    assert [size(text) for text in (short, long, short, long)] == [LONGEST, LONGEST + 1] * 2
    assert read == [short, long, long]


def test_no_more_than_the_latest_are_remembered() -> None:
    read: list[str] = []
    remember = recurring(lambda text: read.append(text))
    for number in range(MOST + 1):
        remember(str(number))
    remember(str(MOST))
    remember("0")
    assert read[MOST:] == [str(MOST), "0"]


def test_a_fault_is_not_remembered() -> None:
    read: list[str] = []

    @recurring
    def refuse(text: str) -> int:
        read.append(text)
        raise ValueError(text)

    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            refuse("x")
    assert read == ["x", "x"]
