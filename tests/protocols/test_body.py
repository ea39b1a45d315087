"""Bodies: decoded within a limit, JSON with one reading."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.errors import ProtocolError
from extproc.protocols.http.body import decode, is_form, is_json, read_json, readable_codings
from extproc.protocols.http.prefer import wait_asked

JSON = "application/json"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coded", "coding"),
    [
        (b"hello", ""),
        (b"hello", "identity"),
        (gzip.compress(b"hello", mtime=0), "gzip"),
        (gzip.compress(b"hello", mtime=0), "X-GZIP"),
        (zlib.compress(b"hello"), "deflate"),
        (raw_deflate(b"hello"), "deflate"),
    ],
)
def test_one_coding_is_undone(coded, coding):
    assert decode(coded, coding, 100) == b"hello"


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip,br", "compress", "gzip;q=1"])
def test_other_codings_are_refused(coding):
    with pytest.raises(ProtocolError) as refusal:
        decode(b"x", coding, 100)
    assert refusal.value.status == 415


def test_a_bomb_stops_at_the_limit():
    with pytest.raises(ProtocolError) as refusal:
        decode(gzip.compress(b"\0" * 50_000_000), "gzip", 1000)
    assert refusal.value.status == 413


@pytest.mark.parametrize(
    "broken",
    [
        gzip.compress(b"hello", mtime=0)[:-3],
        gzip.compress(b"hello", mtime=0) + b"tail",
        gzip.compress(b"a", mtime=0) + gzip.compress(b"b", mtime=0),
        b"not gzip",
        b"",
    ],
)
def test_a_cut_or_doubled_body_is_refused(broken):
    with pytest.raises(ProtocolError):
        decode(broken, "gzip", 1000)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"a":1,"a":2}', "duplicate-json-key"),
        (b'{"a":1,"\\u0061":2}', "duplicate-json-key"),
        (b'{"amount":1,"Amount":2}', "duplicate-json-key"),
        ('{"amount":1,"\uff41mount":2}'.encode(), "duplicate-json-key"),
        ('{"amount":1,"am\u200bount":2}'.encode(), "duplicate-json-key"),
        (b'{"amount":1,"amount\\u0000x":2}', "duplicate-json-key"),
        (b'{"amount":1," amount":2}', "duplicate-json-key"),
        (b'[{"x":{"k":1,"k":1}}]', "duplicate-json-key"),
        (b'{"a":NaN}', "invalid-json"),
        (b'{"a":Infinity}', "invalid-json"),
        (b'\xef\xbb\xbf{"a":1}', "invalid-json"),
        ('{"a":1}'.encode("utf-16"), "invalid-json"),
        (b'{"a":1} x', "invalid-json"),
        (b'{"a":1,}', "invalid-json"),
        (b"{'a':1}", "invalid-json"),
        (b'{"a":1/*c*/}', "invalid-json"),
        (b'{"a":\xff}', "invalid-json"),
        (b"", "invalid-json"),
        (b"[" * 100_000, "invalid-json"),
        (b"[" * 80 + b"]" * 80, "invalid-json"),
    ],
)
def test_json_with_two_readings_is_refused(body, code):
    with pytest.raises(ProtocolError) as refusal:
        read_json(body, JSON)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    "media", ["application/json", "application/json; charset=utf-8", "application/problem+json"]
)
def test_json_is_read_as_declared(media):
    assert read_json(b'{"a": [1, 2.5, "x"]}', media) == {"a": [1, 2.5, "x"]}


@pytest.mark.parametrize(
    "media", ["text/plain", "", "application/json; charset=utf-16", "application/x-json"]
)
def test_what_is_not_declared_as_utf8_json_is_refused(media):
    with pytest.raises(ProtocolError) as refusal:
        read_json(b"{}", media)
    assert refusal.value.status == 415


def test_media_types_are_compared_without_case_and_parameters():
    assert is_json("Application/JSON ; charset=utf-8")
    assert is_form("application/x-www-form-urlencoded;charset=UTF-8")
    assert not is_json("application/jsonp")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_refusal(body):
    try:
        value = read_json(body, JSON)
    except ProtocolError:
        return
    assert value == json.loads(body)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", ""]))
def test_any_coded_bytes_decode_within_the_limit_or_are_refused(body, coding):
    try:
        assert len(decode(body, coding, 300)) <= 300
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    ("values", "honour", "seconds"),
    [
        ([], True, None),
        (["hold=async"], False, 0.0),
        (["respond-async, hold=async"], False, 0.0),
        (["wait=5"], True, 5.0),
        (["wait=5"], False, None),
        (['wait="5"; x=y'], True, 5.0),
        (["wait=-1"], True, None),
        (["wait=9999999999"], True, None),
        (["wait=٥"], True, None),
        (["wait=3", "wait=9"], True, 3.0),
    ],
)
def test_the_callers_wish_to_wait_is_read(values, honour, seconds):
    assert wait_asked(values, honour_wait=honour) == seconds


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "deflate, gzip"),
        ("br, GZIP", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip; q = 0.000, deflate", "deflate"),
        ("gzip;q=0.001", "gzip"),
        ("br", "identity"),
        ("*", "identity"),
        ("", "identity"),
        ("xgzip, gzip-9", "identity"),
    ],
)
def test_codings_that_cannot_be_undone_are_struck_out(asked, left):
    assert readable_codings(asked) == left


def test_a_body_that_is_two_kinds_of_deflate_is_refused():
    """Read as zlib's format it says one thing, read as raw deflate (as some servers do) another."""
    hidden = b'{"amount": 9000}'
    stored = len(hidden).to_bytes(2, "little") + (len(hidden) ^ 0xFFFF).to_bytes(2, "little") + hidden
    shown = (stored + b"\x01\0\0\xff\xff").ljust(0xFFFE, b" ")
    # zlib: header, a stored block of 65534 bytes, an empty last block, checksum;
    # raw: a stored block of one byte, the hidden one, an empty last block, and what it takes for trailing bytes
    body = b"\x78\x01\0\xfe\xff\x01\0" + shown + b"\x01\0\0\xff\xff" + zlib.adler32(shown).to_bytes(4, "big")
    assert zlib.decompress(body) == shown
    assert zlib.decompressobj(-zlib.MAX_WBITS).decompress(body) == b"\x01" + hidden
    with pytest.raises(ProtocolError, match="two kinds"):
        decode(body, "deflate", 1 << 20)


def test_zlibs_format_is_read_at_every_level():
    for level in range(10):
        assert decode(zlib.compress(b'{"amount": 5}' * 9, level), "deflate", 1 << 20) == b'{"amount": 5}' * 9
