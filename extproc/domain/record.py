"""What the ledger is asked to keep. `docs/ledger.md` is the format; this is its input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from extproc.domain.nouns import noun

INTENT: Final = "intent"
ACCESS: Final = "access"
"""How Envoy says that a request or connection ended."""
OUTCOME: Final = "outcome"
NO_PAYLOADS: Final[Mapping[str, bytes]] = MappingProxyType({})
_SCALARS: Final = frozenset((str, int, bool, type(None)))


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


@noun(slots=True, init=False, unsafe_hash=True)
class Record:
    """One thing that happened, already masked.

    `at` is Unix seconds. `fields` holds JSON values only (no floats: whole numbers, text, booleans, null).
    `payloads` are masked bytes kept beside the line, which carries only their commitment, size and place.
    """

    kind: Final[str]
    at: Final[float]
    fields: Final[Mapping[str, Any]]
    payloads: Final[Mapping[str, bytes]]

    def __init__(
        self, kind: str, at: float, fields: Mapping[str, Any], payloads: Mapping[str, bytes] = NO_PAYLOADS
    ) -> None:
        self.kind = kind
        self.at = at
        self.fields = fields
        self.payloads = payloads
