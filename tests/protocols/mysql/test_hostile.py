"""Any bytes at all give events or an orderly end, never another exception, and nothing that was not judged goes on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.protocols.mysql import (
    Ended,
    InquiryAnswered,
    Limits,
    LoginReceived,
    MessageReceived,
    MysqlConnection,
    Refusal,
    RowsDescribed,
    RowsReceived,
    StatementEnded,
    StatementReceived,
)
from extproc.protocols.mysql.handshake import parse_greeting, parse_response
from extproc.protocols.mysql.packets import HEAD_BYTES, build_packets
from tests.protocols.mysql.lines import (
    CLEAR_TOKEN,
    EOF_PAYLOAD,
    UPSTREAM,
    column,
    command,
    connection,
    eof,
    error,
    ok,
    opening,
    packets,
    query,
    row,
    server_greeting,
)
from tests.protocols.mysql.test_commands import EXECUTE, PREPARED, RESULT, long_wire

GARBAGE = st.binary(max_size=200)
PIECES = st.lists(
    st.sampled_from(
        [
            *(
                query("SELECT 1"),
                command(0x16, b"SELECT ?"),
                EXECUTE,
                command(0x0E),
                command(0x01),
                command(0x1F),
            ),
            *(
                command(0x1C, b"\x09\x00\x00\x00\x01\x00\x00\x00"),
                command(0x18, b"\x09\x00\x00\x00\x00\x00xx"),
            ),
            *(
                command(0x19, b"\x09\x00\x00\x00"),
                command(0x1A, b"\x09\x00\x00\x00"),
                command(0x0C, b"\x01\x00\x00\x00"),
            ),
        ]
    )
    | GARBAGE.map(lambda body: build_packets(body, 0))
    | GARBAGE,
    max_size=6,
)
ANSWERS = st.lists(
    st.sampled_from(
        [RESULT, PREPARED, ok(1), error(1), eof(1), packets(1, b"\x01", column("a"), EOF_PAYLOAD, row("x"))]
    )
    | GARBAGE.map(lambda body: build_packets(body, 1))
    | GARBAGE,
    max_size=6,
)


def answer_all(wire: MysqlConnection, forwards: bool) -> bool:
    """Answer every event in some way; whether anything was let through."""
    passed = False
    while (event := wire.next_event()) is not None:
        match event:
            case LoginReceived():
                wire.accept_login(UPSTREAM)
            case StatementReceived() if forwards and event.kind != "command":
                passed = wire.forward(event.id, rows=True) or passed
            case StatementReceived():
                wire.deny(event.id, Refusal(1142, "42000", "no"))
            case RowsDescribed():
                wire.read_rows(event.id)
            case RowsReceived():
                wire.replace_rows(event.id, [[None] * len(each) for each in event.rows])
            case MessageReceived():
                wire.replace_message("withheld")
            case InquiryAnswered():
                raise AssertionError("nothing was asked")
    return passed


@given(st.lists(st.tuples(st.booleans(), GARBAGE), max_size=8))
@settings(max_examples=300, deadline=None)
def test_garbage_from_the_first_byte(parts):
    wire = connection()
    for from_client, data in parts:
        (wire.receive_from_client if from_client else wire.receive_from_server)(data)
        answer_all(wire, True)
    assert wire.bytes_to_server() == b""


@given(GARBAGE)
@settings(max_examples=300, deadline=None)
def test_a_garbled_login_never_gets_further(data):
    wire = connection()
    wire.receive_from_server(server_greeting())
    wire.receive_from_client(build_packets(data, 1))
    wire.receive_from_client(build_packets(data, 3))
    answer_all(wire, True)
    wire.bytes_to_client()


@given(PIECES, ANSWERS, st.booleans())
@settings(max_examples=400, deadline=None)
def test_garbage_in_a_session(asked, answered, forwards):
    wire = long_wire()
    for number in range(max(len(asked), len(answered))):
        if number < len(asked):
            wire.receive_from_client(asked[number])
            answer_all(wire, forwards)
        if number < len(answered):
            wire.receive_from_server(answered[number])
            answer_all(wire, forwards)
        wire.bytes_to_client()
    wire.receive_from_client(b"", True)
    wire.receive_from_server(b"", True)
    answer_all(wire, forwards)
    assert wire.has_ended


@given(PIECES)
@settings(max_examples=200, deadline=None)
def test_what_is_denied_never_goes_on(asked):
    """Only commands that run nothing reach the server."""
    wire = long_wire()
    for piece in asked:
        wire.receive_from_client(piece)
        answer_all(wire, False)
        sent = wire.bytes_to_server()
        assert not sent or sent[4] in (0x01, 0x0E, 0x1B, 0x1F, 0x19)
        if sent and sent[4] in (0x0E, 0x1B, 0x1F):
            wire.receive_from_server(ok(1))


@given(st.data())
@settings(max_examples=600, deadline=None)
def test_a_result_that_was_tampered_with_never_shows_what_is_masked(data):
    """One byte of it is another: the client sees a mask, an error or nothing, but no value."""
    at = data.draw(st.integers(0, len(RESULT) - 1))
    value = data.draw(st.integers(0, 255))
    changed = RESULT[:at] + bytes((value,)) + RESULT[at + 1 :]
    wire = long_wire(read_messages=True)  # as wherever something is masked
    wire.receive_from_client(query("SELECT id, mail FROM t"))
    answer_all(wire, True)
    wire.receive_from_server(changed)
    answer_all(wire, True)
    assert b"a@b.c" not in wire.bytes_to_client()


def test_a_description_that_swallows_what_follows_is_none():
    at = RESULT.index(b"\x03def") - HEAD_BYTES
    wire = long_wire()
    wire.receive_from_client(query("SELECT id, mail FROM t"))
    answer_all(wire, True)
    wire.receive_from_server(RESULT[:at] + bytes((93,)) + RESULT[at + 1 :])
    answer_all(wire, True)
    assert wire.has_ended
    assert b"a@b.c" not in wire.bytes_to_client()


# ---------------------------------------------------------------------- order and sizes


def ended(wire: MysqlConnection) -> Ended:
    events = []
    while (event := wire.next_event()) is not None:
        events.append(event)
    assert isinstance(events[-1], Ended), events
    return events[-1]


def test_a_command_out_of_order_ends_it():
    wire = long_wire()
    wire.receive_from_client(build_packets(b"\x03SELECT 1", 1))
    assert ended(wire).code == "sequence"
    assert wire.bytes_to_server() == b""


@pytest.mark.parametrize("answer", [ok(2), RESULT[:8] + b"\x09" + RESULT[9:]], ids=["first", "later"])
def test_an_answer_out_of_order_ends_it(answer):
    wire = long_wire()
    wire.receive_from_client(query("SELECT id, mail FROM t"))
    wire.forward(1)
    wire.receive_from_server(answer)
    assert ended(wire).code in ("sequence", "malformed-packet")


def test_rows_out_of_order_end_it():
    wire = long_wire()
    wire.receive_from_client(query("SELECT a"))
    wire.forward(1)
    wire.receive_from_server(
        packets(1, b"\x01", column("a"), EOF_PAYLOAD, row("x")) + build_packets(row("y"), 9)
    )
    assert ended(wire).code == "sequence"


def test_what_the_server_says_unasked_ends_it_unless_it_is_a_farewell():
    wire = long_wire()
    wire.receive_from_server(ok(0))
    assert ended(wire).code == "unexpected-message"
    wire = long_wire()
    farewell = error(0, 1927, "70100", "Connection was killed")
    wire.receive_from_server(farewell, True)
    assert wire.bytes_to_client() == farewell
    assert ended(wire).by == "server"


@pytest.mark.parametrize("count", [b"\x00", b"\xfd\xff\xff\xff", b"\xfb", b"\x02\x00"], ids=str)
def test_a_result_with_an_absurd_number_of_columns_ends_it(count):
    wire = long_wire()
    wire.receive_from_client(query("SELECT a"))
    wire.forward(1, rows=True)
    wire.receive_from_server(packets(1, count))
    if count != b"\x00":
        assert ended(wire).by == "us"


def test_a_row_that_must_be_read_and_is_too_long_ends_it():
    wire = long_wire(row=100, server_message=5000)
    wire.receive_from_client(query("SELECT a"))
    wire.forward(1, rows=True)
    wire.receive_from_server(packets(1, b"\x01", column("a"), EOF_PAYLOAD))
    wire.read_rows(1)
    wire.receive_from_server(b"\xff\xff\xff\x04" + b"\xfd")
    assert ended(wire).code == "too-long"


def test_what_waits_behind_an_answer_of_ours_is_bounded():
    wire = long_wire(waiting=1000)
    wire.receive_from_client(query("SELECT 1"))
    wire.receive_from_client(query("x" * 500) * 3)
    assert ended(wire).code == "too-much-waiting"


def test_a_login_that_never_ends_is_bounded():
    wire = connection(limits=Limits(token=1000))
    wire.receive_from_server(server_greeting())
    wire.receive_from_client(b"\xff\xff\x00\x01" + b"x" * 100)
    assert wire.has_ended


def test_prepared_statements_are_bounded():
    wire = long_wire(names=2)
    for number in range(1, 4):
        wire.receive_from_client(command(0x16, b"SELECT ?"))
        wire.forward(number)
        prepared = b"\x00" + number.to_bytes(4, "little") + b"\x00\x00\x00\x00\x00\x00\x00"
        wire.receive_from_server(packets(1, prepared))
    assert wire.has_ended


def test_long_data_is_bounded_and_its_statement_denied():
    wire = long_wire(statement=200)
    wire.receive_from_client(command(0x16, b"SELECT ?"))
    wire.forward(1)
    wire.receive_from_server(PREPARED)
    for _ in range(5):
        wire.receive_from_client(command(0x18, b"\x09\x00\x00\x00\x00\x00" + b"x" * 100))
    wire.bytes_to_client()
    wire.bytes_to_server()
    wire.receive_from_client(EXECUTE)
    assert b"longer than this target allows" in wire.bytes_to_client()
    assert wire.bytes_to_server() == b""


def test_the_client_may_go_while_it_waits():
    wire = long_wire()
    wire.receive_from_client(query("DELETE FROM t"))
    wire.receive_from_client(b"", True)
    events = []
    while (event := wire.next_event()) is not None:
        events.append(event)
    assert [e.end for e in events if isinstance(e, StatementEnded)] == ["abandoned"]
    assert wire.forward(1) is False
    assert wire.bytes_to_server() == b""


def test_a_client_that_speaks_before_it_is_greeted_is_turned_away():
    wire = connection()
    wire.receive_from_client(opening() + CLEAR_TOKEN)
    assert wire.has_ended
    assert wire.bytes_to_server() == b""


@given(st.binary(max_size=120))
@settings(max_examples=300, deadline=None)
def test_openings_parse_or_say_why_not(data):
    from extproc.domain.errors import ProtocolError

    for parse in (parse_greeting, parse_response):
        try:
            parse(data)
        except ProtocolError:
            pass


def test_a_cursor_that_nobody_asked_for_ends_it():
    wire = long_wire()
    wire.receive_from_client(query("SELECT a"))
    wire.forward(1, rows=True)
    wire.receive_from_server(packets(1, b"\x01", column("a")) + eof(3, status=2 | 64))
    assert ended(wire).code == "unexpected-message"
    wire.read_rows(1)  # an answer that comes too late is none
