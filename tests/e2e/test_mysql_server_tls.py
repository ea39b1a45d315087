"""TLS on both sides of MySQL's own server: what `test_mysql_tls` says of MariaDB, and MySQL's own client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import test_mysql_tls
from tests.e2e.databases import PASSWORD
from tests.e2e.mysql import SCHEMA, MysqlStack
from tests.e2e.test_mysql_server import shell
from tests.support.mysql_server import MISSING, MySQL, is_here
from tests.support.pki import Authority

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.mysql_server,
    pytest.mark.skipif(not is_here(), reason=MISSING),
]

authority, stack = test_mysql_tls.authority, test_mysql_tls.stack
globals().update({name: told for name, told in vars(test_mysql_tls).items() if name.startswith("test_")})


@pytest.fixture(scope="module")
def mariadb(authority: Authority) -> Iterator[MySQL]:
    with MySQL(tls=authority.issue("db", hosts=["localhost", "127.0.0.1"])) as server:
        server.run(SCHEMA)
        server.run(
            f"CREATE USER app_tls IDENTIFIED BY '{PASSWORD}' REQUIRE SSL; GRANT ALL ON shop.* TO app_tls"
        )
        yield server


@pytest.mark.parametrize("mode", ["REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"])
def test_mysqls_own_client_needs_no_option_but_tls(
    stack: MysqlStack, authority: Authority, mode: str
) -> None:
    """Full authentication of `caching_sha2_password`: the token goes inside TLS."""
    done = shell(
        stack, "SELECT count(*) FROM orders;", f"--ssl-mode={mode}",
        f"--ssl-ca={authority.path}", "-hlocalhost", "--protocol=TCP",
    )  # fmt: skip
    assert done.stdout.split() == ["100"], done.stderr


def test_mysqls_own_client_without_tls_is_told_to_use_it(stack: MysqlStack) -> None:
    done = shell(stack, "SELECT 1;", "--ssl-mode=DISABLED", "--get-server-public-key")
    assert done.stdout == "" and "needs TLS" in done.stderr
