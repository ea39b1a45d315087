"""Header maps are read by hand: whatever the bytes, the outcome is the general parser's."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from extproc.servers import header_map
from extproc.servers.header_map import MOST_REMEMBERED, read_header_map
from extproc.servers.wire import ext_proc_pb2 as pb

NAMES = st.sampled_from([b":path", b"accept", b"X-A", b"authorization", b"x-" + b"n" * 130]) | st.binary(
    max_size=5
)
VALUES = st.binary(max_size=40) | st.integers(100, 20_000).map(lambda size: b"v" * size)


def written(*pairs: tuple[bytes, bytes]) -> bytes:
    return pb.HeaderMap(headers=[pb.HeaderValue(key=k, raw_value=v) for k, v in pairs]).SerializeToString()


def by_parser(data: bytes) -> tuple[tuple[str, str], ...]:
    return tuple(
        (h.key.decode("latin-1").lower(), (h.raw_value or h.value).decode("latin-1"))
        for h in pb.HeaderMap.FromString(data).headers
    )


def test_order_repetition_and_every_byte_are_kept():
    data = written((b":path", b"/"), (b"X-A", b"\xff\x00"), (b"x-a", "é".encode()))
    assert read_header_map(data) == ((":path", "/"), ("x-a", "\xff\x00"), ("x-a", "Ã©"))


def test_equal_names_are_one_object_where_they_are_common():
    """Ten thousand held requests keep one `content-type`; `Accept` in capitals is read all the same."""
    data = written((b"content-type", b"a" * 200), (b"Accept", b"b"))
    first, second = read_header_map(data), read_header_map(data)
    assert first == (("content-type", "a" * 200), ("accept", "b"))
    assert first[0][0] is second[0][0]


def test_an_older_envoys_plain_value_is_read():
    data = pb.HeaderMap(headers=[pb.HeaderValue(key=b"a", value=b"1")]).SerializeToString()
    assert read_header_map(data) == (("a", "1"),)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_any_fields_are_read_as_the_parser_reads_them(pairs: list[tuple[bytes, bytes]]):
    data = written(*pairs)
    assert read_header_map(data) == by_parser(data)
    assert read_header_map(data) == by_parser(data), "and again, from memory"


PIECES = st.sampled_from([b"\x0a", b"\x1a", b"\x12", b"\x80", b"\x02", b"a"])


@given(st.binary(max_size=60) | st.lists(PIECES, max_size=24).map(b"".join))
def test_any_bytes_are_read_as_the_parser_reads_them(data: bytes):
    try:
        wanted = by_parser(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            read_header_map(data)
    else:
        assert read_header_map(data) == wanted


@given(st.integers(0, 400))
def test_a_map_cut_short_is_no_map_or_a_shorter_one(cut: int):
    data = written((b":method", b"GET"), (b"x-long", b"v" * 300), (b"accept", b"*/*"))[:cut]
    try:
        wanted = by_parser(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            read_header_map(data)
    else:
        assert read_header_map(data) == wanted


def test_secrets_and_one_time_values_are_not_remembered():
    read_header_map(
        written((b"authorization", b"Bearer canary"), (b"cookie", b"canary"), (b":path", b"/canary"))
    )
    read_header_map(written((b"x-request-id", b"canary"), (b"x-api-key", b"canary")))
    assert not any(b"canary" in entry for entry in header_map._seen)


def test_what_is_remembered_is_bounded():
    for number in range(MOST_REMEMBERED + 10):
        read_header_map(written((b"user-agent", str(number).encode())))
    assert len(header_map._seen) <= MOST_REMEMBERED
