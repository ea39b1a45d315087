"""The approval dossier: every hold with who asked, who agreed, and whether they were different people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from extproc.domain.demand import HoldDemand, Quorum
from extproc.domain.hold import Vote
from extproc.domain.principal import Principal
from extproc.domain.quorum import free_places
from extproc.ledger.exchanges import Exchange
from extproc.ledger.lines import Line

Row = dict[str, Any]
ReadPayload = Callable[[Line, str], bytes | None]

COLUMNS = (
    "hold", "target", "requester", "requester_person", "rules", "quorum", "opened_at", "decided_at", "state",
    "approvers", "against", "reasons", "separate", "enough", "used_by", "executed", "grant_uses", "view", "record",
)  # fmt: skip
_BESIDE = ("hold.vote", "hold.break_glass", "hold.reviewed", "hold.review_overdue")
"""Kinds that move no hold to another state."""


def approvals(lines: Iterable[Line], exchanges: Iterable[Exchange], read: ReadPayload) -> list[Row]:
    """One row for each hold that was opened in the period, or of which a move lies in it.

    `separate` is computed anew from the votes: no approver is the person who asked, or shares a conflict group with
    them or with another approver. `enough` says whether the distinct people who agreed make up the quorum; both are
    null while there is nothing to judge, and `enough` is for what went in an emergency.
    """
    moves: dict[str, list[Line]] = {}
    for line in lines:
        hold = line.fields.get("hold")
        if line.kind.startswith(("hold.", "grant.")) and isinstance(hold, str):
            moves.setdefault(hold, []).append(line)
    used: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        used.setdefault(str(exchange.part("hold").get("id", "")), []).append(exchange)
    rows = [_row(hold, found, used.get(hold, []), read) for hold, found in moves.items()]
    return sorted(rows, key=lambda row: (row["opened_at"], row["hold"]))


def _row(hold: str, moves: list[Line], used: list[Exchange], read: ReadPayload) -> Row:
    moves.sort(key=lambda line: (line.at, line.seq))
    opened = next((line for line in moves if line.kind == "hold.opened"), None)
    fields: Mapping[str, Any] = opened.fields if opened is not None else {}
    requester = _part(fields, "requester")
    votes = [line for line in moves if line.kind == "hold.vote"]
    agreed = [_part(line.fields, "approver") for line in votes if line.fields.get("vote") == "approve"]
    against = [_part(line.fields, "approver") for line in votes if line.fields.get("vote") != "approve"]
    people = {_person(approver) for approver in agreed}
    ends = [line for line in moves if line.kind.startswith("hold.") and line.kind not in _BESIDE]
    decided = next((line for line in ends if line.kind != "hold.opened"), None)
    last = ends[-1] if ends else None
    view = read(opened, "view") if opened is not None else None
    known = opened is not None and bool(agreed)
    in_emergency = any(line.kind == "hold.break_glass" for line in moves)  # `exceptions` tells of its review
    return {
        "hold": hold,
        "target": fields.get("target", ""),
        "requester": requester.get("subject", ""),
        "requester_person": _person(requester) if requester else "",
        "rules": " ".join(map(str, fields.get("rules", ()))),
        "quorum": " ".join(f"{one.get('group')}={one.get('count')}" for one in fields.get("approvers", ())),
        "opened_at": opened.at if opened is not None else "",
        "decided_at": decided.at if decided is not None else "",
        "state": last.kind.removeprefix("hold.") if last is not None else "",
        "approvers": " ".join(sorted(people)),
        "against": " ".join(sorted({_person(approver) for approver in against})),
        "reasons": "; ".join(str(line.fields["reason"]) for line in votes if line.fields.get("reason")),
        "separate": _is_separate(fields, requester, agreed) if known else None,
        "enough": _is_enough(fields, agreed) if known and decided is not None and not in_emergency else None,
        "used_by": " ".join(exchange.text("decision_id") for exchange in used),
        "executed": any(
            exchange.outcome is not None and exchange.outcome.fields.get("executed") for exchange in used
        ),
        "grant_uses": sum(line.kind == "grant.used" for line in moves),
        "view": view.decode("utf-8", "replace") if view is not None else "",
        "record": f"{opened.writer}:{opened.seq}"
        if opened is not None
        else f"{moves[0].writer}:{moves[0].seq}",
    }


def _is_separate(
    fields: Mapping[str, Any], requester: Mapping[str, Any], agreed: list[Mapping[str, Any]]
) -> bool:
    """Different people, and of each conflict group one at most."""
    acted = {_person(one): one for one in agreed}
    if _person(requester) in acted:
        return False
    conflicts = set(fields.get("conflict_groups", ()))
    of_a_group = [
        group
        for one in (requester, *acted.values())
        for group in conflicts.intersection(one.get("groups", ()))
    ]
    return len(of_a_group) == len(set(of_a_group))


def _is_enough(fields: Mapping[str, Any], agreed: list[Mapping[str, Any]]) -> bool:
    """Do the people who agreed take every place of the quorum, each of them one?"""
    demand = HoldDemand(
        quorums=tuple(
            Quorum(str(one.get("group")), one.get("count", 1)) for one in fields.get("approvers", ())
        ),
        wait=0.0, expires=0.0, use_within=0.0, digest="",
        allow_agents=bool(fields.get("allow_agents")),
        conflict_groups=tuple(fields.get("conflict_groups", ())),
    )  # fmt: skip
    votes = [
        Vote(approver=_principal(one), person=_person(one), approve=True, reason="", at=0.0) for one in agreed
    ]
    return not free_places(demand, _principal(_part(fields, "requester")), votes)


def _principal(kept: Mapping[str, Any]) -> Principal:
    return Principal(
        issuer=str(kept.get("issuer", "")), subject=str(kept.get("subject", "")), kind=kept.get("kind", "agent"),
        person=_person(kept), groups=tuple(map(str, kept.get("groups", ()))),
    )  # fmt: skip


def _person(principal: Mapping[str, Any]) -> str:
    return str(principal.get("person") or f"{principal.get('issuer', '')}|{principal.get('subject', '')}")


def _part(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = fields.get(name)
    return found if isinstance(found, dict) else {}
