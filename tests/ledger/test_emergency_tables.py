"""What an auditor sees of emergencies: each one, what somebody else found about it, and those nobody looked at."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.app.evidence import load_controls
from extproc.ledger.evidence.approvals import approvals
from extproc.ledger.evidence.numbers import evaluate
from extproc.ledger.evidence.period import Period
from extproc.ledger.evidence.tables import build_tables
from extproc.ledger.lines import Line

OLGA = {"issuer": "https://i", "subject": "olga", "kind": "human", "person": "olga@x", "groups": ["oncall"]}
ANNA = {"issuer": "https://i", "subject": "anna", "kind": "human", "person": "anna@x", "groups": ["sre"]}


def line(seq: int, kind: str, **fields: Any) -> Line:
    at = f"2026-11-23T17:50:{seq:02d}.000000Z"
    return Line("approvals-a", seq, "", at, kind, "", {"hold": "h-1", "target": "api", **fields})


OPENED = line(1, "hold.opened", requester=OLGA, approvers=[{"group": "sre", "count": 2}])
VOTE = line(2, "hold.vote", approver=ANNA, vote="approve", reason="fine")
BROKEN = line(3, "hold.break_glass", by=OLGA, requester=OLGA, reason="down", review_by="tomorrow")
APPROVED = line(4, "hold.approved", break_glass=True)
RELEASED = line(5, "hold.released", decision_id="d1")
OVERDUE = line(6, "hold.review_overdue", requester=OLGA, review_by="tomorrow")


def reviewed(justified: bool) -> Line:
    return line(7, "hold.reviewed", by="anna@x", reviewer=ANNA, justified=justified, reason="it was")


def tables(*lines: Line) -> dict[str, Any]:
    return build_tables(Period(lines, [], lambda *_: None, "seed", 0, [], [], []))


@pytest.mark.parametrize(
    ("lines", "what", "told"),
    [
        ((OPENED, BROKEN, APPROVED, RELEASED), "break-glass without a review", "review by tomorrow"),
        ((OPENED, BROKEN, APPROVED, OVERDUE), "break-glass without a review", "overdue"),
        ((OVERDUE,), "break-glass without a review", "overdue"),  # it broke before the period
        ((OPENED, BROKEN, APPROVED, reviewed(True)), "break-glass, reviewed", "anna@x"),
        ((BROKEN, OVERDUE, reviewed(True)), "break-glass, reviewed", "overdue"),
        ((BROKEN, reviewed(False)), "break-glass, not justified", "it was"),
    ],
)
def test_each_emergency_is_one_exception(lines: Any, what: str, told: str):
    made = tables(*lines)
    (row,) = made["exceptions"]
    assert (row["what"], row["principal"], row["target"]) == (what, "olga", "api")
    assert told in row["detail"]
    (control,) = [each for each in load_controls()["controls"] if each["id"] == "5.3"]
    unmet = [query for query, value in control["expect"] if evaluate(query, made) != value]
    assert bool(unmet) == (what == "break-glass without a review")


def test_an_emergency_is_not_counted_as_an_approval_short_of_its_quorum():
    lines = (OPENED, VOTE, BROKEN, APPROVED, RELEASED, reviewed(True))
    (row,) = approvals(lines, [], lambda *_: None)
    assert (row["enough"], row["separate"], row["state"]) == (None, True, "released")
