"""Real clients, a real MariaDB, and the state machine between them over a relay of a few lines."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from extproc.protocols.mysql import (
    Ended,
    LoginReceived,
    Refusal,
    RowsReceived,
    StatementEnded,
    StatementReceived,
    UpstreamLogin,
)
from tests.protocols.mysql.relay import Gate, relay
from tests.support.mariadb import MISSING, MariaDB, is_here, program
from tests.support.pki import Authority

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not is_here(), reason=MISSING)]

PASSWORD = "upstream secret ✓"
DENIED = Refusal(1142, "42000", "extproc: not allowed")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    with MariaDB() as server:
        server.run(
            f"CREATE USER gateway IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO gateway;"
            "CREATE TABLE customers (id int PRIMARY KEY, email varchar(100), born date, paid decimal(9,2), note text);"
            "INSERT INTO customers SELECT seq, CONCAT('user', seq, '@example.com'), '2001-02-03', seq / 4,"
            " REPEAT('x', 300) FROM seq_1_to_5"
        )
        yield server


def gateway() -> UpstreamLogin:
    return UpstreamLogin("gateway", PASSWORD, protected=True)


def no_drop(asked: StatementReceived) -> Refusal | None:
    return DENIED if "DROP" in asked.text or asked.kind == "command" else None


def mask(event: RowsReceived) -> list[list[bytes | None]]:
    hidden = [column.origin == "email" for column in event.columns]
    return [
        [b"***" if hide and value is not None else value for hide, value in zip(hidden, row, strict=True)]
        for row in event.rows
    ]


def connect(gate: Gate, **options: Any) -> Any:
    return pymysql.connect(
        host="127.0.0.1", port=gate.port, user="ada", password=gate.token, database="shop", **options
    )


async def through(mariadb: MariaDB, gate: Gate, folder: Path, client: Callable[[], Any]) -> Any:
    async with relay(gate, mariadb.socket, folder / "s"):
        return await asyncio.to_thread(client)


@pytest.mark.parametrize("chunk", [1, 7, 65536])
async def test_pymysql(mariadb, tmp_path, chunk):
    gate = Gate(gateway(), no_drop, rows=mask, chunk=chunk)

    def client() -> None:
        with connect(gate, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id, email AS e, born, paid FROM customers AS c WHERE id <= %s", (2,))
            rows = cursor.fetchall()
            assert [row[:3] for row in rows] == [
                (1, "***", datetime.date(2001, 2, 3)),
                (2, "***", datetime.date(2001, 2, 3)),
            ]
            with pytest.raises(pymysql.err.OperationalError) as refused:
                cursor.execute("DROP TABLE customers")
            assert refused.value.args == (1142, "extproc: not allowed")
            cursor.execute("UPDATE customers SET paid = 1 WHERE id = 1")
            assert cursor.rowcount in (0, 1)
            with pytest.raises(pymysql.err.ProgrammingError):
                cursor.execute("SELECT * FROM nothing_there")
            connection.ping(reconnect=False)
            connection.select_db("shop")

    await through(mariadb, gate, tmp_path, client)
    ends = gate.of(StatementEnded)
    assert [end.end for end in ends if end.end != "complete"] == ["denied", "error"]
    assert gate.of(Ended) == [Ended("client")]


async def test_a_wrong_token_is_refused(mariadb, tmp_path):
    gate = Gate(gateway())

    def client() -> None:
        with pytest.raises(pymysql.err.OperationalError) as refused:
            pymysql.connect(host="127.0.0.1", port=gate.port, user="ada", password="wrong")
        assert refused.value.args == (1045, "bad token")

    await through(mariadb, gate, tmp_path, client)


async def test_a_large_result_and_a_long_statement(mariadb, tmp_path):
    gate = Gate(gateway(), rows=mask)

    def client() -> None:
        with connect(gate, max_allowed_packet=64 << 20) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT seq, REPEAT('x', 200) FROM seq_1_to_20000")
            assert sum(1 for _ in cursor) == 20000
            cursor.execute("SELECT LENGTH(%s), REPEAT('y', 17000000)", ("z" * 1_000_000,))
            ((length, text),) = cursor.fetchall()
            assert (length, len(text)) == (1_000_000, 17_000_000)

    gate.limits = gate.limits.__class__(row=32 << 20, waiting=64 << 20)
    await through(mariadb, gate, tmp_path, client)


async def test_several_statements_and_procedures(mariadb, tmp_path):
    mariadb.run(
        "DELIMITER //\nCREATE OR REPLACE PROCEDURE two()"
        " BEGIN SELECT 1; SELECT email FROM customers WHERE id = 1; END//"
    )
    gate = Gate(gateway(), rows=mask)

    def client() -> None:
        flags = pymysql.constants.CLIENT.MULTI_STATEMENTS
        with connect(gate, client_flag=flags) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1; SELECT email FROM customers WHERE id = 2")
            assert cursor.fetchall() == ((1,),)
            assert cursor.nextset()
            assert cursor.fetchall() == (("***",),)
            cursor.execute("CALL two()")
            assert cursor.fetchall() == ((1,),)
            assert cursor.nextset()
            assert cursor.fetchall() == (("***",),)

    await through(mariadb, gate, tmp_path, client)


async def test_the_command_line_client_under_tls(mariadb, tmp_path):
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.issue("server", hosts=["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    gate = Gate(
        gateway(), no_drop, rows=mask, tls=context, require_tls=True, takes_cleartext=False, token="t" * 3000
    )

    async def run(*more: str) -> tuple[str, str]:
        asked = "SELECT email FROM customers WHERE id = 1; DROP TABLE customers; SELECT 'here'"
        process = await asyncio.create_subprocess_exec(
            str(program("mariadb")), "--no-defaults", "-h127.0.0.1", f"-P{gate.port}", "-uada", f"-p{gate.token}",
            *more, "-N", "-e", asked, "--force", "shop", stdout=-1, stderr=-1,
        )  # fmt: skip
        output, errors = await asyncio.wait_for(process.communicate(), 20)
        return output.decode(), errors.decode()

    async with relay(gate, mariadb.socket, tmp_path / "s"):
        output, errors = await run("--ssl", f"--ssl-ca={authority.path}")
        assert "***\nhere" in output, errors
        assert "extproc: not allowed" in errors
        output, errors = await run("--skip-ssl")
        assert output == ""
        assert "this listener needs TLS" in errors
    logins = gate.of(LoginReceived)
    assert [(login.encrypted, login.token == gate.token) for login in logins] == [(True, True)]


async def test_pymysql_gives_its_token_under_tls_and_under_our_rsa_key(mariadb, tmp_path):
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.issue("server", hosts=["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    gate = Gate(gateway(), tls=context, takes_cleartext=False, rsa_key=rsa.generate_private_key(65537, 2048))

    def client() -> None:
        for options in (
            {"ssl_ca": str(authority.path), "ssl_verify_identity": False},
            {"ssl_disabled": True},
        ):
            with connect(gate, **options) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                assert cursor.fetchone() == (1,)

    await through(mariadb, gate, tmp_path, client)
    assert [login.encrypted for login in gate.of(LoginReceived)] == [True, False]


async def test_dumps_and_load(mariadb, tmp_path):
    gate = Gate(gateway())
    async with relay(gate, mariadb.socket, tmp_path / "s"):
        process = await asyncio.create_subprocess_exec(
            str(program("mariadb-dump")), "--no-defaults", "-h127.0.0.1", f"-P{gate.port}", "-uada", "-ptoken", "shop",
            stdout=-1, stderr=-1,
        )  # fmt: skip
        output, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, errors
        assert b"user5@example.com" in output
        process = await asyncio.create_subprocess_exec(
            str(program("mysqlslap")), "--no-defaults", "-h127.0.0.1", f"-P{gate.port}", "-uada", "-ptoken", "-c8",
            "--iterations=2", "--create-schema=slap", "--number-of-queries=80", "--auto-generate-sql",
            stdout=-1, stderr=-1,
        )  # fmt: skip
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, errors


async def test_local_files_are_refused(mariadb, tmp_path):
    gate = Gate(gateway())
    (tmp_path / "file").write_text("1\n")

    def client() -> None:
        with connect(gate, local_infile=True) as connection, connection.cursor() as cursor:
            asked = pytest.raises(pymysql.err.MySQLError)
            with asked:
                cursor.execute(f"LOAD DATA LOCAL INFILE '{tmp_path}/file' INTO TABLE customers")

    await through(mariadb, gate, tmp_path, client)


async def test_ed25519_upstream(mariadb, tmp_path):
    mariadb.run(
        "INSTALL SONAME 'auth_ed25519'; CREATE USER signer IDENTIFIED VIA ed25519 USING PASSWORD('a long secret ✓');"
        "GRANT ALL ON *.* TO signer"
    )
    gate = Gate(UpstreamLogin("signer", "a long secret ✓"))

    def client() -> None:
        with connect(gate) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT CURRENT_USER()")
            assert cursor.fetchone() == ("signer@%",)

    await through(mariadb, gate, tmp_path, client)
