"""From the greeting to the first command, and everything that ends before."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from extproc.protocols.mysql import ClientLeft, Ended, LoginReceived, MysqlConnection, Refusal
from extproc.protocols.mysql.capabilities import GOVERNED, PLUGIN_AUTH, SSL
from extproc.protocols.mysql.handshake import build_opening, parse_greeting
from extproc.protocols.mysql.limits import UpstreamLogin
from extproc.protocols.mysql.packets import build_packets
from extproc.protocols.mysql.passwords import CLEAR, NATIVE, caching_sha2, encrypt, native
from extproc.protocols.mysql.replies import build_error
from tests.protocols.mysql.lines import (
    CLEAR_TOKEN,
    GREETING,
    NONCE,
    SERVER_NONCE,
    SWITCH,
    TOKEN,
    UPSTREAM,
    connection,
    error,
    logged_in,
    ok,
    opening,
    our_greeting,
    response,
    server_greeting,
)
from tests.support.transcript import Answers, Client, Forwards, Line, Sees, Server, ToClient, transcript

ASKED: tuple[Line, ...] = (
    Server(server_greeting()),
    ToClient(our_greeting()),
    Client(opening()),
    ToClient(SWITCH),
    Client(CLEAR_TOKEN),
    Sees(LoginReceived, token=TOKEN),
)


def says(sequence: int, code: int, state: str, message: str) -> bytes:
    return build_packets(build_error(Refusal(code, state, message)), sequence)


def test_the_token_is_asked_for_and_the_server_sees_only_our_login():
    transcript(connection, *logged_in())


def test_the_greeting_offers_only_what_is_governed():
    offered = parse_greeting(our_greeting()[4:])
    assert offered.capabilities & ~GOVERNED == 0
    assert parse_greeting(our_greeting(tls=True)[4:]).capabilities & ~GOVERNED == SSL
    assert offered.nonce == NONCE != SERVER_NONCE
    assert our_greeting()[4:].count(b"\x1d\x00\x00\x00") == 0  # MariaDB's own capabilities


def test_a_refused_login_says_nothing_to_the_server():
    transcript(
        connection,
        *ASKED,
        Answers("refuse_login", Refusal(1045, "28000", "extproc: no")),
        ToClient(says(4, 1045, "28000", "extproc: no")),
        Sees(Ended, by="us", code="login-refused"),
        Forwards(b""),
    )


def test_without_protection_nothing_is_asked_for():
    transcript(
        lambda: MysqlConnection(NONCE),
        Server(server_greeting()),
        ToClient(our_greeting()),
        Client(opening()),
        ToClient(says(2, 3159, "HY000", "extproc: this listener takes tokens under TLS alone")),
        Sees(Ended, by="us", code="tls-required"),
    )


def test_a_token_said_in_the_clear_at_once_is_taken_where_that_is_safe():
    given = response(plugin=CLEAR, proof=TOKEN.encode() + b"\x00")
    lines = (Server(server_greeting()), ToClient(our_greeting()), Client(opening(given)))
    transcript(connection, *lines, Sees(LoginReceived, token=TOKEN))


def test_a_certificate_is_proof_enough():
    transcript(
        lambda: connection(ask_password=lambda: False),
        Server(server_greeting()),
        ToClient(our_greeting()),
        Client(opening()),
        Sees(LoginReceived, user="ada", token=""),
    )


KEY = rsa.generate_private_key(65537, 2048)


def test_a_token_may_come_under_the_rsa_key_without_tls():
    made: list[MysqlConnection] = []

    def make() -> MysqlConnection:
        made.append(MysqlConnection(NONCE, rsa_key=KEY))
        return made[-1]

    wire = make()
    wire.receive_from_server(server_greeting())
    wire.receive_from_client(opening())
    wire.bytes_to_client()
    wire.receive_from_client(build_packets(b"\x02", 3))
    sent = wire.bytes_to_client()
    pem = sent[5:]
    assert load_pem_public_key(pem)
    wire.receive_from_client(build_packets(encrypt(TOKEN.encode(), NONCE, pem), 5))
    event = wire.next_event()
    assert isinstance(event, LoginReceived)
    assert event.token == TOKEN


def test_a_client_that_says_its_password_instead_of_encrypting_it_is_turned_away():
    transcript(
        lambda: MysqlConnection(NONCE, rsa_key=KEY),
        Server(server_greeting()),
        ToClient(our_greeting()),
        Client(opening()),
        ToClient(build_packets(b"\x01\x04", 2)),
        Client(CLEAR_TOKEN),
        ToClient(says(4, 3159, "HY000", "extproc: the token must come under TLS or under the RSA key")),
        Sees(Ended, by="us", code="tls-required"),
    )


@pytest.mark.parametrize(
    "given",
    [response(capabilities=GOVERNED & ~PLUGIN_AUTH), response(charset=28)],
    ids=["no plugins", "gbk"],
)
def test_a_client_that_cannot_be_served_is_told_so(given):
    wire = connection()
    wire.receive_from_server(server_greeting())
    wire.receive_from_client(opening(given))
    ended = wire.next_event()
    assert isinstance(ended, Ended)
    assert ended.code in ("unsupported-version", "charset")
    assert b"extproc: the client" in wire.bytes_to_client()


def test_tls_that_was_not_offered_cannot_be_begun():
    wire = connection()
    wire.receive_from_server(server_greeting())
    wire.receive_from_client(build_packets(build_opening(GOVERNED | SSL, 1 << 24, 45), 1))
    assert wire.has_ended


def test_a_server_that_takes_nobody_says_so_before_its_greeting():
    transcript(
        connection,
        Server(build_packets(b"\xff\x10\x04Too many connections", 0)),
        ToClient(
            build_packets(
                b"\xff"
                + (1105).to_bytes(2, "little")
                + b"extproc: the database takes no connections now (error 1040)",
                0,
            )
        ),
        Sees(Ended, by="us", code="upstream-gone"),
    )


def test_the_servers_own_words_about_our_login_are_not_shown():
    told = "extproc: the database refused the login that extproc has for it (error 1045)"
    transcript(
        connection,
        *ASKED,
        Answers("accept_login", UPSTREAM),
        Forwards(logged_in()[7].data),
        Server(error(2, 1045, "28000", "Access denied for user 'gateway'@'10.0.0.1'")),
        ToClient(says(4, 1105, "HY000", told)),
        Sees(Ended, by="server", code="upstream-login"),
    )


def begun(login: UpstreamLogin) -> MysqlConnection:
    wire = connection()
    wire.receive_from_server(server_greeting())
    wire.receive_from_client(opening())
    wire.receive_from_client(CLEAR_TOKEN)
    wire.accept_login(login)
    wire.bytes_to_client()
    wire.bytes_to_server()
    return wire


def test_caching_sha2_by_its_cache():
    wire = begun(UpstreamLogin("gateway", "secret"))
    wire.receive_from_server(build_packets(b"\xfecaching_sha2_password\x00" + SERVER_NONCE + b"\x00", 2))
    assert wire.bytes_to_server() == build_packets(caching_sha2(b"secret", SERVER_NONCE), 3)
    wire.receive_from_server(build_packets(b"\x01\x03", 4) + ok(5))
    assert wire.bytes_to_client() == ok(4)


def test_caching_sha2_in_full_over_a_safe_way_and_under_the_servers_key_elsewhere():
    switch = build_packets(b"\xfecaching_sha2_password\x00" + SERVER_NONCE + b"\x00", 2)
    wire = begun(UpstreamLogin("gateway", "secret", protected=True))
    wire.receive_from_server(switch)
    wire.bytes_to_server()
    wire.receive_from_server(build_packets(b"\x01\x04", 4))
    assert wire.bytes_to_server() == build_packets(b"secret\x00", 5)

    wire = begun(UpstreamLogin("gateway", "secret"))
    wire.receive_from_server(switch)
    wire.bytes_to_server()
    wire.receive_from_server(build_packets(b"\x01\x04", 4))
    assert wire.bytes_to_server() == build_packets(b"\x02", 5)
    from extproc.protocols.mysql.passwords import decrypt, public_pem

    wire.receive_from_server(build_packets(b"\x01" + public_pem(KEY), 6))
    assert decrypt(wire.bytes_to_server()[4:], SERVER_NONCE, KEY) == b"secret\x00"


def test_the_native_password_is_proven_over_a_safe_way_alone():
    switch = build_packets(b"\xfe" + NATIVE.encode() + b"\x00" + SERVER_NONCE + b"\x00", 2)
    wire = begun(UpstreamLogin("gateway", "secret", protected=True))
    wire.receive_from_server(switch)
    assert wire.bytes_to_server() == build_packets(native(b"secret", SERVER_NONCE), 3)
    wire = begun(UpstreamLogin("gateway", "secret"))
    wire.receive_from_server(switch)
    assert wire.bytes_to_server() == b""
    assert b"mysql_native_password needs TLS" in wire.bytes_to_client()


@pytest.mark.parametrize("payload", [b"", b"\xfe", b"\xfemysql_clear_password\x00", b"\x01\x05", b"\x07"])
def test_a_login_upstream_that_cannot_be_followed_ends(payload):
    wire = begun(UpstreamLogin("gateway", "secret", protected=True))
    wire.receive_from_server(build_packets(payload, 2))
    assert wire.has_ended
    assert wire.bytes_to_server() == b""


def test_a_login_upstream_that_goes_on_and_on_ends():
    wire = begun(UpstreamLogin("gateway", "secret", protected=True))
    for number in range(20):
        wire.receive_from_server(
            build_packets(b"\xfe" + NATIVE.encode() + b"\x00" + SERVER_NONCE + b"\x00", 2 + 2 * number)
        )
    assert wire.has_ended


def test_a_client_that_leaves_before_its_login_leaves_nothing():
    transcript(
        connection,
        Server(server_greeting()),
        ToClient(our_greeting()),
        Client(b"", end=True),
        Sees(ClientLeft),
        Sees(Ended, by="client"),
    )


def test_a_server_that_leaves_is_said_to_be_gone():
    wire = connection()
    wire.receive_from_server(b"", True)
    assert b"the database cannot be reached" in wire.bytes_to_client()
    assert wire.has_ended


def test_no_secret_is_shown_by_repr():
    assert "upstream-secret" not in repr(UPSTREAM)
    assert TOKEN not in repr(LoginReceived("ada", "", {}, TOKEN))
    assert repr(SERVER_NONCE) not in repr(GREETING)
