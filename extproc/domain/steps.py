"""The exchange seam: what a step of the pipeline returns, and all a server needs to know.

Every step may carry `records`; the server appends them to the ledger and commits **before** it sends the reply.
If that commit fails the reply becomes a refusal. Servers await only on `Wait` and `NeedKeys`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import IntEnum
from typing import Final

from extproc.domain.decision import NO_CHANGE, HeaderChange
from extproc.domain.hold import HoldAsk
from extproc.domain.nouns import NOTHING, noun
from extproc.domain.record import Record


class BodyMode(IntEnum):
    """How Envoy sends a body. The order is strength: an override may only lower."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2


@noun(frozen=True, slots=True)
class BodyModes:
    """What Envoy shall send from now on. Both are always named (Envoy zeroes what is left out)."""

    request: BodyMode
    response: BodyMode


UNSEEN: Final = BodyModes(BodyMode.NONE, BodyMode.NONE)
"""Neither body."""


@noun(slots=True, init=False, unsafe_hash=True)
class Forward:
    """Let this message go on. `body` None means unchanged, byte for byte."""

    headers: Final[HeaderChange]
    body: Final[bytes | None]
    modes: Final[BodyModes | None]
    metadata: Final[Mapping[str, str]]
    records: Final[tuple[Record, ...]]

    def __init__(
        self,
        headers: HeaderChange = NO_CHANGE,
        body: bytes | None = None,
        modes: BodyModes | None = None,
        metadata: Mapping[str, str] = NOTHING,
        records: tuple[Record, ...] = (),
    ) -> None:
        self.headers = headers
        self.body = body
        self.modes = modes
        self.metadata = metadata
        self.records = records


@noun(frozen=True, slots=True)
class Refuse:
    """Answer the client ourselves. Header names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    details: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    records: tuple[Record, ...] = ()


@noun(frozen=True, slots=True)
class NeedBody:
    """Nothing can be decided before the request body is here."""

    records: tuple[Record, ...] = ()


@noun(frozen=True, slots=True)
class Wait:
    """A person must agree. The server asks the hold store and comes back with what became of it."""

    ask: HoldAsk
    wait: float
    """Seconds this request itself may wait; 0 means answer at once."""
    records: tuple[Record, ...] = ()


@noun(frozen=True, slots=True)
class NeedKeys:
    """The token names a key we do not hold; the server fetches `provider`'s keys and comes back."""

    provider: str
    records: tuple[Record, ...] = ()


Step = Forward | Refuse | NeedBody | Wait | NeedKeys
