"""MySQL through a real Envoy: a token as the password, statements judged one by one, the connection alive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymysql  # type: ignore[import-untyped]
import pytest

from tests.e2e.databases import FRONTS
from tests.e2e.mysql import SCHEMA, MysqlStack
from tests.support.mariadb import MISSING, MariaDB, is_here

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not is_here(), reason=MISSING)]


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    with MariaDB() as server:
        server.run(SCHEMA)
        yield server


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
        rows_of(connection, "SELECT id FROM customers WHERE id = 'ada@example.com'")
        assert "ada@example.com" not in str(rows_of(connection, "SHOW WARNINGS"))
    with stack.connect() as connection:
        rows_of(connection, "SELECT id FROM customers WHERE id = 'ada@example.com'")
        assert "ada@example.com" in str(rows_of(connection, "SHOW WARNINGS"))


def test_errors_of_the_server_do_not_quote_what_is_masked(stack: MysqlStack) -> None:
    with analyst(stack) as connection, pytest.raises(pymysql.err.MySQLError) as refused:
        rows_of(connection, "SELECT id FROM customers PROCEDURE ANALYSE(1, 'ada@example.com')")
    assert "ada@example.com" not in str(refused.value)
