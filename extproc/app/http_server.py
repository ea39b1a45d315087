"""HTTP servers of our own: the approvals API, the console and the metrics page, by uvicorn."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from extproc.config import Address
from extproc.config.settings import ApprovalsTls


class HttpServer(uvicorn.Server):
    """uvicorn that leaves the signals to us and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


async def all_listen(servers: Sequence[HttpServer]) -> None:
    """Wait until every one does."""
    for server in servers:
        await server.listening.wait()


def http_config(app: Any, tls: ApprovalsTls | None) -> uvicorn.Config:
    """What all our HTTP servers have in common."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        lifespan="off",
        ssl_certfile=str(tls.certificate) if tls is not None else None,
        ssl_keyfile=str(tls.key) if tls is not None else None,
    )


def bind_http(address: Address) -> socket.socket:
    """The listening socket; a unix one is ours alone from the moment it exists."""
    if address.path is None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        return listener
    address.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    address.path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(address.path))
    finally:
        os.umask(before)
    return listener
