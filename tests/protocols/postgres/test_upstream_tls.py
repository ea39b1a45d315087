"""TLS that we speak with the server: asked for by SSLRequest, proven before anything is said, bound to the login."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres import (
    BackendKey,
    Ended,
    PostgresConnection,
    ServerTlsPlan,
    UpstreamLogin,
)
from extproc.protocols.postgres.login import ServerLogin
from extproc.protocols.postgres.messages import AUTHENTICATION_OK, SSL_REQUEST, UINT32, build_cancel
from extproc.protocols.postgres.tls import _end_point
from tests.protocols.postgres.lines import (
    GREETING,
    PASSWORD,
    STARTUP,
    UPSTREAM,
    UPSTREAM_STARTUP,
)
from tests.support.pki import Authority

REQUEST = UINT32.pack(8) + UINT32.pack(SSL_REQUEST)
KEY = BackendKey(77, b"\x01\x02\x03\x04")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def plan(authority: Authority, name: str = "db.internal") -> ServerTlsPlan:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.path)
    return ServerTlsPlan(context, name)


class Server:
    """A TLS server over memory."""

    def __init__(self, authority: Authority) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("db", hosts=["db.internal"]))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def exchange(self, connection: PostgresConnection, chunk: int = 1 << 20) -> bytes:
        """Everything back and forth until both wait; what the server read."""
        read = b""
        shaken = False
        for _ in range(12):
            self.incoming.write(connection.bytes_to_server())
            try:
                if not shaken:
                    self.tls.do_handshake()
                    shaken = True
                while piece := self.tls.read(65536):
                    read += piece
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                break
            data = self.outgoing.read()
            for at in range(0, len(data), chunk):
                connection.receive_from_server(data[at : at + chunk])
        return read


def asked(upstream: ServerTlsPlan) -> PostgresConnection:
    """Everything up to the server's answer to SSLRequest."""
    connection = PostgresConnection(upstream_tls=upstream)
    connection.receive_from_client(STARTUP + PASSWORD)
    assert connection.bytes_to_server() == b""
    connection.accept_login(UPSTREAM)
    assert connection.bytes_to_server() == REQUEST
    return connection


def end(connection: PostgresConnection) -> Ended:
    *_, last = iter(connection.next_event, None)
    assert isinstance(last, Ended)
    return last


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_the_login_begins_once_the_server_has_proven_itself(authority: Authority, chunk: int):
    connection, server = asked(plan(authority)), Server(authority)
    connection.receive_from_server(b"S")
    assert server.exchange(connection, chunk) == UPSTREAM_STARTUP
    server.tls.write(AUTHENTICATION_OK + GREETING)
    server.exchange(connection, chunk)
    assert connection.is_idle
    connection.receive_from_client(b"X\x00\x00\x00\x04", True)
    assert server.exchange(connection) == b"X\x00\x00\x00\x04"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"N", "upstream-tls-refused"),
        (b"E\x00\x00\x00\x08nope", "upstream-tls-refused"),
        (b"R\x00\x00\x00\x08\x00\x00\x00\x00", "upstream-tls-refused"),
        (b"S" + AUTHENTICATION_OK, "upstream-tls-failed"),
        (b"S" + b"\x16\x03\x03", "upstream-tls-failed"),
    ],
)
def test_a_server_without_tls_or_with_more_than_an_answer_gets_nothing(
    authority: Authority, answer: bytes, code: str
):
    connection = asked(plan(authority))
    connection.receive_from_server(answer)
    assert end(connection).code == code
    assert connection.bytes_to_server() == b""
    assert b"C58000\x00" in connection.bytes_to_client()


def test_a_server_that_speaks_first_gets_nothing(authority: Authority):
    connection = PostgresConnection(upstream_tls=plan(authority))
    connection.receive_from_client(STARTUP)
    connection.receive_from_server(b"S")
    assert end(connection).code == "unexpected-message"


@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_a_server_that_does_not_prove_itself_gets_no_login(authority: Authority, tmp_path: Path, wrong: str):
    upstream = plan(authority, "other.internal") if wrong == "name" else plan(Authority(tmp_path))
    connection, server = asked(upstream), Server(authority)
    connection.receive_from_server(b"S")
    assert server.exchange(connection) == b""
    assert end(connection).code == "upstream-tls-unverified"


def test_a_server_that_goes_during_the_handshake_ends_the_login(authority: Authority):
    connection = asked(plan(authority))
    connection.receive_from_server(b"S")
    connection.receive_from_server(b"", True)
    assert end(connection).code == "upstream-login"


def test_a_cancel_request_crosses_under_tls(authority: Authority):
    connection, server = PostgresConnection(upstream_tls=plan(authority)), Server(authority)
    connection.receive_from_client(build_cancel(KEY), True)
    connection.forward_cancel()
    assert connection.bytes_to_server() == REQUEST
    assert not connection.has_ended
    connection.receive_from_server(b"S")
    assert server.exchange(connection) == build_cancel(KEY)
    assert connection.has_ended


def test_a_cancel_request_goes_nowhere_without_tls(authority: Authority):
    connection = PostgresConnection(upstream_tls=plan(authority))
    connection.receive_from_client(build_cancel(KEY))
    connection.forward_cancel()
    assert connection.bytes_to_server() == REQUEST
    connection.receive_from_server(b"N")
    assert connection.bytes_to_server() == b""
    assert connection.has_ended


@given(data=st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_instead_of_tls_bring_no_login(data: list[bytes]):
    connection = PostgresConnection(upstream_tls=ServerTlsPlan(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "db"))
    connection.receive_from_client(STARTUP + PASSWORD)
    connection.accept_login(UPSTREAM)
    connection.receive_from_server(b"S")
    for piece in data:
        connection.receive_from_server(piece)
        assert UPSTREAM_STARTUP not in connection.bytes_to_server()
    assert not connection.is_idle


# ---------------------------------------------------------------------- channel binding

BOTH = b"\x00\x00\x00\x0aSCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00"
PLAIN = b"\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00"


@pytest.mark.parametrize(
    ("offered", "end_point", "mechanism", "header"),
    [
        (BOTH, b"hash", b"SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,"),
        (PLAIN, b"hash", b"SCRAM-SHA-256", b"y,,"),
        (PLAIN, None, b"SCRAM-SHA-256", b"n,,"),
        (BOTH, None, b"SCRAM-SHA-256", b"n,,"),
    ],
)
def test_the_login_is_bound_to_the_certificate_where_both_sides_can(
    offered: bytes, end_point: bytes | None, mechanism: bytes, header: bytes
):
    reply = ServerLogin(UpstreamLogin("u", "d", "secret", "nonce"), 0, 10_000, end_point).answer(offered)
    assert reply[5:].startswith(mechanism + b"\x00")
    assert reply[5 + len(mechanism) + 5 :].startswith(header)


def test_only_plus_without_a_certificate_is_no_login():
    only = b"\x00\x00\x00\x0aSCRAM-SHA-256-PLUS\x00\x00"
    with pytest.raises(ProtocolError, match="no SASL mechanism"):
        ServerLogin(UpstreamLogin("u", "d", "secret", "nonce"), 0, 10_000).answer(only)


@pytest.mark.parametrize(("digest", "name"), [(hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384")])
def test_the_end_point_is_hashed_as_the_certificate_was_signed(
    authority: Authority, digest: hashes.SHA256 | hashes.SHA384, name: str
):
    pem, _ = authority.issue(name, digest=digest)
    der = ssl.PEM_cert_to_DER_cert(pem.read_text())
    assert x509.load_der_x509_certificate(der).signature_hash_algorithm is not None
    assert _end_point(der) == hashlib.new(name, der).digest()
    assert _end_point(b"no certificate") is None
