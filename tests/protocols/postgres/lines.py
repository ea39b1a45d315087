"""Messages and openings that several transcripts share."""

from __future__ import annotations

from extproc.protocols.postgres import (
    LoggedIn,
    LoginReceived,
    PostgresConnection,
    UpstreamLogin,
)
from extproc.protocols.postgres.client_side import REFUSED_NAME, REFUSED_TEXT
from extproc.protocols.postgres.limits import Refusal
from extproc.protocols.postgres.messages import (
    AUTHENTICATION_CLEARTEXT,
    AUTHENTICATION_OK,
    UINT32,
    build,
    build_error,
    build_parse,
    build_query,
    build_ready,
    build_startup,
)
from tests.support.transcript import Answers, Client, Forwards, Line, Sees, Server, ToClient

TOKEN = "header.payload.signature"
PASSWORD = build(b"p", TOKEN.encode() + b"\x00")
STARTUP = build_startup(0, [("user", "ada"), ("database", "shop"), ("application_name", "psql")])
UPSTREAM = UpstreamLogin("gateway", "shop", password="upstream-secret", nonce="fixed-nonce")
UPSTREAM_STARTUP = build_startup(0, [("user", "gateway"), ("database", "shop")])

PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE = build(b"1", b""), build(b"2", b""), build(b"3", b"")
NO_DATA, SUSPENDED, EMPTY_QUERY = build(b"n", b""), build(b"s", b""), build(b"I", b"")
IDLE, IN_TRANSACTION, FAILED = build_ready("I"), build_ready("T"), build_ready("E")

REFUSED_QUERY = build_query(REFUSED_TEXT)
REFUSED_PARSE = build_parse(REFUSED_NAME, REFUSED_TEXT)
SYNTAX_ERROR = build_error(Refusal("42601", 'syntax error at or near "!"'))
DENIED = ("42501", "not allowed", "rule no-drop", "ask")
DENIAL = build_error(Refusal(*DENIED))


def status(name: str, value: str) -> bytes:
    return build(b"S", name.encode() + b"\x00" + value.encode() + b"\x00")


def complete(tag: str) -> bytes:
    return build(b"C", tag.encode() + b"\x00")


def key(process_id: int = 77, secret: bytes = b"\x01\x02\x03\x04") -> bytes:
    return build(b"K", UINT32.pack(process_id) + secret)


GREETING = status("client_encoding", "UTF8") + status("standard_conforming_strings", "on") + key() + IDLE

LOGGED_IN: tuple[Line, ...] = (
    Client(STARTUP),
    ToClient(AUTHENTICATION_CLEARTEXT),
    Client(PASSWORD),
    Sees(LoginReceived, user="ada", database="shop", token=TOKEN),
    Answers("accept_login", UPSTREAM),
    Forwards(UPSTREAM_STARTUP),
    Server(AUTHENTICATION_OK + GREETING),
    Sees(LoggedIn),
    ToClient(AUTHENTICATION_OK + GREETING),
)


def logged_in(**options: object) -> PostgresConnection:
    """A connection that is ready for its first statement."""
    connection = PostgresConnection(**options)  # type: ignore[arg-type]
    connection.receive_from_client(STARTUP + PASSWORD)
    connection.accept_login(UPSTREAM)
    connection.receive_from_server(AUTHENTICATION_OK + GREETING)
    while connection.next_event() is not None:
        pass
    connection.bytes_to_client()
    connection.bytes_to_server()
    return connection
