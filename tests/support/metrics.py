"""Every metric there is, asked of the code that makes them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from extproc.adapters.ledger_tally import LedgerTally
from extproc.app.metering import BUILD, child_families, hold_families
from extproc.domain.metric import Family
from tests.support.books import START, fill, open_writer, sign_now

SAID = {
    "ready": True,
    "restarts": 0,
    "open_streams": 0,
    "open_waits": 0,
    "refused_commits": 0,
    "lost_access": 0,
    "ledger_healthy": True,
    "export_failures": 0,
    "spans_rejected": 0,
    "keys": {"corp": 1.0},
    "without_keys": ["other"],
}


def every_family() -> list[Family]:
    """All families, those too that are there only after a checkpoint or an export."""
    with TemporaryDirectory() as folder:
        ledger, cursor = Path(folder) / "ledger", Path(folder) / "cursor"
        fill(open_writer(ledger), 1)
        sign_now(ledger)
        cursor.write_text("{}")
        tally = LedgerTally(ledger, "")
        tally.look()
        found = [
            *tally.families(START, cursor),
            *child_families({"worker-0": SAID}),
            *hold_families([], START),
        ]
        tally.close()
    return [BUILD, *found]


def metric_names() -> list[str]:
    """Their names, without the endings of a histogram's parts."""
    return [family.name for family in every_family()]
