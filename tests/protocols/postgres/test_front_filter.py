"""Behind Envoy's contrib postgres_proxy: its own bytes pass as they are, what it must have answered does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.protocols.postgres import Ended, FrontFilter, LoginReceived, PostgresConnection
from extproc.protocols.postgres.messages import AUTHENTICATION_CLEARTEXT, GSSENC_REQUEST, UINT32, build_cancel
from tests.protocols.postgres.lines import PASSWORD, STARTUP, UPSTREAM, UPSTREAM_STARTUP
from tests.protocols.postgres.test_upstream_tls import KEY, REQUEST

GSSENC = UINT32.pack(8) + UINT32.pack(GSSENC_REQUEST)


def behind(*, asks_server: bool = True) -> PostgresConnection:
    return PostgresConnection(front_filter=FrontFilter(asks_server=asks_server))


def end(connection: PostgresConnection) -> Ended:
    *_, last = iter(connection.next_event, None)
    assert isinstance(last, Ended)
    return last


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_its_request_and_the_servers_byte_pass_as_they_are(chunk: int) -> None:
    connection = behind()
    for at in range(0, len(REQUEST), chunk):
        assert connection.bytes_to_server() == b""
        connection.receive_from_client(REQUEST[at : at + chunk])
    assert connection.bytes_to_server() == REQUEST
    connection.receive_from_server(b"S")
    assert connection.bytes_to_client() == b"S"
    for at in range(0, len(STARTUP), chunk):
        connection.receive_from_client(STARTUP[at : at + chunk])
    assert connection.bytes_to_client() == AUTHENTICATION_CLEARTEXT
    connection.receive_from_client(PASSWORD)
    assert isinstance(connection.next_event(), LoginReceived)
    assert connection.bytes_to_server() == b""
    connection.accept_login(UPSTREAM)
    assert connection.bytes_to_server() == UPSTREAM_STARTUP


@pytest.mark.parametrize(
    ("answer", "told", "code"),
    [
        (b"N", b"N", "upstream-tls-refused"),
        (b"E", b"E", "upstream-tls-refused"),
        (b"SS", b"E", "upstream-tls-failed"),  # somebody put a plain answer behind the byte
        (b"S" + AUTHENTICATION_CLEARTEXT, b"E", "upstream-tls-failed"),
        (b"E\x00\x00\x00\x08nope", b"E", "upstream-tls-failed"),
    ],
)
def test_any_other_answer_ends_it(answer: bytes, told: bytes, code: str) -> None:
    connection = behind()
    connection.receive_from_client(REQUEST)
    assert connection.bytes_to_server() == REQUEST
    connection.receive_from_server(answer)
    assert end(connection).code == code
    assert connection.bytes_to_client()[:1] == told
    assert connection.bytes_to_server() == b""
    assert connection.end_to_client
    assert connection.end_to_server


@pytest.mark.parametrize(
    ("asks_server", "said"),
    [
        (False, REQUEST),  # the filter did not answer it: what follows could be in the clear
        (False, GSSENC),
        (True, GSSENC),
    ],
)
def test_a_request_of_the_client_never_leads_to_a_token_in_the_clear(asks_server: bool, said: bytes) -> None:
    connection = behind(asks_server=asks_server)
    connection.receive_from_client(said)
    assert end(connection).code == "tls-required"
    assert b"C28000\x00" in connection.bytes_to_client()
    connection.receive_from_client(STARTUP + PASSWORD)
    assert connection.bytes_to_client() == connection.bytes_to_server() == b""


def test_it_asks_once() -> None:
    connection = behind()
    connection.receive_from_client(REQUEST)
    connection.receive_from_server(b"S")
    connection.receive_from_client(REQUEST)
    assert end(connection).code == "tls-required"


def test_without_its_question_nothing_is_said_to_the_server() -> None:
    connection = behind()
    connection.receive_from_client(STARTUP)
    assert end(connection).code == "upstream-tls-failed"
    assert connection.bytes_to_server() == b""


def test_where_it_does_not_ask_a_login_begins_at_once() -> None:
    connection = behind(asks_server=False)
    connection.receive_from_client(STARTUP)
    assert connection.bytes_to_client() == AUTHENTICATION_CLEARTEXT


def test_a_cancel_is_asked_about_as_ever() -> None:
    connection = behind(asks_server=False)
    connection.receive_from_client(build_cancel(KEY))
    connection.next_event()
    connection.forward_cancel()
    assert connection.bytes_to_server() == build_cancel(KEY)


def test_what_is_said_while_it_asks_waits() -> None:
    connection = behind()
    connection.receive_from_client(REQUEST + STARTUP)
    assert connection.bytes_to_server() == REQUEST
    assert connection.bytes_to_client() == b""
    connection.receive_from_server(b"S")
    assert connection.bytes_to_client() == b"S" + AUTHENTICATION_CLEARTEXT
    stuck = behind()
    stuck.receive_from_client(REQUEST)
    stuck.receive_from_client(b"x" * (1 << 20))
    assert end(stuck).code == "too-much-waiting"


@given(st.binary(max_size=64), st.binary(max_size=64), st.booleans())
def test_any_bytes_end_it_or_wait(client: bytes, server: bytes, asks_server: bool) -> None:
    connection = behind(asks_server=asks_server)
    connection.receive_from_client(client)
    connection.receive_from_server(server)
    if not client.startswith(REQUEST) or not asks_server:
        assert REQUEST not in connection.bytes_to_server()
