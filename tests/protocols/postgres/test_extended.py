"""The extended query protocol: Parse, Bind, Describe, Execute, Close, Flush, Sync, and pipelines of them."""

from __future__ import annotations

from extproc.protocols.postgres import (
    BoundParameter,
    ClientLeft,
    Column,
    CopyStarted,
    Ended,
    Limits,
    PostgresConnection,
    Refused,
    RowsDescribed,
    RowsReceived,
    StatementEnded,
    StatementReceived,
)
from extproc.protocols.postgres.messages import (
    FLUSH,
    SYNC,
    TERMINATE,
    build,
    build_bind,
    build_data_row,
    build_execute,
    build_parse,
    build_query,
    build_row_description,
    build_target,
)
from tests.protocols.postgres.lines import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    DENIAL,
    DENIED,
    EMPTY_QUERY,
    FAILED,
    IDLE,
    IN_TRANSACTION,
    NO_DATA,
    PARSE_COMPLETE,
    REFUSED_PARSE,
    SUSPENDED,
    SYNTAX_ERROR,
    complete,
    logged_in,
    status,
)
from tests.support.transcript import (
    Always,
    Answers,
    Client,
    Forwards,
    Line,
    Sees,
    Server,
    ToClient,
    transcript,
)

PARSE = build_parse(b"", b"SELECT $1", (23,))
BIND = build_bind(b"", b"", [b"\x00\x00\x00\x07"], [1])
DESCRIBE = build_target(b"D", b"P", b"")
EXECUTE = build_execute(b"")
TEXT = (Column("a", 0, 0, 25, 0),)


def prepared(name: bytes = b"s", text: bytes = b"SELECT 1") -> tuple[Line, ...]:
    """A named statement that the server has confirmed; the next id is 2."""
    parse = build_parse(name, text)
    return (
        Client(parse + SYNC),
        Sees(StatementReceived, id=1, kind="parse", text=text.decode(), name=name.decode()),
        Answers("forward", 1),
        Forwards(parse + SYNC),
        Server(PARSE_COMPLETE + IDLE),
        ToClient(PARSE_COMPLETE + IDLE),
    )


def test_text_is_asked_about_at_parse_and_parameters_at_bind_before_either_leaves():
    answer = (
        PARSE_COMPLETE
        + BIND_COMPLETE
        + build_row_description(TEXT)
        + build_data_row([b"7"])
        + complete("SELECT 1")
    )
    transcript(
        logged_in,
        Client(PARSE + BIND + DESCRIBE + EXECUTE + SYNC),
        Sees(StatementReceived, id=1, kind="parse", text="SELECT $1", parameter_types=(23,)),
        Forwards(b""),
        Answers("forward", 1),
        Sees(
            StatementReceived,
            id=2,
            kind="bound",
            text="SELECT $1",
            parameters=(BoundParameter(23, 1, b"\x00\x00\x00\x07"),),
            outstanding=0,
        ),
        Forwards(b""),
        Answers("forward", 2),
        Forwards(PARSE + BIND + DESCRIBE + EXECUTE + SYNC),
        Server(answer + IDLE),
        Sees(StatementEnded, id=2, end="complete", tags=("SELECT 1",), rows=1),
        ToClient(answer + IDLE),
    )


def test_after_a_denied_bind_everything_up_to_sync_is_skipped():
    second = build_bind(b"", b"", [b"8"])
    transcript(
        logged_in,
        Client(
            PARSE + BIND + DESCRIBE + EXECUTE + second + EXECUTE + FLUSH + SYNC + build_query(b"SELECT 2")
        ),
        Sees(StatementReceived, id=1),
        Answers("forward", 1),
        Sees(StatementReceived, id=2),
        Answers("deny", 2, *DENIED),
        Sees(StatementEnded, id=1, end="skipped", executed=False),
        Sees(StatementReceived, id=3, kind="simple", text="SELECT 2"),
        Forwards(REFUSED_PARSE + SYNC),
        Server(SYNTAX_ERROR + IDLE),
        Sees(StatementEnded, id=2, end="denied", executed=False),
        ToClient(DENIAL + IDLE),
    )


def test_a_parse_goes_alone_where_its_bind_does_not_follow():
    for behind in (SYNC, FLUSH, build_target(b"D", b"S", b""), build_query(b"SELECT 2")):
        transcript(
            logged_in,
            Client(PARSE),
            Sees(StatementReceived, id=1),
            Answers("forward", 1),
            Forwards(b""),
            Client(behind),
            *((Sees(StatementReceived, id=2),) if behind[:1] == b"Q" else ()),
            Forwards(PARSE if behind[:1] == b"Q" else PARSE + behind),
        )


def test_a_parse_goes_alone_where_another_statement_is_bound():
    transcript(
        logged_in,
        Client(PARSE + build_bind(b"", b"s")),
        Sees(StatementReceived, id=2, kind="parse"),
        Answers("forward", 2),
        Sees(StatementReceived, id=3, kind="bound", text="SELECT 1"),
        Forwards(PARSE),
        prologue=prepared(),
    )


def test_a_parse_whose_client_leaves_goes_nowhere():
    transcript(
        logged_in,
        Client(PARSE),
        Sees(StatementReceived, id=1),
        Answers("forward", 1),
        Client(b"", end=True),
        Sees(StatementEnded, id=1, end="skipped", executed=False),
        Sees(ClientLeft),
        Forwards(TERMINATE),
    )


def test_a_denied_parse_is_never_stored():
    transcript(
        logged_in,
        Client(build_parse(b"s", b"DROP TABLE t") + SYNC),
        Sees(StatementReceived, id=1, kind="parse"),
        Answers("deny", 1, *DENIED),
        Forwards(REFUSED_PARSE + SYNC),
        Server(SYNTAX_ERROR + FAILED),
        Sees(StatementEnded, id=1, end="denied", executed=False),
        ToClient(DENIAL + FAILED),
        Client(build_bind(b"", b"s")),
        Sees(Refused, sqlstate="26000"),
        Forwards(REFUSED_PARSE),
    )


def test_a_denial_behind_an_error_is_skipped_with_it():
    """The first statement fails at the server, so the denied one is never answered: one error, one ReadyForQuery."""
    bind = build_bind(b"", b"s")
    transcript(
        logged_in,
        Client(bind + EXECUTE + bind + EXECUTE + SYNC),
        Sees(StatementReceived, id=2),
        Answers("forward", 2),
        Sees(StatementReceived, id=3),
        Answers("deny", 3, *DENIED),
        Forwards(bind + EXECUTE + REFUSED_PARSE + SYNC),
        Server(BIND_COMPLETE + SYNTAX_ERROR + IDLE),
        Sees(StatementEnded, id=2, end="error", executed=True, sqlstate="42601"),
        Sees(StatementEnded, id=3, end="denied", executed=False),
        ToClient(BIND_COMPLETE + SYNTAX_ERROR + IDLE),
        prologue=prepared(),
    )


def test_a_statement_that_waits_when_its_batch_fails_is_skipped():
    bind = build_bind(b"", b"s")
    transcript(
        logged_in,
        Client(bind + EXECUTE + bind + EXECUTE + SYNC),
        Sees(StatementReceived, id=2),
        Answers("forward", 2),
        Sees(StatementReceived, id=3),
        Forwards(bind + EXECUTE),
        Server(BIND_COMPLETE + SYNTAX_ERROR),
        Sees(StatementEnded, id=2, end="error"),
        Sees(StatementEnded, id=3, end="skipped", executed=False),
        Answers("forward", 3, returns=False),
        ToClient(BIND_COMPLETE + SYNTAX_ERROR),
        Forwards(SYNC),
        Server(IDLE),
        ToClient(IDLE),
        prologue=prepared(),
    )


def test_a_portal_that_was_never_bound_here_is_not_executed():
    transcript(
        logged_in,
        Client(build_execute(b"cursor") + SYNC),
        Sees(Refused, sqlstate="34000"),
        Forwards(REFUSED_PARSE + SYNC),
    )


def test_a_statement_that_was_never_parsed_here_is_not_bound():
    transcript(
        logged_in,
        Client(build_bind(b"", b"sql_prepared") + EXECUTE + SYNC),
        Sees(Refused, sqlstate="26000"),
        Forwards(REFUSED_PARSE + SYNC),
    )


def test_a_bind_waits_until_the_server_confirmed_a_parse_of_an_earlier_batch():
    """The second Parse fails (the name exists), so Bind would run the first text: it must be judged by that one."""
    again, bind = build_parse(b"s", b"SELECT 2"), build_bind(b"", b"s")
    transcript(
        logged_in,
        Client(again + SYNC + bind + EXECUTE + SYNC),
        Sees(StatementReceived, id=2, kind="parse", text="SELECT 2"),
        Answers("forward", 2),
        Forwards(again + SYNC),
        Server(SYNTAX_ERROR + IDLE),
        Sees(StatementEnded, id=2, end="error", executed=False),
        Sees(StatementReceived, id=3, kind="bound", text="SELECT 1"),
        ToClient(SYNTAX_ERROR + IDLE),
        Answers("forward", 3),
        Forwards(bind + EXECUTE + SYNC),
        prologue=prepared(),
    )


def test_a_name_forgotten_on_the_way_stays_forgotten_though_its_parse_succeeds():
    swap = build_query(b"DEALLOCATE s; PREPARE s AS DELETE FROM t")
    first, third = build_parse(b"s", b"SELECT 1"), build_parse(b"s", b"SELECT 3")
    transcript(
        logged_in,
        Client(first + swap + third + SYNC),
        Sees(StatementReceived, id=1, kind="parse"),
        Answers("forward", 1),
        Sees(StatementReceived, id=2, kind="simple"),
        Answers("forward", 2),
        Sees(StatementReceived, id=3, kind="parse"),
        Answers("forward", 3),
        Forwards(first + swap + third + SYNC),
        Server(PARSE_COMPLETE + complete("DEALLOCATE") + complete("PREPARE") + IDLE + SYNTAX_ERROR + IDLE),
        Sees(StatementEnded, id=2, end="complete"),
        Sees(StatementEnded, id=3, end="error"),
        Client(build_bind(b"", b"s")),
        Sees(Refused, sqlstate="26000"),
        Forwards(REFUSED_PARSE),
        ToClient(PARSE_COMPLETE + complete("DEALLOCATE") + complete("PREPARE") + IDLE + SYNTAX_ERROR + IDLE),
    )


def test_a_name_longer_than_the_server_compares_is_the_same_name():
    long = b"n" * 63
    transcript(
        logged_in,
        Client(build_query(b"DEALLOCATE " + long)),
        Sees(StatementReceived, id=2),
        Answers("forward", 2),
        Forwards(build_query(b"DEALLOCATE " + long)),
        Server(complete("DEALLOCATE") + IDLE),
        Sees(StatementEnded, id=2),
        ToClient(complete("DEALLOCATE") + IDLE),
        Client(build_bind(b"", long + b"x")),
        Sees(Refused, sqlstate="26000"),
        Forwards(REFUSED_PARSE),
        prologue=prepared(long + b"tail"),
    )


def test_deallocating_one_name_leaves_the_others():
    dealloc, bind = build_query(b'DEALLOCATE "other";'), build_bind(b"", b"s")
    transcript(
        logged_in,
        Client(dealloc + bind),
        Sees(StatementReceived, id=2),
        Answers("forward", 2),
        Sees(StatementReceived, id=3, text="SELECT 1"),
        Forwards(dealloc),
        prologue=prepared(),
    )


def test_a_statement_that_changes_how_text_is_read_is_answered_before_the_next_is_read():
    change, after = build_query(b"SET client_encoding = 'SJIS'"), build_query(b"SELECT 1")
    transcript(
        logged_in,
        Client(change + after),
        Sees(StatementReceived, id=1),
        Answers("forward", 1),
        Forwards(change),
        Server(complete("SET") + status("client_encoding", "SJIS") + IDLE),
        Sees(StatementEnded, id=1),
        Sees(Refused, sqlstate="0A000"),
        ToClient(complete("SET") + status("client_encoding", "SJIS") + IDLE),
        Forwards(build_query(b"/* refused by extproc */ !")),
    )


def test_inside_a_batch_the_server_is_asked_to_answer_such_a_statement():
    parse, bind = build_parse(b"", b"SET standard_conforming_strings = off"), build_bind(b"", b"")
    connection = logged_in()
    connection.receive_from_client(parse + bind + EXECUTE + PARSE)
    connection.forward(1)
    connection.forward(2)
    assert connection.bytes_to_server() == parse + bind + EXECUTE + FLUSH
    connection.receive_from_server(
        PARSE_COMPLETE + BIND_COMPLETE + status("standard_conforming_strings", "off") + complete("SET")
    )
    asked = [event for event in iter(connection.next_event, None) if isinstance(event, StatementReceived)][-1]
    assert asked.settings["standard_conforming_strings"] == "off"


def _hide(connection: PostgresConnection, event: RowsReceived) -> None:
    connection.replace_rows(event.id, [[b"hidden", *row[1:]] for row in event.rows])


def test_rows_that_are_wanted_are_described_unasked_and_rewritten():
    columns = (Column("email", 16384, 2, 25, 0), Column("note", 0, 0, 25, 1))
    bind = build_bind(b"", b"s", result_formats=[0, 1])
    rows = build_data_row([b"a@b", None]) + build_data_row([b"", b"x"])
    hidden = build_data_row([b"hidden", None]) + build_data_row([b"hidden", b"x"])
    transcript(
        logged_in,
        Always(RowsReceived, _hide),
        Client(bind + EXECUTE + SYNC),
        Sees(StatementReceived, id=2),
        Answers("forward", 2, rows=True),
        Forwards(bind + DESCRIBE + EXECUTE + SYNC),
        Server(BIND_COMPLETE + build_row_description(columns) + rows + complete("SELECT 2") + IDLE),
        Sees(RowsDescribed, id=2, index=0, columns=columns),
        ToClient(BIND_COMPLETE),
        Answers("read_rows", 2),
        Sees(StatementEnded, id=2, rows=2, bytes_returned=len(hidden)),
        ToClient(hidden + complete("SELECT 2") + IDLE),
        prologue=prepared(),
    )


def test_rows_answered_with_none_pass_byte_for_byte():
    bind = build_bind(b"", b"s")
    rows = build_data_row([b"a"]) + build_data_row([None])
    transcript(
        logged_in,
        Always(RowsReceived, lambda wire, event: wire.replace_rows(event.id, [None] * len(event.rows))),
        Client(bind + EXECUTE + SYNC),
        Sees(StatementReceived, id=2),
        Answers("forward", 2, rows=True),
        Forwards(bind + DESCRIBE + EXECUTE + SYNC),
        Server(BIND_COMPLETE + build_row_description(TEXT)),
        Sees(RowsDescribed),
        Answers("read_rows", 2),
        Server(rows + complete("SELECT 2") + IDLE),
        Sees(StatementEnded, rows=2),
        ToClient(BIND_COMPLETE + rows + complete("SELECT 2") + IDLE),
        prologue=prepared(),
    )


def test_a_portal_executed_in_parts_ends_when_it_is_complete():
    bind, part = build_bind(b"p", b"s"), build_execute(b"p", 1)
    answer = BIND_COMPLETE + build_data_row([b"1"]) + SUSPENDED
    transcript(
        logged_in,
        Client(bind + part + FLUSH),
        Sees(StatementReceived, id=2, portal="p"),
        Answers("forward", 2),
        Forwards(bind + part + FLUSH),
        Server(answer),
        ToClient(answer),
        Client(part + SYNC),
        Forwards(part + SYNC),
        Server(build_data_row([b"2"]) + complete("SELECT 1") + IN_TRANSACTION),
        Sees(StatementEnded, id=2, end="complete", rows=2),
        ToClient(build_data_row([b"2"]) + complete("SELECT 1") + IN_TRANSACTION),
        prologue=prepared(),
    )


def test_a_portal_that_is_closed_or_outlived_was_not_executed():
    bind, close = build_bind(b"p", b"s"), build_target(b"C", b"P", b"p")
    transcript(
        logged_in,
        Client(bind + close + bind + SYNC),
        Sees(StatementReceived, id=2),
        Answers("forward", 2),
        Sees(StatementReceived, id=3),
        Answers("forward", 3),
        Forwards(bind + close + bind + SYNC),
        Server(BIND_COMPLETE + CLOSE_COMPLETE + BIND_COMPLETE + IDLE),
        Sees(StatementEnded, id=2, end="unexecuted", executed=True),
        Sees(StatementEnded, id=3, end="unexecuted", executed=True),
        ToClient(BIND_COMPLETE + CLOSE_COMPLETE + BIND_COMPLETE + IDLE),
        Client(build_execute(b"p")),
        Sees(Refused, sqlstate="34000"),
        Forwards(REFUSED_PARSE),
        prologue=prepared(),
    )


def test_an_empty_statement_is_complete():
    bind = build_bind(b"", b"s")
    transcript(
        logged_in,
        Client(bind + DESCRIBE + EXECUTE + SYNC),
        Sees(StatementReceived, id=2),
        Answers("forward", 2),
        Forwards(bind + DESCRIBE + EXECUTE + SYNC),
        Server(BIND_COMPLETE + NO_DATA + EMPTY_QUERY + IDLE),
        Sees(StatementEnded, id=2, end="complete", tags=()),
        ToClient(BIND_COMPLETE + NO_DATA + EMPTY_QUERY + IDLE),
        prologue=prepared(b"s", b""),
    )


def test_a_sync_sent_while_the_server_copies_in_gets_no_answer():
    bind, copied = build_bind(b"", b"s"), build(b"d", b"1\n") + build(b"c", b"")
    begins = build(b"G", b"\x00\x00\x01\x00\x00")
    transcript(
        logged_in,
        Client(bind + EXECUTE + SYNC),
        Sees(StatementReceived, id=2),
        Answers("forward", 2),
        Forwards(bind + EXECUTE + SYNC),
        Server(BIND_COMPLETE + begins),
        Sees(CopyStarted, id=2, direction="in", binary=False, columns=1),
        ToClient(BIND_COMPLETE + begins),
        Client(copied + SYNC),
        Forwards(copied + SYNC),
        Server(complete("COPY 1") + IDLE),
        Sees(StatementEnded, id=2, end="complete", copied_in=2),
        ToClient(complete("COPY 1") + IDLE),
        prologue=prepared(b"s", b"COPY t FROM STDIN"),
    )


def test_so_it_is_for_a_client_that_sends_everything_ahead():
    bind, copied = build_bind(b"", b"s"), build(b"d", b"1\n") + build(b"c", b"")
    begins = build(b"G", b"\x00\x00\x01\x00\x00")
    transcript(
        logged_in,
        Client(bind + EXECUTE + SYNC + copied + SYNC),
        Sees(StatementReceived, id=2),
        Answers("forward", 2),
        Forwards(bind + EXECUTE + SYNC + copied + SYNC),
        Server(BIND_COMPLETE + begins + complete("COPY 1") + IDLE),
        Sees(CopyStarted, id=2),
        Sees(StatementEnded, id=2, end="complete", copied_in=2),
        ToClient(BIND_COMPLETE + begins + complete("COPY 1") + IDLE),
        prologue=prepared(b"s", b"COPY t FROM STDIN"),
    )


def test_copy_to_the_client_of_a_statement_whose_rows_must_be_read_ends_the_connection():
    query = build_query(b"COPY t TO STDOUT")
    connection = logged_in()
    connection.receive_from_client(query)
    connection.forward(1, rows=True)
    connection.receive_from_server(build(b"H", b"\x00\x00\x01\x00\x00") + build(b"d", b"secret\n"))
    assert b"secret" not in connection.bytes_to_client()
    assert list(iter(connection.next_event, None))[-1] == Ended(
        "us", "copy-unread", "COPY data cannot be read, and this statement's rows must be"
    )


def test_a_statement_too_long_to_judge_is_refused_and_its_bytes_go_nowhere():
    def small() -> PostgresConnection:
        return logged_in(limits=Limits(statement=64))

    long = build_query(b"SELECT '" + b"x" * 100 + b"'")
    transcript(
        small,
        Client(long + build_query(b"SELECT 1")),
        Sees(Refused, sqlstate="54000"),
        Sees(StatementReceived, id=1, text="SELECT 1"),
        Forwards(build_query(b"/* refused by extproc */ !")),
    )
