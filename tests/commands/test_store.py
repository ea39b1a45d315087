"""`extproc store migrate` on a real Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extproc.cli import main
from tests.support.postgres import ADMIN, Postgres, binaries

pytestmark = pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def migrate(folder: Path, dsn: str, holds: str = "{postgres: {env: HOLDS_DSN}}") -> Result:
    config = folder / "extproc.yaml"
    config.write_text(f"apiVersion: extproc/v1\nkind: Config\nholds: {holds}\n")
    return CliRunner().invoke(main, ["store", "migrate", "--config", str(config)], env={"HOLDS_DSN": dsn})


def test_tables_are_made_once_and_then_up_to_date(tmp_path: Path, server: Postgres):
    dsn = f"postgresql://{ADMIN}@/postgres?host={server.directory}"
    first = migrate(tmp_path, dsn)
    assert (first.exit_code, "were made" in first.output) == (0, True)
    again = migrate(tmp_path, dsn)
    assert (again.exit_code, "up to date" in again.output) == (0, True)
    server.run("UPDATE extproc.extproc_schema SET version = 7")
    newer = migrate(tmp_path, dsn)
    assert newer.exit_code == 3
    assert "version 7" in newer.output


def test_what_cannot_be_reached_is_said_without_its_password(tmp_path: Path):
    result = migrate(tmp_path, "postgresql://u:s3cret@/db?host=/nowhere/at/all")
    assert result.exit_code == 3
    assert "s3cret" not in result.output


def test_without_a_postgres_in_the_settings_there_is_nothing_to_do(tmp_path: Path):
    assert migrate(tmp_path, "x", "{}").exit_code == 2


def test_a_database_elsewhere_that_need_not_prove_itself_is_refused(tmp_path: Path):
    result = migrate(tmp_path, "postgresql://u:s3cret@db.test/db?sslmode=require")
    assert (result.exit_code, "verify-full" in result.output, "s3cret" in result.output) == (2, True, False)
