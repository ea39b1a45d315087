"""What the ledger is asked to keep. `docs/ledger.md` is the format; this is its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

INTENT = "intent"
OUTCOME = "outcome"


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened, already masked.

    `at` is Unix seconds. `fields` holds JSON values only (no floats: whole numbers, text, booleans, null).
    `payloads` are masked bytes kept beside the line, which carries only their commitment, size and place.
    """

    kind: str
    at: float
    fields: Mapping[str, Any]
    payloads: Mapping[str, bytes] = field(default_factory=dict)
