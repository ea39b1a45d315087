import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.ledger.payloads import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    build_entry,
    build_ref,
    check_entry,
    commitment_of,
    parse_header,
    parse_ref,
)

SALT = bytes(range(32))
ENTRY = build_entry(b"masked", SALT)
COMMITMENT = commitment_of(b"masked", SALT)


def test_an_entry_is_a_header_of_48_bytes_and_the_payload():
    assert b"XPE1" + b"\0" * 4 + (6).to_bytes(8, "big") + SALT + b"masked" == ENTRY
    assert hmac.new(SALT, b"masked", "sha256").hexdigest() == COMMITMENT
    assert check_entry(ENTRY, 6, COMMITMENT) == "good"


@given(st.integers(0, len(ENTRY) - 1), st.integers(1, 255))
def test_no_byte_of_an_entry_can_change_unseen(at, change):
    spoiled = bytearray(ENTRY)
    spoiled[at] ^= change
    assert check_entry(bytes(spoiled), 6, COMMITMENT) != "good"


def test_the_same_payload_has_another_commitment_under_another_salt():
    assert commitment_of(b"masked", b"x" * 32) != COMMITMENT


@pytest.mark.parametrize(
    ("data", "size", "state"),
    [
        (ENTRY[:-1], 6, "mismatch"),
        (ENTRY[:20], 6, "malformed"),
        (b"", 6, "malformed"),
        (ENTRY, 5, "mismatch"),
        (b"XPE1\xff" + b"\0" * (HEADER_SIZE - 5 + 6), 6, "erased"),
        (b"XPE1\x01" + ENTRY[5:], 6, "mismatch"),
        (b"XPE1\x02" + ENTRY[5:], 6, "malformed"),
        (b"XPE2" + ENTRY[4:], 6, "malformed"),
    ],
)
def test_what_is_wrong_with_an_entry_is_named(data, size, state):
    assert check_entry(data, size, COMMITMENT) == state


def test_a_length_beyond_the_ceiling_is_not_believed():
    assert parse_header(b"XPE1" + b"\0" * 4 + (MAX_PAYLOAD + 1).to_bytes(8, "big") + SALT) is None


def test_a_place_survives_writing():
    assert parse_ref(build_ref("000000000012.payloads", 4096)) == ("000000000012.payloads", 4096)


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "x:1",
        "../../000000000012.payloads:0",
        "000000000012.payloads:01",
        "000000000012.payloads:-1",
        "000000000012.payloads:1\n",
        "٠00000000012.payloads:1",
    ],
)
def test_a_place_elsewhere_is_not_read(ref):
    assert parse_ref(ref) is None
