"""TLS on both sides of a governed MariaDB: begun after the greeting and ended in the processor, or ended by Envoy."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.databases import FRONTS, PASSWORD
from tests.e2e.mysql import MYSQL_POLICY, SCHEMA, MysqlStack
from tests.support.mariadb import DATABASE, MISSING, MariaDB, is_here
from tests.support.pki import Authority, private_pem

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not is_here(), reason=MISSING)]

SPIFFE = "spiffe://example.org/etl/nightly"
CALLERS = [{"uri": "spiffe://example.org/etl/*", "groups": ["readers"]}]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def mariadb(authority: Authority) -> Iterator[MariaDB]:
    """It listens for TLS as well, and one of its users may come by nothing else."""
    with MariaDB(tls=authority.issue("db", hosts=["localhost", "127.0.0.1"])) as server:
        server.run(SCHEMA)
        server.run(
            f"CREATE USER app_tls IDENTIFIED BY '{PASSWORD}' REQUIRE SSL; GRANT ALL ON {DATABASE}.* TO app_tls"
        )
        yield server


def listener(authority: Authority, ended_by: str) -> dict[str, Any]:
    certificate, key = authority.issue("server", hosts=["localhost", "127.0.0.1"])
    tls = {
        "certificate": str(certificate),
        "key": str(key),
        "client_ca": str(authority.path),
        "terminate": ended_by,
    }
    return {"tls": tls, "callers": CALLERS}


@pytest.fixture(scope="module", params=FRONTS)
def stack(
    request: pytest.FixtureRequest,
    mariadb: MariaDB,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MysqlStack]:
    """TLS in the processor on both sides."""
    upstream = {
        "address": f"127.0.0.1:{mariadb.port}",
        "tls": {"ca": str(authority.path), "server_name": "localhost"},
    }
    roles = {
        "reader": {"user": "app_tls", "password": {"env": "DB_PASSWORD"}},
    }
    with MysqlStack(
        tmp_path_factory.mktemp("tls"),
        mariadb,
        front=request.param,
        listener=listener(authority, "extproc"),
        target={"upstream": upstream},
        database={"roles": roles},
        environment={"DB_PASSWORD": PASSWORD},
    ) as running:
        yield running


def rows_of(connection: Any, text: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(text)
        return list(cursor.fetchall())


def test_tls_on_both_sides_and_the_servers_name_is_checked(stack: MysqlStack, authority: Authority) -> None:
    with stack.connect(ssl_ca=str(authority.path), ssl_verify_identity=True) as connection:
        assert rows_of(connection, "SELECT count(*) FROM orders") == [(100,)]
        ((_, cipher),) = rows_of(
            connection, "SHOW STATUS LIKE 'Ssl_cipher'"
        )  # of our own connection to the server
        assert cipher
        rows = rows_of(connection, "SELECT REPEAT('x', 1000) FROM orders a, orders b LIMIT 3000")
        assert len(rows) == 3000
        with pytest.raises(pymysql.err.OperationalError):
            rows_of(connection, "DELETE FROM orders")
        assert rows_of(connection, "SELECT 1") == [(1,)]


CONNECTOR = Path(sys.prefix) / "clients" / "bin" / "python"
"""MySQL's connector is under the GPL: a program that is run, in an environment of its own (`make clients`)."""


@pytest.mark.skipif(not CONNECTOR.exists(), reason="no mysql-connector-python: make clients")
@pytest.mark.parametrize("pure", [True, False], ids=["pure", "in-c"])
def test_mysql_s_own_connector_cannot_tell(stack: MysqlStack, authority: Authority, pure: bool) -> None:
    asked = {
        "port": stack.port, "user": "reader", "password": stack.token("alice", groups=["readers"]),
        "database": DATABASE, "ca": str(authority.path), "pure": pure,
    }  # fmt: skip
    done = subprocess.run(
        [CONNECTOR, Path(__file__).parent / "clients" / "connector.py", json.dumps(asked)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "class": "MySQLConnection" if pure else "CMySQLConnection",
        "text": [[1, "Ada"], [2, "Grace"]],
        "prepared": [[[1, 1]], [[3, 3]]],
        "large": 3_000_000,
        "denied": [1142, "42000"],
        "after": [[1]],
    }


def test_a_client_without_tls_is_told_to_use_it_before_it_says_its_token(stack: MysqlStack) -> None:
    with pytest.raises(pymysql.err.OperationalError) as refused:
        stack.connect(ssl_disabled=True)
    assert refused.value.args[0] == 3159
    assert "needs TLS" in refused.value.args[1]


def test_a_client_that_trusts_others_does_not_send_its_token(stack: MysqlStack, tmp_path: Any) -> None:
    with pytest.raises(pymysql.err.OperationalError):
        stack.connect(ssl_ca=str(Authority(tmp_path).path), ssl_verify_identity=True)


def test_the_command_line_client_requires_tls(stack: MysqlStack, authority: Authority) -> None:
    done = stack.shell(
        "SELECT count(*) FROM orders;", "--ssl", f"--ssl-ca={authority.path}", "--ssl-verify-server-cert"
    )
    assert done.stdout.split() == ["100"], done.stderr


def test_a_certificate_is_proof_enough(stack: MysqlStack, authority: Authority) -> None:
    certificate, key = authority.issue("nightly", uris=[SPIFFE])
    with stack.connect(
        token="none", ssl_ca=str(authority.path), ssl_cert=str(certificate), ssl_key=str(key)
    ) as connection:
        assert rows_of(connection, "SELECT name FROM customers WHERE id = 1") == [("Ada",)]
    story = stack.statements("SELECT name FROM customers WHERE id = 1")[-1]
    assert story["intent"]["principal"]["subject"] == SPIFFE


def test_a_server_that_does_not_prove_itself_gets_nothing(
    mariadb: MariaDB, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    upstream = {
        "address": f"127.0.0.1:{mariadb.port}",
        "tls": {"ca": str(authority.path), "server_name": "somebody.else"},
    }
    with MysqlStack(tmp_path_factory.mktemp("other"), mariadb, target={"upstream": upstream}) as stack:
        with pytest.raises(pymysql.err.MySQLError) as refused:
            stack.connect()
        assert "did not prove who it is" in str(refused.value)


@pytest.mark.parametrize("front", FRONTS)
def test_behind_tls_that_envoy_ends_nobody_is_greeted_before_the_handshake(
    front: str, mariadb: MariaDB, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    certificate, key = authority.issue("nightly", uris=[SPIFFE])
    with MysqlStack(
        tmp_path_factory.mktemp("envoy"),
        mariadb,
        front=front,
        policy=MYSQL_POLICY,
        listener=listener(authority, "envoy"),
    ) as stack:
        with socket.create_connection(("127.0.0.1", stack.port)) as silent:
            silent.settimeout(1.0)
            with pytest.raises(TimeoutError):  # the server speaks first, but not to nobody
                silent.recv(1)
        context = ssl.create_default_context(cafile=str(authority.path))
        context.load_cert_chain(certificate, key)
        tunnel = context.wrap_socket(
            socket.create_connection(("127.0.0.1", stack.port)), server_hostname="localhost"
        )
        connection = pymysql.Connection(user="reader", password="", database=DATABASE, defer_connect=True)
        connection.connect(tunnel)
        assert rows_of(connection, "SELECT name FROM customers WHERE id = 2") == [("Grace",)]
        connection.close()
        story = stack.statements("SELECT name FROM customers WHERE id = 2")[-1]
        assert story["intent"]["principal"]["subject"] == SPIFFE


def test_without_tls_a_token_crosses_under_our_rsa_key(
    mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("rsa")
    key = directory / "token.pem"
    key.write_bytes(private_pem(rsa.generate_private_key(65537, 4096)))
    key.chmod(0o600)
    with MysqlStack(directory, mariadb, front="relay", listener={"rsa_key": str(key)}) as stack:
        token = stack.issuer.token("alice", alg="EdDSA", groups=["readers"])
        sent = bytearray()
        connection = stack.connect(token=token, defer_connect=True)
        write = connection._write_bytes

        def written(data: bytes) -> None:
            sent.extend(data)
            write(data)

        connection._write_bytes = written
        connection.connect()
        assert rows_of(connection, "SELECT name FROM customers WHERE id = 1") == [("Ada",)]
        assert len(sent) > 512 and token.encode() not in bytes(sent)
        connection.close()
        long = stack.issuer.token("alice", alg="RS256", groups=["readers"])
        with pytest.raises(ValueError, match="Encryption"):  # it does not fit, and the client says so itself
            stack.connect(token=long)
