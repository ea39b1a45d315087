"""A request that waits, who may let it go, and every move it can make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from extproc.domain.demand import HoldDemand
from extproc.domain.errors import ExtprocError
from extproc.domain.principal import Principal
from extproc.domain.terms import GrantTerms, Shape


class HoldState(StrEnum):
    """Where a hold stands. `PENDING` and `APPROVED` are open, the rest are final."""

    PENDING = "pending"
    APPROVED = "approved"
    RELEASED = "released"
    REJECTED = "rejected"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    ABANDONED = "abandoned"
    REVOKED = "revoked"
    VOID = "void"


class Verdict(StrEnum):
    """What can happen to a hold. An approval short of its quorum is a vote and moves nothing."""

    APPROVE = "approve"
    REJECT = "reject"
    EXPIRE = "expire"
    WITHDRAW = "withdraw"
    ABANDON = "abandon"
    VOID = "void"
    RELEASE = "release"
    REVOKE = "revoke"
    BREAK_GLASS = "break_glass"


MOVES: dict[tuple[HoldState, Verdict], HoldState] = {
    (HoldState.PENDING, Verdict.APPROVE): HoldState.APPROVED,
    (HoldState.PENDING, Verdict.BREAK_GLASS): HoldState.APPROVED,
    (HoldState.PENDING, Verdict.REJECT): HoldState.REJECTED,
    (HoldState.PENDING, Verdict.EXPIRE): HoldState.EXPIRED,
    (HoldState.PENDING, Verdict.WITHDRAW): HoldState.WITHDRAWN,
    (HoldState.PENDING, Verdict.ABANDON): HoldState.ABANDONED,
    (HoldState.PENDING, Verdict.VOID): HoldState.VOID,
    (HoldState.APPROVED, Verdict.RELEASE): HoldState.RELEASED,
    (HoldState.APPROVED, Verdict.REVOKE): HoldState.REVOKED,
    (HoldState.APPROVED, Verdict.EXPIRE): HoldState.EXPIRED,
    (HoldState.APPROVED, Verdict.VOID): HoldState.VOID,
}
"""What is not in this table cannot happen."""

OPEN_STATES = frozenset({HoldState.PENDING, HoldState.APPROVED})


class HoldError(ExtprocError):
    """A move that may not happen. `code` is stable: not_found, not_open, self_approval, not_human,
    not_a_member, already_voted, reason_required, too_many, not_shown_in_full, too_wide, unknown_pin,
    reason_pattern, conflict, not_allowed, not_requester, not_broken, already_reviewed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


REASON_LIMIT = 2000
"""Characters of a reason."""

VIEW_SECTIONS = ("facts", "normalised", "raw")
"""The order in which a view is shown: what we found out, what it means, what was sent."""


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """How much may wait at once: open holds of one (issuer, subject), of everybody, waiters on one hold."""

    per_principal: int = 20
    total: int = 10_000
    waiters: int = 100


@dataclass(frozen=True, slots=True)
class HoldAsk:
    """What the pipeline asks the store to hold.

    `binding` is a keyed digest over principal, target, the exact request and the deciding rules:
    equal asks have equal bindings and share one open hold. `view` is what an approver sees, already masked:
    JSON values under `VIEW_SECTIONS`. Whoever cuts something says so with a truthy `truncated` (best: the list
    of what was cut) in the view itself or in the section; such a hold cannot be approved.
    `session_id` and `decision_id` tie it to the ledger. `shape` is there where a grant may leave values open.
    """

    binding: str
    target: str
    requester: Principal
    demand: HoldDemand
    rules: tuple[str, ...]
    risk: tuple[tuple[str, int], ...]
    view: Mapping[str, Any]
    decision_id: str
    session_id: str
    policy_digest: str = ""
    trace_id: str = ""
    shape: Shape | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's word on a hold. `at` is Unix seconds; without `terms` an approval is for this request once."""

    person: str
    approver: Principal
    approve: bool
    reason: str
    at: float
    terms: GrantTerms | None = None


class ReviewState(StrEnum):
    """Where the review of a broken glass stands; `OPEN` and `OVERDUE` are owed."""

    OPEN = "open"
    OVERDUE = "overdue"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Review:
    """Somebody else looked at what was done in an emergency. `justified` is their finding, `at` Unix seconds."""

    reviewer: Principal
    justified: bool
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class BrokenGlass:
    """The requester let their own request go at once. Times are Unix seconds.

    `is_late` says that it was told that nobody reviewed it by `review_by`.
    """

    by: Principal
    reason: str
    at: float
    review_by: float
    is_late: bool = False
    review: Review | None = None

    @property
    def state(self) -> ReviewState:
        """Where its review stands by the books."""
        if self.review is not None:
            return ReviewState.DONE
        return ReviewState.OVERDUE if self.is_late else ReviewState.OPEN


@dataclass(frozen=True, slots=True)
class HeldRequest:
    """A hold as the store keeps it. Times are Unix seconds; `version` grows with every change."""

    id: str
    ask: HoldAsk
    state: HoldState
    version: int
    created_at: float
    expires_at: float
    decided_at: float = 0.0
    use_before: float = 0.0
    votes: tuple[Vote, ...] = ()
    waiters: int = 0
    released_to: str = ""
    """The decision id of the one request that an approval let go."""
    closed_reason: str = ""
    glass: BrokenGlass | None = None
    """There when its requester let it go in an emergency."""

    @property
    def is_open(self) -> bool:
        """Still pending, or approved and not yet used."""
        return self.state in OPEN_STATES

    @property
    def deadline(self) -> float | None:
        """When time alone ends it: `expires_at` while pending, `use_before` while approved."""
        if self.state is HoldState.PENDING:
            return self.expires_at
        return self.use_before if self.state is HoldState.APPROVED else None

    def is_overdue(self, now: float) -> bool:
        """Open by the books although its time is up."""
        deadline = self.deadline
        return deadline is not None and now >= deadline

    @property
    def review_deadline(self) -> float | None:
        """When its review becomes overdue; None where none is owed, or that was told already."""
        is_open = self.glass is not None and self.glass.state is ReviewState.OPEN
        return self.glass.review_by if self.glass is not None and is_open else None

    def is_review_overdue(self, now: float) -> bool:
        """A review is owed, its time is up, and nobody was told yet."""
        deadline = self.review_deadline
        return deadline is not None and now >= deadline


@dataclass(frozen=True, slots=True)
class HoldsOpen:
    """How many holds are in one open state, and when the oldest of them was made (Unix seconds)."""

    state: HoldState
    count: int
    oldest: float


@dataclass(frozen=True, slots=True)
class HoldMove:
    """One change of a hold, written in the same transaction and then told to the ledger (an outbox).

    `kind` is the record kind (`hold.opened`, `hold.vote`, `hold.approved`, …); `id` lets a reader drop repeats.
    """

    id: str
    hold_id: str
    kind: str
    at: float
    fields: Mapping[str, Any] = field(default_factory=dict)


class HoldStore(Protocol):
    """Where holds wait. Every change is atomic; every change leaves a `HoldMove` to be recorded."""

    async def open(self, ask: HoldAsk, now: float) -> HeldRequest:
        """Join the open hold with the same binding or create a pending one, and count one waiter more.

        Raises HoldError("too_many") at a bound and StoreUnavailableError.
        """

    async def leave(self, hold_id: str, now: float) -> None:
        """A waiter is gone; the hold stays."""

    async def get(self, hold_id: str, now: float) -> HeldRequest | None:
        """The hold as it stands at `now`: what is overdue is expired first."""

    async def find(
        self,
        *,
        states: Sequence[HoldState] = (),
        requester: tuple[str, str] | None = None,
        seen_by: Principal | None = None,
        reviews: Sequence[ReviewState] = (),
        limit: int = 100,
        now: float,
    ) -> list[HeldRequest]:
        """Newest first; `requester` is (issuer, subject), `seen_by` keeps what `quorum.may_see` allows.

        `reviews` keeps broken glass whose review stands so.
        """

    async def vote(self, hold_id: str, vote: Vote, now: float) -> HeldRequest:
        """Count a vote; enough of them approve, one rejection rejects. Raises HoldError."""

    async def break_glass(self, hold_id: str, by: Principal, reason: str, now: float) -> HeldRequest:
        """Its requester approves it in an emergency, to be reviewed. Raises HoldError."""

    async def review(self, hold_id: str, review: Review, now: float) -> HeldRequest:
        """Somebody else looked at it. Raises HoldError."""

    async def release(self, hold_id: str, decision_id: str, now: float) -> HeldRequest:
        """Spend the approval on exactly one request. Raises HoldError("not_open") if it is spent or overdue."""

    async def close(
        self, hold_id: str, verdict: Verdict, now: float, *, by: str = "", reason: str = ""
    ) -> HeldRequest:
        """Expire, withdraw, abandon, void or revoke, as the table allows.

        What another request waits on is not abandoned. Raises HoldError.
        """

    async def changed(self, hold_id: str, version: int, timeout: float) -> HeldRequest | None:
        """Wait until the hold's version differs from `version`, at most `timeout` seconds; None if it did not.

        Raises StoreUnavailableError when the store is lost meanwhile, and HoldError("not_found").
        """

    async def news(self, since: int, timeout: float) -> int:
        """The number of the newest move of any hold; waits at most `timeout` seconds until it exceeds `since`."""

    async def sweep(self, now: float) -> int:
        """Expire what is overdue at `now`, and tell of reviews that became so; how many that were."""

    async def unrecorded(self, limit: int = 100) -> list[HoldMove]:
        """Moves not yet told to the ledger, oldest first."""

    async def oldest_unrecorded(self) -> float | None:
        """When the oldest move happened that no ledger has yet. Changes nothing."""

    async def recorded(self, move_ids: Sequence[str]) -> None:
        """These moves are in the ledger now."""
