"""From the first byte to ReadyForQuery, and everything that ends before."""

from __future__ import annotations

import pytest

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres import (
    BackendKey,
    CancelReceived,
    ClientLeft,
    Ended,
    LoggedIn,
    LoginReceived,
    PostgresConnection,
    Refusal,
    UpstreamLogin,
)
from extproc.protocols.postgres.messages import (
    AUTHENTICATION_CLEARTEXT,
    AUTHENTICATION_OK,
    GSSENC_REQUEST,
    SSL_REQUEST,
    UINT32,
    build,
    build_cancel,
    build_error,
    build_negotiate,
    build_startup,
)
from extproc.protocols.postgres.scram import ScramClient, md5_response, normalise
from tests.protocols.postgres.lines import (
    GREETING,
    LOGGED_IN,
    PASSWORD,
    STARTUP,
    TOKEN,
    UPSTREAM,
    UPSTREAM_STARTUP,
    logged_in,
)
from tests.support.transcript import Answers, Client, Forwards, Sees, Server, ToClient, transcript

ASKED = (
    Client(STARTUP + PASSWORD),
    Sees(LoginReceived),
    Answers("accept_login", UPSTREAM),
    Forwards(UPSTREAM_STARTUP),
)


def fatal(sqlstate: str, message: str) -> bytes:
    return build_error(Refusal(sqlstate, message), severity="FATAL")


def test_the_token_is_asked_for_and_the_server_sees_only_our_login():
    transcript(PostgresConnection, *LOGGED_IN)


def test_the_startup_parameters_are_told_and_none_goes_upstream_by_itself():
    startup = build_startup(0, [("user", "ada"), ("options", "-c role=admin"), ("search_path", "evil")])
    transcript(
        PostgresConnection,
        Client(startup),
        ToClient(AUTHENTICATION_CLEARTEXT),
        Client(PASSWORD),
        Sees(LoginReceived, database="ada", parameters={"options": "-c role=admin", "search_path": "evil"}),
        Answers("accept_login", UPSTREAM),
        Forwards(UPSTREAM_STARTUP),
    )


def test_an_identity_that_is_known_needs_no_password():
    transcript(
        lambda: PostgresConnection(ask_password=lambda: False),
        Client(STARTUP),
        Sees(LoginReceived, token=""),
        Forwards(b""),
    )


def test_encryption_is_declined_and_the_client_goes_on_in_plain():
    def request(code: int) -> bytes:
        return UINT32.pack(8) + UINT32.pack(code)

    transcript(
        PostgresConnection,
        Client(request(GSSENC_REQUEST)),
        ToClient(b"N"),
        Client(request(SSL_REQUEST)),
        ToClient(b"N"),
        Client(STARTUP),
        ToClient(AUTHENTICATION_CLEARTEXT),
    )


@pytest.mark.parametrize(
    ("asked", "agreed", "negotiated"),
    [(0, 0, None), (1, 0, None), (2, 2, None), (3, 2, 2), (9999, 2, 2)],
)
def test_the_newest_version_both_know_is_spoken(asked: int, agreed: int, negotiated: int | None):
    told = b"" if negotiated is None else build_negotiate(negotiated, [])
    transcript(
        PostgresConnection,
        Client(build_startup(asked, [("user", "ada")])),
        ToClient(told + AUTHENTICATION_CLEARTEXT),
        Client(PASSWORD),
        Sees(LoginReceived, protocol=(3, agreed)),
        Answers("accept_login", UpstreamLogin("g", "d")),
        Forwards(build_startup(agreed, [("user", "g"), ("database", "d")])),
    )


def test_protocol_options_nobody_knows_are_named_and_left_out():
    transcript(
        PostgresConnection,
        Client(build_startup(0, [("user", "ada"), ("_pq_.new", "1")])),
        ToClient(build_negotiate(0, ["_pq_.new"]) + AUTHENTICATION_CLEARTEXT),
        Client(PASSWORD),
        Sees(LoginReceived, parameters={}),
    )


def test_a_server_of_an_older_minor_version_is_no_news_to_the_client():
    transcript(
        PostgresConnection,
        Server(build_negotiate(0, []) + AUTHENTICATION_OK + GREETING),
        Sees(LoggedIn, backend_key=BackendKey(77, b"\x01\x02\x03\x04")),
        ToClient(AUTHENTICATION_CLEARTEXT + AUTHENTICATION_OK + GREETING),
        prologue=ASKED,
    )


@pytest.mark.parametrize(
    ("startup", "sqlstate", "code"),
    [
        (build_startup(0, [("user", "ada"), ("replication", "database")]), "0A000", "replication"),
        (build_startup(0, [("user", "ada"), ("replication", "on")]), "0A000", "replication"),
        (build_startup(0, [("database", "d")]), "28000", "no-user"),
        (build_startup(0, [("user", "a"), ("user", "b")]), "08P01", "duplicate-parameter"),
        (UINT32.pack(8) + UINT32.pack(2 << 16), "0A000", "unsupported-version"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "08P01", "malformed-message"),
        (UINT32.pack(7) + b"\x00" * 3, "08P01", "malformed-message"),
        (b"GET / HTTP/1.1\r\n", "08P01", "malformed-message"),
    ],
)
def test_other_openings_end_with_an_error(startup: bytes, sqlstate: str, code: str):
    connection = PostgresConnection()
    connection.receive_from_client(startup)
    (event,) = iter(connection.next_event, None)
    assert isinstance(event, Ended) and event.code == code
    assert f"C{sqlstate}\x00".encode() in connection.bytes_to_client()
    assert connection.bytes_to_server() == b""
    assert connection.end_to_client and connection.end_to_server


def test_a_replication_parameter_that_says_no_is_no_replication():
    connection = PostgresConnection()
    connection.receive_from_client(build_startup(0, [("user", "ada"), ("replication", "false")]))
    assert connection.bytes_to_client() == AUTHENTICATION_CLEARTEXT


@pytest.mark.parametrize(
    "password",
    [build(b"p", b""), build(b"p", b"a\x00b\x00"), build(b"p", b"unended"), build(b"p", b"\xff\x00"),
     build(b"Q", b"SELECT 1\x00"), build(b"p", b"x" * 20_000 + b"\x00")],
)  # fmt: skip
def test_what_is_no_token_ends_the_login(password: bytes):
    connection = PostgresConnection()
    connection.receive_from_client(STARTUP + password)
    assert [type(event) for event in iter(connection.next_event, None)] == [Ended]
    assert connection.bytes_to_server() == b""


def test_a_refused_login_is_fatal_and_reaches_nobody():
    transcript(
        PostgresConnection,
        Client(STARTUP + PASSWORD),
        Sees(LoginReceived),
        Answers("refuse_login", "28000", "token expired"),
        Sees(Ended, by="us", code="login-refused"),
        ToClient(AUTHENTICATION_CLEARTEXT + fatal("28000", "token expired")),
        Forwards(b""),
    )


def test_no_representation_shows_token_or_password():
    connection = PostgresConnection()
    connection.receive_from_client(STARTUP + PASSWORD)
    assert TOKEN not in repr(connection.next_event())
    assert "upstream-secret" not in repr(UPSTREAM)


@pytest.mark.parametrize(
    ("sqlstate", "shown"), [("28P01", "58000"), ("53300", "53300"), ("3D000", "3D000"), ("57P03", "57P03")]
)
@pytest.mark.parametrize("before", [b"", AUTHENTICATION_OK])
def test_the_servers_words_about_our_login_stay_with_us(sqlstate: str, shown: str, before: bytes):
    error = fatal(sqlstate, 'password authentication failed for user "gateway"')
    transcript(
        PostgresConnection,
        Server(before + error),
        Sees(Ended, by="server", code="upstream-login"),
        ToClient(AUTHENTICATION_CLEARTEXT + before + fatal(shown, "extproc: the database refused the login")),
        *((Forwards(b"X\x00\x00\x00\x04"),) if before else ()),
        prologue=ASKED,
    )


def test_a_server_that_speaks_first_is_not_listened_to():
    connection = PostgresConnection()
    connection.receive_from_server(AUTHENTICATION_OK)
    assert [type(event) for event in iter(connection.next_event, None)] == [Ended]
    assert AUTHENTICATION_OK not in connection.bytes_to_client()


def test_a_server_that_lets_us_in_without_asking_is_refused_where_trust_is_not_allowed():
    login = UpstreamLogin("g", "d", "p", "n", methods=frozenset({"scram-sha-256"}))
    connection = PostgresConnection()
    connection.receive_from_client(STARTUP + PASSWORD)
    connection.accept_login(login)
    connection.receive_from_server(AUTHENTICATION_OK)
    assert connection.has_ended
    assert AUTHENTICATION_OK not in connection.bytes_to_client()


@pytest.mark.parametrize("code", [3, 5])
def test_the_password_is_not_given_to_a_server_that_asks_for_less_than_scram(code: int):
    connection = PostgresConnection()
    connection.receive_from_client(STARTUP + PASSWORD)
    connection.accept_login(UPSTREAM)
    connection.bytes_to_server()
    connection.receive_from_server(build(b"R", UINT32.pack(code) + (b"salt" if code == 5 else b"")))
    assert connection.bytes_to_server() == b""
    assert connection.has_ended


def test_a_cancel_request_goes_on_as_it_came():
    for secret in (b"1234", b"x" * 32, b"y" * 256):
        key = BackendKey(77, secret)
        transcript(
            PostgresConnection,
            Client(build_cancel(key), end=True),
            Sees(CancelReceived, key=key),
            Answers("forward_cancel"),
            Sees(Ended, by="client"),
            Forwards(build_cancel(key)),
        )


def test_a_cancel_request_can_be_dropped():
    transcript(
        PostgresConnection,
        Client(build_cancel(BackendKey(77, b"1234"))),
        Sees(CancelReceived),
        Answers("drop_cancel"),
        Sees(Ended),
        Forwards(b""),
    )


def test_a_client_that_leaves_during_login_ends_it():
    transcript(
        PostgresConnection,
        Client(STARTUP, end=True),
        Sees(ClientLeft),
        Sees(Ended, by="client"),
        ToClient(AUTHENTICATION_CLEARTEXT),
    )


def test_a_server_that_leaves_during_login_ends_it():
    transcript(
        PostgresConnection,
        Server(b"", end=True),
        Sees(Ended, by="server", code="upstream-login"),
        ToClient(
            AUTHENTICATION_CLEARTEXT
            + fatal("08006", "extproc: the database closed the connection during login")
        ),
        prologue=ASKED,
    )


def test_the_session_can_be_ended_at_any_time():
    transcript(
        logged_in,
        Answers("terminate", "28000", "token expired", hint="log in again"),
        Sees(Ended, by="us", code="terminated"),
        Forwards(b"X\x00\x00\x00\x04"),
        ToClient(build_error(Refusal("28000", "token expired", hint="log in again"), severity="FATAL")),
    )


# RFC 7677 section 3, with the user name left to the startup message
FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def test_scram_proves_both_sides():
    client = ScramClient("pencil", "rOprNGfwEbeRWgbNEkqO", 4096)
    assert client.first() == b"n,,n=,r=rOprNGfwEbeRWgbNEkqO"
    final = client.final(FIRST)
    assert final.startswith(b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=")
    for wrong in (b"", b"v=", b"v=AAAA", b"e=other-error"):
        with pytest.raises(ProtocolError):
            client.check(wrong)


@pytest.mark.parametrize(
    "first",
    [
        b"", b"r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", b"r=rOprNGfwEbeRWgbNEkqO,s=W22Z,i=4096",
        FIRST.replace(b"i=4096", b"i=4097"), FIRST.replace(b"i=4096", b"i=0"), FIRST.replace(b"i=4096", b"i=x"),
        FIRST.replace(b"s=W22Z", b"s=!!!!"), FIRST + b",x=1", b"\xff" + FIRST, FIRST.replace(b"r=", b"m=1,r="),
    ],
)  # fmt: skip
def test_a_scram_server_that_does_not_play_fair_is_refused(first: bytes):
    with pytest.raises(ProtocolError) as caught:
        ScramClient("pencil", "rOprNGfwEbeRWgbNEkqO", 4096).final(first)
    assert "pencil" not in str(caught.value)


@pytest.mark.parametrize(
    ("password", "prepared"),
    [("plain", b"plain"), ("I\u00adX", b"IX"), ("\u00aa", b"a"), ("\u2168", b"IX"), ("a\u00a0b", b"a b"),
     ("\u0627\u0031", "\u0627\u0031".encode()), ("\u2028", "\u2028".encode())],
)  # fmt: skip
def test_passwords_are_prepared_as_the_server_prepares_them(password: str, prepared: bytes):
    assert normalise(password) == prepared


def test_md5_is_salted_twice():
    assert md5_response("u", "p", b"salt") == b"md5c827f95590aef08f2d04ac5e8d94d9c3"
