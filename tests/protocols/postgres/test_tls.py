"""TLS that ends in the state machine: SSLRequest and direct, with real clients and with hostile ones."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.protocols.postgres import (
    Ended,
    LoginReceived,
    PostgresConnection,
    UpstreamLogin,
)
from extproc.protocols.postgres.messages import (
    AUTHENTICATION_CLEARTEXT,
    SSL_REQUEST,
    UINT32,
)
from tests.protocols.postgres.lines import STARTUP
from tests.protocols.postgres.relay import Gate, relay
from tests.support.pki import Authority, write_certificate
from tests.support.postgres import Postgres

REQUEST = UINT32.pack(8) + UINT32.pack(SSL_REQUEST)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = write_certificate(tmp_path_factory.mktemp("tls"))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    made.set_alpn_protocols(["postgresql"])
    return made


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run("CREATE ROLE gateway LOGIN PASSWORD 'secret'")
        yield server


def gate(context: ssl.SSLContext) -> Gate:
    return Gate(UpstreamLogin("gateway", "postgres", "secret", secrets.token_hex(12)), tls=context)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "options", [{"sslmode": "require"}, {"sslmode": "require", "sslnegotiation": "direct"}]
)
async def test_libpq_speaks_tls_with_us(
    postgres: Postgres, context: ssl.SSLContext, tmp_path: Path, options: dict[str, str]
):
    door = gate(context)
    async with relay(door, postgres.socket, tmp_path):
        connection = await psycopg.AsyncConnection.connect(
            host="127.0.0.1",
            port=door.port,
            user="ada",
            dbname="d",
            password="token",
            **options,  # type: ignore[arg-type]
        )
        async with connection:
            assert connection.pgconn.ssl_in_use
            rows = await (
                await connection.execute("SELECT repeat('x', 1000) FROM generate_series(1, 3000)")
            ).fetchall()
            assert len(rows) == 3000
    assert next(event for event in door.seen if isinstance(event, LoginReceived)).encrypted


@pytest.mark.anyio
async def test_asyncpg_speaks_tls_with_us(postgres: Postgres, context: ssl.SSLContext, tmp_path: Path):
    door = gate(context)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    async with relay(door, postgres.socket, tmp_path):
        connection = await asyncpg.connect(
            host="127.0.0.1", port=door.port, user="ada", database="d", password="token", ssl=trusting
        )
        assert await connection.fetchval("SELECT 7") == 7
        await connection.close()


@pytest.mark.anyio
async def test_a_client_without_tls_is_refused_where_tls_is_required(
    postgres: Postgres, context: ssl.SSLContext, tmp_path: Path
):
    door = gate(context)
    async with relay(door, postgres.socket, tmp_path):
        with pytest.raises(psycopg.OperationalError, match="needs TLS"):
            await psycopg.AsyncConnection.connect(
                host="127.0.0.1", port=door.port, user="ada", dbname="d", password="token", sslmode="disable"
            )
    assert not any(isinstance(event, LoginReceived) for event in door.seen)


class Peer:
    """A TLS client over memory."""

    def __init__(self, *protocols: str, certificate: tuple[Path, Path] | None = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if protocols:
            context.set_alpn_protocols(list(protocols))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)

    def shake(self, connection: PostgresConnection, chunk: int = 1 << 20) -> None:
        for _ in range(10):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.exchange(connection, chunk)
            else:
                break
        self.exchange(connection, chunk)

    def exchange(self, connection: PostgresConnection, chunk: int = 1 << 20) -> None:
        data = self.outgoing.read()
        for at in range(0, len(data), chunk):
            connection.receive_from_client(data[at : at + chunk])
            self.incoming.write(connection.bytes_to_client())
        self.incoming.write(connection.bytes_to_client())


@pytest.mark.parametrize("chunk", [1, 2, 13, 1 << 20])
@pytest.mark.parametrize("direct", [False, True])
def test_tls_survives_any_cut(context: ssl.SSLContext, chunk: int, direct: bool):
    connection = PostgresConnection(tls=context)
    if not direct:
        connection.receive_from_client(REQUEST)
        assert connection.bytes_to_client() == b"S"
    peer = Peer("postgresql")
    peer.shake(connection, chunk)
    peer.tls.write(STARTUP)
    peer.exchange(connection, chunk)
    assert peer.tls.read(100) == AUTHENTICATION_CLEARTEXT


def test_bytes_sent_before_the_handshake_end_the_connection(context: ssl.SSLContext):
    connection = PostgresConnection(tls=context)
    connection.receive_from_client(REQUEST + STARTUP)
    (event,) = iter(connection.next_event, None)
    assert isinstance(event, Ended) and event.code == "early-plaintext"
    assert connection.bytes_to_client().startswith(b"E")


def test_a_startup_in_plain_after_ssl_request_is_no_tls(context: ssl.SSLContext):
    connection = PostgresConnection(tls=context)
    connection.receive_from_client(REQUEST)
    connection.receive_from_client(STARTUP)
    (event,) = iter(connection.next_event, None)
    assert isinstance(event, Ended) and event.code == "tls-failed"


def test_direct_tls_for_another_protocol_is_refused(context: ssl.SSLContext):
    connection = PostgresConnection(tls=context)
    peer = Peer()
    peer.shake(connection)
    (event,) = iter(connection.next_event, None)
    assert isinstance(event, Ended) and event.code == "tls-failed"
    assert b"ALPN" in peer.tls.read(1000)


def test_a_second_ssl_request_inside_tls_is_declined(context: ssl.SSLContext):
    connection = PostgresConnection(tls=context)
    connection.receive_from_client(REQUEST)
    connection.bytes_to_client()
    peer = Peer()
    peer.shake(connection)
    peer.tls.write(REQUEST)
    peer.exchange(connection)
    assert peer.tls.read(10) == b"N"


def test_the_end_is_said_under_tls_too(context: ssl.SSLContext):
    connection = PostgresConnection(tls=context)
    connection.receive_from_client(REQUEST)
    connection.bytes_to_client()
    peer = Peer()
    peer.shake(connection)
    connection.terminate("57P01", "over")
    peer.incoming.write(connection.bytes_to_client())
    assert b"C57P01\x00" in peer.tls.read(1000)
    assert peer.tls.read(1) == b""
    assert connection.bytes_to_client() == b""


@given(st.lists(st.binary(max_size=300), max_size=6), st.booleans())
def test_any_bytes_instead_of_tls_end_it_or_wait(context_free: list[bytes], direct: bool):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    connection = PostgresConnection(tls=made)
    connection.receive_from_client(b"\x16\x03\x01\x02" if direct else REQUEST)
    for data in context_free:
        connection.receive_from_client(data)
        connection.bytes_to_client()
    assert not any(isinstance(event, LoginReceived) for event in iter(connection.next_event, None))


def test_without_a_context_direct_tls_is_no_startup():
    connection = PostgresConnection()
    connection.receive_from_client(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
    event: Any = connection.next_event()
    assert event.code == "malformed-message"


@pytest.mark.parametrize(
    ("uris", "asked"),
    [(["spiffe://a/b"], False), (["spiffe://a/b", "spiffe://c"], True), ([], True), (None, True)],
)
def test_a_client_known_by_its_certificate_is_not_asked_for_a_password(
    tmp_path: Path, uris: list[str] | None, asked: bool
):
    authority = Authority(tmp_path)
    verifying = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    verifying.load_cert_chain(*authority.issue("server", hosts=["localhost"]))
    verifying.load_verify_locations(authority.path)
    verifying.verify_mode = ssl.CERT_OPTIONAL
    connection = PostgresConnection(
        tls=verifying, ask_password=lambda: connection.peer_uris != ("spiffe://a/b",)
    )
    connection.receive_from_client(REQUEST)
    connection.bytes_to_client()
    peer = Peer(certificate=authority.issue("client", uris=uris) if uris is not None else None)
    peer.shake(connection)
    peer.tls.write(STARTUP)
    peer.exchange(connection)
    assert list(connection.peer_uris) == (uris or [])
    assert (connection.peer_certificate is not None) is (uris is not None)
    assert isinstance(connection.next_event(), LoginReceived) is not asked
