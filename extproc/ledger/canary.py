"""Canaries: made-up secrets that are planted in a request and looked for wherever it left traces.

All follow from a seed, so that a record needs to keep the seed alone and anybody can look for them again.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

PLACES: Final = ("query", "header", "body")


@dataclass(frozen=True, slots=True)
class Canary:
    """`kind` is the recognizer that must find `value`; `place` is one of PLACES, or `answer`: what the target holds."""

    kind: str
    place: str
    value: str

    def __repr__(self) -> str:
        return f"Canary({self.kind!r}, {self.place!r})"

    @property
    def name(self) -> str:
        """What a record calls it."""
        return f"{self.kind} in {self.place}"


def canaries_of(seed: str) -> tuple[Canary, ...]:
    """An e-mail address, a card number and an IBAN for every place, all of them different (docs/evidence.md)."""
    return tuple(
        Canary(kind, place, make(hmac.new(seed.encode(), f"{kind}/{place}".encode(), "sha256").hexdigest()))
        for place in PLACES
        for kind, make in (("EMAIL_ADDRESS", _mail), ("CREDIT_CARD", _card), ("IBAN_CODE", _iban))
    )


def seen_in(data: bytes, canaries: tuple[Canary, ...]) -> list[str]:
    """Names of the canaries that are in `data`: as they are, or written as in an URL or in JSON."""
    return [
        canary.name for canary in canaries if any(spelling in data for spelling in _spellings(canary.value))
    ]


def _spellings(value: str) -> set[bytes]:
    return {value.encode(), quote(value, safe="").encode(), value.replace("@", "\\u0040").encode()}


def _mail(digest: str) -> str:
    return f"canary-{digest[:24]}@canary.example"


def _card(digest: str) -> str:
    """16 digits that begin with 4; the last one makes Luhn's sum a multiple of ten."""
    body = f"4{int(digest, 16) % 10**14:014d}"
    doubled = [int(digit) * (2 if index % 2 == 0 else 1) for index, digit in enumerate(body)]
    return body + str(-sum(number - 9 if number > 9 else number for number in doubled) % 10)


def _iban(digest: str) -> str:
    """A German one: its two check digits are those of ISO 13616, over the country's letters as 13 and 14."""
    account = f"{int(digest, 16) % 10**18:018d}"
    return f"DE{98 - int(f'{account}131400') % 97:02d}{account}"
