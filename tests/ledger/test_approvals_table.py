"""The approval dossier: whether different people agreed, and enough of them, computed anew from the votes."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.ledger.evidence.approvals import approvals
from extproc.ledger.lines import Line


def person(name: str, *groups: str) -> dict[str, Any]:
    return {
        "issuer": "https://i", "subject": name, "kind": "human", "person": f"{name}@x", "groups": list(groups),
    }  # fmt: skip


BOT = {**person("bot", "payments"), "kind": "agent"}
ANNA, BERT = person("anna", "sre"), person("bert", "sre", "dpo")
DORA, EVE = person("dora", "dpo", "payments"), person("eve", "dpo", "vendor")
FRED, ROBOT = person("fred", "sre", "vendor"), {**person("robot", "sre"), "kind": "agent"}
ROLES = [{"group": "sre", "count": 1}, {"group": "dpo", "count": 1}]


def line(seq: int, kind: str, **fields: Any) -> Line:
    at = f"2026-11-23T17:50:{seq:02d}.000000Z"
    return Line("approvals-a", seq, "", at, kind, "", {"hold": "h-1", "target": "api", **fields})


def judged(agreed: list[dict[str, Any]], **demand: Any) -> tuple[Any, Any]:
    opened = line(1, "hold.opened", requester=BOT, **{"approvers": ROLES, **demand})
    votes = [line(2 + n, "hold.vote", approver=one, vote="approve") for n, one in enumerate(agreed)]
    (row,) = approvals([opened, *votes, line(50, "hold.approved")], [], lambda *_: None)
    return row["separate"], row["enough"]


@pytest.mark.parametrize(
    ("agreed", "demand", "separate", "enough"),
    [
        ([ANNA, BERT], {}, True, True),
        ([BERT], {}, True, False),  # in both groups, and still one person
        ([ANNA, DORA], {}, True, True),
        ([ANNA, DORA], {"conflict_groups": ["payments"]}, False, False),  # the requester's own group
        ([FRED, EVE], {"conflict_groups": ["vendor"]}, False, False),
        ([FRED, EVE], {"conflict_groups": ["payments"]}, True, True),
        ([FRED, EVE, BERT], {"conflict_groups": ["vendor"]}, False, True),
        ([{**ANNA, "person": BOT["person"]}, BERT], {}, False, False),
        ([ROBOT, EVE], {}, True, False),
        ([ROBOT, EVE], {"allow_agents": True}, True, True),
    ],
)
def test_separate_and_enough_are_computed_from_the_votes(
    agreed: list[dict[str, Any]], demand: dict[str, Any], separate: bool, enough: bool
):
    assert judged(agreed, **demand) == (separate, enough)


@pytest.mark.parametrize("end", ["approved", "rejected", "expired", "withdrawn", "abandoned", "void"])
def test_every_end_of_a_hold_has_its_time(end: str):
    opened = line(1, "hold.opened", requester=BOT, approvers=ROLES)
    cast = line(2, "hold.vote", approver=ANNA, vote="reject")
    (row,) = approvals([opened, cast, line(3, f"hold.{end}")], [], lambda *_: None)
    assert (row["state"], row["decided_at"]) == (end, "2026-11-23T17:50:03.000000Z")
    (row,) = approvals([opened, cast], [], lambda *_: None)
    assert (row["state"], row["decided_at"]) == ("opened", "")
