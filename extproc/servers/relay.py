"""The relay: Envoy's tcp_proxy brings connections here, with a PROXY header in front, and we dial the database.

The same conversations as behind Envoy's network external processing, but with back-pressure in both directions.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from extproc.servers.conversations import conversations_of
from extproc.servers.network_ext_proc import Opener
from extproc.servers.peer_gate import BACKLOG, UnixListener
from extproc.servers.relay_connection import RelayConnection
from extproc.servers.service import Service
from extproc.servers.upstreams import Upstream

FAREWELL = 1.0
"""Seconds for the last bytes to leave once nothing may run any more."""


class RelayServer:
    """Serves one unix socket. Whoever may connect to it speaks for all callers: only Envoy should."""

    def __init__(
        self,
        service: Service,
        upstreams: Mapping[str, Upstream],
        *,
        uids: Collection[int] = (),
        gid: int | None = None,
        opener: Opener | None = None,
    ) -> None:
        """`upstreams` are the targets that may be asked for. `uids` and `gid` as for the processor's socket."""
        self.service = service
        self.upstreams = upstreams
        self.opener = opener or conversations_of(service)
        self.uids = frozenset(uids) | {os.geteuid()}
        self.is_healthy = False
        """What Envoy's health check sees."""
        self.connections: set[RelayConnection] = set()
        self._gid = gid
        self._listener: UnixListener | None = None
        self._server: asyncio.Server | None = None
        self._quiet: asyncio.Event | None = None

    def listen(self, path: Path) -> None:
        """Bind. Raises RuntimeError."""
        try:
            self._listener = UnixListener(path, self.uids, self._gid)
        except OSError as error:
            raise RuntimeError(f"cannot listen at {path}: {error.strerror}") from error

    async def start(self) -> None:
        """Accept connections, in the place of whoever did before."""
        assert self._listener is not None  # noqa: S101  (listen comes first)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: RelayConnection(self), sock=self._listener.open(), backlog=BACKLOG
        )
        self.is_healthy = True

    async def stop(self, grace: float) -> None:
        """Take no new connections, end idle ones now and the others as they become idle, or after `grace` seconds."""
        self.is_healthy = False
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.go_away(at_once=False)
        await self._until_quiet(grace)
        for connection in list(self.connections):
            connection.go_away(at_once=True)
        await self._until_quiet(FAREWELL)
        for connection in list(self.connections):
            connection.abandon()

    @property
    def has_sessions(self) -> bool:
        """Some connection here is more than a health check."""
        return any(connection.is_session for connection in self.connections)

    def joined(self, connection: RelayConnection) -> None:
        """A connection of a peer that may connect."""
        self.connections.add(connection)

    def left(self, connection: RelayConnection) -> None:
        """It is closed."""
        self.connections.discard(connection)
        if self._quiet is not None and not self.connections:
            self._quiet.set()

    async def _until_quiet(self, seconds: float) -> None:
        if not self.connections:
            return
        self._quiet = asyncio.Event()
        try:
            await asyncio.wait_for(self._quiet.wait(), seconds)
        except TimeoutError:
            pass  # those that remain are dealt with by the caller
        finally:
            self._quiet = None
