"""What the ledger is asked to keep. `docs/ledger.md` is the format; this is its input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

from extproc.domain.nouns import noun

INTENT = "intent"
ACCESS = "access"
"""How Envoy says that a request or connection ended."""
OUTCOME = "outcome"
_SCALARS = frozenset((str, int, bool, type(None)))


class Checked(dict[str, Any]):
    """A part of a record that is written again and again: checked once to hold what records may. Never change one.

    Raises TypeError for anything but text, whole numbers, booleans, null and lists of them.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        for value in values.values():
            parts: Iterable[Any] = value if type(value) is list else (value,)
            if any(type(part) not in _SCALARS for part in parts):
                raise TypeError("not a value that a record may hold")
        super().__init__(values)


@noun(frozen=True, slots=True)
class Record:
    """One thing that happened, already masked.

    `at` is Unix seconds. `fields` holds JSON values only (no floats: whole numbers, text, booleans, null).
    `payloads` are masked bytes kept beside the line, which carries only their commitment, size and place.
    """

    kind: str
    at: float
    fields: Mapping[str, Any]
    payloads: Mapping[str, bytes] = field(default_factory=dict)
