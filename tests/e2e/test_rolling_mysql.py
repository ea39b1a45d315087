"""MySQL sessions across a rolling reload: they go on in the old worker, and are told before it ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pymysql  # type: ignore[import-untyped]
import pytest

from tests.e2e.approving import Approvals, somebody
from tests.e2e.databases import FRONTS
from tests.e2e.mysql import MysqlStack
from tests.e2e.rolling import ask_to_roll, session_of_a_new_worker, wait_for, writers_so_far
from tests.e2e.test_mysql import rows_of
from tests.e2e.test_mysql_sessions import goodbye
from tests.support.asking import Asking
from tests.support.mariadb import MISSING, MariaDB, is_here

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not is_here(), reason=MISSING)]

NUMBERS = itertools.count(7000)


@pytest.fixture(scope="module", params=FRONTS)
def stack(
    request: pytest.FixtureRequest, mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MysqlStack]:
    with MysqlStack(
        tmp_path_factory.mktemp("rolling"),
        mariadb,
        front=request.param,
        settings={"processor": {"drain": "20s"}},
    ) as running:
        yield running


def writer(stack: MysqlStack, who: str) -> Any:
    return stack.connect("writer", token=stack.token(who, groups=["writers"]))


def test_sessions_go_on_in_the_old_worker_and_are_told_before_it_ends(stack: MysqlStack) -> None:
    who, other, paid, unpaid = somebody(), somebody(), next(NUMBERS), next(NUMBERS)
    idle, waits, killed = writer(stack, who), writer(stack, who), writer(stack, other)
    approvals = Approvals(stack, stack.approver("fiona", groups=("finance",)))
    paying = Asking(partial(rows_of, waits, f"INSERT INTO payments VALUES ({paid})"))
    hold = approvals.hold_of(who)
    never = Asking(partial(rows_of, killed, f"INSERT INTO payments VALUES ({unpaid})"))
    approvals.hold_of(other)
    before = writers_so_far(stack)
    ask_to_roll(stack)
    wait_for(stack, "admin.worker_replaced")
    assert rows_of(idle, "SELECT 1") == [(1,)]
    new = session_of_a_new_worker(stack, before, lambda caller: writer(stack, caller))
    killer = writer(stack, other)  # in the new worker; what it ends waits in the old one
    rows_of(killer, f"KILL QUERY {killed.thread_id()}")
    with pytest.raises(pymysql.err.OperationalError, match="1317"):
        never.finish()
    approvals.approve(hold["id"])
    paying.finish()
    for session in (idle, waits, killed):
        assert goodbye(session, within=60.0)[0] in (1053, 2013, 2006)
    wait_for(stack, "admin.roll_done")
    assert rows_of(new, "SELECT 3") == [(3,)]
    for session in (new, killer, idle, waits, killed):
        session.close()
    assert stack.mariadb.run(f"SELECT id FROM payments WHERE id IN ({paid}, {unpaid})") == [[str(paid)]]
    verified = stack.cli("ledger", "verify", "--dir", str(stack.directory / "state" / "ledger"), check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
