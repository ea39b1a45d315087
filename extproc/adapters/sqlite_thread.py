"""One SQLite connection in one thread of its own, so that no disk and no lock ever stops the event loop."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from extproc.domain.errors import StoreUnavailableError

T = TypeVar("T")

QUEUE_WAIT = 5.0
"""Seconds a call may queue for the thread: behind a stuck disk calls fail rather than pile up."""
PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF")


class SqliteThread:
    """Runs functions of the connection. Any trouble with the file is StoreUnavailableError.

    `prepare` checks or makes the schema inside a transaction, each time the file is opened: at the first call,
    and again after an error, since the file may have been repaired or replaced. `lock_wait` is in seconds.
    """

    def __init__(self, path: Path, prepare: Callable[[sqlite3.Connection], None], lock_wait: float) -> None:
        self._path = path
        self._prepare = prepare
        self._lock_wait = lock_wait
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        self._db: sqlite3.Connection | None = None
        self.connections = 0
        """How often the file was opened."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work` outside a transaction."""
        queued = time.monotonic()

        def job() -> T:
            if time.monotonic() - queued > QUEUE_WAIT:
                raise StoreUnavailableError("the store is too slow")
            try:
                if self._db is None:
                    self._db = self._connect()
                return work(self._db)
            except (sqlite3.Error, OSError, ValueError) as error:
                # ValueError: what is stored is not what we stored
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL):
                    self._disconnect()
                raise StoreUnavailableError(f"{self._path.name} cannot be used: {error}") from error

        try:
            future = asyncio.get_running_loop().run_in_executor(self._thread, job)
        except RuntimeError as error:
            raise StoreUnavailableError("the store is closed") from error
        return await future

    async def change(
        self,
        work: Callable[[sqlite3.Connection], T],
        committed: Callable[[asyncio.AbstractEventLoop], None],
        undone: Callable[[], None],
    ) -> T:
        """`work` as one write transaction; `committed` or `undone` is called in the thread once it is known."""
        loop = asyncio.get_running_loop()

        def transaction(db: sqlite3.Connection) -> T:
            # IMMEDIATE: the lock comes before the reading, so what was read cannot change before it is written
            db.execute("BEGIN IMMEDIATE")
            try:
                outcome = work(db)
                db.execute("COMMIT")
            except BaseException:
                undone()
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            committed(loop)
            return outcome

        return await self.run(transaction)

    async def aclose(self) -> None:
        """Later calls raise StoreUnavailableError."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    def _connect(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        if stat.S_IMODE(self._path.stat().st_mode) & 0o077:
            raise StoreUnavailableError(
                f"{self._path.name}: others may read or write it; its mode must be 0600"
            )
        db = sqlite3.connect(self._path, timeout=self._lock_wait, isolation_level=None)
        try:
            for pragma in PRAGMAS:
                db.execute(f"PRAGMA {pragma}")
            db.execute("BEGIN IMMEDIATE")  # two processes may make the schema at once
            self._prepare(db)
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        self.connections += 1
        return db

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
