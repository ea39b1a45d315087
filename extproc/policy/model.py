"""What a policy file says, once its structure is right and before its conditions are compiled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from extproc.domain.decision import HeaderChange, Obligations, RecordDetail
from extproc.domain.demand import BreakGlass, Quorum
from extproc.domain.mask import MaskSpec
from extproc.domain.terms import GrantLimit
from extproc.policy.documents import Mark, PolicySource, Scalar

Mode = Literal["enforce", "shadow"]


@dataclass(frozen=True, slots=True)
class DenySpec:
    """`code` empty means: the general code of a rule's denial."""

    message: str = ""
    status: int = 403
    code: str = ""


@dataclass(frozen=True, slots=True)
class HoldSpec:
    """As written in the file. Durations in seconds."""

    quorums: tuple[Quorum, ...]
    wait: float
    expires: float
    use_within: float
    grant: GrantLimit
    reason: str = ""
    resumable: bool = False
    reason_pattern: str = ""
    allow_agents: bool = False
    break_glass: BreakGlass | None = None
    conflict_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """One rule as written; `masks` are names within the file."""

    name: str
    when: Scalar
    mode: Mode
    mark: Mark
    allows: bool = False
    deny: DenySpec | None = None
    hold: HoldSpec | None = None
    masks: tuple[str, ...] = ()
    record_request: RecordDetail = "none"
    record_response: RecordDetail = "none"
    request_headers: HeaderChange = HeaderChange()
    response_headers: HeaderChange = HeaderChange()
    risk: int = 0
    place: Mapping[str, Mark] = field(default_factory=dict)
    """Where the parts of `then` stand."""

    def obligations(self, policy: str) -> Obligations:
        """What the rule adds to an allow, with qualified mask names."""
        return Obligations(
            masks=tuple(sorted(qualified(policy, mask) for mask in self.masks)),
            record_request=self.record_request,
            record_response=self.record_response,
            request_headers=self.request_headers,
            response_headers=self.response_headers,
        )

    def canonical(self) -> dict[str, object]:
        """Everything that makes the rule what it is, in one form however it was written."""
        then: dict[str, object] = {"risk": self.risk}
        if self.allows:
            then["allow"] = {}
        if self.deny:
            then["deny"] = {"message": self.deny.message, "status": self.deny.status, "code": self.deny.code}
        if self.hold:
            then["hold"] = _hold(self.hold)
        then["mask"] = sorted(self.masks)
        then["record"] = {"request": self.record_request, "response": self.record_response}
        then["headers"] = {
            "request": _headers(self.request_headers),
            "response": _headers(self.response_headers),
        }
        return {"name": self.name, "when": self.when.text.strip(), "mode": self.mode, "then": then}


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One policy file. Exactly one of `target` and `labels` is set; `kind` narrows labels, or is empty."""

    source: PolicySource
    name: str
    name_mark: Mark
    target: str
    kind: str
    labels: Mapping[str, str]
    target_mark: Mark
    default_allow: bool
    rules: tuple[RuleSpec, ...]
    masks: Mapping[str, MaskSpec]

    @property
    def digest(self) -> str:
        """Over the file's text: `sha256sum` of the file gives the same."""
        return "sha256:" + hashlib.sha256(self.source.text.encode()).hexdigest()


def qualified(policy: str, name: str) -> str:
    """A rule's or a mask's name across files."""
    return f"{policy}/{name}"


def digest_of(value: object) -> str:
    """Over canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _hold(hold: HoldSpec) -> dict[str, object]:
    kept: dict[str, object] = {
        "approvers": [{"group": quorum.group, "count": quorum.count} for quorum in hold.quorums],
        "wait": hold.wait,
        "expires": hold.expires,
        "use_within": hold.use_within,
        "grant": {"for": hold.grant.duration, "uses": hold.grant.uses, "scope": hold.grant.scope},
        "reason": hold.reason,
        "resumable": hold.resumable,
        "allow_agents": hold.allow_agents,
    }
    # only where it is set: rules that were there before it keep their digests
    if hold.reason_pattern:
        kept["reason_pattern"] = hold.reason_pattern
    if hold.break_glass is not None:
        kept["break_glass"] = {
            "groups": list(hold.break_glass.groups),
            "review_within": hold.break_glass.review_within,
        }
    if hold.conflict_groups:
        kept["conflict_groups"] = list(hold.conflict_groups)
    return kept


def _headers(change: HeaderChange) -> dict[str, object]:
    return {"set": sorted(map(list, change.set)), "remove": sorted(change.remove)}
