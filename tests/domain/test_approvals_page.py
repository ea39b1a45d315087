"""`docs/approvals.md` says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from extproc.domain.grant import GRANT_MOVES, GrantState
from extproc.domain.hold import MOVES, REASON_LIMIT, HoldLimits
from extproc.domain.lifecycle import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "approvals.md").read_text(encoding="utf-8")


def test_the_table_of_moves_is_the_table_of_the_code():
    shown = re.search(r"<!-- moves -->\n(.*)<!-- /moves -->", PAGE, re.DOTALL)
    assert shown is not None
    expected = ["| From | What happens | To | Ledger record |", "|---|---|---|---|"]
    expected += [f"| {old} | {verdict} | {new} | `{KINDS[new]}` |" for (old, verdict), new in MOVES.items()]
    assert shown[1].splitlines() == expected


def test_the_table_of_grants_is_the_table_of_the_code():
    shown = re.search(r"<!-- grant moves -->\n(.*)<!-- /grant moves -->", PAGE, re.DOTALL)
    assert shown is not None
    expected = ["| From | What happens | To |", "|---|---|---|"]
    expected += [f"| {old} | {event} | {new} |" for (old, event), new in GRANT_MOVES.items()]
    assert shown[1].splitlines() == expected
    for state in GrantState:
        assert state is GrantState.LIVE or f"`grant.{state}`" in PAGE


def test_the_limits_are_those_of_the_code():
    limits = HoldLimits()
    assert f"`holds.limits.per_principal` ({limits.per_principal})" in PAGE
    assert f"`holds.limits.total` ({limits.total:,})".replace(",", " ") in PAGE
    assert f"| waiters on one pending hold | {limits.waiters} |" in PAGE
    assert f"{REASON_LIMIT} characters" in PAGE
