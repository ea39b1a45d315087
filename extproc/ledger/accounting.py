"""The ledger against its spans: for each writer, how many records stand in spans that arrived, and how many in none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Account:
    """One writer, or all of them. Every record read is exactly one of shown, sampled out, spanless and open; what is
    left over is lost.
    """

    records: int = 0
    """In the ledger."""
    read: int = 0
    shown: int = 0
    sampled_out: int = 0
    spanless: int = 0
    """No span by design, or unreadable."""
    open: int = 0
    """Of an exchange or hold that has not ended."""

    @property
    def behind(self) -> int:
        """Not read by the exporter yet."""
        return max(0, self.records - self.read)

    @property
    def lost(self) -> int:
        """Read, and in no span that arrived. Not 0 is a fault; below 0, something was counted twice."""
        return self.read - self.shown - self.sampled_out - self.spanless - self.open

    def __add__(self, other: Account) -> Account:
        return Account(
            self.records + other.records,
            self.read + other.read,
            self.shown + other.shown,
            self.sampled_out + other.sampled_out,
            self.spanless + other.spanless,
            self.open + other.open,
        )


def accounts(sizes: Mapping[str, int], cursor: Mapping[str, Any]) -> dict[str, Account]:
    """An account of each writer in `sizes` (records by writer), by what the exporter's cursor says of it."""
    kept = cursor.get("writers")
    places = kept if isinstance(kept, Mapping) else {}
    return {name: _account(size, places.get(name)) for name, size in sizes.items()}


def _account(records: int, place: object) -> Account:
    if not isinstance(place, Mapping):
        return Account(records)
    read, waiting = _whole(place.get("records", place.get("segment"))), place.get("open", ())
    unended = len(waiting) if isinstance(waiting, list) else 0
    if "shown" not in place:  # a cursor of an older version
        return Account(records, read, max(0, read - unended), 0, 0, unended)
    return Account(
        records,
        read,
        _whole(place.get("shown")),
        _whole(place.get("sampled_out")),
        _whole(place.get("spanless")),
        unended,
    )


def _whole(value: object) -> int:
    return value if type(value) is int else 0
