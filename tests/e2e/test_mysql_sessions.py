"""The end of a live MySQL session from outside: its token expires, its caller is locked; KILL in whatever worker."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pymysql  # type: ignore[import-untyped]
import pytest

from extproc.demo.processes import wait_until
from tests.e2e.approving import Approvals, somebody
from tests.e2e.databases import FRONTS
from tests.e2e.mysql import MysqlStack
from tests.e2e.test_mysql import rows_of
from tests.e2e.test_postgres_workers import Operator
from tests.support.asking import Asking
from tests.support.mariadb import MISSING, MariaDB, is_here

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not is_here(), reason=MISSING)]
SESSIONS = 6
"""Of two workers, each has some."""


@pytest.fixture(scope="module", params=FRONTS)
def stack(
    request: pytest.FixtureRequest, mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MysqlStack]:
    with MysqlStack(
        tmp_path_factory.mktemp("workers"),
        mariadb,
        front=request.param,
        provider={"skew": "0s"},
        settings={"processor": {"workers": 2}},
    ) as running:
        yield running


def writer(stack: MysqlStack, who: str) -> Any:
    return stack.connect("writer", token=stack.token(who, groups=["writers"]))


def goodbye(connection: Any, within: float = 20.0) -> tuple[Any, ...]:
    """What a client that asks again and again is told when its session is over."""
    told: list[tuple[Any, ...]] = []

    def is_over() -> bool:
        try:
            rows_of(connection, "SELECT 1")
        except pymysql.err.MySQLError as error:
            told.append(error.args)
        return bool(told)

    wait_until(is_over, what="the session to end", within=within)
    return told[0]


def test_a_session_ends_with_its_token(stack: MysqlStack) -> None:
    connection = stack.connect("writer", token=stack.issuer.token("alice", groups=["writers"], lifetime=5))
    assert rows_of(connection, "SELECT 1") == [(1,)]
    code, message = goodbye(connection)
    assert code in (1045, 2013), message
    ends = stack.wait_for_records(
        lambda r: r["kind"] == "outcome" and r.get("operation") == "login" and r.get("end") == "aborted"
    )
    assert ends


def test_a_lock_ends_every_session_of_a_caller_and_keeps_it_out(stack: MysqlStack) -> None:
    who, operator = somebody(), Operator(stack)
    sessions = [writer(stack, who) for _ in range(SESSIONS)]
    with writer(stack, "bystander") as other:
        lock = operator.lock("--subject", who)
        for connection in sessions:
            # the farewell is there before anything is asked
            assert goodbye(connection, within=5.0)[0] in (1045, 2013)
        with pytest.raises(pymysql.err.OperationalError) as refused:
            writer(stack, who)
        assert refused.value.args[0] == 1045
        assert "locked by an operator" in refused.value.args[1]
        assert rows_of(other, "SELECT 1") == [(1,)]
    operator.unlock(lock)
    with writer(stack, who) as connection:
        assert rows_of(connection, "SELECT 1") == [(1,)]


def test_kill_finds_a_held_statement_in_whatever_worker_it_is(stack: MysqlStack) -> None:
    who, approvals = somebody(), Approvals(stack)
    killers = [writer(stack, who) for _ in range(SESSIONS)]
    for killer in killers:
        with writer(stack, who) as connection:
            asking = Asking(partial(rows_of, connection, "INSERT INTO payments VALUES (9)"))
            approvals.hold_of(who)
            rows_of(killer, f"KILL QUERY {connection.thread_id()}")
            with pytest.raises(pymysql.err.OperationalError) as refused:
                asking.finish()
            assert refused.value.args[0] == 1317
            assert rows_of(connection, "SELECT 1") == [(1,)]
        killer.close()


def test_kill_connection_ends_ones_own_session(stack: MysqlStack) -> None:
    who = somebody()
    with writer(stack, who) as killer:
        victim = writer(stack, who)
        rows_of(killer, f"KILL {victim.thread_id()}")
        assert goodbye(victim, within=5.0)[0] in (1927, 2013, 2006)
        stranger = writer(stack, somebody())
        with pytest.raises(pymysql.err.OperationalError) as refused:
            rows_of(killer, f"KILL {stranger.thread_id()}")
        assert refused.value.args[0] == 1227
        assert rows_of(stranger, "SELECT 1") == [(1,)]
        stranger.close()
