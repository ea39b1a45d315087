"""What every front end shares: the governance in force, the ledger, the hold desk, and the order of writes.

Replies are collected in an outbox; `flush` commits the ledger once and only then lets them go. If the commit
fails, every reply of that batch becomes a refusal (DESIGN: order of writes).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import structlog

from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.record import Record
from extproc.pipeline import Governance
from extproc.servers.desk import HoldDesk
from extproc.servers.live_sessions import LiveSessions

log = structlog.get_logger()

KEYS_WAIT: Final = 8.0
"""Seconds a caller waits for an issuer's keys."""


class Ledger(Protocol):
    """Where records go. `append` buffers; `commit` writes all that is buffered or raises."""

    def append(self, record: Record) -> object: ...

    def commit(self) -> None:
        """Raises LedgerUnavailableError; then the buffered records are gone."""


class KeyFetcher(Protocol):
    """Fetches an issuer's keys; a failure is remembered by the key store, not raised."""

    async def refresh(self, provider: str, now: float) -> object: ...


class Reply(Protocol):
    """One reply waiting for its records to be written."""

    def send(self) -> None: ...

    def refuse(self) -> None:
        """Its records could not be written: answer with a refusal instead."""


class Departing(Protocol):
    """A database connection that can say goodbye in its protocol."""

    def go_away(self, *, at_once: bool) -> None:
        """End as soon as nothing runs, or now."""


class Service:
    """Shared by all streams of one worker. Single-threaded: the event loop owns it."""

    def __init__(
        self,
        *,
        governance: Governance,
        ledger: Ledger,
        desk: HoldDesk,
        keys: KeyFetcher,
        now: Callable[[], float],
        new_hex: Callable[[int], str],
        max_message: int = 64 << 20,
    ) -> None:
        self.governance = governance
        self.ledger = ledger
        self.desk = desk
        self.keys = keys
        self.now = now
        self.new_hex = new_hex
        self.max_message = max_message
        self.sessions = LiveSessions(now)
        """Database sessions that cancels and locks may reach."""
        self.connections: set[Departing] = set()
        """Database connections that Envoy asks about."""
        self.open_streams = 0
        """`Process` streams that Envoy has open."""
        self.open_checks = 0
        """`Check` calls that are not answered yet."""
        self.refused_commits = 0
        self.lost_access = 0
        """Entries of Envoy's access log that could not be recorded."""
        self._outbox: list[Reply] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def current(self) -> Governance:
        """The governance in force now."""
        return self.governance

    def post(self, reply: Reply) -> None:
        """Queue a reply whose records were appended; `flush` sends it."""
        self._outbox.append(reply)

    def flush(self) -> None:
        """Commit once, then send everything; or refuse everything."""
        if not self._outbox:
            return
        batch, self._outbox = self._outbox, []
        try:
            self.ledger.commit()
        except Exception as error:
            self.refused_commits += 1
            if not isinstance(error, LedgerUnavailableError):
                log.exception("ledger.failed")
            log.error("ledger.unavailable", refused=len(batch))
            for reply in batch:
                reply.refuse()
            return
        for reply in batch:
            reply.send()

    def note(self, records: tuple[Record, ...]) -> bool:
        """Records that no reply waits for (a client left). Losing them is logged, never hidden; False says so."""
        if not records:
            return True
        try:
            for record in records:
                self.ledger.append(record)
            self.ledger.commit()
        except Exception as error:
            self.refused_commits += 1
            if not isinstance(error, LedgerUnavailableError):
                log.exception("ledger.failed")
            log.error("ledger.unavailable", lost=[record.kind for record in records])
            # what replies waited for went with it
            batch, self._outbox = self._outbox, []
            for reply in batch:
                reply.refuse()
            return False
        return True

    async def fetch_keys(self, provider: str) -> None:
        """Wait for an issuer's keys, not for ever. Whoever asked sees for itself whether they are there then."""
        try:
            await asyncio.wait_for(self.keys.refresh(provider, self.now()), KEYS_WAIT)
        except asyncio.CancelledError:
            raise
        except TimeoutError:
            pass
        except Exception:
            log.exception("keys.failed", provider=provider)

    def go_away(self, at_once: bool) -> None:
        """We are about to stop: database connections end as they become idle, or now."""
        for connection in list(self.connections):
            connection.go_away(at_once=at_once)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that this service owns until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
