"""MySQL through a real Envoy: a token as the password, statements judged one by one, the connection alive."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pymysql  # type: ignore[import-untyped]
import pytest
from pymysql.constants import CLIENT, COMMAND  # type: ignore[import-untyped]

from extproc.demo.processes import wait_until
from extproc.protocols.mysql.charsets import is_wide_collation
from extproc.protocols.mysql.commands import COMMANDS
from tests.e2e.approving import Approvals, somebody
from tests.e2e.databases import FRONTS, PASSWORD
from tests.e2e.mysql import MysqlStack
from tests.support.asking import Asking
from tests.support.mariadb import DATABASE, MISSING, MariaDB, is_here
from tests.support.prepared import Prepared

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not is_here(), reason=MISSING)]


@pytest.fixture(scope="module", params=FRONTS)
def stack(
    request: pytest.FixtureRequest, mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MysqlStack]:
    with MysqlStack(tmp_path_factory.mktemp("my"), mariadb, front=request.param) as running:
        yield running


def test_a_token_as_the_password_reads_rows(stack: MysqlStack) -> None:
    with stack.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, name FROM customers ORDER BY id")
        assert cursor.fetchall() == ((1, "Ada"), (2, "Grace"), (3, "Edsger"))
        cursor.execute("SELECT CURRENT_USER()")
        assert cursor.fetchall() == (("app_reader@%",),)
    story = stack.statement("FROM customers ORDER BY id")
    assert story["intent"]["verdict"] == "allow"
    assert story["intent"]["protocol"] == "mysql"
    assert story["intent"]["principal"]["subject"] == "alice"
    assert story["intent"]["statement"]["effects"] == ["read"]
    assert story["intent"]["seq"] < story["outcome"]["seq"]
    assert story["outcome"]["executed"] is True
    assert story["outcome"]["response"]["rows"] == 3


def test_the_command_line_client_reads_and_a_denial_keeps_its_connection(stack: MysqlStack) -> None:
    done = stack.shell("SELECT count(*) FROM orders; DELETE FROM orders; SELECT 'still here';")
    assert done.stdout.splitlines() == ["100", "still here"]
    assert "ERROR 1142 (42000)" in done.stderr
    assert "Nothing is deleted here." in done.stderr
    assert 'rule "orders/no-delete"' in done.stderr


def test_a_denied_statement_never_reaches_the_server(stack: MysqlStack) -> None:
    with stack.connect() as connection, connection.cursor() as cursor:
        with pytest.raises(pymysql.err.OperationalError) as refused:
            cursor.execute("DELETE FROM orders WHERE id = 77")
        assert refused.value.args[0] == 1142
        assert "Nothing is deleted here." in refused.value.args[1]
        cursor.execute("SELECT count(*) FROM orders")
        assert cursor.fetchone() == (100,)
    assert "DELETE FROM orders WHERE id = 77" not in stack.mariadb.log(2000)
    story = stack.statement("DELETE FROM orders WHERE id = 77")
    assert story["intent"]["verdict"] == "deny"
    assert story["outcome"]["executed"] is False


def test_a_wrong_token_is_refused_before_anything_is_said_to_the_server(stack: MysqlStack) -> None:
    for token in ("not-a-token", stack.issuer.token("alice", aud="elsewhere")):
        with pytest.raises(pymysql.err.OperationalError) as refused:
            stack.connect(token=token)
        assert refused.value.args[0] == 1045
        assert "extproc:" in refused.value.args[1]
    records = stack.wait_for_records(
        lambda r: r["kind"] == "intent" and r.get("operation") == "login" and r["verdict"] == "deny", count=2
    )
    assert {record["code"] for record in records} >= {"token-wrong-audience"}


# ---------------------------------------------------------------------- masks


def rows_of(connection: Any, text: str, *arguments: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(text, arguments or None)
        return list(cursor.fetchall())


def analyst(stack: MysqlStack, **more: Any) -> Any:
    return stack.connect("reader", "analysts", **more)


def test_a_masked_column_is_masked_under_any_name_and_types_stay_valid(stack: MysqlStack) -> None:
    with analyst(stack) as connection:
        rows = rows_of(connection, "SELECT id, EMAIL AS e, age FROM customers AS c ORDER BY id")
        assert rows == [(1, "[customers.email]", None), (2, "[customers.email]", None), (3, None, None)]
        rows = rows_of(connection, "SELECT * FROM customers ORDER BY id")
        assert [row[2] for row in rows] == ["[customers.email]", "[customers.email]", None]
        assert rows[0][4] == '{"mail": "[EMAIL_ADDRESS]"}'
        assert rows[0][:2] == (1, "Ada")
        rows = rows_of(connection, "SELECT DISTINCT email FROM shop.customers")
        assert rows == [("[customers.email]",), ("[customers.email]",), (None,)]
    story = stack.statement("AS e, age")
    assert story["intent"]["masks"]
    assert story["outcome"]["response"]["masked"] == {"customers.age": 2, "customers.email": 2}
    assert story["outcome"]["response"]["inspected"] == "full"


VIEWS = """
CREATE OR REPLACE VIEW mails AS SELECT id, email AS address FROM customers;
CREATE OR REPLACE ALGORITHM=TEMPTABLE VIEW copied AS SELECT id, email AS name FROM customers;
CREATE OR REPLACE VIEW upper_mails AS SELECT UPPER(email) AS u, name FROM customers;
CREATE OR REPLACE VIEW counted AS SELECT email AS name, COUNT(*) AS n FROM customers GROUP BY email;
CREATE OR REPLACE VIEW joined AS SELECT email AS name FROM customers UNION SELECT 'x';
CREATE OR REPLACE VIEW twice AS SELECT address AS a FROM mails;
CREATE OR REPLACE VIEW harmless AS SELECT id, amount FROM orders WHERE id = 1;
CREATE TABLE IF NOT EXISTS kept (id int, email varchar(100), shouted varchar(100) AS (UPPER(email)));
REPLACE INTO kept (id, email) VALUES (1, 'ada@example.com');
"""


@pytest.fixture(scope="module")
def views(mariadb: MariaDB) -> None:
    mariadb.run(VIEWS)


@pytest.mark.parametrize("view", ["mails", "copied", "upper_mails", "counted", "joined", "twice"])
def test_no_view_shows_what_is_masked(stack: MysqlStack, views: None, view: str) -> None:
    with analyst(stack) as connection:
        assert "example.com" not in str(rows_of(connection, f"SELECT * FROM {view}"))


def test_a_view_of_other_tables_shows_them(stack: MysqlStack, views: None) -> None:
    with analyst(stack) as connection:
        assert rows_of(connection, "SELECT * FROM harmless") == [(1, 10)]
        # and one that shows a masked column as it is shows its mask
        assert rows_of(connection, "SELECT * FROM mails")[0] == (1, "[customers.email]")
        assert rows_of(connection, "SELECT * FROM twice")[0] == ("[customers.email]",)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT CONCAT(email, '') FROM customers",
        "SELECT id FROM customers WHERE email LIKE 'a%'",
        "SELECT id FROM customers ORDER BY email",
        "SELECT email FROM customers UNION SELECT 'x'",
        "SELECT GROUP_CONCAT(email) FROM customers",
        "SELECT name FROM (SELECT email AS name FROM customers) orders",
        "WITH orders AS (SELECT email AS name FROM customers) SELECT * FROM orders",
        "SELECT LOWER(address) FROM mails",
        "SELECT (SELECT email FROM customers LIMIT 1)",
        "SELECT @x := email FROM customers",
        "SELECT email INTO @x FROM customers",
        "SELECT JSON_OBJECT('a', email) FROM customers",
        "SELECT email AS e FROM customers HAVING e LIKE 'a%'",
        "SELECT c.email FROM customers c JOIN customers d ON c.email = d.email",
        "SELECT /*!50000 UPPER( */ email /*!50000 ) */ FROM customers",
        "EXPLAIN SELECT * FROM customers WHERE email = 'x'",
        "SELECT * FROM mysql.column_stats",
        "SELECT INFO FROM information_schema.PROCESSLIST",
        "SHOW FULL PROCESSLIST",
    ],
)
def test_a_masked_column_is_not_used_otherwise(stack: MysqlStack, text: str) -> None:
    with analyst(stack) as connection:
        with pytest.raises(pymysql.err.MySQLError) as refused:
            rows_of(connection, text)
        assert "extproc:" in refused.value.args[1], refused.value
        assert rows_of(connection, "SELECT 1") == [(1,)]


def test_generated_columns_and_temporary_tables_are_hidden(stack: MysqlStack, views: None) -> None:
    with analyst(stack) as connection:
        rows = rows_of(connection, "SELECT id, shouted FROM kept")
        assert rows[0][0] == 1
        assert "EXAMPLE.COM" not in str(rows)


def test_warnings_are_hidden(stack: MysqlStack) -> None:
    with analyst(stack) as connection:
        rows_of(connection, "SELECT CAST('ada@example.com' AS SIGNED)")
        assert "ada@example.com" not in str(rows_of(connection, "SHOW WARNINGS"))
    with stack.connect() as connection:
        rows_of(connection, "SELECT CAST('ada@example.com' AS SIGNED)")
        assert "ada@example.com" in str(rows_of(connection, "SHOW WARNINGS"))


def test_errors_of_the_server_do_not_quote_what_is_masked(stack: MysqlStack) -> None:
    with analyst(stack) as connection, pytest.raises(pymysql.err.MySQLError) as refused:
        rows_of(connection, "SELECT id FROM customers PROCEDURE ANALYSE(1, 'ada@example.com')")
    assert "ada@example.com" not in str(refused.value)


# ---------------------------------------------------------------------- holds


PAYMENTS = itertools.count(7100)
LONG = (
    "SELECT COUNT(*) FROM orders a, orders b, orders c, orders d, orders e"
    " WHERE a.amount + b.amount + c.amount + d.amount + e.amount = 1"
)


def payer(stack: MysqlStack, who: str, **more: Any) -> Any:
    return stack.connect("writer", token=stack.token(who, groups=["writers"]), **more)


def paid(stack: MysqlStack, number: int) -> int:
    return int(stack.mariadb.run(f"SELECT COUNT(*) FROM payments WHERE id = {number}")[0][0])


def test_a_held_statement_runs_once_it_is_approved(stack: MysqlStack) -> None:
    who, approvals, number = somebody(), Approvals(stack), next(PAYMENTS)
    with payer(stack, who) as connection:
        returning = " RETURNING id" if stack.mariadb.has_returning else ""
        asking = Asking(lambda: rows_of(connection, f"INSERT INTO payments VALUES ({number}){returning}"))
        hold = approvals.hold_of(who)
        assert paid(stack, number) == 0
        facts = approvals.show(hold["id"])["view"]["facts"]
        assert facts["tables_written"] == ["shop.payments"]
        assert facts["protocol"] == "mysql"
        with stack.connect() as other:  # others are not disturbed
            assert rows_of(other, "SELECT 1") == [(1,)]
        assert approvals.approve(hold["id"]).status == 200
        assert asking.finish() == ([(number,)] if returning else [])
        assert rows_of(connection, "SELECT 1") == [(1,)]
    assert paid(stack, number) == 1
    held = [s["intent"] for s in stack.statements("INSERT INTO payments") if "hold" in s["intent"]]
    assert [intent["code"] for intent in held if intent["hold"]["id"] == hold["id"]] == ["released"]


@pytest.mark.parametrize("channel", ["api", "cli"])
def test_a_client_of_its_own_waits_is_approved_and_goes_on(stack: MysqlStack, channel: str) -> None:
    approvals, number = Approvals(stack), next(PAYMENTS)
    text = f"INSERT INTO payments VALUES ({number}); SELECT 'went on';"
    before = [hold["id"] for hold in approvals.holds("alice", "pending")]
    asking = Asking(lambda: stack.shell(text, user="writer", groups=["writers"]))
    approvals.approve_by(channel, approvals.hold_of("alice", but=before)["id"])
    done = asking.finish()
    assert (done.returncode, "went on" in done.stdout) == (0, True), done.stderr
    assert paid(stack, number) == 1


def test_a_person_lets_their_own_statement_go_in_an_emergency(stack: MysqlStack) -> None:
    who, approvals, number = somebody(), Approvals(stack), next(PAYMENTS)
    oncall = Approvals(stack, stack.approver(who, groups=["oncall"]))
    with stack.connect("writer", token=stack.token(who, groups=["writers"], kind="human")) as connection:
        asking = Asking(lambda: rows_of(connection, f"INSERT INTO payments VALUES ({number}) RETURNING id"))
        hold = approvals.hold_of(who)
        assert oncall.act(hold["id"], "break-glass", "the site is down").status == 200
        assert asking.finish() == [(number,)]
    assert paid(stack, number) == 1
    held = [s["intent"] for s in stack.statements("INSERT INTO payments") if "hold" in s["intent"]]
    (intent,) = [each for each in held if each["hold"]["id"] == hold["id"]]
    assert intent["hold"]["break_glass"]["reason"] == "the site is down"
    assert approvals.review(hold["id"]).status == 200


def test_a_rejected_statement_fails_and_the_connection_lives(stack: MysqlStack) -> None:
    who, approvals, number = somebody(), Approvals(stack), next(PAYMENTS)
    with payer(stack, who) as connection:
        asking = Asking(lambda: rows_of(connection, f"INSERT INTO payments VALUES ({number})"))
        approvals.deny(approvals.hold_of(who)["id"], "not today")
        with pytest.raises(pymysql.err.OperationalError) as refused:
            asking.finish()
        assert refused.value.args[0] == 1142
        assert "not today" in refused.value.args[1]
        assert "hold " in refused.value.args[1]
        assert rows_of(connection, "SELECT 1") == [(1,)]
    assert paid(stack, number) == 0


def test_kill_query_ends_the_wait_and_the_connection_lives(stack: MysqlStack) -> None:
    who, approvals, number = somebody(), Approvals(stack), next(PAYMENTS)
    with payer(stack, who) as connection, payer(stack, who) as second:
        asking = Asking(lambda: rows_of(connection, f"INSERT INTO payments VALUES ({number})"))
        hold = approvals.hold_of(who)
        rows_of(second, f"KILL QUERY {connection.thread_id()}")
        with pytest.raises(pymysql.err.OperationalError) as refused:
            asking.finish()
        assert refused.value.args[0] == 1317
        assert rows_of(connection, "SELECT 1") == [(1,)]
    wait_until(
        lambda: approvals.show(hold["id"])["state"] == "abandoned", what="the hold is abandoned", within=10.0
    )
    assert paid(stack, number) == 0


def test_a_running_statement_can_be_killed_by_its_owner_alone(stack: MysqlStack) -> None:
    who = somebody()
    with payer(stack, who) as connection, payer(stack, who) as second, payer(stack, somebody()) as stranger:
        asking = Asking(lambda: rows_of(connection, LONG))
        running = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE '%orders c, orders d%'"
        wait_until(lambda: stack.mariadb.run(running) != [["1"]], what="it to run", within=10.0)
        with pytest.raises(pymysql.err.OperationalError) as refused:
            rows_of(stranger, f"KILL QUERY {connection.thread_id()}")
        assert refused.value.args[0] == 1227
        rows_of(second, f"KILL QUERY {connection.thread_id()}")
        with pytest.raises(pymysql.err.OperationalError) as refused:
            asking.finish()
        assert refused.value.args[0] == 1317
        assert rows_of(connection, "SELECT 1") == [(1,)]


def test_a_client_that_leaves_during_a_hold_abandons_it(stack: MysqlStack) -> None:
    who, approvals, number = somebody(), Approvals(stack), next(PAYMENTS)
    connection = payer(stack, who)
    asking = Asking(lambda: rows_of(connection, f"INSERT INTO payments VALUES ({number})"))
    hold = approvals.hold_of(who)
    connection._sock.shutdown(socket.SHUT_RDWR)
    asking.join(10)
    wait_until(
        lambda: approvals.show(hold["id"])["state"] == "abandoned", what="the hold is abandoned", within=10.0
    )
    assert paid(stack, number) == 0


# ---------------------------------------------------------------------- texts and sessions


def test_several_statements_are_judged_as_a_whole(stack: MysqlStack) -> None:
    with stack.connect(client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS) as connection:
        with pytest.raises(pymysql.err.OperationalError):
            rows_of(connection, "SELECT 1; DELETE FROM orders")
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1; SELECT 2")
            assert cursor.fetchall() == ((1,),)
            assert cursor.nextset()
            assert cursor.fetchall() == ((2,),)


def test_what_runs_a_prepared_statement_is_judged_as_that_statement(stack: MysqlStack) -> None:
    with stack.connect() as connection:
        rows_of(connection, "PREPARE p FROM 'SELECT name FROM customers WHERE id = 1'")
        assert rows_of(connection, "EXECUTE p") == [("Ada",)]
        with pytest.raises(pymysql.err.OperationalError):
            rows_of(connection, "PREPARE d FROM 'DELETE FROM orders'")
        with pytest.raises(pymysql.err.OperationalError):
            rows_of(connection, "EXECUTE d")


def test_the_database_in_use_completes_names(stack: MysqlStack) -> None:
    who = somebody()
    with payer(stack, who) as connection:
        connection.select_db("information_schema")
        rows_of(connection, "SELECT 1")
        connection.select_db("shop")
        asking = Asking(lambda: rows_of(connection, "INSERT INTO payments VALUES (1)"))
        Approvals(stack).deny(Approvals(stack).hold_of(who)["id"], "no")
        with pytest.raises(pymysql.err.OperationalError):
            asking.finish()


def test_a_mode_that_changes_quotes_is_followed(stack: MysqlStack) -> None:
    with stack.connect() as connection:
        rows_of(connection, "SET SESSION sql_mode = 'ANSI_QUOTES'")
        assert rows_of(connection, 'SELECT "name" FROM customers WHERE id = 1') == [("Ada",)]
    with analyst(stack) as connection:
        rows_of(connection, "SET SESSION sql_mode = 'ANSI_QUOTES'")
        assert rows_of(connection, 'SELECT "email" FROM customers WHERE id = 1') == [("[customers.email]",)]


@pytest.mark.parametrize(
    "text",
    ["SELEC 1", "DO SLEEP(0)", "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE orders",
     "SET GLOBAL max_connections = 1", "SELECT * FROM orders INTO OUTFILE '/tmp/x'", "CALL nothing()", "SET NAMES gbk"],
)  # fmt: skip
def test_what_is_not_understood_or_not_allowed_is_refused(stack: MysqlStack, text: str) -> None:
    with stack.connect(local_infile=True) as connection:
        with pytest.raises(pymysql.err.MySQLError) as refused:
            rows_of(connection, text)
        assert "extproc:" in refused.value.args[1]
        assert rows_of(connection, "SELECT 1") == [(1,)]


def test_a_role_of_others_and_an_unknown_one_are_refused(stack: MysqlStack) -> None:
    for user in ("writer", "nobody"):
        with pytest.raises(pymysql.err.OperationalError) as refused:
            stack.connect(user)
        assert refused.value.args[0] == 1045


def test_a_large_result_passes_whole(stack: MysqlStack) -> None:
    with stack.connect() as connection:
        rows = rows_of(
            connection, "SELECT REPEAT('x', 100000) FROM orders, (SELECT 1 UNION ALL SELECT 2) AS twice"
        )
        assert sum(len(row[0]) for row in rows) == 20_000_000


def test_no_connection_is_left_behind(stack: MysqlStack) -> None:
    with stack.connect() as connection:
        rows_of(connection, "SELECT 1")
    assert stack.envoy is not None
    stack.envoy.wait_for_stat(
        f"listener.127.0.0.1_{stack.port}.downstream_cx_active", lambda value: value == 0
    )


def test_the_upstream_password_is_nowhere(stack: MysqlStack) -> None:
    for path in (stack.directory / "state").rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path
    assert PASSWORD not in (stack.directory / "serve.log").read_text()


# ---------------------------------------------------------------------- prepared statements


def test_a_prepared_statement_is_judged_with_its_parameters_and_recorded(stack: MysqlStack) -> None:
    with stack.connect() as connection:
        asked = Prepared(connection, "SELECT id, name FROM customers WHERE id = ? OR name = ?")
        assert asked.execute(2, "Ada") == [(1, "Ada"), (2, "Grace")]
        assert asked.execute(3, None) == [(3, "Edsger")]
        with pytest.raises(pymysql.err.OperationalError) as refused:
            Prepared(connection, "DELETE FROM orders WHERE id = ?")
        assert refused.value.args[0] == 1142
        assert rows_of(connection, "SELECT 1") == [(1,)]
        asked.close()
    stories = [
        s for s in stack.statements("WHERE id = ? OR name") if s["intent"]["statement"].get("parameters")
    ]
    shown = [[part.get("text") for part in s["intent"]["statement"]["parameters"]] for s in stories[-2:]]
    assert shown == [["2", "Ada"], ["3", None]]
    assert [s["outcome"]["response"]["rows"] for s in stories[-2:]] == [2, 1]


def test_masks_reach_binary_rows_and_cursors(stack: MysqlStack) -> None:
    with analyst(stack) as connection:
        asked = Prepared(connection, "SELECT id, email AS e, age, note FROM customers WHERE id < ?")
        assert asked.execute(9) == [
            (1, "[customers.email]", None, '{"mail": "[EMAIL_ADDRESS]"}'),
            (2, "[customers.email]", None, '{"mail": "none"}'),
            (3, None, None, None),
        ]
        # under a cursor MariaDB tells an alias for the real name, so that there is none where rows are masked
        named = Prepared(connection, "SELECT email AS name FROM customers WHERE id < ?")
        assert named.execute(9, cursor=True)[0] == ("[customers.email]",)
        assert not named.is_open
    with stack.connect() as connection:
        asked = Prepared(connection, "SELECT id, name FROM customers WHERE id < ?")
        assert asked.execute(9, cursor=True) == []  # its rows come when they are fetched
        assert rows_of(connection, "SELECT 1") == [(1,)]  # others run between
        assert asked.fetch(1) == [(1, "Ada")]
        assert asked.fetch(5) == [(2, "Grace"), (3, "Edsger")]
    story = [s for s in stack.statements("SELECT id, name FROM customers WHERE id <") if "outcome" in s][-1]
    assert story["outcome"]["response"]["rows"] == 3
    stories = [s for s in stack.statements("AS e, age, note") if s["intent"]["statement"].get("parameters")]
    assert stories[-1]["outcome"]["response"]["masked"]["customers.email"] == 2


def test_a_prepared_statement_is_judged_as_it_was_read_when_it_was_prepared(stack: MysqlStack) -> None:
    with analyst(stack) as connection:
        rows_of(connection, "SET SESSION sql_mode = 'ANSI_QUOTES'")
        asked = Prepared(connection, 'SELECT CONCAT("email", "name") AS x FROM customers')
        rows_of(connection, "SET SESSION sql_mode = ''")
        with pytest.raises(
            pymysql.err.MySQLError
        ) as refused:  # by now the text alone would be of two literals
            asked.execute()
        assert "masked column" in refused.value.args[1]


def test_a_prepared_statement_is_held_with_its_parameters_each_time(stack: MysqlStack) -> None:
    who, approvals = somebody(), Approvals(stack)
    with payer(stack, who) as connection:
        pay = Prepared(connection, "INSERT INTO payments VALUES (?)")  # nothing runs yet
        for _ in range(2):
            number = next(PAYMENTS)
            asking = Asking(lambda number=number: pay.execute(number))  # type: ignore[misc]
            hold = approvals.hold_of(who)
            assert approvals.show(hold["id"])["view"]["raw"]["parameters"] == [str(number)]
            approvals.approve(hold["id"])
            assert asking.finish() == []
            assert paid(stack, number) == 1


def test_long_data_is_part_of_what_is_judged(stack: MysqlStack) -> None:
    with stack.connect() as connection:
        asked = Prepared(connection, "SELECT LENGTH(?) AS n")
        for _ in range(3):
            asked.send(0, b"x" * 100_000)
        assert asked.execute("", sent=[0]) == [(300_000,)]
        for _ in range(12):
            asked.send(0, b"x" * 100_000)
        with pytest.raises(pymysql.err.MySQLError) as refused:  # longer than a statement may be
            asked.execute("", sent=[0])
        assert refused.value.args[0] == 1153
        assert asked.execute("abc") == [(3,)]


def test_a_reset_connection_is_as_new(stack: MysqlStack) -> None:
    with stack.connect() as connection:
        rows_of(connection, "SET SESSION sql_mode = 'ANSI_QUOTES'")
        asked = Prepared(connection, "SELECT 1")
        connection._execute_command(0x1F, b"")
        connection._read_ok_packet()
        gone = pytest.raises(pymysql.err.MySQLError)
        with gone as refused:
            asked.execute()
        assert refused.value.args[0] == 1243
        assert rows_of(connection, 'SELECT "name" FROM customers WHERE id = 1') == [("name",)]


@pytest.mark.parametrize("code", [0x08, 0x0A, 0x0C, 0x0D, 0x12, 0x15, 0x1E, 0xFA], ids=hex)
def test_commands_that_no_rule_can_allow_are_refused_and_recorded(stack: MysqlStack, code: int) -> None:
    with stack.connect() as connection:
        connection._execute_command(code, b"\x01\x00\x00\x00")
        with pytest.raises(pymysql.err.MySQLError) as refused:
            connection._read_packet()
        assert refused.value.args[0] == 1235
        name = COMMANDS[code].name
        assert name in refused.value.args[1]
        assert rows_of(connection, "SELECT 1") == [(1,)]
    story = stack.statements(name)[-1]
    assert story["intent"]["verdict"] == "deny"
    assert story["intent"]["code"] == "command-refused"


def test_a_statement_that_cannot_be_read_is_refused_recorded_and_the_connection_lives(
    stack: MysqlStack,
) -> None:
    with stack.connect() as connection:
        with pytest.raises(pymysql.err.MySQLError) as refused:
            rows_of(connection, b"SELECT 'not-utf-8: \xff'")  # type: ignore[arg-type]
        assert refused.value.args[0] == 1300
        assert rows_of(connection, "SELECT 1") == [(1,)]
    story = stack.statement("not text in the connection's character set")
    assert story["intent"]["verdict"] == "deny"
    assert story["intent"]["code"] == "not-read"
    assert story["outcome"]["executed"] is False


def test_whole_hides_a_result_but_never_what_stays_in_a_variable(
    mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("whole")
    with (
        MysqlStack(directory, mariadb, front="relay", database={"masked_use": "whole"}) as stack,
        analyst(stack) as connection,
    ):
        assert "example.com" not in str(rows_of(connection, "SELECT CONCAT(email, '') FROM customers"))
        for text in ("SELECT @x := email FROM customers", "SELECT email INTO @x FROM customers LIMIT 1"):
            with pytest.raises(pymysql.err.MySQLError) as refused:
                rows_of(connection, text)
            assert "extproc:" in refused.value.args[1]
            assert "example.com" not in str(rows_of(connection, "SELECT @x"))
        with pytest.raises(pymysql.err.MySQLError) as refused:  # a message of the server would name the value
            rows_of(connection, "SELECT EXTRACTVALUE('<a/>', CONCAT('/', email)) FROM customers WHERE id = 1")
        assert "example.com" not in str(refused.value)


# ---------------------------------------------------------------------- COM_CHANGE_USER


def change_user(connection: Any, user: str, token: str) -> None:
    """As libraries do it that keep connections: a login on one that is open. PyMySQL only knows the answers' half."""
    plugin = b"caching_sha2_password"
    connection.user, connection.password = user.encode(), token.encode()
    tail = DATABASE.encode() + b"\0" + (45).to_bytes(2, "little") + plugin + b"\0"
    connection._execute_command(COMMAND.COM_CHANGE_USER, user.encode() + b"\0\0" + tail)
    packet = connection._read_packet()
    while not packet.is_ok_packet():
        assert packet.is_auth_switch_request()
        packet.read_uint8()
        name = packet.read_string()
        packet = connection._process_auth(name, packet.read_all())


def test_another_user_on_an_open_connection_is_another_session(stack: MysqlStack) -> None:
    who, number = somebody(), next(PAYMENTS)
    with stack.connect() as connection:
        rows_of(connection, "SET @kept = 1")
        change_user(connection, "writer", stack.token(who, groups=["writers"]))
        assert rows_of(connection, "SELECT CURRENT_USER(), @kept") == [("app_writer@%", None)]
        asking = Asking(lambda: rows_of(connection, f"INSERT INTO payments VALUES ({number})"))
        approvals = Approvals(stack)
        assert approvals.approve(approvals.hold_of(who)["id"]).status == 200
        asking.finish()
        with pytest.raises(pymysql.err.OperationalError):
            rows_of(connection, "DELETE FROM orders WHERE id = 1")
    story = stack.statement(f"INSERT INTO payments VALUES ({number})")
    assert story["intent"]["principal"]["subject"] == who
    before = stack.statement("SET @kept = 1")["intent"]
    assert before["session_id"] != story["intent"]["session_id"]
    ends = {
        record["session_id"]: record["end"]
        for record in stack.records()
        if record["kind"] == "outcome" and record.get("operation") == "login"
    }
    assert ends[before["session_id"]] == "complete"


def test_another_user_who_may_not_ends_the_connection(stack: MysqlStack) -> None:
    for user, token in (
        ("writer", stack.token("alice", groups=["readers"])),
        ("reader", "not-a-token"),
        ("reader", ""),
    ):
        connection = stack.connect()
        with pytest.raises(pymysql.err.OperationalError) as refused:
            change_user(connection, user, token)
        assert refused.value.args[0] == 1045
        with pytest.raises(pymysql.err.MySQLError):
            rows_of(connection, "SELECT 1")


# ---------------------------------------------------------------------- answers in other character sets

WIDE = ("utf16", "utf16le", "utf32", "ucs2")


@pytest.mark.parametrize(
    "text",
    [
        *(f"SET @@character_set_results = {name}; SELECT note FROM customers" for name in WIDE),
        "SET @@session.character_set_results = utf16; SELECT note FROM customers",
        *(
            f"SET @@character_set_results = NULL; SELECT CONVERT(note USING {name}) FROM customers"
            for name in WIDE
        ),
    ],
)
def test_rows_in_a_character_set_that_is_not_searched_never_leave(stack: MysqlStack, text: str) -> None:
    with analyst(stack, client_flag=CLIENT.MULTI_STATEMENTS) as connection:
        connection._execute_command(COMMAND.COM_QUERY, text.encode())
        heard = b""
        while b"extproc" not in heard:
            data = connection._rfile.read1(1 << 16)
            assert data, "the connection ended without a word"
            heard += data
    assert b"a\x00d\x00a" not in heard and b"a\x00\x00\x00d\x00\x00\x00a" not in heard


def test_every_wide_collation_of_the_server_is_known(mariadb: MariaDB) -> None:
    names = ", ".join(f"'{name}'" for name in WIDE)
    table = "COLLATION_CHARACTER_SET_APPLICABILITY" if mariadb.has_returning else "COLLATIONS"
    rows = mariadb.run(
        f"SELECT ID, CHARACTER_SET_NAME IN ({names}) FROM information_schema.{table} WHERE ID IS NOT NULL"
    )
    assert {int(number) for number, is_wide in rows if is_wide == "1"} == {
        int(number) for number, _ in rows if is_wide_collation(int(number))
    }
