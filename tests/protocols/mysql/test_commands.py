"""Commands and their answers: judged, forwarded, refused, masked; cut at every byte."""

from __future__ import annotations

import pytest

from extproc.protocols.mysql import (
    Ended,
    InquiryAnswered,
    Limits,
    LoggedIn,
    LoginReceived,
    MessageReceived,
    MysqlConnection,
    Refusal,
    Refused,
    RowsDescribed,
    RowsReceived,
    StatementEnded,
    StatementReceived,
)
from extproc.protocols.mysql.capabilities import (
    CURSOR_EXISTS,
    DEPRECATE_EOF,
    GOVERNED,
    LAST_ROW_SENT,
    MORE_RESULTS,
)
from extproc.protocols.mysql.client_side import NOT_TEXT
from extproc.protocols.mysql.commands import COMMANDS
from extproc.protocols.mysql.events import BoundParameter
from extproc.protocols.mysql.packets import HEAD_BYTES, LONGEST, build_packets
from extproc.protocols.mysql.passwords import CACHING_SHA2, NATIVE, native
from extproc.protocols.mysql.replies import build_error
from extproc.protocols.mysql.server_side import UNANSWERED
from extproc.protocols.mysql.values import malformed
from tests.protocols.mysql.lines import (
    CLEAR_TOKEN,
    EOF_PAYLOAD,
    OUR_CHANGE_USER,
    UPSTREAM,
    change_user,
    column,
    command,
    connection,
    eof,
    error,
    logged_in,
    ok,
    opening,
    packets,
    query,
    row,
    server_greeting,
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

NO = Refusal(1142, "42000", "extproc: no")
DENIAL = build_error(NO)
RESULT = packets(
    1,
    b"\x02",
    column("id", kind=3),
    column("mail"),
    EOF_PAYLOAD,
    row("1", "a@b.c"),
    row("2", None),
    EOF_PAYLOAD,
)


def played(*lines: Line, **options: object) -> MysqlConnection:
    wire = transcript(lambda: connection(**options), *lines, prologue=logged_in())
    assert isinstance(wire, MysqlConnection)
    return wire


def test_a_query_is_judged_and_its_rows_pass_untouched():
    played(
        Client(query("SELECT id, mail FROM t")),
        Sees(StatementReceived, id=1, kind="simple", text="SELECT id, mail FROM t", in_transaction=False),
        Forwards(b""),
        Answers("forward", 1, returns=True),
        Forwards(query("SELECT id, mail FROM t")),
        Server(RESULT),
        ToClient(RESULT),
        Sees(StatementEnded, id=1, end="complete", executed=True, rows=2),
    )


def test_a_denial_is_an_error_and_the_connection_lives():
    wire = played(
        Client(query("DROP TABLE t")),
        Sees(StatementReceived, id=1),
        Answers("deny", 1, NO, returns=True),
        ToClient(build_packets(DENIAL, 1)),
        Sees(StatementEnded, id=1, end="denied", executed=False),
        Client(query("SELECT 1")),
        Sees(StatementReceived, id=2),
        Answers("forward", 2),
        Forwards(query("SELECT 1")),
        Server(ok(1)),
        ToClient(ok(1)),
        Sees(StatementEnded, id=2, end="complete"),
    )
    assert wire.is_idle


def test_what_comes_behind_a_statement_that_waits_waits_too():
    played(
        Client(query("DELETE FROM t") + query("SELECT 2")),
        Sees(StatementReceived, id=1, text="DELETE FROM t"),
        Answers("forward", 1),
        Forwards(query("DELETE FROM t")),
        Server(ok(1, affected=3)),
        ToClient(ok(1, affected=3)),
        Sees(StatementEnded, id=1, affected=3),
        Sees(StatementReceived, id=2, text="SELECT 2"),
    )


def masked(connection: MysqlConnection, event: RowsReceived) -> None:
    new = [[values[0], None if values[1] is None else b"***"] for values in event.rows]
    connection.replace_rows(event.id, new)


def test_rows_are_replaced():
    changed = packets(
        1,
        b"\x02",
        column("id", kind=3),
        column("mail"),
        EOF_PAYLOAD,
        row("1", "***"),
        row("2", None),
        EOF_PAYLOAD,
    )
    played(
        Always(RowsReceived, masked),
        Client(query("SELECT id, mail FROM t")),
        Sees(StatementReceived),
        Answers("forward", 1, rows=True),
        Forwards(query("SELECT id, mail FROM t")),
        Server(RESULT),
        Sees(RowsDescribed, id=1, index=0),
        Answers("read_rows", 1),
        ToClient(changed),
        Sees(StatementEnded, rows=2),
    )


def test_real_names_stay_under_aliases():
    wire = connection()
    for line in (server_greeting(),):
        wire.receive_from_server(line)
    wire.receive_from_client(opening())
    wire.receive_from_client(CLEAR_TOKEN)
    wire.accept_login(UPSTREAM)
    wire.receive_from_server(ok(2))
    wire.receive_from_client(query("SELECT mail AS x FROM t AS y"))
    wire.forward(1, rows=True)
    wire.receive_from_server(packets(1, b"\x01", column("x", table="t", origin="mail"), EOF_PAYLOAD))
    events = []
    while (event := wire.next_event()) is not None:
        events.append(event)
    described = events[-1]
    assert isinstance(described, RowsDescribed)
    assert (described.columns[0].name, described.columns[0].table, described.columns[0].origin) == (
        "x",
        "t",
        "mail",
    )


def test_results_without_eof_packets_end_with_ok():
    end = b"\xfe\x00\x00\x02\x00\x00\x00"
    answer = packets(1, b"\x01", column("a"), row("x"), end)
    transcript(
        connection,
        Client(query("SELECT a")),
        Sees(StatementReceived),
        Answers("forward", 1),
        Forwards(query("SELECT a")),
        Server(answer),
        ToClient(answer),
        Sees(StatementEnded, rows=1, end="complete"),
        prologue=logged_in(GOVERNED | DEPRECATE_EOF),
    )


def test_several_results_are_one_answer():
    answer = ok(1, status=2 | MORE_RESULTS) + packets(
        2, b"\x01", column("a"), EOF_PAYLOAD, row("x"), EOF_PAYLOAD
    )
    played(
        Client(query("SET @a = 1; SELECT @a")),
        Sees(StatementReceived),
        Answers("forward", 1),
        Forwards(query("SET @a = 1; SELECT @a")),
        Server(answer),
        ToClient(answer),
        Sees(StatementEnded, id=1, rows=1),
    )


def test_an_error_of_the_server_ends_a_statement_wherever_it_comes():
    for answer in (error(1), packets(1, b"\x01", column("a"), EOF_PAYLOAD, row("x")) + error(5)):
        played(
            Client(query("SELECT a")),
            Sees(StatementReceived),
            Answers("forward", 1),
            Forwards(query("SELECT a")),
            Server(answer),
            ToClient(answer),
            Sees(StatementEnded, end="error", sqlstate="42S02"),
        )


def test_errors_are_shown_where_they_are_read():
    transcript(
        lambda: connection(read_messages=True),
        Client(query("INSERT 1")),
        Sees(StatementReceived),
        Answers("forward", 1),
        Forwards(query("INSERT 1")),
        Server(error(1, 1062, "23000", "Duplicate entry 'a@b.c'")),
        Sees(MessageReceived, sqlstate="23000", text="Duplicate entry 'a@b.c'", id=1),
        Answers("replace_message", "withheld"),
        ToClient(error(1, 1062, "23000", "withheld")),
        Sees(StatementEnded, end="error", sqlstate="23000"),
        prologue=logged_in(),
    )


def test_an_inquiry_is_answered_to_us_alone():
    answer = packets(1, b"\x01", column("m"), EOF_PAYLOAD, row("ANSI"), EOF_PAYLOAD)
    played(
        Client(query("SELECT 1")),
        Sees(StatementReceived, id=1),
        Answers("inquire", 1, "SELECT @@sql_mode", returns=True),
        Forwards(query("SELECT @@sql_mode")),
        Server(answer),
        Sees(InquiryAnswered, id=1, rows=((b"ANSI",),)),
        ToClient(b""),
        Answers("forward", 1),
        Forwards(query("SELECT 1")),
        Server(ok(1)),
        ToClient(ok(1)),
        Sees(StatementEnded, id=1),
    )


def test_a_refused_inquiry_ends_the_statement_and_is_not_told():
    """Its error speaks of our question."""
    played(
        Client(query("SELECT 1")),
        Sees(StatementReceived, id=1),
        Answers("inquire", 1, "SELECT x"),
        Forwards(query("SELECT x")),
        Server(error(1)),
        ToClient(build_packets(build_error(UNANSWERED), 1)),
        Sees(StatementEnded, id=1, end="error", executed=False, sqlstate="42S02"),
    )


def test_a_text_is_read_again_once_its_character_set_is_known():
    raw = "SELECT 'é'".encode("latin-1")
    wire = played(
        Client(command(0x03, raw)),
        ToClient(build_packets(build_error(NOT_TEXT), 1)),
        Sees(Refused),
        Answers("doubt_codec"),
        Client(command(0x03, raw)),
        Sees(StatementReceived, id=1),
        Answers("inquire", 1, "SELECT x"),
        Forwards(query("SELECT x")),
        Server(packets(1, b"\x01", column("x"), EOF_PAYLOAD, row("1"), EOF_PAYLOAD)),
        Sees(InquiryAnswered, id=1),
        Answers("use_codec", "cp1252"),
        Answers("read_again", 1, returns=True),
        Sees(StatementReceived, id=2, text="SELECT 'é'"),
        Answers("forward", 2),
        Forwards(command(0x03, raw)),
        Server(ok(1)),
        ToClient(ok(1)),
        Sees(StatementEnded, id=2, end="complete"),
    )
    assert wire.is_idle


def test_a_text_that_is_none_when_it_is_read_again_is_refused():
    raw = b"SELECT '\xff'"
    played(
        Answers("doubt_codec"),
        Client(command(0x03, raw)),
        Sees(StatementReceived, id=1),
        Answers("inquire", 1, "SELECT x"),
        Forwards(query("SELECT x")),
        Server(packets(1, b"\x01", column("x"), EOF_PAYLOAD, row("1"), EOF_PAYLOAD)),
        Sees(InquiryAnswered, id=1),
        Answers("use_codec", "utf-8"),
        Answers("read_again", 1, returns=True),
        ToClient(build_packets(build_error(NOT_TEXT), 1)),
        Sees(Refused),
        Forwards(b""),
    )


# ---------------------------------------------------------------------- prepared statements

PREPARED = packets(
    1, b"\x00" + (9).to_bytes(4, "little") + b"\x01\x00" + b"\x01\x00" + b"\x00\x00\x00", column("?"), EOF_PAYLOAD,
    column("mail"), EOF_PAYLOAD,
)  # fmt: skip
EXECUTE = command(
    0x17,
    (9).to_bytes(4, "little")
    + b"\x00\x01\x00\x00\x00"
    + b"\x00\x01"
    + b"\x08\x00"
    + (7).to_bytes(8, "little"),
)
PREPARE: tuple[Line, ...] = (
    Client(command(0x16, b"SELECT mail FROM t WHERE id = ?")),
    Sees(StatementReceived, id=1, kind="parse", text="SELECT mail FROM t WHERE id = ?"),
    Answers("forward", 1),
    Forwards(command(0x16, b"SELECT mail FROM t WHERE id = ?")),
    Server(PREPARED),
    ToClient(PREPARED),
)


def binary(*values: str | None) -> bytes:
    bits = sum(1 << (number + 2) for number, value in enumerate(values) if value is None)
    return b"\x00" + bytes((bits,)) + b"".join(bytes((len(v),)) + v.encode() for v in values if v is not None)


def test_a_prepared_statement_is_judged_again_with_its_parameters():
    answer = packets(1, b"\x01", column("mail"), EOF_PAYLOAD, binary("a@b.c"), binary(None), EOF_PAYLOAD)
    played(
        *PREPARE,
        Client(EXECUTE),
        Sees(StatementReceived, id=2, kind="bound", text="SELECT mail FROM t WHERE id = ?"),
        Forwards(b""),
        Answers("forward", 2),
        Forwards(EXECUTE),
        Server(answer),
        ToClient(answer),
        Sees(StatementEnded, id=2, rows=2),
    )


def test_binary_rows_are_replaced_with_their_null_bits():
    answer = packets(1, b"\x02", column("id", kind=8), column("mail"), EOF_PAYLOAD)
    rows = packets(5, b"\x00\x00" + (1).to_bytes(8, "little") + b"\x05a@b.c", EOF_PAYLOAD)
    hidden = packets(5, b"\x00\x04" + b"\x03***", EOF_PAYLOAD)

    def hide(wire: MysqlConnection, event: RowsReceived) -> None:
        assert event.rows == (((1).to_bytes(8, "little"), b"a@b.c"),)
        wire.replace_rows(event.id, [[None, b"***"]])

    played(
        *PREPARE,
        Always(RowsReceived, hide),
        Client(EXECUTE),
        Sees(StatementReceived),
        Answers("forward", 2, rows=True),
        Forwards(EXECUTE),
        Server(answer),
        Sees(RowsDescribed, id=2),
        Answers("read_rows", 2),
        Server(rows),
        ToClient(answer + hidden),
        Sees(StatementEnded, id=2, rows=1),
    )


def test_long_data_goes_with_the_statement_that_was_let_through_and_only_then():
    data = command(0x18, (9).to_bytes(4, "little") + b"\x00\x00" + b"half")
    execute = command(0x17, (9).to_bytes(4, "little") + b"\x00\x01\x00\x00\x00" + b"\x00\x01" + b"\xfc\x00")
    whole = command(0x18, (9).to_bytes(4, "little") + b"\x00\x00" + b"halfhalf")
    played(
        *PREPARE,
        Client(data + data + execute),
        Sees(StatementReceived, id=2, kind="bound"),
        Forwards(b""),
        Answers("deny", 2, NO),
        ToClient(build_packets(DENIAL, 1)),
        Sees(StatementEnded, id=2, end="denied"),
        Client(data + data + execute),
        Sees(StatementReceived, id=3),
        Answers("forward", 3),
        Forwards(whole + execute),
        Server(ok(1)),
        ToClient(ok(1)),
        Sees(StatementEnded, id=3),
    )


def test_types_that_were_refused_are_not_those_of_the_next_execution():
    """The server never saw them: what it reads is what it was told before."""
    as_text = command(0x17, (9).to_bytes(4, "little") + b"\x00\x01\x00\x00\x00\x00\x01\xfd\x00\x017")
    untyped = command(
        0x17, (9).to_bytes(4, "little") + b"\x00\x01\x00\x00\x00\x00\x00" + (7).to_bytes(8, "little")
    )
    played(
        *PREPARE,
        Client(EXECUTE),
        Sees(StatementReceived, id=2),
        Answers("forward", 2),
        Forwards(EXECUTE),
        Server(ok(1)),
        ToClient(ok(1)),
        Sees(StatementEnded),
        Client(as_text),
        Sees(StatementReceived, id=3, parameters=(BoundParameter(0xFD, b"7", "7"),)),
        Answers("deny", 3, NO),
        ToClient(build_packets(DENIAL, 1)),
        Sees(StatementEnded, end="denied"),
        Client(untyped),
        Sees(StatementReceived, id=4, parameters=(BoundParameter(8, (7).to_bytes(8, "little"), "7"),)),
        Answers("forward", 4),
        Forwards(untyped),
        Server(ok(1)),
        ToClient(ok(1)),
        Sees(StatementEnded),
    )


def test_a_number_keeps_whether_it_is_unsigned():
    """For the server that is another value, and an approval is bound to it."""
    unsigned = EXECUTE.replace(b"\x08\x00", b"\x08\x80")
    played(
        *PREPARE,
        Client(unsigned),
        Sees(StatementReceived, id=2, parameters=(BoundParameter(0x8008, (7).to_bytes(8, "little"), "7"),)),
    )


def test_a_cursor_is_one_statement_until_its_last_row():
    execute = command(
        0x17,
        (9).to_bytes(4, "little")
        + b"\x01\x01\x00\x00\x00"
        + b"\x00\x01"
        + b"\x08\x00"
        + (7).to_bytes(8, "little"),
    )
    fetch = command(0x1C, (9).to_bytes(4, "little") + (2).to_bytes(4, "little"))
    opened = packets(1, b"\x01", column("mail")) + eof(3, status=2 | CURSOR_EXISTS)
    some = packets(1, binary("a@b.c"), binary("d@e.f")) + eof(3, status=2 | CURSOR_EXISTS)
    last = packets(1, binary("g@h.i")) + eof(2, status=2 | LAST_ROW_SENT)

    played(
        *PREPARE,
        Client(execute),
        Sees(StatementReceived, id=2),
        Answers("forward", 2),
        Forwards(execute),
        Server(opened),
        ToClient(opened),
        Client(fetch),
        Forwards(fetch),
        Server(some),
        ToClient(some),
        Client(fetch),
        Forwards(fetch),
        Server(last),
        ToClient(last),
        Sees(StatementEnded, id=2, rows=3, end="complete"),
    )


def test_rows_that_are_read_come_at_once_whatever_cursor_was_asked_for():
    """MariaDB tells the real names of columns only without one."""
    execute = command(
        0x17,
        (9).to_bytes(4, "little") + b"\x01\x01\x00\x00\x00\x00\x01\x08\x00" + (7).to_bytes(8, "little"),
    )
    played(
        *PREPARE,
        Client(execute),
        Sees(StatementReceived, id=2),
        Answers("forward", 2, rows=True),
        Forwards(EXECUTE),
        Server(packets(1, b"\x01", column("mail"), EOF_PAYLOAD)),
        Sees(RowsDescribed, id=2),
        Answers("pass_rows", 2),
        Server(packets(4, binary("a@b.c"), EOF_PAYLOAD)),
        ToClient(packets(1, b"\x01", column("mail"), EOF_PAYLOAD, binary("a@b.c"), EOF_PAYLOAD)),
        Sees(StatementEnded, id=2, rows=1),
    )


def test_closing_forgets_a_statement():
    close = command(0x19, (9).to_bytes(4, "little"))
    wire = played(*PREPARE, Client(close + EXECUTE), Forwards(close), ToClient(
        build_packets(build_error(Refusal(1243, "HY000", "extproc: no such prepared statement")), 1)
    ), Sees(object))  # fmt: skip
    assert wire.is_idle


# ---------------------------------------------------------------------- every command

REFUSED = sorted(code for code, row_ in COMMANDS.items() if row_.fate == "refuse")


@pytest.mark.parametrize("code", [*REFUSED, 0x7E], ids=hex)
def test_a_command_that_is_never_let_through_is_told_and_answered_here(code):
    wire = connection()
    wire.receive_from_server(server_greeting())
    wire.receive_from_client(opening())
    wire.receive_from_client(CLEAR_TOKEN)
    wire.accept_login(UPSTREAM)
    wire.receive_from_server(ok(2))
    wire.bytes_to_server()
    wire.receive_from_client(command(code, b"anything"))
    events = []
    while (event := wire.next_event()) is not None:
        events.append(event)
    assert [type(event) for event in events[:2]] == [LoginReceived, LoggedIn]
    assert isinstance(events[2], StatementReceived)
    assert events[2].kind == "command"
    wire.deny(events[2].id, NO)
    assert wire.bytes_to_server() == b""
    assert wire.bytes_to_client().endswith(build_packets(DENIAL, 1))


def test_commands_that_are_not_text_are_judged_as_the_text_that_does_the_same():
    for asked, text in (
        (command(0x02, b"o`ther"), "USE `o``ther`"),
        (command(0x04, b"t\x00%"), "SHOW COLUMNS FROM `t`"),
        (command(0x09), "SHOW STATUS"),
    ):
        answer = packets(1, b"Uptime: 5") if text == "SHOW STATUS" else ok(1) if "USE" in text else eof(1)
        played(
            Client(asked),
            Sees(StatementReceived, kind="simple", text=text),
            Answers("forward", 1),
            Forwards(asked),
            Server(answer),
            ToClient(answer),
            Sees(StatementEnded, end="complete"),
        )


def test_a_ping_passes_and_quit_ends():
    played(
        Client(command(0x0E)),
        Forwards(command(0x0E)),
        Server(ok(1)),
        ToClient(ok(1)),
        Client(command(0x01)),
        Forwards(command(0x01)),
        Sees(object),
        Sees(Ended, by="client", code=""),
    )


def test_a_server_that_asks_for_a_file_of_the_client_ends_it():
    wire = played(
        Client(query("LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE t")),
        Sees(StatementReceived),
        Answers("forward", 1),
        Forwards(query("LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE t")),
        Server(packets(1, b"\xfb/etc/passwd")),
        ToClient(
            build_packets(
                build_error(Refusal(1148, "42000", "extproc: the server asks for a file of the client")), 1
            )
        ),
        Sees(StatementEnded, end="aborted"),
        Sees(Ended, by="us", code="local-infile"),
    )
    assert wire.bytes_to_server() == b""


# ---------------------------------------------------------------------- sizes


def test_a_statement_that_is_too_long_is_denied_and_its_bytes_are_dropped():
    wire = played(
        Client(query("SELECT " + "x" * 100) + query("SELECT 1")),
        ToClient(
            build_packets(
                build_error(
                    Refusal(1153, "08S01", "extproc: this statement is longer than this target allows")
                ),
                1,
            )
        ),
        Sees(object),
        Sees(StatementReceived, text="SELECT 1"),
        limits=Limits(statement=64),
    )
    assert not wire.has_ended


def long_wire(*, read_messages: bool = False, **limits: int) -> MysqlConnection:
    wire = connection(limits=Limits(**limits), read_messages=read_messages)
    wire.receive_from_server(server_greeting())
    wire.receive_from_client(opening())
    wire.receive_from_client(CLEAR_TOKEN)
    wire.accept_login(UPSTREAM)
    wire.receive_from_server(ok(2))
    wire.bytes_to_client()
    wire.bytes_to_server()
    while wire.next_event() is not None:
        pass
    return wire


def test_sixteen_mebibytes_and_more_go_in_several_packets_and_come_back_so():
    wire = long_wire(statement=LONGEST * 2, waiting=LONGEST * 4)
    text = b"\x03SELECT '" + b"x" * LONGEST + b"'"
    sent = build_packets(text, 0)
    for start in range(0, len(sent), 1 << 20):
        wire.receive_from_client(sent[start : start + (1 << 20)])
    event = wire.next_event()
    assert isinstance(event, StatementReceived)
    assert len(event.text) == len(text) - 1
    wire.forward(event.id)
    assert wire.bytes_to_server() == sent
    long_row = b"\xfe" + (LONGEST + 5).to_bytes(8, "little") + b"y" * (LONGEST + 5)
    answer = packets(2, b"\x01", column("a"), EOF_PAYLOAD)
    answer += build_packets(long_row, 5) + eof(7)
    back = b""
    for start in range(0, len(answer), 1 << 20):
        wire.receive_from_server(answer[start : start + (1 << 20)])
        back += wire.bytes_to_client()
    assert back == answer
    ended = wire.next_event()
    assert isinstance(ended, StatementEnded)
    assert ended.rows == 1


def test_a_row_that_becomes_shorter_than_its_packets_keeps_the_order_of_what_follows():
    wire = long_wire(row=LONGEST * 2, waiting=LONGEST * 4)
    wire.receive_from_client(query("SELECT a"))
    wire.forward(1, rows=True)
    long_row = b"\xfe" + (LONGEST + 5).to_bytes(8, "little") + b"y" * (LONGEST + 5)
    wire.receive_from_server(packets(1, b"\x01", column("a"), EOF_PAYLOAD))
    wire.read_rows(1)
    wire.bytes_to_client()
    wire.receive_from_server(build_packets(long_row, 4) + build_packets(row("z"), 6) + eof(7))
    while (event := wire.next_event()) is not None:
        if isinstance(event, RowsReceived):
            wire.replace_rows(1, [[b"***"] if len(values[0] or b"") > 5 else None for values in event.rows])
    assert wire.bytes_to_client() == packets(4, row("***"), row("z")) + eof(6)


# ---------------------------------------------------------------------- COM_CHANGE_USER

ASKED_AGAIN: tuple[Line, ...] = (
    Client(change_user()),
    ToClient(build_packets(b"\xfemysql_clear_password\x00", 1)),
    Client(build_packets(b"another.token.x\x00", 2)),
    Sees(LoginReceived, user="bob", database="shop", token="another.token.x"),
)


def test_another_user_logs_in_on_a_connection_that_is_open():
    nonce = bytes(range(61, 81))
    wire = played(
        *PREPARE,
        *ASKED_AGAIN,
        Forwards(b""),
        Answers("accept_login", UPSTREAM),
        Forwards(OUR_CHANGE_USER),
        Server(build_packets(b"\xfe" + NATIVE.encode() + b"\x00" + nonce + b"\x00", 1)),
        Forwards(build_packets(native(b"upstream-secret", nonce), 2)),
        Server(ok(3)),
        ToClient(ok(3)),
        Sees(LoggedIn, thread=77),
        Client(EXECUTE),  # what was prepared before is gone
        ToClient(
            build_packets(build_error(Refusal(1243, "HY000", "extproc: no such prepared statement")), 1)
        ),
        Sees(Refused),
        Client(query("SELECT 1")),
        Sees(StatementReceived, text="SELECT 1"),
        Answers("forward", 2),
        Forwards(query("SELECT 1")),
        Server(ok(1)),
        ToClient(ok(1)),
        Sees(StatementEnded),
    )
    assert wire.is_idle


def test_another_user_who_is_refused_ends_the_connection_and_the_server_hears_nothing():
    played(
        *ASKED_AGAIN,
        Answers("refuse_login", NO),
        ToClient(build_packets(DENIAL, 3)),
        Sees(Ended, by="us", code="login-refused"),
        Forwards(b""),
    )


def test_another_user_whom_the_server_turns_away_ends_the_connection():
    played(
        *ASKED_AGAIN,
        Answers("accept_login", UPSTREAM),
        Forwards(OUR_CHANGE_USER),
        Server(error(1, 1045, "28000", "Access denied for user 'gateway'")),
        ToClient(
            build_packets(
                build_error(
                    Refusal(
                        1105, "HY000",
                        "extproc: the database refused the login that extproc has for it (error 1045)",
                    )
                ),
                3,
            )
        ),
        Sees(Ended, by="server", code="upstream-login"),
    )  # fmt: skip


@pytest.mark.parametrize("cut", range(1, len(change_user()) - HEAD_BYTES - len(CACHING_SHA2) - 1))
def test_a_change_of_user_that_is_cut_short_is_none(cut):
    payload = change_user()[HEAD_BYTES:][:cut]
    told = Refusal(1835, "HY000", f"extproc: {malformed('COM_CHANGE_USER').message}")
    played(
        Client(build_packets(payload, 0)),
        ToClient(build_packets(build_error(told), 1)),
        Sees(Ended, by="us", code="malformed-packet"),
        Forwards(b""),
    )


def test_what_is_sent_behind_a_change_of_user_waits_for_it():
    nonce = bytes(range(61, 81))
    played(
        Client(change_user() + build_packets(b"another.token.x\x00", 2)),
        ToClient(build_packets(b"\xfemysql_clear_password\x00", 1)),
        Sees(LoginReceived, token="another.token.x"),
        Client(query("SELECT 1")),
        Forwards(b""),
        Answers("accept_login", UPSTREAM),
        Forwards(OUR_CHANGE_USER),
        Server(build_packets(b"\xfe" + NATIVE.encode() + b"\x00" + nonce + b"\x00", 1)),
        Forwards(build_packets(native(b"upstream-secret", nonce), 2)),
        Server(ok(3)),
        ToClient(ok(3)),
        Sees(LoggedIn, thread=77),
        Sees(StatementReceived, id=1, text="SELECT 1"),
        Forwards(b""),
    )
