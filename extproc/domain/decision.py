"""What policy says: `Allow`, `Deny` or `Hold`, and what an allow still asks of us."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal

from extproc.domain.demand import HoldDemand
from extproc.domain.nouns import noun
from extproc.domain.record import Checked


class Phase(IntEnum):
    """When a rule can be judged: as soon as the latest fact it reads is known."""

    HEADERS = 0
    BODY = 1
    RESPONSE = 2
    ROW = 3


Effect = Literal["allow", "deny", "hold", "none"]
RecordDetail = Literal["none", "masked"]


@dataclass(frozen=True, slots=True)
class Matched:
    """A rule that matched, or that could not be evaluated and counts as matched (`errored`)."""

    rule: str
    digest: str
    effect: Effect
    risk: int = 0
    shadow: bool = False
    errored: bool = False
    _record: Checked | None = field(default=None, init=False, repr=False, compare=False)

    def to_record(self) -> Checked:
        """The ledger's form; flags appear only when set. Made once, since rules are few."""
        record = self._record
        if record is None:
            record = Checked(self._kept())
            object.__setattr__(self, "_record", record)
        return record

    def _kept(self) -> dict[str, object]:
        kept: dict[str, object] = {"rule": self.rule, "digest": self.digest, "effect": self.effect}
        if self.risk:
            kept["risk"] = self.risk
        if self.shadow:
            kept["shadow"] = True
        if self.errored:
            kept["errored"] = True
        return kept


@noun(slots=True, init=False, unsafe_hash=True)
class HeaderChange:
    """Header obligations: names in lower case, applied removal first."""

    set: Final[tuple[tuple[str, str], ...]]
    remove: Final[tuple[str, ...]]

    def __init__(self, set: tuple[tuple[str, str], ...] = (), remove: tuple[str, ...] = ()) -> None:
        self.set = set
        self.remove = remove


NO_CHANGE: Final = HeaderChange()


@noun(frozen=True, slots=True)
class Obligations:
    """What an allowed request still owes. Several rules' obligations add up."""

    masks: tuple[str, ...] = ()
    """Names of mask plans to apply to the response, sorted, qualified as the policy loader made them."""
    record_request: RecordDetail = "none"
    record_response: RecordDetail = "none"
    request_headers: HeaderChange = NO_CHANGE
    response_headers: HeaderChange = NO_CHANGE


NO_OBLIGATIONS: Final = Obligations()


@noun(frozen=True, slots=True)
class Allow:
    """Let it pass, and do what is owed."""

    obligations: Obligations = NO_OBLIGATIONS


ALLOW: Final = Allow()
"""An allow that owes nothing."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Turn it away and say why. `code` is stable and machine-readable; `rule` is empty for the default."""

    code: str
    message: str
    rule: str = ""
    status: int = 403


@dataclass(frozen=True, slots=True)
class Hold:
    """A person must agree first; `obligations` are owed once it is released."""

    demand: HoldDemand
    rules: tuple[str, ...]
    obligations: Obligations = NO_OBLIGATIONS


Decision = Allow | Deny | Hold


@noun(slots=True, init=False, unsafe_hash=True)
class Ruling:
    """The outcome of judging a request up to and including `phase`.

    `decision` is None while a later phase may still change it; then the pipeline must reach that phase.
    """

    phase: Final[Phase]
    decision: Final[Decision | None]
    matched: Final[tuple[Matched, ...]]
    risk: Final[int]
    policy_digest: Final[str]
    errors: Final[tuple[str, ...]]
    """Rules that could not be evaluated: `rule: reason`, without values."""

    def __init__(
        self,
        phase: Phase,
        decision: Decision | None,
        matched: tuple[Matched, ...] = (),
        risk: int = 0,
        policy_digest: str = "",
        errors: tuple[str, ...] = (),
    ) -> None:
        self.phase = phase
        self.decision = decision
        self.matched = matched
        self.risk = risk
        self.policy_digest = policy_digest
        self.errors = errors
