"""Sessions and statements of a database as spans: names, parents, semantic conventions."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.domain.record import INTENT, OUTCOME, Record
from extproc.ledger.spans import SpanView
from extproc.pipeline.database_records import SessionScribe
from tests.ledger.test_spans import PARENT, TRACE, Book

COMMON = {
    "decision_id": "dec_1",
    "session_id": "ses_1",
    "target": "orders-db",
    "protocol": "postgres",
    "span_id": "0000000000000007",
    "trace": {"trace_id": TRACE, "parent_span_id": PARENT},
}
STATEMENT = {
    "operation": "statement",
    "verdict": "allow",
    "code": "allowed",
    "connection": {"user": "reader", "role": "app", "database": "shop", "source": "10.0.0.1:5123"},
    "statement": {
        "text": "SELECT name FROM customers WHERE mail = '[EMAIL_ADDRESS]'",
        "verbs": ["SELECT"],
        "effects": ["read"],
        "tables_read": ["customers"],
        "tables_written": [],
    },
}


def span(said: dict[str, Any], became: dict[str, Any]) -> SpanView:
    book = Book()
    assert book.add(Record(INTENT, 1_700_000_000.0, {**COMMON, **said})) == []
    (view,) = book.add(Record(OUTCOME, 1_700_000_001.0, {**COMMON, **became}))
    return view


def test_a_statement_is_a_span_under_its_session() -> None:
    view = span(
        STATEMENT,
        {"operation": "statement", "executed": True, "end": "complete", "duration_us": 1000,
         "response": {"code": 0, "rows": 3, "affected": 3, "bytes": 44}},
    )  # fmt: skip
    assert view.name == "SELECT orders-db"
    assert (view.parent_id, view.context.trace_id) == (PARENT, TRACE)
    expected = {
        "db.system.name": "postgresql",
        "db.namespace": "shop",
        "db.operation.name": "SELECT",
        "db.collection.name": "customers",
        "db.query.text": "SELECT name FROM customers WHERE mail = '[EMAIL_ADDRESS]'",
        "db.response.returned_rows": 3,
        "client.address": "10.0.0.1",
        "client.port": 5123,
        "extproc.db.role": "app",
    }
    assert expected.items() <= dict(view.attributes).items()
    assert not any(name.startswith(("http.", "url.")) for name in view.attributes)
    assert view.error is None


def test_an_error_of_the_server_is_told_by_its_sqlstate() -> None:
    view = span(
        STATEMENT,
        {
            "operation": "statement",
            "executed": True,
            "end": "error",
            "response": {"code": 0, "sqlstate": "42P01"},
        },
    )
    assert view.attributes["db.response.status_code"] == "42P01"


def test_a_session_sums_up_its_statements() -> None:
    said = {
        "operation": "login",
        "verdict": "allow",
        "code": "allowed",
        "connection": STATEMENT["connection"],
    }
    view = span(
        said,
        {"operation": "login", "executed": True, "end": "complete",
         "response": {"code": 0, "statements": 5, "denied": 1, "held": 0, "rows": 9}},
    )  # fmt: skip
    assert view.name == "session orders-db"
    assert view.attributes["extproc.session.statements"] == 5
    assert view.attributes["extproc.session.denied"] == 1


def test_a_record_of_odd_shape_still_becomes_a_span() -> None:
    view = span({"statement": [1], "connection": "x"}, {"response": {"rows": "many", "sqlstate": 7}})
    assert view.name == "statement orders-db"


@pytest.mark.parametrize(("protocol", "system"), [("postgres", "postgresql"), ("mysql", "mysql")])
def test_a_session_its_statement_and_its_hold_are_one_tree(protocol: str, system: str) -> None:
    book = Book()
    key, span_id = bytes(32), "00000000000000aa"
    scribe = SessionScribe("orders-db", key, "ses_1", "dec_0", TRACE, span_id, 1.0, protocol=protocol)
    below = {
        **COMMON,
        "protocol": protocol,
        "trace": {"trace_id": TRACE, "parent_span_id": scribe.span_id},
        "operation": "statement",
    }
    hold = {"hold": "hld_1", "decision_id": "dec_1", "target": "orders-db", "trace_id": TRACE}
    counts = {"statements": 1, "denied": 0, "held": 1}
    views = [
        view
        for record in (
            scribe.login(1.0, "allow", "allowed"),
            Record("hold.opened", 2.0, hold),
            Record("hold.approved", 3.0, hold),
            Record(INTENT, 4.0, {**STATEMENT, **below, "hold": {"id": "hld_1", "state": "released"}}),
            Record(OUTCOME, 5.0, {**below, "executed": True, "end": "complete", "response": {"code": 0}}),
            scribe.logout(6.0, executed=True, end="complete", reason="", counts=counts),
        )
        for view in book.add(record)
    ]
    spans = {view.name: view for view in views}
    assert set(spans) == {"session orders-db", "SELECT orders-db", "hold"}
    assert {view.context.trace_id for view in views} == {TRACE}
    session, statement = spans["session orders-db"], spans["SELECT orders-db"]
    assert session.parent_id == ""
    assert statement.parent_id == session.context.span_id
    assert spans["hold"].parent_id == statement.context.span_id
    assert {view.attributes["db.system.name"] for view in (session, statement)} == {system}
