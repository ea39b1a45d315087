"""What must happen before a held request goes on. Holds are stored with it, so it is never compiled: what a store holds
is read back by the fields' types, of which a compiled class keeps too little.
"""

from __future__ import annotations

from dataclasses import dataclass

from extproc.domain.terms import GrantLimit


@dataclass(frozen=True, slots=True)
class Quorum:
    """`count` distinct people who are members of `group`."""

    group: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class BreakGlass:
    """Who may let their own request go at once, and within how many seconds somebody else must look at it.

    `groups` has one entry a rule: the person needs a group out of each.
    """

    groups: tuple[tuple[str, ...], ...]
    review_within: float


@dataclass(frozen=True, slots=True)
class HoldDemand:
    """What must happen before a held request may go on. Durations in seconds.

    Several matching holds are merged: every quorum counts, shortest wait and expiry, narrowest grant.
    `digest` covers the deciding rules with their approver requirement; an approval is bound to it.
    """

    quorums: tuple[Quorum, ...]
    wait: float
    expires: float
    use_within: float
    digest: str
    grant: GrantLimit = GrantLimit()
    reason: str = ""
    allow_agents: bool = False
    resumable: bool = False
    reason_patterns: tuple[str, ...] = ()
    """Regular expressions (RE2) that the reason of every approval must match somewhere: a ticket, say."""
    break_glass: BreakGlass | None = None
    """None: nobody may."""
    conflict_groups: tuple[str, ...] = ()
    """Of the people of one of these, the requester among them, one at most counts: they count as one person."""
