"""What is kept of MySQL's rows: a masked sample of what was sent, text and binary, and a digest of all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.databases import FRONTS
from tests.e2e.mysql import SCHEMA, MysqlStack
from tests.support.mariadb import MISSING, MariaDB, is_here
from tests.support.prepared import Prepared

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not is_here(), reason=MISSING)]
MOST = 4096


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MysqlStack]:
    with MariaDB() as mariadb:
        mariadb.run(SCHEMA)
        kept = {"record": {"request": "masked", "response": "masked", "max_bytes": MOST}}
        with MysqlStack(tmp_path_factory.mktemp("kept"), mariadb, front=FRONTS[-1], target=kept) as running:
            yield running


def sample(stack: MysqlStack, part: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the outcome says of the response, and what was kept of it."""
    story = [s for s in stack.statements(part) if s["intent"]["statement"].get("kind") != "parse"][-1]
    decision = story["intent"]["decision_id"]
    (outcome,) = stack.wait_for_records(
        lambda record: record["kind"] == "outcome" and record["decision_id"] == decision
    )
    told = json.loads(
        stack.cli("ledger", "show", decision, "--config", str(stack.config_path), "--json").stdout
    )
    (found,) = [record for record in told if record["kind"] == "outcome"]
    return outcome["response"], found["payloads"]["response"]["content"]


def rows_of(connection: Any, text: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(text)
        return list(cursor.fetchall())


def test_rows_are_kept_masked_once_more_than_the_client_saw_them(stack: MysqlStack) -> None:
    text = "SELECT id, email AS mail, note, 0x00ff AS raw FROM customers ORDER BY id DESC"
    with stack.connect() as connection:
        assert rows_of(connection, text)[2][1] == "ada@example.com"  # nothing masks it for the client
    response, kept = sample(stack, "ORDER BY id DESC")
    assert kept == {
        "results": [
            {
                "columns": ["id", "mail", "note", "raw"],
                "rows": [
                    ["3", None, None, "[not recorded: binary value]"],
                    ["2", "[EMAIL_ADDRESS]", '{"mail": "none"}', "[not recorded: binary value]"],
                    ["1", "[EMAIL_ADDRESS]", '{"mail": "[EMAIL_ADDRESS]"}', "[not recorded: binary value]"],
                ],
            }
        ]
    }
    assert response["rows"] == 3 and response["digest"].startswith("hmac-sha256:")


def test_masked_rows_are_kept_as_they_were_sent(stack: MysqlStack) -> None:
    with stack.connect("reader", "analysts") as connection:
        rows_of(connection, "SELECT email FROM customers WHERE id = 1 -- masked")
    _, kept = sample(stack, "-- masked")
    assert kept["results"] == [{"columns": ["email"], "rows": [["[customers.email]"]]}]


def test_binary_rows_become_text(stack: MysqlStack) -> None:
    text = (
        "SELECT id, CAST(-7 AS SIGNED) AS s, CAST(18446744073709551615 AS UNSIGNED) AS u, 1.5e0 AS f,"
        " TIMESTAMP'2026-01-02 03:04:05' AS t, DATE'2026-01-02' AS d, TIME'-26:03:04' AS h, email"
        " FROM customers WHERE id < ? ORDER BY id"
    )
    with stack.connect() as connection:
        asked = Prepared(connection, text)
        assert len(asked.execute(3, cursor=True)) == 2  # rows that are kept come without a cursor
        asked.close()
    _, kept = sample(stack, "AS UNSIGNED")
    numbers = ["-7", "18446744073709551615", "1.5", "2026-01-02 03:04:05", "2026-01-02", "-26:03:04"]
    assert kept["results"][0]["rows"] == [
        ["1", *numbers, "[EMAIL_ADDRESS]"], ["2", *numbers, "[EMAIL_ADDRESS]"],
    ]  # fmt: skip


def test_only_the_first_rows_are_kept_and_the_digest_is_of_all(stack: MysqlStack) -> None:
    digests = []
    for last in ("x", "y"):
        text = f"SELECT seq, IF(seq = 20000, '{last}', 'z') FROM seq_1_to_20000 -- long {last}"
        with stack.connect("writer", "builders") as connection:
            assert len(rows_of(connection, text)) == 20_000
        response, kept = sample(stack, f"-- long {last}")
        assert kept["cut_at"] == MOST and 50 < len(kept["results"][0]["rows"]) < 600
        digests.append(response["digest"])
    assert digests[0] != digests[1]


def test_one_huge_value_is_not_kept(stack: MysqlStack) -> None:
    with stack.connect() as connection:
        assert len(rows_of(connection, "SELECT REPEAT('x', 20000000) AS huge")[0][0]) == 20_000_000
    _, kept = sample(stack, "AS huge")
    assert kept == {"results": [], "cut_at": MOST}
