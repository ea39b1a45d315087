"""What became of a request that had to wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from extproc.domain.grant import Grant
from extproc.domain.hold import HeldRequest

Outcome = Literal[
    "released", "waiting", "rejected", "closed", "void", "too_many", "unavailable", "token_expired"
]


@dataclass(frozen=True, slots=True)
class HoldSettled:
    """The end of a wait. `held` is the hold as last seen; None when none could be opened.

    With `grant` there was no wait: the approval of `held` made a grant that covers this request, counted already.

    `released`: this request may go on. `waiting`: the wait is over, the hold stays pending.
    `closed`: expired, withdrawn or abandoned. `void`: policy changed under the approval.
    """

    outcome: Outcome
    held: HeldRequest | None = None
    grant: Grant | None = None

    @property
    def code(self) -> str:
        """Why a released request goes on, as its intent says."""
        return "released" if self.grant is None else "granted"
