"""Shadow rules are counted from the ledger, so that they can be promoted from evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from extproc.adapters.ledger_files import LedgerWriter
from extproc.commands.policy import policy
from extproc.domain.record import Record
from extproc.ledger.rule_counts import count_rules

AT = 1_800_000_000.0


def rule(name: str, effect: str, **more: bool) -> dict[str, object]:
    return {"rule": name, "digest": "sha256:0", "effect": effect, **more}


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    writer = LedgerWriter(tmp_path / "ledger", writer_id="worker0-a-1", clock=lambda: AT)
    for number in range(10):
        rules = [rule("p/read", "allow")]
        if number < 3:
            rules.append(rule("p/strict", "deny", shadow=True))
        if number == 0:
            rules.append(rule("p/broken", "deny", errored=True))
        writer.append(Record("intent", AT, {"target": "api", "rules": rules}))
        writer.append(
            Record("outcome", AT, {"target": "api", "rules": [rule("p/bulk", "none")] if number == 5 else []})
        )
    writer.commit()
    writer.close()
    return tmp_path / "ledger"


def test_what_a_shadow_rule_would_have_denied_is_told(ledger: Path) -> None:
    done = CliRunner().invoke(policy, ["counts", "--dir", str(ledger), "--shadow"])
    assert done.exit_code == 0
    assert done.output == "api p/strict: would have denied 3 of 10\n"


def test_every_rule_is_counted(ledger: Path) -> None:
    done = CliRunner().invoke(policy, ["counts", "--dir", str(ledger), "--json"])
    told = json.loads(done.output)
    assert told["decisions"] == {"api": 10}
    assert {
        tally["rule"]: (tally["matched"], tally["errored"], tally["shadow"]) for tally in told["rules"]
    } == {
        "p/read": (10, 0, False),
        "p/strict": (3, 0, True),
        "p/broken": (1, 1, False),
        "p/bulk": (1, 0, False),
    }


def test_a_folder_without_a_ledger_is_said(tmp_path: Path) -> None:
    assert CliRunner().invoke(policy, ["counts", "--dir", str(tmp_path / "none")]).exit_code == 3


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"kind":1}', b"\xff", b'{"kind":"intent","rules":[1]}'])
def test_lines_that_are_no_records_are_not_counted(line: bytes) -> None:
    counted = count_rules([line])
    assert (counted.decisions, counted.rules, counted.unread) == ({}, [], 1)
