"""What the ledger keeps of a caller."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.domain.principal import Principal
from extproc.ledger.lines import encode_fields


@pytest.mark.parametrize(
    ("claim", "kept"),
    [
        (1_800_000_000, 1_800_000_000),
        (1_800_000_000.0, 1_800_000_000),
        (1_800_000_000.5, "1800000000.5"),
        (10**30, str(10**30)),
        (["pwd", 1.5, [2.5]], ["pwd", "1.5", "[2.5]"]),
        ({"deep": 1.5}, "{'deep': 1.5}"),
        (None, None),
        (True, True),
    ],
)
def test_a_claim_of_any_shape_can_be_recorded(claim: Any, kept: Any) -> None:
    principal = Principal("https://issuer", "alice", "human", "alice", claims={"auth_time": claim})
    record = principal.to_record()
    assert record["auth_time"] == kept
    encode_fields("intent", {"principal": record})
