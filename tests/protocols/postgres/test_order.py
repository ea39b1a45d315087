"""Whose answer is whose: tries to make us take the rows of one statement for those of another."""

from __future__ import annotations

import pytest

from extproc.protocols.postgres import Column, Ended, PostgresConnection, StatementReceived
from extproc.protocols.postgres.messages import (
    SYNC,
    build,
    build_bind,
    build_data_row,
    build_execute,
    build_parse,
    build_query,
    build_row_description,
)
from tests.protocols.postgres.lines import (
    BIND_COMPLETE,
    IDLE,
    PARSE_COMPLETE,
    SYNTAX_ERROR,
    complete,
    logged_in,
)

COPY_IN = build(b"G", b"\x00\x00\x01\x00\x00")
DATA, DONE = build(b"d", b"1\n"), build(b"c", b"")
SECRET = build_row_description((Column("email", 1, 1, 25, 0),)) + build_data_row([b"secret"])


def run(connection: PostgresConnection, data: bytes = b"") -> None:
    """The client sends this; statements that name a secret are forwarded to be read, others to pass."""
    connection.receive_from_client(data)
    while (event := connection.next_event()) is not None:
        if isinstance(event, StatementReceived):
            connection.forward(event.id, rows="secret" in event.text)
        assert not isinstance(event, Ended)


def copying() -> PostgresConnection:
    """A COPY that was executed by the extended protocol, its Sync sent along."""
    connection = logged_in()
    batch = build_parse(b"", b"COPY t FROM STDIN") + build_bind(b"", b"") + build_execute(b"") + SYNC
    run(connection, batch)
    return connection


@pytest.mark.parametrize(
    "answers",
    [
        # data was bad: the first Sync was read as part of COPY
        COPY_IN + SYNTAX_ERROR + IDLE,
        # a trigger failed before data was read: both Syncs are answered
        COPY_IN + SYNTAX_ERROR + IDLE + IDLE,
    ],
)
def test_rows_behind_a_failed_copy_are_never_taken_for_those_of_another_statement(answers: bytes):
    connection = copying()
    run(connection, DATA + DONE + SYNC + build_query(b"SELECT secret") + build_query(b"SELECT 1"))
    connection.receive_from_server(PARSE_COMPLETE + BIND_COMPLETE + answers + SECRET)
    out = connection.bytes_to_client()
    assert b"secret" not in out


def test_an_extra_ready_for_query_ends_the_connection():
    connection = logged_in()
    run(connection, build_query(b"SELECT secret") + build_query(b"SELECT 1"))
    connection.receive_from_server(IDLE + SECRET)
    assert connection.has_ended
    assert b"secret" not in connection.bytes_to_client()


@pytest.mark.parametrize(
    "message",
    [build_query(b"SELECT 1"), build_parse(b"", b"SELECT 1"), build_execute(b""), build_bind(b"", b"")],
)
def test_during_copy_the_client_sends_nothing_but_copy(message: bytes):
    connection = logged_in()
    run(connection, build_query(b"COPY t FROM STDIN"))
    connection.receive_from_server(COPY_IN)
    connection.receive_from_client(message)
    assert violated(connection)


@pytest.mark.parametrize(
    "message", [build_query(b"SELECT 1"), build_parse(b"", b"SELECT 1") + build_bind(b"", b"")]
)
@pytest.mark.parametrize("answered", [False, True])
def test_nor_what_it_sent_ahead_of_the_servers_word(message: bytes, answered: bool):
    connection = logged_in()
    run(connection, build_query(b"COPY t FROM STDIN"))
    connection.receive_from_client(message)
    if answered:
        run(connection)
    connection.receive_from_server(COPY_IN)
    connection.receive_from_client(DATA + DONE)
    for event in iter(connection.next_event, None):
        if isinstance(event, StatementReceived):
            assert not connection.forward(event.id)
            break
    assert connection.has_ended
    assert message[:20] not in connection.bytes_to_server() or answered


def violated(connection: PostgresConnection) -> bool:
    event = list(iter(connection.next_event, None))[-1]
    return isinstance(event, Ended) and event.code == "copy-violation"


def test_two_copies_of_one_query_whose_data_was_sent_ahead():
    connection = logged_in()
    run(connection, build_query(b"COPY t FROM STDIN; COPY u FROM STDIN") + DATA + DONE + DATA + DONE)
    run(connection, build_query(b"SELECT 2"))
    connection.receive_from_server(COPY_IN + complete("COPY 1") + COPY_IN + complete("COPY 1") + IDLE)
    connection.receive_from_server(complete("SELECT 0") + IDLE)
    run(connection)
    assert connection.is_idle


def test_copy_data_without_copy_is_ignored_as_the_server_ignores_it():
    connection = logged_in()
    run(connection, DATA + DONE + build_query(b"SELECT 2") + DONE)
    connection.receive_from_server(complete("SELECT 0") + IDLE)
    run(connection)
    assert connection.is_idle


def test_a_query_the_server_skips_has_no_rows():
    """An error in a batch without Sync: the server ignores the Query behind it, and so do its expected rows."""
    connection = logged_in()
    run(
        connection,
        build_parse(b"", b"broken") + build_query(b"SELECT 1") + SYNC + build_query(b"SELECT secret"),
    )
    connection.receive_from_server(SYNTAX_ERROR + IDLE + SECRET)
    assert b"secret" not in connection.bytes_to_client()
    assert not connection.has_ended
