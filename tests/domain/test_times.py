"""Times as the outside sees them."""

from __future__ import annotations

import pytest

from extproc.domain.times import rfc3339


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1_900_000_000.0, "2030-03-17T17:46:40.000000Z"),
        (1_900_000_000.123456, "2030-03-17T17:46:40.123456Z"),
    ],
)
def test_a_time_is_utc_with_six_digits(at: float, text: str):
    assert rfc3339(at) == text
