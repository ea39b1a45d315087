"""How what several rules want becomes one: obligations add up, holds narrow. The order of rules never matters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from extproc.domain.decision import HeaderChange, Obligations, RecordDetail
from extproc.domain.demand import BreakGlass, HoldDemand, Quorum
from extproc.domain.terms import SCOPES, GrantLimit
from extproc.policy.model import HoldSpec, digest_of

NOTHING = Obligations()
_NO_CHANGE = HeaderChange()


def add_obligations(parts: Sequence[Obligations]) -> Obligations:
    """Masks, records and header changes of all of them. A header that one removes is not set by another; of two
    values the smaller text wins, so that the outcome does not hang on the order of rules."""
    distinct = [part for part in parts if part is not NOTHING]
    if not distinct:
        return NOTHING
    if len(distinct) == 1:
        return distinct[0]
    masks = {mask for part in distinct for mask in part.masks}
    return Obligations(
        masks=tuple(sorted(masks)),
        record_request=_most(part.record_request for part in distinct),
        record_response=_most(part.record_response for part in distinct),
        request_headers=_headers([part.request_headers for part in distinct]),
        response_headers=_headers([part.response_headers for part in distinct]),
    )


def protective(obligations: Obligations) -> Obligations:
    """What holds even when the rule could not be evaluated: masks, records and header removals, but nothing set."""
    found = Obligations(
        masks=obligations.masks,
        record_request=obligations.record_request,
        record_response=obligations.record_response,
        request_headers=HeaderChange(remove=obligations.request_headers.remove),
        response_headers=HeaderChange(remove=obligations.response_headers.remove),
    )
    return NOTHING if found == NOTHING else found


def merge_holds(holds: Iterable[tuple[str, HoldSpec]]) -> HoldDemand:
    """One demand that satisfies every hold; `holds` are (rule digest, what the rule asks).

    A group that several holds name must give the largest of the counts.
    """
    found = sorted(holds, key=lambda pair: pair[0])
    specs = [spec for _, spec in found]
    counts: dict[str, int] = {}
    for spec in specs:
        for quorum in spec.quorums:
            counts[quorum.group] = max(quorum.count, counts.get(quorum.group, 0))
    expires = min(spec.expires for spec in specs)
    reasons = sorted({spec.reason for spec in specs if spec.reason})
    return HoldDemand(
        quorums=tuple(Quorum(group, counts[group]) for group in sorted(counts)),
        wait=min(expires, *(spec.wait for spec in specs)),
        expires=expires,
        use_within=min(spec.use_within for spec in specs),
        digest=digest_of([digest for digest, _ in found]),
        grant=_narrowest([spec.grant for spec in specs]),
        reason="; ".join(reasons),
        allow_agents=all(spec.allow_agents for spec in specs),
        resumable=all(spec.resumable for spec in specs),
        reason_patterns=tuple(sorted({spec.reason_pattern for spec in specs if spec.reason_pattern})),
        break_glass=_emergencies([spec.break_glass for spec in specs]),
        conflict_groups=tuple(sorted({group for spec in specs for group in spec.conflict_groups})),
    )


def _emergencies(allowed: list[BreakGlass | None]) -> BreakGlass | None:
    """Only where every rule allows it, to people whom every rule names; the shortest time for the review."""
    found = [each for each in allowed if each is not None]
    if len(found) < len(allowed):
        return None
    groups = {groups for each in found for groups in each.groups}
    return BreakGlass(tuple(sorted(groups)), min(each.review_within for each in found))


def _narrowest(grants: list[GrantLimit]) -> GrantLimit:
    return GrantLimit(
        duration=min(grant.duration for grant in grants),
        uses=min(grant.uses for grant in grants),
        scope=min((grant.scope for grant in grants), key=SCOPES.index),
    )


def _most(details: Iterable[RecordDetail]) -> RecordDetail:
    return "masked" if "masked" in set(details) else "none"


def _headers(changes: list[HeaderChange]) -> HeaderChange:
    removed = {name for change in changes for name in change.remove}
    settings: dict[str, str] = {}
    for change in changes:
        for name, value in change.set:
            if name not in removed:
                settings[name] = min(value, settings.get(name, value))
    if not removed and not settings:
        return _NO_CHANGE
    return HeaderChange(tuple(sorted(settings.items())), tuple(sorted(removed)))
