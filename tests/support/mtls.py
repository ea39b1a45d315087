"""Either transport on TCP with mutual TLS, and what a client needs to reach it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from extproc.config.certificates import processor_context
from extproc.config.settings import ServerTls
from extproc.servers.grpc_transport import GrpcServer
from extproc.servers.lean_transport import LeanServer
from extproc.servers.service import Service
from tests.support.pki import Authority

TRANSPORTS = ("grpcio", "lean")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop
except ImportError:
    pass
else:
    LOOPS["uvloop"] = uvloop.new_event_loop

ENVOY = "spiffe://mesh/ns/edge/sa/envoy"
"""The one name on the allow-list."""

Pair = tuple[Path, Path]
"""A certificate and its key."""


class Mutual:
    """What both sides are set up with."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        certificate, key = self.authority.issue("server", hosts=["localhost", "127.0.0.1"])
        self.tls = ServerTls(
            certificate=certificate, key=key, client_ca=self.authority.path, client_sans=(ENVOY,)
        )
        self.envoy = self.authority.issue("envoy", uris=[ENVOY])

    def context(self, client: Pair | None = None, alpn: str = "h2") -> ssl.SSLContext:
        """A client's, by default Envoy's; no name is asked for where `alpn` is empty."""
        context = ssl.create_default_context(cafile=str(self.authority.path))
        context.load_cert_chain(*(client or self.envoy))
        if alpn:
            context.set_alpn_protocols([alpn])
        return context

    def credentials(self, client: Pair | None) -> grpc.ChannelCredentials:
        """The same for grpcio, where None is no certificate."""
        root = self.authority.path.read_bytes()
        if client is None:
            return grpc.ssl_channel_credentials(root)
        return grpc.ssl_channel_credentials(root, client[1].read_bytes(), client[0].read_bytes())


def listen(
    transport: str, of: Service, tls: ServerTls, **options: Any
) -> tuple[GrpcServer | LeanServer, int]:
    """A server that is not started yet, and its port."""
    sans = frozenset(tls.client_sans)
    if transport == "lean":
        lean = LeanServer(of, client_sans=sans, **options)
        return lean, lean.listen("127.0.0.1:0", processor_context(tls))
    from extproc.app.worker import _credentials

    portable = GrpcServer(of, client_sans=sans, **options)
    return portable, portable.listen("127.0.0.1:0", _credentials(tls))


@contextlib.asynccontextmanager
async def serving(
    transport: str, of: Service, tls: ServerTls, **options: Any
) -> AsyncIterator[tuple[GrpcServer | LeanServer, int]]:
    """The same, started, and stopped in the end."""
    server, port = listen(transport, of, tls, **options)
    await server.start()
    try:
        yield server, port
    finally:
        await server.stop(0)


def run(loop: str, main: Coroutine[Any, Any, Any]) -> Any:
    """On the event loop of that name."""

    async def bounded() -> Any:
        async with asyncio.timeout(60):
            return await main

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(bounded())
