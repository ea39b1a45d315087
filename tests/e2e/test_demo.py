"""The demo keeps its promises, and says so with its status."""

from __future__ import annotations

import subprocess
import sys

import pytest

from extproc.demo.mariadb import MISSING, is_here
from extproc.demo.mysql_story import NOT_HERE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

MYSQL = (
    "no e-mail or card number left MariaDB in clear",
    "the DROP is denied, and the rule is named",
    "the connection to MariaDB lives, and every row is there",
    "MariaDB never saw the DROP",
    "the waiting UPDATE ran in MariaDB, exactly once",
    "both sessions at MariaDB are in the ledger, and what was denied",
)


def test_the_whole_story_plays_and_ends_well() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "extproc.cli", "demo", "--once"],
        capture_output=True, text=True, timeout=260, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert (NOT_HERE.format(MISSING) in done.stdout) is not is_here()
    for promise in (
        "no e-mail, card, IBAN, SSN or phone number left the API in clear",
        "it was executed exactly once",
        "no e-mail or card number left the database in clear",
        "the same connection still answers, and every row is there",
        "the waiting statement ran, exactly once",
        "the grant counts: 2 of 3 are used",
        *(MYSQL if is_here() else ()),
        "the ledger verifies",
        "bare Python verifies it, without extproc",
    ):
        assert f"✓ {promise}" in done.stdout or f"✓ and {promise}" in done.stdout
