"""Database sessions across a rolling reload: they go on in the old worker, and are told before it ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.e2e.approving import Approvals, somebody
from tests.e2e.databases import DatabaseStack
from tests.e2e.rolling import ask_to_roll, of_kind, session_of_a_new_worker, wait_for, writers_so_far
from tests.e2e.test_postgres import PAY
from tests.e2e.test_postgres_sessions import goodbye
from tests.support.asking import Asking
from tests.support.postgres import Postgres, binaries

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]

NUMBERS = itertools.count(7000)


@pytest.fixture(scope="module", params=["ext_proc", "relay"])
def stack(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DatabaseStack]:
    with DatabaseStack(
        tmp_path_factory.mktemp("rolling"),
        postgres,
        settings={"processor": {"drain": "20s"}},
        listener={"front": request.param},
    ) as running:
        yield running


def writer(stack: DatabaseStack, who: str) -> psycopg.Connection[Any]:
    return stack.connect("writer", token=stack.token(who, groups=("writers",)))


def test_sessions_go_on_in_the_old_worker_and_are_told_before_it_ends(stack: DatabaseStack) -> None:
    replaced, done = len(of_kind(stack, "admin.worker_replaced")), len(of_kind(stack, "admin.roll_done"))
    who, paid, unpaid = somebody(), next(NUMBERS), next(NUMBERS)
    with writer(stack, who) as idle, writer(stack, who) as waits, writer(stack, who) as cancelled:
        paying = Asking(lambda: waits.execute(PAY, (paid,)))
        never = Asking(lambda: cancelled.execute(PAY, (unpaid,)))
        for count in (1, 2):
            stack.wait_for_records(
                lambda r: r["kind"] == "hold.opened" and r.get("requester", {}).get("subject") == who, count
            )
        before = writers_so_far(stack)
        ask_to_roll(stack)
        wait_for(stack, "admin.worker_replaced", replaced + 1)
        assert idle.execute("SELECT 1").fetchone() == (1,)
        with session_of_a_new_worker(stack, before, lambda caller: writer(stack, caller)) as new:
            assert new.execute("SELECT 2").fetchone() == (2,)
            # the cancel arrives at the new worker, the statement waits in the old one
            cancelled.cancel_safe(timeout=10)
            with pytest.raises(psycopg.errors.QueryCanceled):
                never.finish()
            approvals = Approvals(stack, stack.approver("fiona", groups=("finance",)))
            for hold in approvals.call("GET", "/v1/holds?state=pending").body["holds"]:
                approvals.approve(hold["id"])  # of the cancelled one too, which nobody waits for any more
            paying.finish()
            wait_for(stack, "admin.roll_done", done + 1)
            for session in (idle, waits, cancelled):
                assert "57P01" in goodbye(session)
            assert new.execute("SELECT 3").fetchone() == (3,)
    assert stack.postgres.run(f"SELECT id FROM payments WHERE id IN ({paid}, {unpaid})") == [(paid,)]
    verified = stack.cli("ledger", "verify", "--dir", str(stack.directory / "state" / "ledger"), check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
