"""What else shows a masked column: views, kin, generated columns, what was made a moment ago. On a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.gateway import MASK_ALL, Gateway
from tests.support.postgres import Postgres, binaries

pytestmark = pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")

POLICY = (
    MASK_ALL
    + """
masks:
  pii: {columns: [people.email], operator: replace}
"""
)
SECRET = "ada@example.com"
MASKED = "[people.email]"
SCHEMA = f"""
CREATE TABLE people (id int PRIMARY KEY, name text, email text,
  domain text GENERATED ALWAYS AS (split_part(email, '@', 2)) STORED,
  shout text GENERATED ALWAYS AS (upper(name)) STORED);
INSERT INTO people VALUES (1, 'Ada', '{SECRET}');
CREATE VIEW mails AS SELECT id, email AS address FROM people;
CREATE VIEW mails_again AS SELECT m.address AS a, m.id FROM mails m JOIN people p USING (id);
CREATE MATERIALIZED VIEW kept AS SELECT address AS k FROM mails;
CREATE VIEW mixed AS SELECT id, lower(email) AS low, email, upper(name) AS up, count(*) OVER () AS n FROM people;
CREATE VIEW grouped AS SELECT email, count(*) AS n FROM people GROUP BY email;
CREATE VIEW united AS SELECT email AS e FROM people UNION SELECT 'x';
CREATE VIEW rows AS SELECT row_to_json(p) AS j, p.id FROM people p;
CREATE VIEW with_cte AS WITH c AS (SELECT email AS ce, id FROM people) SELECT ce, id + 1 AS next FROM c;
CREATE VIEW scalar AS SELECT id, (SELECT email FROM people q WHERE q.id = p.id) AS s FROM people p;
CREATE VIEW odd AS SELECT email || '' AS ":expr", id AS ":resorigtbl", email AS "[ x", name AS "({{" FROM people;
CREATE VIEW on_computed AS SELECT low AS l FROM mixed;
CREATE VIEW planned AS SELECT attname, most_common_vals::text AS t FROM pg_stats;
CREATE VIEW asked AS SELECT pid, query AS q, left(query, 9) AS l FROM pg_stat_activity;
CREATE FUNCTION told(people) RETURNS text LANGUAGE sql AS 'SELECT $1.email';
CREATE VIEW innocent AS SELECT id, name AS who, id * 2 AS twice FROM people;
CREATE SCHEMA side;
CREATE VIEW side.mails AS SELECT 'public' AS address;
CREATE TABLE people_2024 (extra text) INHERITS (people);
INSERT INTO people_2024 (id, email, extra) VALUES (2, '{SECRET}', 'more');
CREATE TABLE parted (id int, email text) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100);
INSERT INTO parted VALUES (5, '{SECRET}');
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run(SCHEMA)
        server.run("REFRESH MATERIALIZED VIEW kept")
        yield server


@pytest.fixture(scope="module")
def gateway(postgres: Postgres) -> Iterator[Gateway]:
    with Gateway(postgres, POLICY) as running:
        yield running


@pytest.fixture
def connection(gateway: Gateway) -> Iterator[psycopg.Connection[Any]]:
    with gateway.connect() as made:
        yield made


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("SELECT id, address FROM mails WHERE id = 1", (1, MASKED)),
        ("SELECT * FROM mails WHERE id = 1", (1, MASKED)),
        ("SELECT a AS z, id FROM mails_again", (MASKED, 1)),
        ("SELECT * FROM kept LIMIT 1", (MASKED,)),
        ("SELECT * FROM mixed WHERE id = 1", (1, "", MASKED, "ADA", 2)),
        ("SELECT email, n FROM grouped", (MASKED, 2)),
        ("SELECT * FROM united LIMIT 1", ("",)),
        ("SELECT id, j FROM rows WHERE id = 1", (1, "")),
        ("SELECT * FROM with_cte LIMIT 1", (MASKED, 2)),
        ("SELECT * FROM scalar WHERE id = 1", (1, "")),
        ("SELECT * FROM odd LIMIT 1", ("", 1, MASKED, "Ada")),
        ("SELECT * FROM on_computed LIMIT 1", ("",)),
        ("SELECT * FROM innocent WHERE id = 1", (1, "Ada", 2)),
        ("SELECT twice + 1, upper(who) FROM innocent WHERE id = 1", (3, "ADA")),
        ("SELECT email, domain, shout FROM people WHERE id = 1", (MASKED, "", "ADA")),
        ("SELECT id, email, extra FROM people_2024", (2, "[people_2024.email]", "more")),
        ("SELECT id, domain FROM people_2024", (2, "")),
        ("SELECT m.address, s.address FROM mails m, side.mails s LIMIT 1", (MASKED, "public")),
        ("SELECT ctid, tableoid > 0 FROM people WHERE id = 1", ("(0,1)", True)),
    ],
)
def test_a_masked_column_is_masked_wherever_it_shows(
    gateway: Gateway, text: str, row: tuple[object, ...], binary: bool
) -> None:
    if binary and "ctid" in text:
        row = (b"\0\0\0\0\0\1", True)
    with gateway.connect() as connection, connection.cursor(binary=binary) as cursor:
        assert cursor.execute(text).fetchone() == row


@pytest.mark.parametrize(
    "text",
    [
        "SELECT lower(address) FROM mails",
        "SELECT lower(low) FROM mixed",
        "SELECT j::text FROM rows",
        "SELECT e || '' FROM united",
        "SELECT lower(domain) FROM people",
        "SELECT lower(email) FROM people_2024",
        "SELECT m FROM mails m",
        "SELECT id FROM mails WHERE address = 'x'",
        "SELECT * FROM mails ORDER BY address",
        "SELECT a FROM (SELECT * FROM mails_again) x",
        "UPDATE people SET name = email",
        "INSERT INTO people (id, name) SELECT 100, address FROM mails",
        "CREATE TABLE taken AS SELECT address FROM mails",
        "UPDATE people SET name = 'x' WHERE id = 1 RETURNING lower(email)",
        "SELECT p.told FROM people p",
        "SELECT lower(t) FROM planned",
        "SELECT left(query, 9) FROM pg_stat_activity",
        "SELECT a FROM pg_stat_activity a",
        "SELECT pid FROM pg_catalog.pg_stat_activity WHERE query LIKE '%@%'",
        "SELECT query FROM pg_stat_get_activity(NULL)",
        "SELECT pg_stat_get_backend_activity(1)",
    ],
)
def test_what_computes_with_it_is_refused(connection: psycopg.Connection[Any], text: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(text)


def test_what_the_server_keeps_of_values_is_hidden_in_views_too(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.execute("ANALYZE people")
        assert {row[0] for row in connection.execute("SELECT t FROM planned")} <= {"", None}
        shown = connection.execute("SELECT query, state FROM pg_stat_activity WHERE pid > 0").fetchall()
        assert {query for query, _ in shown} <= {"", None} and "active" in {state for _, state in shown}
        for _, query, left in connection.execute("SELECT * FROM asked"):
            assert query in ("", None) and left in ("", None)


def test_returning_is_masked_as_select_is(connection: psycopg.Connection[Any]) -> None:
    made = connection.execute(
        "INSERT INTO people (id, name, email) VALUES (50, 'Eve', 'eve@example.com') RETURNING id, email AS e, domain"
    )
    assert made.fetchone() == (50, MASKED, "")
    changed = connection.execute(
        "UPDATE mails SET address = 'eve@example.org' WHERE id = 50 RETURNING address"
    )
    assert changed.fetchone() == (MASKED,)
    assert connection.execute("DELETE FROM people WHERE id = 50 RETURNING *").fetchone() == (
        50, "Eve", MASKED, "", "EVE",
    )  # fmt: skip


def test_partitions_are_masked_as_what_they_are_parts_of_and_the_other_way(postgres: Postgres) -> None:
    for named in ("parted.email", "parted_low.email"):
        with (
            Gateway(postgres, POLICY.replace("people.email", named)) as gateway,
            gateway.connect() as connection,
        ):
            for table in ("parted", "parted_low"):
                shown = connection.execute(f"SELECT email FROM {table}").fetchone()
                assert shown == (f"[{table}.email]",)


def test_a_rule_may_name_a_views_own_column(postgres: Postgres) -> None:
    with (
        Gateway(postgres, POLICY.replace("people.email", "innocent.who")) as gateway,
        gateway.connect() as connection,
    ):
        assert connection.execute("SELECT id, who FROM innocent").fetchone() == (1, "[innocent.who]")
        assert connection.execute("SELECT name FROM people WHERE id = 1").fetchone() == ("Ada",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT lower(who) FROM innocent")


def test_whole_hides_every_column_of_what_only_reads_and_refuses_the_rest(postgres: Postgres) -> None:
    with (
        Gateway(postgres, POLICY, database={"masked_use": "whole"}) as gateway,
        gateway.connect() as connection,
    ):
        row = connection.execute(
            "SELECT id, lower(email), row_to_json(p)::jsonb FROM people p LIMIT 1"
        ).fetchone()
        assert row == (None, "", "")
        assert connection.execute("SELECT count(*) FROM people WHERE email LIKE 'a%'").fetchone() == (None,)
        assert connection.execute("SELECT email, id FROM people WHERE id = 1").fetchone() == (MASKED, 1)
        with connection.cursor().copy("COPY (SELECT id, lower(email) FROM people) TO STDOUT") as copy:
            assert {bytes(part) for part in copy} == {b"\\N\t\n"}
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO people (id, name) SELECT 100, lower(email) FROM people")


# ---------------------------------------------------------------------- what changes while a connection lives


@pytest.fixture
def own(postgres: Postgres) -> Iterator[Gateway]:
    """A gateway that knows nothing yet."""
    with Gateway(postgres, POLICY) as running:
        yield running


def shown(connection: psycopg.Connection[Any], text: str) -> str:
    """Everything that a statement gives, or its refusal."""
    try:
        return str(connection.execute(text).fetchall())
    except psycopg.errors.InsufficientPrivilege as error:
        return f"refused: {error}"


MADE = [
    "CREATE VIEW made AS SELECT email AS x FROM people",
    "CREATE VIEW made AS SELECT lower(email) AS x FROM people",
    "CREATE VIEW made AS SELECT to_jsonb(p)::text AS x FROM people p",
]


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("who", ["outside", "another", "itself", "uncommitted"])
@pytest.mark.parametrize("text", ["SELECT x FROM made", "SELECT lower(x) FROM made", "SELECT m FROM made m"])
def test_a_view_made_after_the_connection_began_shows_nothing(
    own: Gateway, postgres: Postgres, made: str, who: str, text: str
) -> None:
    with own.connect() as connection, own.connect() as other:
        assert SECRET not in shown(connection, "SELECT * FROM people")
        try:
            if who == "outside":
                postgres.run(made)
            elif who == "another":
                make(other, postgres, own, made)
            else:
                if who == "uncommitted":
                    connection.execute("BEGIN")
                make(connection, postgres, own, made)
            assert SECRET not in shown(connection, text)
            if who == "uncommitted":
                connection.execute("ROLLBACK")
            else:
                assert SECRET not in shown(other, text)
        finally:
            postgres.run("DROP VIEW IF EXISTS made")


def make(connection: psycopg.Connection[Any], postgres: Postgres, gateway: Gateway, text: str) -> None:
    """What masks would refuse, done by a function that they do not see through."""
    postgres.run(
        "CREATE OR REPLACE FUNCTION build(text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE $1; END'"
    )
    connection.execute("SELECT build(%s)", (text,))


@pytest.mark.parametrize("who", ["another", "itself", "uncommitted"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("CREATE OR REPLACE VIEW more.seen AS SELECT email AS x FROM people", "SELECT x FROM more.seen"),
        ("ALTER TABLE more.staff RENAME TO people; ALTER TABLE more.people RENAME x TO email", "TABLE more.people"),
        ("ALTER TABLE more.friends INHERIT more.people_all", "SELECT email FROM more.friends"),
        ("ALTER TABLE more.friends ADD copy text GENERATED ALWAYS AS (lower(email)) STORED; "
         "ALTER TABLE more.friends RENAME TO people", "SELECT copy FROM more.people"),
        ("ALTER TABLE more.friends RENAME TO people", "SELECT lower(email) FROM more.people"),
        ("ALTER TABLE more.friends RENAME TO people", "SELECT p FROM more.people p"),
    ],
)  # fmt: skip
def test_what_changes_under_a_living_connection_is_looked_at_again(
    postgres: Postgres, who: str, change: str, text: str
) -> None:
    postgres.run(
        f"""DROP SCHEMA IF EXISTS more CASCADE; CREATE SCHEMA more;
        CREATE VIEW more.seen AS SELECT name AS x FROM people;
        CREATE TABLE more.staff AS SELECT '{SECRET}' AS x;
        CREATE TABLE more.people_all (email text);
        CREATE TABLE more.friends AS SELECT '{SECRET}' AS email"""
    )
    policy = POLICY.replace("[people.email]", "[people.email, people_all.email]")
    with Gateway(postgres, policy) as own, own.connect() as connection, own.connect() as other:
        assert SECRET in shown(connection, "SELECT x FROM more.staff")
        assert SECRET in shown(connection, "SELECT email FROM more.friends")
        assert "Ada" in shown(connection, "SELECT x FROM more.seen")
        if who == "another":
            make(other, postgres, own, change)
        else:
            if who == "uncommitted":
                connection.execute("BEGIN")
            make(connection, postgres, own, change)
        assert SECRET not in shown(connection, text)
        if who == "uncommitted":
            connection.execute("COMMIT")
        assert SECRET not in shown(other, text)
