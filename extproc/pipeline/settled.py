"""What became of a request that had to wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from extproc.domain.hold import HeldRequest

Outcome = Literal[
    "released", "waiting", "rejected", "closed", "void", "too_many", "unavailable", "token_expired"
]


@dataclass(frozen=True, slots=True)
class HoldSettled:
    """The end of a wait. `held` is the hold as last seen; None when none could be opened.

    `released`: this request may go on. `waiting`: the wait is over, the hold stays pending.
    `closed`: expired, withdrawn or abandoned. `void`: policy changed under the approval.
    """

    outcome: Outcome
    held: HeldRequest | None = None
