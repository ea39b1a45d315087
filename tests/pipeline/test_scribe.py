"""Digests of unmasked bytes."""

from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from extproc.pipeline.scribe import keyed_digest


@given(key=st.binary(max_size=200), data=st.binary(max_size=300))
def test_a_digest_is_hmac_sha256_whatever_the_sizes(key: bytes, data: bytes) -> None:
    for _ in range(2):  # the second finds the key begun
        assert keyed_digest(key, data) == f"hmac-sha256:{hmac.new(key, data, 'sha256').hexdigest()}"


def test_keys_are_told_apart() -> None:
    several = [bytes([number]) * 32 for number in range(20)]  # more than are kept
    found = [keyed_digest(key, b"4711") for key in several]
    assert len(set(found)) == len(several)
    assert found == [keyed_digest(key, b"4711") for key in several]
