"""Durations, sizes and addresses survive a round trip and refuse look-alikes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.config.units import Address, format_duration, format_size, parse_duration, parse_size

BASE = Path("/srv")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0.0), ("500ms", 0.5), ("30s", 30.0), ("1.5m", 90.0), ("24h", 86400.0), ("7d", 604800.0)],
)
def test_a_duration_is_seconds(text: str, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "1e3s", "30 s", "30S", "30sec", "1h30m", "٣s", "30s\n", ".5s"]
)
def test_what_only_looks_like_a_duration_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.integers(0, 10**9))
def test_durations_in_milliseconds_survive_a_round_trip(millis: int):
    assert parse_duration(format_duration(millis / 1000)) == pytest.approx(millis / 1000, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("1B", 1), ("64KiB", 65536), ("1MiB", 1 << 20), ("2GiB", 2 << 30)]
)
def test_a_size_is_bytes(text: str, size: int):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "64", "64KB", "64k", "-1B", "1.5MiB", "64 KiB", "64kib", "٣B", "1B\n"])
def test_what_only_looks_like_a_size_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_sizes_survive_a_round_trip(size: int):
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    "text",
    ["unix:/srv/a.sock", "127.0.0.1:80", "[::1]:80", "api.internal:443", "localhost:1", "0.0.0.0:65535"],
)
def test_an_address_survives_a_round_trip(text: str):
    assert str(Address.parse(text, BASE)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "a",
        "a:0",
        "a:65536",
        "a:x",
        "a b:80",
        "unix:",
        "::1:80",
        "[a]:80",
        "http://a:80",
        "a_/b:1",
        "-a:1",
    ],
)
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(ValueError):
        Address.parse(text, BASE)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("unix:a.sock", True),
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example:1", False),
    ],
)
def test_loopback_is_what_never_leaves_the_machine(text: str, loopback: bool):
    assert Address.parse(text, BASE).is_loopback is loopback
