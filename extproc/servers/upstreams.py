"""How the relay reaches a database: a unix socket or TCP, plain or under TLS that checks its name.

TLS begins with the first byte (PostgreSQL 17 and later). Where it is asked for by SSLRequest, the wire
speaks it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from extproc.domain.errors import ProtocolError

ALPN = "postgresql"
"""What direct TLS must agree on, so that no other service takes it for its own (PostgreSQL 17)."""

Factory = Callable[[], asyncio.Protocol]


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """`context` verifies against the authorities that settings name; so is `server_name`, never from a caller."""

    context: ssl.SSLContext
    server_name: str


@dataclass(frozen=True, slots=True)
class Upstream:
    """One target's server."""

    path: str = ""
    host: str = ""
    port: int = 0
    tls: UpstreamTls | None = None
    connect_timeout: float = 5.0

    async def dial(self, protocol: Factory) -> asyncio.Transport:
        """A connection whose bytes go to `protocol`.

        Raises OSError (ssl.SSLError is one), ProtocolError where the server will not speak TLS, and TimeoutError.
        """
        async with asyncio.timeout(self.connect_timeout):
            tls = self.tls
            if tls is None:
                return (await self._connect(protocol))[0]
            made, _ = await self._connect(protocol, ssl=tls.context, server_hostname=tls.server_name)
            if made.get_extra_info("ssl_object").selected_alpn_protocol() != ALPN:
                made.abort()
                raise ProtocolError("upstream-tls", "the server does not speak Postgres under TLS")
            return made

    async def _connect(self, protocol: Factory, **tls: Any) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        loop = asyncio.get_running_loop()
        if self.path:
            return await loop.create_unix_connection(protocol, self.path, **tls)
        return await loop.create_connection(protocol, self.host, self.port, **tls)
