"""docs/features.md tells the truth about its proofs: every test it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = re.findall(
    r"^\| ([A-Z]{2}\d+) \| (.+?) \| (.*?) \| (.*?) \| (.*?) \|$",
    (ROOT / "docs/features.md").read_text(),
    re.M,
)


def test_every_row_is_there_once() -> None:
    ids = [row[0] for row in ROWS]
    assert len(ids) == len(set(ids)) == 140


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_has_a_known_status_and_its_proof_exists(row: tuple[str, ...]) -> None:
    _, _, status, _, proof = row
    assert status in ("done", "partly", "not yet")
    paths = re.findall(r"`([^`]+)`", proof)
    assert bool(paths) == (status != "not yet")
    for path in paths:
        assert (ROOT / path).exists(), f"{path} is not there"
        assert (ROOT / path).is_dir() or path.endswith(".py")
