"""MySQL through a real Envoy: a token as the password, statements judged one by one, the connection alive."""

from __future__ import annotations

from collections.abc import Iterator

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
