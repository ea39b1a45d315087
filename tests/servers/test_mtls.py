"""Over TCP only certificates on the allow-list may call: whoever reaches this port could forge everything."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from extproc.servers.desk import HoldDesk
from extproc.servers.envoy_proto import PROCESS_METHOD
from extproc.servers.grpc_transport import GrpcServer
from extproc.servers.service import Service
from tests.support.governed import governance
from tests.support.holds import MemoryHoldStore

NOW = dt.datetime(2026, 1, 1)


@dataclass
class Pair:
    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority for one test."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key, [x509.BasicConstraints(ca=True, path_length=None)])

    def issue(self, *sans: x509.GeneralName) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        signed = self._sign(name, key, [x509.SubjectAlternativeName(sans)])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(signed.public_bytes(serialization.Encoding.PEM), private)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extensions: list[Any]
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW)
            .not_valid_after(NOW + dt.timedelta(days=3650))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())


class Silent:
    """A ledger that takes everything."""

    def append(self, record: object) -> None: ...

    def commit(self) -> None: ...

    async def refresh(self, provider: str, now: float) -> None: ...


def call(
    authority: Authority, server: Pair, client: Pair | None, root: bytes, allowed: str
) -> tuple[grpc.StatusCode, str]:
    """How one Process call ends whose only message does not parse."""

    async def main() -> tuple[grpc.StatusCode, str]:
        ours = GrpcServer(
            Service(
                governance=governance("default: deny"),
                ledger=Silent(),
                desk=HoldDesk(MemoryHoldStore(), now=lambda: 0.0, open_waits=1),
                keys=Silent(),
                now=lambda: 0.0,
                new_hex=lambda size: "0" * size * 2,
            ),
            client_sans=frozenset({allowed}),
        )
        port = ours.listen(
            "127.0.0.1:0",
            grpc.ssl_server_credentials(
                [(server.key, server.certificate)], authority.pem, require_client_auth=True
            ),
        )
        await ours.start()
        credentials = grpc.ssl_channel_credentials(
            root, client.key if client else None, client.certificate if client else None
        )
        try:
            async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
                rpc: Any = channel.stream_stream(PROCESS_METHOD)()
                try:
                    await rpc.write(b"\xff")
                    await rpc.read()
                except grpc.aio.AioRpcError as error:
                    return error.code(), error.details() or ""
                return await rpc.code(), await rpc.details() or ""
        finally:
            await ours.stop(0)

    return asyncio.run(main())


@pytest.fixture(scope="module")
def ours() -> Authority:
    return Authority("ours")


@pytest.fixture(scope="module")
def server(ours: Authority) -> Pair:
    return ours.issue(x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


HEARD = (grpc.StatusCode.UNAVAILABLE, "the message does not parse")
ENVOY = "spiffe://mesh/ns/edge/sa/envoy"


def test_a_listed_certificate_gets_in(ours: Authority, server: Pair) -> None:
    client = ours.issue(x509.UniformResourceIdentifier(ENVOY))
    assert call(ours, server, client, ours.pem, ENVOY) == HEARD


def test_another_certificate_of_the_same_authority_is_refused(ours: Authority, server: Pair) -> None:
    client = ours.issue(x509.UniformResourceIdentifier("spiffe://mesh/ns/other/sa/other"))
    code, _ = call(ours, server, client, ours.pem, ENVOY)
    assert code is grpc.StatusCode.PERMISSION_DENIED


def test_a_certificate_without_names_is_refused(ours: Authority, server: Pair) -> None:
    client = ours.issue(x509.DNSName("envoy"))
    code, _ = call(ours, server, client, ours.pem, ENVOY)
    assert code is grpc.StatusCode.PERMISSION_DENIED


def test_without_a_certificate_there_is_no_connection(ours: Authority, server: Pair) -> None:
    # the handshake fails: grpc reports what it reports when there is no connection at all
    ended = call(ours, server, None, ours.pem, ENVOY)
    assert ended[0] is grpc.StatusCode.UNAVAILABLE
    assert ended != HEARD


def test_a_certificate_of_another_authority_makes_no_connection(ours: Authority, server: Pair) -> None:
    client = Authority("theirs").issue(x509.UniformResourceIdentifier(ENVOY))
    ended = call(ours, server, client, ours.pem, ENVOY)
    assert ended[0] is grpc.StatusCode.UNAVAILABLE
    assert ended != HEARD
