"""The approvals process: the API that people decide through, and the one that tends holds and their outbox."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
import uvicorn

from extproc.adapters.control import Control
from extproc.app.governing import provider_rules
from extproc.app.worker import open_holds, open_keys, open_ledger, recorder
from extproc.config import Settings
from extproc.domain.errors import PolicyError
from extproc.domain.principal import Principal
from extproc.identity import NeedKeysFor, Verifier, token_error
from extproc.servers.approvals_api import create_app
from extproc.servers.hold_outbox import tend_holds

log = structlog.get_logger()

RELOAD_WAIT = 60.0


class Supervisor:
    """The line to the supervisor, as the API needs it."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._lock = asyncio.Lock()
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def listen(self, stopping: asyncio.Event) -> None:
        """Until the supervisor is gone."""
        while (message := await self._control.receive()) is not None:
            if "reloaded" in message:
                self._answers.put_nowait(message["reloaded"])
        stopping.set()

    async def reload(self, principal: Principal) -> Mapping[str, Any]:
        """Raises PolicyError when the files are no good: the last good set stays."""
        async with self._lock:
            await self._control.send({"reload": {"by": "api", "principal": principal.to_record()}})
            answer = await asyncio.wait_for(self._answers.get(), RELOAD_WAIT)
        if "error" in answer:
            raise PolicyError(str(answer["error"]))
        return answer


async def run_approvals(settings: Settings, control: Control, stopping: asyncio.Event) -> None:
    """Serve the API until `stopping`."""
    keys = open_keys(settings)
    verifier = Verifier(
        provider_rules(settings, settings.approvals.audience), max_token_bytes=settings.limits.token_bytes
    )
    holds = open_holds(settings)
    ledger = open_ledger(settings, "approvals")
    supervisor = Supervisor(control)

    async def authenticate(token: str) -> Principal:
        found = verifier.verify(token, keys, time.time())
        if isinstance(found, NeedKeysFor):
            await keys.refresh(found.provider, time.time())
            found = verifier.verify(token, keys, time.time())
        if isinstance(found, NeedKeysFor):
            raise token_error("keys_unavailable")
        return found

    try:
        await holds.check()
        await keys.refresh_due(time.time())
        app = create_app(
            holds,
            authenticate,
            audience=settings.approvals.audience,
            clients=settings.approvals.clients,
            record=recorder(ledger),
            now=time.time,
            reload=supervisor.reload,
            status=lambda: {"ledger": ledger.healthy},
        )
        server = ApiServer(_config(settings, app))
        background = [
            asyncio.create_task(keys.run(), name="keys"),
            asyncio.create_task(tend_holds(holds, recorder(ledger), time.time), name="holds"),
            asyncio.create_task(supervisor.listen(stopping), name="control"),
        ]
        serving = asyncio.create_task(server.serve([_bind(settings)]), name="api")
        ready = asyncio.create_task(server.listening.wait())
        await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
        await control.send({"ready": True})
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait((stop, serving), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
        for task in (*background, stop, ready):
            task.cancel()
        await asyncio.gather(*background, stop, ready, return_exceptions=True)
    finally:
        await keys.close()
        await holds.aclose()
        ledger.close()


class ApiServer(uvicorn.Server):
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


def _config(settings: Settings, app: Any) -> uvicorn.Config:
    tls = settings.approvals.tls
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
        lifespan="off",
        ssl_certfile=str(tls.certificate) if tls is not None else None,
        ssl_keyfile=str(tls.key) if tls is not None else None,
    )


def _bind(settings: Settings) -> socket.socket:
    """The listening socket; a unix one is ours alone from the moment it exists."""
    address = settings.approvals.listen
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
