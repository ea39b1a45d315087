"""Truncated, oversized and senseless bytes from either side; and what must not change when nobody wants it to."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres import (
    Column,
    Ended,
    Limits,
    LoginReceived,
    PostgresConnection,
    RowsDescribed,
    RowsReceived,
    StatementEnded,
    StatementReceived,
)
from extproc.protocols.postgres import messages as m
from tests.protocols.postgres.lines import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    EMPTY_QUERY,
    FAILED,
    GREETING,
    IDLE,
    IN_TRANSACTION,
    NO_DATA,
    PARSE_COMPLETE,
    PASSWORD,
    STARTUP,
    SUSPENDED,
    SYNTAX_ERROR,
    UPSTREAM,
    complete,
    logged_in,
    status,
)

TEXT = (Column("a", 0, 0, 25, 0),)
FROM_CLIENT = [
    m.build_query(b"SELECT 1"), m.build_query(b"DEALLOCATE ALL"), m.build_query(b"SET ROLE x"), m.build_query(b"\xff"),
    m.build_parse(b"", b"SELECT $1"), m.build_parse(b"s", b"SELECT 2"), m.build_bind(b"", b"s"),
    m.build_bind(b"", b"", [b"x", None]), m.build_bind(b"p", b"s"), m.build_execute(b""), m.build_execute(b"p", 1),
    m.build_target(b"D", b"S", b"s"), m.build_target(b"D", b"P", b""), m.build_target(b"C", b"S", b"s"),
    m.build_target(b"C", b"P", b"p"), m.SYNC, m.FLUSH, m.TERMINATE, m.build(b"d", b"data"), m.build(b"c", b""),
    m.build(b"f", b"no\x00"), m.build(b"F", b"\x00" * 10), m.build(b"p", b"x\x00"),
]  # fmt: skip
FROM_SERVER = [
    IDLE, IN_TRANSACTION, FAILED, PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE, NO_DATA, SUSPENDED, EMPTY_QUERY,
    SYNTAX_ERROR, complete("SELECT 1"), status("client_encoding", "SJIS"), status("a", "b"),
    m.build_row_description(TEXT), m.build_data_row([b"x"]), m.build_data_row([None]), m.build_data_row([]),
    m.build(b"G", b"\x00\x00\x01\x00\x00"), m.build(b"H", b"\x00\x00\x00"), m.build(b"d", b"data"), m.build(b"c", b""),
    m.build(b"N", b"Mhi\x00\x00"), m.build(b"A", b"\x00\x00\x00\x01c\x00p\x00"), m.build(b"t", b"\x00\x00"),
    m.build(b"V", b"\x00\x00\x00\x00"), m.build(b"W", b"\x00\x00\x00"), m.build(b"K", b"\x00" * 8),
]  # fmt: skip

pieces = st.one_of(
    st.sampled_from(FROM_CLIENT).map(lambda data: ("client", data)),
    st.sampled_from(FROM_SERVER).map(lambda data: ("server", data)),
    st.tuples(st.sampled_from(["client", "server"]), st.binary(max_size=40)),
    st.tuples(
        st.sampled_from(["client", "server"]),
        st.builds(m.build, st.sampled_from([bytes([b]) for b in range(256)]), st.binary(max_size=30)),
    ),
)


def answer(connection: PostgresConnection, event: Any, choice: int) -> None:
    """Some answer to whatever asks."""
    match event:
        case LoginReceived():
            connection.accept_login(UPSTREAM)
        case StatementReceived(id=number):
            if choice % 3 == 0:
                connection.deny(number, "42501", "no")
            else:
                connection.forward(number, rows=choice % 3 == 1)
        case RowsDescribed(id=number):
            connection.read_rows(number) if choice % 2 else connection.pass_rows(number)
        case RowsReceived(id=number, rows=rows):
            connection.replace_rows(number, [None if choice % 2 else row for row in rows])


@settings(max_examples=400, deadline=None)
@given(st.lists(pieces, max_size=25), st.lists(st.integers(0, 5), min_size=1, max_size=5), st.booleans())
def test_any_bytes_give_events_and_every_statement_ends_once(
    talk: list[tuple[str, bytes]], choices: list[int], begin: bool
):
    connection = logged_in() if begin else PostgresConnection()
    begun: list[int] = []
    ended: list[int] = []
    parses: set[int] = set()
    seen: list[Any] = []

    def drain() -> None:
        while (event := connection.next_event()) is not None:
            seen.append(event)
            if isinstance(event, StatementReceived):
                begun.append(event.id)
                if event.kind == "parse":
                    parses.add(event.id)
            elif isinstance(event, StatementEnded):
                ended.append(event.id)
            answer(connection, event, choices[len(seen) % len(choices)])

    for side, data in [*talk, ("client", b""), ("server", b"")]:
        receive = connection.receive_from_client if side == "client" else connection.receive_from_server
        receive(data, end=not data)
        drain()
        connection.bytes_to_client()
        connection.bytes_to_server()
    assert sum(isinstance(event, Ended) for event in seen) == 1
    assert isinstance(seen[-1], Ended)
    assert len(ended) == len(set(ended))
    assert set(begun) - parses <= set(ended) <= set(begun)


def test_a_statement_sent_in_place_of_copy_data_ends_with_the_connection():
    connection = logged_in()
    for text in (b"COPY t FROM STDIN", b"SELECT 1"):
        connection.receive_from_client(m.build_query(text))
        event = connection.next_event()
        assert isinstance(event, StatementReceived)
        connection.forward(event.id)
    connection.receive_from_server(m.build(b"G", b"\x00\x00\x00"))
    events = iter(connection.next_event, None)
    ended = [event for event in events if isinstance(event, StatementEnded | Ended)]
    assert [getattr(event, "id", 0) for event in ended] == [1, 2, 0]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from("QPBDECSHXFfcp"), st.binary(max_size=60))
def test_only_what_was_forwarded_or_has_no_text_reaches_the_server(kind: str, body: bytes):
    connection = logged_in()
    connection.receive_from_client(m.build(kind.encode(), body))
    out = connection.bytes_to_server()
    if kind in "QPBEFp":
        assert m.build(kind.encode(), body) not in out


@given(st.binary(max_size=80))
def test_parsers_accept_or_raise_protocol_error(body: bytes):
    for parse in (
        m.parse_query, m.parse_parse, m.parse_bind, m.parse_execute, m.parse_fields, m.parse_parameter_description,
        lambda b: m.parse_target(b, "Close"), lambda b: m.parse_data_row(b, 2),
        lambda b: m.parse_row_description(b, "utf-8"),
    ):  # fmt: skip
        try:
            parse(body)
        except ProtocolError:
            pass


@given(st.lists(st.one_of(st.none(), st.binary(max_size=9)), max_size=6))
def test_rows_survive_being_taken_apart(values: list[bytes | None]):
    row = m.build_data_row(values)
    assert m.parse_data_row(row[5:], len(values)) == tuple(values)
    bind = m.build_bind(b"p", b"s", values, [1], [0])
    assert m.parse_bind(bind[5:]) == (b"p", b"s", (1,), tuple(values), (0,))


SESSION = [
    ("client", m.build_query(b"BEGIN; SELECT 1")),
    (
        "server",
        complete("BEGIN") + m.build_row_description(TEXT) + m.build_data_row([b"1"]) + complete("SELECT 1"),
    ),
    ("server", m.build(b"N", b"SNOTICE\x00Mhi\x00\x00") + IN_TRANSACTION),
    ("client", m.build_parse(b"s", b"SELECT $1") + m.build_target(b"D", b"S", b"s") + m.FLUSH),
    ("server", PARSE_COMPLETE + m.build(b"t", b"\x00\x01\x00\x00\x00\x19") + m.build_row_description(TEXT)),
    ("client", m.build_bind(b"", b"s", [b"v"]) + m.build_execute(b"", 1) + m.build_execute(b"") + m.SYNC),
    ("server", BIND_COMPLETE + m.build_data_row([b"v"]) + SUSPENDED + complete("SELECT 0") + IN_TRANSACTION),
    ("client", m.build_query(b"COPY t FROM STDIN") + m.build(b"d", b"x" * 3000) + m.build(b"c", b"")),
    ("server", m.build(b"G", b"\x00\x00\x01\x00\x00") + complete("COPY 1") + IN_TRANSACTION),
    ("client", m.build_query(b"COPY t TO STDOUT")),
    ("server", m.build(b"H", b"\x00\x00\x01\x00\x00") + m.build(b"d", b"y" * 3000) + m.build(b"c", b"")),
    ("server", complete("COPY 1") + m.build(b"A", b"\x00\x00\x00\x01c\x00p\x00") + IN_TRANSACTION),
    ("client", m.build_query(b"SELECT 1/0") + m.build_query(b"ROLLBACK") + m.TERMINATE),
    ("server", SYNTAX_ERROR + FAILED + complete("ROLLBACK") + IDLE),
]


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=20))
def test_without_a_rule_bytes_out_are_bytes_in(sizes: list[int]):
    connection = logged_in()
    out = {"client": bytearray(), "server": bytearray()}
    for side, data in SESSION:
        receive = connection.receive_from_client if side == "client" else connection.receive_from_server
        at = turn = 0
        while at < len(data):
            size = sizes[turn % len(sizes)]
            receive(data[at : at + size])
            at, turn = at + size, turn + 1
            while (event := connection.next_event()) is not None:
                if isinstance(event, StatementReceived):
                    connection.forward(event.id)
            out["server"] += connection.bytes_to_client()
            out["client"] += connection.bytes_to_server()
    for side in ("client", "server"):
        assert bytes(out[side]) == b"".join(data for who, data in SESSION if who == side)


def kept(connection: PostgresConnection) -> int:
    """Bytes a connection keeps."""
    client, server = connection._client, connection._server
    return len(client._buffer) + len(server._buffer) + len(connection._opening) + len(connection._from_server)


@pytest.mark.parametrize("kind", [b"D", b"d"])
def test_values_of_a_gigabyte_pass_piece_by_piece(kind: bytes):
    connection = logged_in()
    connection.receive_from_client(m.build_query(b"SELECT big"))
    connection.forward(1)
    begins = m.build_row_description(TEXT) if kind == b"D" else m.build(b"H", b"\x00\x00\x00")
    connection.receive_from_server(begins + m.HEAD.pack(kind, 1 << 30))
    piece = b"x" * 65536
    connection.bytes_to_client()
    for _ in range(64):
        connection.receive_from_server(piece)
        assert connection.bytes_to_client() == piece
        assert kept(connection) == 0


def test_copy_data_of_a_gigabyte_passes_piece_by_piece_to_the_server():
    connection = logged_in()
    connection.receive_from_client(m.HEAD.pack(b"d", 1 << 30))
    connection.receive_from_client(b"x" * 100_000)
    assert len(connection.bytes_to_server()) == 100_005
    assert kept(connection) == 0


@pytest.mark.parametrize("kind", [b"Q", b"P", b"B"])
def test_a_statement_that_claims_a_gigabyte_is_not_waited_for(kind: bytes):
    connection = logged_in()
    connection.receive_from_client(m.HEAD.pack(kind, 1 << 30))
    for _ in range(100):
        connection.receive_from_client(b"x" * 65536)
        assert kept(connection) == 0
    assert not connection.has_ended


def test_a_statement_in_tiny_pieces_costs_no_more_memory_than_its_bytes():
    connection = logged_in()
    query = m.build_query(b"SELECT '" + b"x" * 200_000 + b"'")
    tracemalloc.start()
    try:
        for at in range(0, len(query) - 1, 2):
            connection.receive_from_client(query[at : at + 2])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(query)


@pytest.mark.parametrize("kind", [b"D", b"E", b"C", b"S", b"f"])
def test_other_messages_cannot_be_that_long(kind: bytes):
    connection = logged_in()
    connection.receive_from_client(m.HEAD.pack(kind, 1 << 30))
    assert connection.has_ended
    assert b"C54000\x00" in connection.bytes_to_client()


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_length_that_does_not_cover_itself_ends_the_connection(length: int):
    for side in ("receive_from_client", "receive_from_server"):
        connection = logged_in()
        getattr(connection, side)(m.HEAD.pack(b"Q" if "client" in side else b"N", length) + b"rest")
        assert connection.has_ended


def test_what_comes_behind_a_held_statement_has_a_ceiling():
    connection = logged_in(limits=Limits(waiting=1000))
    connection.receive_from_client(m.build_query(b"DELETE FROM t"))
    for _ in range(30):
        connection.receive_from_client(m.build_query(b"SELECT 1") * 10)
    assert connection.has_ended
    assert b"C53400\x00" in connection.bytes_to_client()
    assert kept(connection) < 2000
    assert [
        event.end for event in iter(connection.next_event, None) if isinstance(event, StatementEnded)
    ] == ["abandoned"]


def test_what_the_client_sends_before_its_login_has_a_ceiling():
    connection = PostgresConnection(Limits(token=100))
    connection.receive_from_client(STARTUP + PASSWORD + b"x" * 50)
    assert not connection.has_ended
    connection.receive_from_client(b"x" * 60)
    assert connection.has_ended


def test_a_row_to_be_read_has_a_ceiling():
    connection = logged_in(limits=Limits(row=1000))
    connection.receive_from_client(m.build_query(b"SELECT big"))
    connection.forward(1, rows=True)
    connection.receive_from_server(m.build_row_description(TEXT))
    connection.read_rows(1)
    connection.receive_from_server(m.HEAD.pack(b"D", 2000) + b"secret")
    assert connection.has_ended
    assert b"secret" not in connection.bytes_to_client()


def test_a_row_of_another_width_is_not_passed():
    for row in (
        m.build_data_row([b"a", b"b"]),
        m.build(b"D", b"\x00\x01\x00\x00\x00\x09abc"),
        m.build(b"D", b""),
    ):
        connection = logged_in()
        connection.receive_from_client(m.build_query(b"SELECT 1"))
        connection.forward(1, rows=True)
        connection.receive_from_server(m.build_row_description(TEXT))
        connection.read_rows(1)
        connection.bytes_to_client()
        connection.receive_from_server(row)
        assert connection.has_ended
        assert connection.bytes_to_client().startswith(b"E")


@pytest.mark.parametrize(
    "message", [m.build_data_row([b"x"]), complete("SELECT 1"), PARSE_COMPLETE, IDLE, SUSPENDED, NO_DATA,
                m.build(b"V", b"\x00" * 4), m.build(b"W", b"\x00" * 3), m.build(b"d", b"x"), m.build(b"?", b"")],
)  # fmt: skip
def test_an_answer_to_nothing_ends_the_connection(message: bytes):
    connection = logged_in()
    connection.receive_from_server(message)
    assert connection.has_ended
    assert message not in connection.bytes_to_client()


@pytest.mark.parametrize("message", [complete("DROP TABLE"), m.build_data_row([b"x"]), IDLE])
def test_a_server_that_accepts_what_it_must_refuse_ends_the_connection(message: bytes):
    connection = logged_in()
    connection.receive_from_client(m.build_query(b"DROP TABLE t"))
    connection.deny(1, "42501", "no")
    connection.receive_from_server(message)
    assert connection.has_ended
    last = list(iter(connection.next_event, None))[-1]
    assert isinstance(last, Ended) and last.code == "refusal-failed"


def test_a_thousand_unanswered_messages_make_the_client_wait_and_the_server_answer():
    connection = logged_in(limits=Limits(outstanding=10))
    close = m.build_target(b"C", b"P", b"p")
    connection.receive_from_client(close * 25 + m.SYNC)
    assert connection.bytes_to_server() == close * 10 + m.FLUSH
    connection.receive_from_server(CLOSE_COMPLETE * 10)
    assert connection.bytes_to_server() == close * 10 + m.FLUSH
    connection.receive_from_server(CLOSE_COMPLETE * 10)
    assert connection.bytes_to_server() == close * 5 + m.SYNC


def test_prepared_statements_have_a_ceiling_in_number_and_size():
    for limits in (Limits(names=3), Limits(remembered=100)):
        connection = logged_in(limits=limits)
        for number in range(10):
            connection.receive_from_client(m.build_parse(b"s%d" % number, b"SELECT 1 /* padding */") + m.SYNC)
            while (event := connection.next_event()) is not None:
                if isinstance(event, StatementReceived):
                    connection.forward(event.id)
            refused = b"refused" in connection.bytes_to_server()
            connection.receive_from_server((SYNTAX_ERROR if refused else PARSE_COMPLETE) + IDLE)
        assert len(connection._session.statements) == 3
        assert connection._session.remembered <= 100
        assert not connection.has_ended


def test_a_remembered_text_is_given_back_when_its_name_goes():
    connection = logged_in()
    for batch, reply in (
        (m.build_parse(b"s", b"SELECT 1"), PARSE_COMPLETE),
        (m.build_parse(b"t", b"SELECT 1"), SYNTAX_ERROR),
        (m.build_parse(b"", b"SELECT 1"), PARSE_COMPLETE),
        (m.build_parse(b"", b"SELECT 2"), PARSE_COMPLETE),
        (m.build_target(b"C", b"S", b"s") + m.build_target(b"C", b"S", b""), CLOSE_COMPLETE * 2),
    ):
        connection.receive_from_client(batch + m.SYNC)
        while (event := connection.next_event()) is not None:
            if isinstance(event, StatementReceived):
                connection.forward(event.id)
        connection.receive_from_server(reply + IDLE)
    assert connection._session.remembered == 0


def test_a_notice_of_ours_waits_for_the_end_of_a_message():
    connection = logged_in()
    connection.receive_from_client(m.build_query(b"SELECT 1"))
    connection.forward(1)
    row = m.build_data_row([b"x" * 100])
    connection.receive_from_server(m.build_row_description(TEXT) + row[:50])
    connection.bytes_to_client()
    connection.notice("wait")
    assert connection.bytes_to_client() == b""
    connection.receive_from_server(row[50:] + complete("SELECT 1"))
    out = connection.bytes_to_client()
    assert out.startswith(row[50:] + b"N") and out.endswith(complete("SELECT 1"))


def test_a_connection_is_idle_only_between_transactions():
    connection = logged_in()
    assert connection.is_idle
    connection.receive_from_client(m.build_query(b"BEGIN"))
    assert not connection.is_idle
    connection.forward(1)
    assert not connection.is_idle
    connection.receive_from_server(complete("BEGIN") + IN_TRANSACTION)
    assert not connection.is_idle
    connection.receive_from_client(m.build_query(b"COMMIT"))
    connection.forward(2)
    connection.receive_from_server(complete("COMMIT") + IDLE)
    assert connection.is_idle
    assert GREETING.endswith(IDLE)
