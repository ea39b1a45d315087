"""A grant: an approval that lets more than the held request go, within limits; and every move it can make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from extproc.domain.hold import HeldRequest, HoldAsk, HoldStore
from extproc.domain.principal import Principal
from extproc.domain.terms import GrantTerms


class GrantState(StrEnum):
    """Where a grant stands. `LIVE` can be used, the rest are final."""

    LIVE = "live"
    EXHAUSTED = "exhausted"
    EXPIRED = "expired"
    REVOKED = "revoked"


class GrantEvent(StrEnum):
    """What can happen to a grant."""

    USE = "use"
    LAST_USE = "last_use"
    EXPIRE = "expire"
    REVOKE = "revoke"


GRANT_MOVES: dict[tuple[GrantState, GrantEvent], GrantState] = {
    (GrantState.LIVE, GrantEvent.USE): GrantState.LIVE,
    (GrantState.LIVE, GrantEvent.LAST_USE): GrantState.EXHAUSTED,
    (GrantState.LIVE, GrantEvent.EXPIRE): GrantState.EXPIRED,
    (GrantState.LIVE, GrantEvent.REVOKE): GrantState.REVOKED,
}
"""What is not in this table cannot happen."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant as the store keeps it. Times are Unix seconds; `version` is the number of its moves.

    `held` is the hold whose approval made it: it says for whom, for what and by whom. `key` is what a request must
    match: the hold's binding, or its shape's key. `used` counts the held request itself from the beginning,
    whether it runs or not.
    """

    id: str
    held: HeldRequest
    key: str
    terms: GrantTerms
    state: GrantState
    version: int
    made_at: float
    expires_at: float
    used: int = 1
    closed_reason: str = ""

    @property
    def is_live(self) -> bool:
        """By the books; see `is_overdue`."""
        return self.state is GrantState.LIVE

    def is_overdue(self, now: float) -> bool:
        """Live by the books although its time is up."""
        return self.is_live and now >= self.expires_at


class GrantStore(Protocol):
    """Where grants are kept: with the holds that made them. Every change is atomic and leaves a move to record."""

    async def covering(self, ask: HoldAsk, now: float) -> Grant | None:
        """A live grant that covers `ask`, the soonest to end; None while the exact request itself is approved.

        Raises StoreUnavailableError.
        """

    async def use_grant(self, grant_id: str, decision_id: str, now: float) -> Grant:
        """Count one use for the request that `decision_id` names; the same one again is not counted twice.

        Raises HoldError("not_open") when it is used up, over, revoked, or its votes do not bear it.
        """

    async def get_grant(self, grant_id: str, now: float) -> Grant | None:
        """The grant as it stands at `now`."""

    async def find_grants(
        self,
        *,
        states: Sequence[GrantState] = (),
        requester: tuple[str, str] | None = None,
        seen_by: Principal | None = None,
        limit: int = 100,
        now: float,
    ) -> list[Grant]:
        """Newest first; `requester` is (issuer, subject), `seen_by` keeps what `quorum.may_see` allows."""

    async def revoke_grant(self, grant_id: str, now: float, *, by: str = "", reason: str = "") -> Grant:
        """End it now, and the unused approval of its hold with it. Raises HoldError."""


class ApprovalStore(HoldStore, GrantStore, Protocol):
    """Holds and grants in one place, so that an approval and its grant are made in one transaction."""
