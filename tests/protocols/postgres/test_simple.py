"""The simple query protocol."""

from __future__ import annotations

from extproc.protocols.postgres import (
    ClientLeft,
    CopyStarted,
    Ended,
    Refused,
    StatementEnded,
    StatementReceived,
)
from extproc.protocols.postgres.events import Column
from extproc.protocols.postgres.messages import (
    TERMINATE,
    build,
    build_data_row,
    build_query,
    build_row_description,
)
from tests.protocols.postgres.lines import (
    DENIAL,
    DENIED,
    FAILED,
    IDLE,
    IN_TRANSACTION,
    REFUSED_QUERY,
    SYNTAX_ERROR,
    complete,
    logged_in,
)
from tests.support.transcript import Answers, Client, Forwards, Sees, Server, ToClient, transcript

COLUMNS = (Column("id", 16384, 1, 23, 0), Column("email", 16384, 2, 25, 0))
RESULT = build_row_description(COLUMNS) + build_data_row([b"1", b"a@b"]) + build_data_row([b"2", None])


def test_a_statement_leaves_only_once_forwarded():
    query = build_query(b"SELECT * FROM customers")
    answer = RESULT + complete("SELECT 2") + IDLE
    transcript(
        logged_in,
        Client(query),
        Sees(StatementReceived, id=1, kind="simple", text="SELECT * FROM customers", transaction="I"),
        Forwards(b""),
        Answers("forward", 1, returns=True),
        Forwards(query),
        Server(answer),
        Sees(StatementEnded, id=1, end="complete", executed=True, tags=("SELECT 2",), rows=2, affected=2),
        ToClient(answer),
    )


def test_several_statements_in_one_query_end_once():
    query = build_query(b"INSERT INTO t VALUES (1); SELECT * FROM t; ;")
    answer = complete("INSERT 0 1") + RESULT + complete("SELECT 2") + IDLE
    transcript(
        logged_in,
        Client(query),
        Sees(StatementReceived, id=1),
        Answers("forward", 1),
        Forwards(query),
        Server(answer),
        Sees(StatementEnded, id=1, end="complete", tags=("INSERT 0 1", "SELECT 2"), rows=2, affected=3),
        ToClient(answer),
    )


def test_a_denial_is_the_servers_own_refusal_in_our_words():
    transcript(
        logged_in,
        Client(build_query(b"DROP TABLE t")),
        Sees(StatementReceived, id=1),
        Answers("deny", 1, *DENIED, returns=True),
        Forwards(REFUSED_QUERY),
        Server(SYNTAX_ERROR + IDLE),
        Sees(StatementEnded, id=1, end="denied", executed=False),
        ToClient(DENIAL + IDLE),
    )


def test_a_denial_in_a_transaction_makes_it_fail_at_the_server_too():
    begin, drop = build_query(b"BEGIN"), build_query(b"DROP TABLE t")
    transcript(
        logged_in,
        Client(begin),
        Sees(StatementReceived, id=1),
        Answers("forward", 1),
        Forwards(begin),
        Server(complete("BEGIN") + IN_TRANSACTION),
        Sees(StatementEnded, id=1, end="complete"),
        ToClient(complete("BEGIN") + IN_TRANSACTION),
        Client(drop),
        Sees(StatementReceived, id=2, transaction="T"),
        Answers("deny", 2, *DENIED),
        Forwards(REFUSED_QUERY),
        Server(SYNTAX_ERROR + FAILED),
        Sees(StatementEnded, id=2, end="denied"),
        ToClient(DENIAL + FAILED),
        Client(drop),
        Sees(StatementReceived, id=3, transaction="E"),
        Answers("forward", 3),
        Forwards(drop),
    )


def test_what_comes_behind_a_held_statement_waits_in_order():
    first, second = build_query(b"DELETE FROM t"), build_query(b"SELECT 1")
    transcript(
        logged_in,
        Client(first + second),
        Sees(StatementReceived, id=1),
        Forwards(b""),
        Answers("forward", 1),
        Sees(StatementReceived, id=2, outstanding=1),
        Forwards(first),
        Answers("forward", 2),
        Forwards(second),
    )


def test_an_answer_to_what_does_not_wait_changes_nothing():
    transcript(
        logged_in,
        Answers("forward", 1, returns=False),
        Client(build_query(b"SELECT 1")),
        Sees(StatementReceived, id=1),
        Answers("deny", 2, *DENIED, returns=False),
        Forwards(b""),
    )


def test_a_client_that_leaves_abandons_what_it_waited_for():
    transcript(
        logged_in,
        Client(build_query(b"DELETE FROM t"), end=True),
        Sees(StatementReceived, id=1),
        Sees(StatementEnded, id=1, end="abandoned", executed=False),
        Sees(ClientLeft),
        Answers("forward", 1, returns=False),
        Forwards(TERMINATE),
        Server(b"", end=True),
        Sees(Ended, by="client"),
    )


def test_a_statement_that_runs_when_the_server_goes_is_aborted():
    query = build_query(b"SELECT 1")
    transcript(
        logged_in,
        Client(query),
        Sees(StatementReceived, id=1),
        Answers("forward", 1),
        Forwards(query),
        Server(b"", end=True),
        Sees(StatementEnded, id=1, end="aborted", executed=True),
        Sees(Ended, by="server"),
    )


def test_terminate_goes_on_and_ends_the_client():
    transcript(
        logged_in,
        Client(TERMINATE),
        Sees(ClientLeft),
        Forwards(TERMINATE),
        Server(b"", end=True),
        Sees(Ended, by="client", code=""),
    )


def test_a_function_call_is_refused_in_band():
    call = build(b"F", b"\x00\x00\x04\xd2\x00\x00\x00\x00\x00\x00")
    connection = transcript(
        logged_in,
        Client(call),
        Sees(Refused, sqlstate="0A000"),
        Forwards(REFUSED_QUERY),
    )
    connection.receive_from_server(SYNTAX_ERROR + IDLE)
    assert b"function calls by OID" in connection.bytes_to_client()
    assert not connection.has_ended


def test_a_client_that_leaves_in_the_middle_of_a_message_ends_both_sides():
    """What came after it would be taken for its rest."""
    copy = build_query(b"COPY t FROM STDIN")
    begun = build(b"G", b"\0\0\1\0\0")
    half = build(b"d", b"x" * 100)[:50]
    transcript(
        logged_in,
        Client(copy),
        Sees(StatementReceived, id=1),
        Answers("forward", 1),
        Forwards(copy),
        Server(begun),
        Sees(CopyStarted, id=1),
        ToClient(begun),
        Client(half),
        Client(b"", end=True),
        Sees(ClientLeft),
        Sees(StatementEnded, id=1, end="aborted"),
        Sees(Ended, by="client"),
        Forwards(half),
    )
