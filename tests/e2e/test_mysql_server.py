"""MySQL's own server behind us: what `test_mysql` says of MariaDB, and what only MySQL has."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pymysql  # type: ignore[import-untyped]
import pytest

from tests.e2e import test_mysql
from tests.e2e.databases import FRONTS, PASSWORD
from tests.e2e.mysql import SCHEMA, MysqlStack
from tests.e2e.test_mysql import rows_of
from tests.support.mysql_server import MISSING, MySQL, binary, is_here

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.mysql_server,
    pytest.mark.skipif(not is_here(), reason=MISSING),
]

CLEAR = "--enable-cleartext-plugin"
"""What MySQL's client wants where TLS is not ours."""

UNGOVERNED = 1 << 5 | 1 << 25 | 1 << 26 | 1 << 27 | 1 << 28
"""Compression, optional metadata, zstd, query attributes, several factors."""

views = test_mysql.views
globals().update({name: told for name, told in vars(test_mysql).items() if name.startswith("test_")})


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MySQL]:
    with MySQL() as server:
        server.run(SCHEMA)
        yield server


@pytest.fixture(scope="module", params=FRONTS)
def stack(
    request: pytest.FixtureRequest, mariadb: MySQL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MysqlStack]:
    with MysqlStack(tmp_path_factory.mktemp("my"), mariadb, front=request.param) as running:
        yield running


def shell(
    stack: MysqlStack, text: str, *more: str, user: str = "reader", groups: tuple[str, ...] = ("readers",)
) -> subprocess.CompletedProcess[str]:
    """MySQL's own command line client with this input."""
    return subprocess.run(
        [*binary("mysql"), "--no-defaults", "-h127.0.0.1", f"-P{stack.port}", f"-u{user}",
         f"-p{stack.token(groups=groups)}", *more, "--batch", "--skip-column-names", "--force", "shop"],
        input=text, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_mysqls_own_client_reads_and_a_denial_keeps_its_connection(stack: MysqlStack) -> None:
    done = shell(stack, "SELECT count(*) FROM orders; DELETE FROM orders; SELECT 'still here';", CLEAR)
    assert done.stdout.splitlines() == ["100", "still here"], done.stderr
    assert "ERROR 1142 (42000)" in done.stderr and 'rule "orders/no-delete"' in done.stderr


def test_what_we_do_not_govern_is_offered_by_mysql_and_not_by_us(stack: MysqlStack) -> None:
    """Query attributes and the rest of it are negotiated off."""
    assert offered(stack.mariadb.port) & UNGOVERNED == UNGOVERNED
    assert offered(stack.port) & UNGOVERNED == 0


def offered(port: int) -> int:
    """The capabilities in a greeting."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        greeting = connection.makefile("rb")
        payload = greeting.read(int.from_bytes(greeting.read(4)[:3], "little"))
    rest = payload.index(b"\0", 1) + 1 + 4 + 8 + 1  # version, connection, the beginning of the nonce, filler
    return int.from_bytes(payload[rest : rest + 2] + payload[rest + 5 : rest + 7], "little")


def test_what_the_server_tells_of_its_session_passes(stack: MysqlStack) -> None:
    """Trackers put more into OK packets: schema, variables, transactions."""
    told = (
        "SET SESSION session_track_schema = 1; SET SESSION session_track_state_change = 1;"
        "SET SESSION session_track_system_variables = '*';"
        "SET SESSION session_track_transaction_info = 'CHARACTERISTICS';"
        "USE shop; START TRANSACTION; SELECT count(*) FROM orders; COMMIT; SELECT 'alive';"
    )
    done = shell(stack, told, CLEAR, user="writer", groups=("builders",))
    assert done.stdout.splitlines() == ["100", "alive"], done.stderr
    assert "ERROR" not in done.stderr


def test_several_results_of_a_procedure(stack: MysqlStack) -> None:
    stack.mariadb.run(
        "DROP PROCEDURE IF EXISTS two;\nDELIMITER //\n"
        "CREATE PROCEDURE two() BEGIN SELECT 1; SELECT name FROM customers WHERE id = 1; END//\n"
    )
    with stack.connect("writer", "builders") as connection, connection.cursor() as cursor:
        cursor.execute("CALL two()")
        assert cursor.fetchall() == ((1,),)
        assert cursor.nextset()
        assert cursor.fetchall() == (("Ada",),)


@pytest.mark.parametrize("front", FRONTS)
def test_a_password_that_is_not_cached_goes_under_the_servers_rsa_key(
    front: str, mariadb: MySQL, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without TLS on the way to the server: full authentication, then the fast one, then full again."""
    upstream = {"address": f"127.0.0.1:{mariadb.port}", "tls": "off"}
    with MysqlStack(
        tmp_path_factory.mktemp("rsa"), mariadb, front=front, target={"upstream": upstream}
    ) as stack:
        for _ in range(2):
            mariadb.run("FLUSH PRIVILEGES")  # forgets what it had cached
            for _ in range(2):
                with stack.connect() as connection:
                    assert rows_of(connection, "SELECT count(*) FROM orders") == [(100,)]
                    assert rows_of(connection, "SHOW STATUS LIKE 'Ssl_cipher'") == [("Ssl_cipher", "")]


def test_a_login_that_is_not_spoken_upstream_is_a_clear_refusal(
    mariadb: MySQL, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mariadb.run(
        f"CREATE USER app_sha256 IDENTIFIED WITH sha256_password BY '{PASSWORD}'; GRANT ALL ON shop.* TO app_sha256"
    )
    roles = {"reader": {"user": "app_sha256", "password": {"env": "DB_PASSWORD"}}}
    with MysqlStack(
        tmp_path_factory.mktemp("plugin"),
        mariadb,
        database={"roles": roles},
        environment={"DB_PASSWORD": PASSWORD},
    ) as stack:
        with pytest.raises(pymysql.err.MySQLError) as refused:
            stack.connect()
        assert "extproc:" in str(refused.value)
