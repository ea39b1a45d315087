"""What a sealed payload is, byte by byte, and that nothing opens it but its own key in its own place."""

import hmac
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from extproc.ledger.payloads import check_entry
from extproc.ledger.sealing import (
    KEY_ENTRY_SIZE,
    RANDOM_BYTES,
    KeyRing,
    Place,
    Sealer,
    build_erased_key,
    key_segment_of,
    open_sealed,
)

KEK = b"\x0b" * 32
RING = KeyRing("k2026", {"k2026": KEK})
WRITER, SEGMENT = "worker0-a-1", "000000000000.payloads"
RANDOM = bytes(range(RANDOM_BYTES))
SEALED = Sealer(RING, WRITER, SEGMENT).seal(b"masked", RANDOM, 84, 7, "request")
PLACE = Place(WRITER, 7, "request", SEGMENT, SEALED.commitment)


def opened(entry=SEALED.entry, key_entry=SEALED.key_entry, ring=RING, **other):
    return open_sealed(
        entry, lambda offset: key_entry if offset == 84 else b"", PLACE._replace(**other), ring
    )


def test_the_bytes_are_those_of_the_document():
    key, salt, nonce = RANDOM[:32], RANDOM[32:64], RANDOM[64:]
    body = AESGCM(key).encrypt(bytes(12), salt + b"masked", b"worker0-a-1:7:request")
    assert (
        b"XPE1\x01\0\0\0" + len(body).to_bytes(8, "big") + (84).to_bytes(8, "big") + bytes(24) + body
        == SEALED.entry
    )
    assert sha256(SEALED.entry).hexdigest() == SEALED.digest
    assert hmac.new(salt, b"masked", "sha256").hexdigest() == SEALED.commitment
    info = b"extproc-ledger-keys/v1\nworker0-a-1\n000000000000.payloads"
    wrapped = AESGCM(hmac.new(KEK, info, "sha256").digest()).encrypt(nonce, key, b"84")
    assert b"XKE1\x01\0\0\0" + b"k2026".ljust(16, b"\0") + nonce + wrapped == SEALED.key_entry
    assert len(SEALED.key_entry) == KEY_ENTRY_SIZE
    assert key_segment_of(SEGMENT) == "000000000000.keys"


def test_its_own_key_opens_it():
    assert opened() == ("good", b"masked", RANDOM[32:64])
    assert check_entry(SEALED.entry, 6, SEALED.commitment, SEALED.digest) == "sealed"


@given(st.integers(0, len(SEALED.entry) - 1), st.integers(1, 255))
def test_no_byte_of_the_entry_can_change_unseen_by_whoever_has_no_key(at, change):
    spoiled = bytearray(SEALED.entry)
    spoiled[at] ^= change
    assert check_entry(bytes(spoiled), 6, SEALED.commitment, SEALED.digest) not in ("good", "sealed")


@given(st.integers(0, KEY_ENTRY_SIZE - 1), st.integers(1, 255))
def test_no_byte_of_the_wrapped_key_can_change(at, change):
    spoiled = bytearray(SEALED.key_entry)
    spoiled[at] ^= change
    assert opened(key_entry=bytes(spoiled)).state in ("wrong-key", "unknown-key", "key-missing", "erased")


@pytest.mark.parametrize(
    ("entry", "sealed", "size"),
    [
        (SEALED.entry[:-1], SEALED.digest, 6),
        (SEALED.entry, "0" * 64, 6),
        (SEALED.entry, SEALED.digest, 5),
        (SEALED.entry, "", 6),
        (b"XPE1" + bytes(4) + (6).to_bytes(8, "big") + RANDOM[32:64] + b"masked", SEALED.digest, 6),
    ],
    ids=["cut", "other digest", "other size", "the line says plain", "the entry says plain"],
)
def test_what_is_not_the_entry_of_the_line_is_named(entry, sealed, size):
    assert check_entry(entry, size, SEALED.commitment, sealed) == "mismatch"


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"key_entry": build_erased_key()}, "erased"),
        ({"key_entry": b""}, "key-missing"),
        ({"key_entry": SEALED.key_entry[:-1]}, "key-missing"),
        ({"ring": KeyRing("k2027", {"k2027": KEK})}, "unknown-key"),
        ({"ring": KeyRing("k2026", {"k2026": b"\x0c" * 32})}, "wrong-key"),
        ({"writer": "worker0-a-2"}, "wrong-key"),
        ({"segment": "000000000009.payloads"}, "wrong-key"),
        ({"seq": 8}, "mismatch"),
        ({"name": "response"}, "mismatch"),
        ({"commitment": "0" * 64}, "mismatch"),
        ({"entry": SEALED.entry[:-1] + b"\0"}, "mismatch"),
        ({"entry": b"XPE1" + SEALED.entry[4:39] + b"\1" + SEALED.entry[40:]}, "malformed"),
        ({"entry": b""}, "malformed"),
    ],
)
def test_nothing_else_opens_it(change, state):
    assert opened(**change) == (state, b"", b"")


def test_two_payloads_share_no_key():
    other = Sealer(RING, WRITER, SEGMENT).seal(b"masked", RANDOM[::-1], 84, 7, "request")
    assert opened(key_entry=other.key_entry).state == "mismatch"


def test_a_ring_with_an_older_key_opens_what_was_sealed_before():
    assert opened(ring=KeyRing("k2027", {"k2027": b"\x0c" * 32, "k2026": KEK})).body == b"masked"


@pytest.mark.parametrize(
    ("current", "keys"),
    [("a", {}), ("a", {"a": b"short"}), ("A", {"A": KEK}), ("a" * 17, {"a" * 17: KEK}), ("", {"": KEK})],
)
def test_a_key_that_cannot_be_used_is_refused(current, keys):
    with pytest.raises(ValueError) as trouble:
        KeyRing(current, keys)
    assert KEK.hex() not in str(trouble.value)


def test_a_ring_shows_no_key():
    assert repr(RING) == "KeyRing(current='k2026')"
