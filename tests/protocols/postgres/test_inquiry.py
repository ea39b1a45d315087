"""Questions of ours to the server while a statement of the client waits."""

from __future__ import annotations

import pytest

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres import (
    CopyReceived,
    CopyStarted,
    Ended,
    InquiryAnswered,
    StatementEnded,
    StatementReceived,
)
from extproc.protocols.postgres.events import Column
from extproc.protocols.postgres.inquiry import NAME, Inquiry
from extproc.protocols.postgres.limits import Refusal
from extproc.protocols.postgres.messages import (
    SYNC,
    build,
    build_bind,
    build_data_row,
    build_error,
    build_execute,
    build_parse,
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

COLUMNS = (Column("n", 0, 0, 25, 0),)
DESCRIPTION = build_row_description(COLUMNS)
RUN = Inquiry(runs=True, codec="utf-8").messages(b"SELECT n")
DESCRIBE = Inquiry(runs=False, codec="utf-8").messages(b"SELECT n")
PARSED, BOUND, CLOSED, PARAMETERS = build(b"1", b""), build(b"2", b""), build(b"3", b""), build(b"t", b"\0\0")
RAN = (
    PARSED
    + BOUND
    + DESCRIPTION
    + build_data_row([b"one"])
    + build_data_row([None])
    + complete("SELECT 2")
    + CLOSED * 2
)
DESCRIBED = PARSED + PARAMETERS + DESCRIPTION + CLOSED
QUERY = build_query(b"SELECT 1")
ANSWER = DESCRIPTION + build_data_row([b"1"]) + complete("SELECT 1") + IDLE
COPY = build_query(b"COPY t TO STDOUT")
COPY_OUT = build(b"H", b"\0\0\1\0\0")


def error(sqlstate: str, message: str) -> bytes:
    return build_error(Refusal(sqlstate, message))


def test_the_client_hears_nothing_of_a_question_and_then_its_statement_runs() -> None:
    transcript(
        logged_in,
        Client(QUERY),
        Sees(StatementReceived, id=1),
        Answers("inquire", 1, "SELECT n", runs=True, returns=True),
        Forwards(RUN),
        Server(RAN),
        Sees(InquiryAnswered, id=1, columns=COLUMNS, rows=((b"one",), (None,))),
        Forwards(SYNC),
        Answers("forward", 1, returns=True),
        Forwards(QUERY),
        Server(IDLE),
        ToClient(b""),
        Server(ANSWER),
        Sees(StatementEnded, id=1, end="complete", rows=1),
        ToClient(ANSWER),
    )


def test_a_statement_can_be_denied_after_a_question() -> None:
    transcript(
        logged_in,
        Client(QUERY),
        Sees(StatementReceived, id=1),
        Answers("inquire", 1, "SELECT n", runs=False, returns=True),
        Forwards(DESCRIBE),
        Server(DESCRIBED),
        Sees(InquiryAnswered, id=1, columns=COLUMNS, rows=()),
        Answers("deny", 1, *DENIED, returns=True),
        Forwards(REFUSED_QUERY),
        Server(SYNTAX_ERROR + IDLE),
        Sees(StatementEnded, id=1, end="denied", executed=False),
        ToClient(DENIAL + IDLE),
    )


@pytest.mark.parametrize("status", [IDLE, FAILED])
def test_a_question_that_the_server_refuses_is_the_statements_own_error(status: bytes) -> None:
    refused = error("42P01", "relation does not exist")
    transcript(
        logged_in,
        Client(QUERY + QUERY),
        Sees(StatementReceived, id=1),
        Answers("inquire", 1, "SELECT n", runs=True),
        Forwards(RUN),
        Server(refused),
        Sees(StatementEnded, id=1, end="error", executed=False, sqlstate="42P01"),
        Sees(StatementReceived, id=2),
        Forwards(SYNC),
        ToClient(refused),
        Server(status),
        ToClient(status),
        Answers("forward", 2, returns=True),
        Forwards(QUERY),
    )


def test_a_question_before_bind_keeps_the_batch_and_its_failure_skips_the_rest() -> None:
    parse, bind = build_parse(b"", b"SELECT 1"), build_bind(b"", b"")
    execute = build_execute(b"")
    refused = error("42P01", "relation does not exist")
    transcript(
        logged_in,
        Client(parse + bind + execute + SYNC),
        Sees(StatementReceived, id=1, kind="parse"),
        Answers("forward", 1),
        Sees(StatementReceived, id=2, kind="bound"),
        Forwards(b""),
        Answers("inquire", 2, "SELECT n", runs=True, returns=True),
        Forwards(RUN),
        Server(RAN),
        Sees(InquiryAnswered, id=2),
        Forwards(b""),
        Answers("inquire", 2, "SELECT n", runs=False),
        Forwards(DESCRIBE),
        Server(refused),
        Sees(StatementEnded, id=2, end="error", executed=False, sqlstate="42P01"),
        Sees(StatementEnded, id=1, end="skipped"),
        Forwards(SYNC),
        ToClient(refused),
        Server(IN_TRANSACTION),
        ToClient(IN_TRANSACTION),
    )


def test_a_question_after_an_error_in_its_batch_is_skipped_with_it() -> None:
    parse, bind = build_parse(b"s", b"SELECT 1"), build_bind(b"", b"s")
    refused = error("42601", "syntax error")
    transcript(
        logged_in,
        Client(parse + bind + build_execute(b"") + bind),
        Sees(StatementReceived, id=1, kind="parse"),
        Answers("forward", 1),
        Sees(StatementReceived, id=2, kind="bound"),
        Answers("forward", 2),
        Sees(StatementReceived, id=3, kind="bound"),
        Answers("inquire", 3, "SELECT n", runs=True),
        Server(refused),
        Sees(StatementEnded, id=1, end="error"),
        Sees(StatementEnded, id=2, end="skipped"),
        Sees(StatementEnded, id=3, end="skipped"),
        ToClient(refused),
        Client(SYNC),
        Server(IDLE),
        ToClient(IDLE),
        Forwards(parse + bind + build_execute(b"") + RUN + SYNC),
    )


def test_only_a_waiting_statement_can_be_asked_about_and_only_once_at_a_time() -> None:
    transcript(
        logged_in,
        Answers("inquire", 1, "SELECT n", runs=True, returns=False),
        Client(QUERY),
        Sees(StatementReceived, id=1),
        Answers("inquire", 2, "SELECT n", runs=True, returns=False),
        Answers("inquire", 1, "SELECT n", runs=True, returns=True),
        Answers("inquire", 1, "SELECT n", runs=True, returns=False),
        Forwards(RUN),
    )


@pytest.mark.parametrize("answer", [DESCRIBED, PARSED + BOUND + ANSWER, build(b"2", b""), RAN[:-5] + PARSED])
def test_an_answer_to_something_else_ends_the_connection(answer: bytes) -> None:
    connection = logged_in()
    connection.receive_from_client(QUERY)
    assert connection.inquire(1, "SELECT n", runs=True)
    connection.receive_from_server(answer)
    ends = []
    while (event := connection.next_event()) is not None:
        ends.append(event)
    assert isinstance(ends[-1], Ended) and ends[-1].code == "unexpected-message"


def test_the_client_cannot_use_the_name_of_our_question() -> None:
    connection = logged_in()
    connection.receive_from_client(build_bind(b"", NAME))
    connection.next_event()
    assert connection.waiting_for is None


def test_an_answer_larger_than_can_be_held_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.protocols.postgres.inquiry.MAX_ROWS_BYTES", 10)
    inquiry = Inquiry(runs=True, codec="utf-8")
    for kind, body in ((b"1", b""), (b"2", b""), (b"T", DESCRIPTION[5:])):
        inquiry.receive(kind, body)
    with pytest.raises(ProtocolError):
        inquiry.receive(b"D", build_data_row([b"x" * 20])[5:])


# ---------------------------------------------------------------------- COPY that is read


def test_copy_data_is_shown_and_what_is_answered_goes_on() -> None:
    data = build(b"d", b"1\tada\n") + build(b"d", b"2\tbob\n")
    done = build(b"c", b"") + complete("COPY 2") + IDLE
    out = build(b"d", b"1\t*\n")
    connection = logged_in()
    connection.receive_from_client(COPY)
    connection.next_event()
    assert connection.forward(1, rows=True, copy=True)
    connection.receive_from_server(COPY_OUT + data + done)
    started, received = connection.next_event(), connection.next_event()
    assert isinstance(started, CopyStarted) and (started.binary, started.columns) == (False, 1)
    assert received == CopyReceived(1, (b"1\tada\n", b"2\tbob\n"))
    assert connection.bytes_to_client() == COPY_OUT
    connection.replace_copy(1, [b"1\t*\n"])
    assert connection.bytes_to_client() == out
    last = connection.next_event()
    assert last == CopyReceived(1, (), is_last=True)
    connection.replace_copy(1, [])
    assert connection.bytes_to_client() == done
    ended = connection.next_event()
    assert isinstance(ended, StatementEnded)
    assert ended.bytes_returned == len(out)


@pytest.mark.parametrize("cut", range(1, 20))
def test_copy_data_is_shown_in_whole_messages_wherever_it_is_cut(cut: int) -> None:
    data = build(b"d", b"1\tada\n") + build(b"d", b"2\tbob\n")
    connection = logged_in()
    connection.receive_from_client(COPY)
    connection.next_event()
    connection.forward(1, rows=True, copy=True)
    pieces: list[bytes] = []
    for part in ((COPY_OUT + data)[:cut], (COPY_OUT + data)[cut:]):
        connection.receive_from_server(part)
        while (event := connection.next_event()) is not None:
            if isinstance(event, CopyReceived):
                pieces += event.pieces
                connection.replace_copy(1, event.pieces)
    assert pieces == [b"1\tada\n", b"2\tbob\n"]
    assert connection.bytes_to_client() == COPY_OUT + data


def test_copy_that_must_be_read_and_is_not_asked_for_ends_the_connection() -> None:
    connection = logged_in()
    connection.receive_from_client(COPY)
    connection.next_event()
    connection.forward(1, rows=True)
    connection.receive_from_server(COPY_OUT + build(b"d", b"secret\n"))
    assert b"secret" not in connection.bytes_to_client()
    assert connection.has_ended


def test_copy_data_longer_than_a_row_may_be_ends_the_connection() -> None:
    connection = logged_in()
    connection.receive_from_client(COPY)
    connection.next_event()
    connection.forward(1, rows=True, copy=True)
    connection.receive_from_server(COPY_OUT + b"d" + (17 << 20).to_bytes(4, "big") + b"secret")
    assert b"secret" not in connection.bytes_to_client()
    assert connection.has_ended
