"""A server whose certificate or authorities are renewed while it runs, on either transport."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from extproc.app.renewing import CertificateWatch
from extproc.config.settings import ServerTls
from extproc.servers.lean_transport import LeanServer
from tests.protocols.h2.support import GOAWAY, PREFACE, ack, frame, settings
from tests.support.mtls import ENVOY, TRANSPORTS, Mutual, Pair, run, serving
from tests.support.pki import Authority
from tests.support.streams import service

GREETING = PREFACE + settings() + ack()
COME_AGAIN = frame(GOAWAY, payload=b"\x7f\xff\xff\xff" + b"\0" * 4)
"""Excludes no stream (RFC 9113 section 6.8)."""


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mutual(tmp_path: Path) -> Mutual:
    return Mutual(tmp_path)


async def greeted(
    port: int, mutual: Mutual, client: Pair | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that the server has spoken on. OSError where it does not."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=mutual.context(client), server_hostname="localhost"
    )
    writer.write(GREETING)
    if not await reader.read(1):
        raise ConnectionResetError
    return reader, writer


async def shown(port: int, mutual: Mutual, client: Pair | None = None) -> str:
    """The serial number of the certificate."""
    _, writer = await greeted(port, mutual, client)
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate = tls.getpeercert()
    assert certificate is not None
    writer.transport.abort()
    return str(certificate["serialNumber"])


def use(server: object, watch: CertificateWatch) -> None:
    """What a worker does on the lean transport; grpcio asks by itself."""
    if isinstance(server, LeanServer):
        context = watch.look()
        assert context is not None
        server.renew(context)


def test_who_connects_afterwards_is_shown_the_new_one(loop: str, transport: str, mutual: Mutual) -> None:
    async def main() -> None:
        async with serving(transport, service(), mutual.tls) as (server, port):
            watch = CertificateWatch(mutual.tls)
            before = await shown(port, mutual)
            assert await shown(port, mutual) == before
            mutual.authority.issue("server", hosts=["localhost"])
            use(server, watch)
            after = {await shown(port, mutual) for _ in range(3)}
            assert len(after) == 1 and before not in after

    run(loop, main())


def test_an_authority_that_is_taken_away_lets_nobody_in_any_more(
    loop: str, transport: str, mutual: Mutual, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    theirs = other.issue("envoy", uris=[ENVOY])

    async def main() -> None:
        clients = tmp_path / "clients.pem"
        clients.write_bytes(mutual.authority.path.read_bytes())
        tls = ServerTls(
            certificate=mutual.tls.certificate, key=mutual.tls.key, client_ca=clients, client_sans=(ENVOY,)
        )
        async with serving(transport, service(), tls) as (server, port):
            watch = CertificateWatch(tls)
            await shown(port, mutual)
            with pytest.raises(OSError):
                await shown(port, mutual, theirs)
            clients.write_bytes(other.path.read_bytes())
            use(server, watch)
            with pytest.raises(OSError):
                await shown(port, mutual)
            await shown(port, mutual, theirs)

    run(loop, main())


def test_on_the_lean_transport_who_is_connected_is_asked_to_come_again(loop: str, mutual: Mutual) -> None:
    async def main() -> None:
        async with serving("lean", service(), mutual.tls) as (server, port):
            assert isinstance(server, LeanServer)
            watch = CertificateWatch(mutual.tls)
            reader, writer = await greeted(port, mutual)
            mutual.authority.issue("server", hosts=["localhost"])
            use(server, watch)
            heard = b""
            while not heard.endswith(COME_AGAIN):
                heard += await reader.read(1 << 16)
            assert not writer.is_closing() and len(server.connections) == 1
            writer.transport.abort()

    run(loop, main())
