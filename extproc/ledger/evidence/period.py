"""What the tables of a packet are made of, and the words that several of them share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from extproc.ledger.evidence.approvals import ReadPayload, Row
from extproc.ledger.exchanges import Exchange
from extproc.ledger.lines import Line, role_of


class Period(NamedTuple):
    """What the tables are made of. `rules` are those of the policies in force: (policy/rule, target, effect)."""

    lines: Sequence[Line]
    exchanges: Sequence[Exchange]
    read: ReadPayload
    seed: str
    sample_size: int
    checkpoints: Sequence[Row]
    counts: Sequence[Row]
    rules: Sequence[tuple[str, str, str]]


def of_kind(lines: Iterable[Line], kind: str) -> list[Line]:
    return [line for line in lines if line.kind == kind]


def is_blind(exchange: Exchange) -> bool:
    return exchange.response.get("inspected") in ("uninspected", "opaque")


def who_of(line: Line) -> str:
    for name in ("by", "asked_by", "approver", "requester"):
        found = line.fields.get(name)
        if isinstance(found, dict):
            inner = found.get("principal")
            known = inner if isinstance(inner, dict) else found
            return str(
                known.get("person")
                or known.get("subject")
                or (f"uid:{known['uid']}" if "uid" in known else "")
            )
    return role_of(line.writer)


def detail_of(line: Line) -> str:
    skipped = (
        "by",
        "asked_by",
        "approver",
        "requester",
        "approvers",
        "files",
        "demand_digest",
        "key",
        "binding",
        "move",
    )
    kept = {
        name: value
        for name, value in line.fields.items()
        if name not in skipped and not isinstance(value, dict)
    }
    return " ".join(f"{name}={_word(value)}" for name, value in sorted(kept.items()))[:400]


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def merged(known: str, more: Iterable[str]) -> str:
    return " ".join(sorted({*known.split(), *(one for one in more if one)}))
