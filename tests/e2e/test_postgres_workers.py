"""What reaches a session from outside of its worker: a cancel that came to another one, and locks."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from extproc.demo.processes import wait_until
from tests.e2e.approving import Approvals, somebody
from tests.e2e.databases import DatabaseStack, GovernedDatabase
from tests.e2e.test_postgres import PAY
from tests.e2e.test_postgres_sessions import goodbye
from tests.support.asking import Asking
from tests.support.postgres import Postgres, binaries

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]
SESSIONS = 8
"""Enough that with two workers a cancel reaches the wrong one (all right once in 2^8)."""
CANCEL_REQUEST = 80877102


@pytest.fixture(scope="module", params=["ext_proc", "relay"])
def stack(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DatabaseStack]:
    with DatabaseStack(
        tmp_path_factory.mktemp("workers"),
        postgres,
        settings={"processor": {"workers": 2}},
        listener={"front": request.param},
    ) as running:
        yield running


def writer(stack: DatabaseStack, who: str, *groups: str) -> psycopg.Connection[Any]:
    return stack.connect("writer", token=stack.token(who, groups=groups or ("writers",)))


# ---------------------------------------------------------------------- cancels


def test_a_cancel_finds_a_held_statement_in_whatever_worker_it_is(stack: DatabaseStack) -> None:
    who = somebody()
    with ExitStack() as stays:
        sessions = [stays.enter_context(writer(stack, who)) for _ in range(SESSIONS)]
        asking = [
            Asking(lambda c=c, n=n: c.execute(PAY, (6000 + n,)))  # type: ignore[misc]
            for n, c in enumerate(sessions)
        ]
        held = stack.wait_for_records(
            lambda r: r["kind"] == "hold.opened" and r.get("requester", {}).get("subject") == who, 0
        )
        assert held is not None
        approvals = Approvals(stack, stack.approver("fiona", groups=("finance", "operators")))
        wait_until(
            lambda: len(approvals.call("GET", "/v1/holds?state=pending").body["holds"]) >= SESSIONS,
            what="every statement to wait",
            within=20.0,
        )
        for connection in sessions:
            connection.cancel_safe(timeout=10)
        for waits in asking:
            with pytest.raises(psycopg.errors.QueryCanceled):
                waits.finish()
        for connection in sessions:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert stack.postgres.run("SELECT count(*) FROM payments WHERE id >= 6000") == [(0,)]


def test_a_cancel_finds_a_running_statement_in_whatever_worker_it_is(stack: DatabaseStack) -> None:
    with ExitStack() as stays:
        sessions = [stays.enter_context(writer(stack, "alice", "builders")) for _ in range(SESSIONS)]
        asking = [Asking(lambda c=c: c.execute("SELECT pg_sleep(110)")) for c in sessions]  # type: ignore[misc]
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(110)%'"
        wait_until(
            lambda: stack.postgres.run(running + " AND state = 'active'") == [(SESSIONS,)],
            what="every statement to run",
            within=60.0,
        )
        for connection in sessions:
            connection.cancel_safe(timeout=10)
        for runs in asking:
            with pytest.raises(psycopg.errors.QueryCanceled):
                runs.finish()


def test_a_key_that_nobody_has_gets_no_answer_and_goes_nowhere(stack: DatabaseStack) -> None:
    with writer(stack, "alice", "builders") as connection:
        (process,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        asking = Asking(lambda: connection.execute("SELECT pg_sleep(4), 'undisturbed'").fetchone())
        for secret in (b"\0\0\0\0", b"\xff" * 4, b"x" * 256):
            with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as raw:
                raw.sendall(struct.pack("!iii", 12 + len(secret), CANCEL_REQUEST, process) + secret)
                assert raw.recv(100) == b""
        assert asking.finish() == ("", "undisturbed")
    assert "wrong key in cancel request" not in stack.postgres.log(4000)


# ---------------------------------------------------------------------- locks


class Operator:
    """`extproc lock` as an operator calls it."""

    def __init__(self, stack: GovernedDatabase, *groups: str) -> None:
        self._stack = stack
        self._token = stack.approver("olga", groups=groups or ("operators",))

    def call(self, *arguments: str, check: bool = True) -> Any:
        return self._stack.cli(
            "lock", *arguments, "--json", "--api", f"unix:{self._stack.directory}/a.sock",
            env={"EXTPROC_TOKEN": self._token}, check=check,
        )  # fmt: skip

    def lock(self, *whom: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("add", *whom, "--reason", "incident 7").stdout)
        return found

    def unlock(self, lock: dict[str, Any]) -> None:
        self.call("remove", lock["id"], "--reason", "over")


def test_a_lock_ends_every_session_of_a_caller_and_keeps_it_out(stack: DatabaseStack) -> None:
    who, operator = somebody(), Operator(stack)
    sessions = [writer(stack, who) for _ in range(SESSIONS)]
    with writer(stack, "bystander") as other:
        began = time.monotonic()
        lock = operator.lock("--subject", who)
        assert lock["workers"] == 2
        told = [goodbye(connection, within=5.0) for connection in sessions]
        assert all("57P01" in said and "locked by an operator" in said for said in told), told
        assert time.monotonic() - began < 30  # the command itself starts a Python
        with pytest.raises(psycopg.OperationalError, match="locked by an operator"):
            writer(stack, who)
        assert other.execute("SELECT 1").fetchone() == (1,)
    locked = stack.wait_for_records(lambda r: r["kind"] == "admin.lock" and r["lock"] == lock["id"])
    assert locked[0]["subject"] == who and locked[0]["reason"] == "incident 7"
    assert locked[0]["by"]["subject"] == "olga"
    ends = stack.wait_for_records(
        lambda r: r["kind"] == "outcome" and r.get("operation") == "login" and r.get("reason") == "locked",
        SESSIONS,
    )
    assert len({end["session_id"] for end in ends}) >= SESSIONS
    operator.unlock(lock)
    with writer(stack, who) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_lock_ends_what_waits_and_what_runs(stack: DatabaseStack) -> None:
    who, operator, approvals = somebody(), Operator(stack), Approvals(stack)
    waiting, running = writer(stack, who), writer(stack, who, "builders")
    asking = Asking(lambda: waiting.execute(PAY, (7000,)))
    hold = approvals.hold_of(who)
    # what a lock cuts off runs on at the server, which both fronts share: the text says whose it is
    sleeping = Asking(lambda: running.execute(f"SELECT pg_sleep(60), '{who}'"))
    active = (
        f"SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60), ''{who}''%' "
        "AND state = 'active'"
    )
    wait_until(lambda: stack.postgres.run(active) == [(1,)], what="the statement to run", within=10.0)
    lock = operator.lock("--subject", who, "--issuer", stack.issuer.issuer, "--for", "1h")
    for ends in (asking, sleeping):
        with pytest.raises(psycopg.OperationalError):
            ends.finish()
    wait_until(
        lambda: approvals.show(hold["id"])["state"] == "abandoned", what="the hold is abandoned", within=10.0
    )
    assert stack.postgres.run("SELECT count(*) FROM payments WHERE id = 7000") == [(0,)]
    operator.unlock(lock)


def test_one_session_may_be_locked_alone(stack: DatabaseStack) -> None:
    who, operator = somebody(), Operator(stack)
    first, second = writer(stack, who), writer(stack, who)
    first.execute("SELECT 'of the first'")
    session = stack.statement("'of the first'", count=len(stack.statements("'of the first'")))["intent"]
    lock = operator.lock("--session", session["session_id"])
    assert "locked by an operator" in goodbye(first, within=5.0)
    assert second.execute("SELECT 1").fetchone() == (1,)
    second.close()
    operator.unlock(lock)


def test_a_lock_outlives_workers_and_the_service_and_ends_by_itself(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with DatabaseStack(
        tmp_path_factory.mktemp("lasting"), postgres, settings={"processor": {"workers": 2}}
    ) as stack:
        who, operator = somebody(), Operator(stack)
        short = operator.lock("--person", "nobody@example.com", "--for", "1s")
        lock = operator.lock("--subject", who)

        def is_out() -> bool:
            try:
                writer(stack, who).close()
            except psycopg.OperationalError as error:
                if "locked by an operator" in str(error):
                    return True
                assert "connection" in str(error)  # nobody serves yet
                return False
            raise AssertionError("a locked caller got in")

        for pid in stack.service_pids("worker"):
            os.kill(pid, signal.SIGKILL)
        for _ in range(6):
            wait_until(is_out, what="a worker that refuses", within=20.0)
        stack.kill_service()
        stack.start_service()
        for _ in range(6):
            wait_until(is_out, what="a worker that refuses", within=20.0)
        listed = json.loads(operator.call("list").stdout)["locks"]
        assert [each["id"] for each in listed] == [lock["id"]] and short["id"] != lock["id"]
        operator.unlock(lock)
        wait_until(lambda: not _refused(stack, who), what="the caller to get in", within=20.0)


def _refused(stack: DatabaseStack, who: str) -> bool:
    try:
        writer(stack, who).close()
    except psycopg.OperationalError:
        return True
    return False


def test_only_operators_lock_and_only_with_a_reason(stack: DatabaseStack) -> None:
    done = Operator(stack, "finance").call("add", "--subject", "alice", "--reason", "x", check=False)
    assert done.returncode == 1 and "not_operator" in done.stderr
    done = Operator(stack).call("add", "--subject", "alice", check=False)
    assert done.returncode == 2 and "reason" in done.stderr
    done = Operator(stack).call("add", "--reason", "x", check=False)
    assert done.returncode == 2
    done = Operator(stack).call("remove", "lock_none", "--reason", "x", check=False)
    assert done.returncode == 1 and "no_such_lock" in done.stderr
    with writer(stack, "alice") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_locks_that_cannot_be_read_stop_the_start(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with DatabaseStack(tmp_path_factory.mktemp("unreadable"), postgres) as stack:
        stack.kill_service()
        (stack.directory / "state" / "locks.json").write_text("[{}]")
        done = stack.cli("serve", "--config", str(stack.config_path), check=False)
        assert done.returncode != 0
        assert "locks.json" in done.stderr + done.stdout
