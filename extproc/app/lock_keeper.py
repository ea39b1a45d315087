"""The supervisor's part of locks: keep them, tell every worker, and trust none that does not follow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import structlog

from extproc.adapters.control import Control
from extproc.adapters.lock_file import LockFile
from extproc.config import Settings
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.lock import MAX_LOCKS, Lock

log = structlog.get_logger()

FOLLOW = 2.0
"""Seconds a worker has to put a change of locks in force."""


def lock_file(settings: Settings) -> LockFile:
    """Where locks are kept: the supervisor writes them, a worker reads them when it starts."""
    return LockFile(settings.state / "locks.json")


class Follower(Protocol):
    """A worker as the supervisor knows it."""

    control: Control | None
    ready: asyncio.Event
    locks: int
    """The version of the locks it said it has."""

    @property
    def name(self) -> str: ...

    def kill(self) -> None: ...


class LockKeeper:
    """All locks. Raises StoreUnavailableError at the start when they cannot be read."""

    def __init__(self, file: LockFile, workers: Callable[[], Iterable[Follower]]) -> None:
        self._file = file
        self._workers = workers
        self._locks = file.load()
        self._version = 0
        self._busy = asyncio.Lock()
        self.told = asyncio.Event()
        """Set whenever a worker said which locks it has."""

    async def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """`{"add": lock}`, `{"remove": id}` or `{"list": true}`; the answer has `error` when it was not done."""
        async with self._busy:
            now = time.time()
            kept = tuple(lock for lock in self._locks if not lock.is_over(now))
            if "list" in asked:
                return {"locks": [lock.to_data() for lock in kept]}
            if "add" in asked:
                lock = Lock.of(asked["add"])
                if len(kept) >= MAX_LOCKS:
                    return {"error": "too_many_locks"}
                changed = (*kept, lock)
            else:
                found = [lock for lock in kept if lock.id == asked["remove"]]
                if not found:
                    return {"error": "no_such_lock"}
                (lock,) = found
                changed = tuple(other for other in kept if other is not lock)
            try:
                self._file.save(changed)
            except StoreUnavailableError as error:
                log.error("locks.not_kept", error=str(error))
                return {"error": "unavailable"}
            self._locks = changed
            self._version += 1
            return {"lock": lock.to_data(), "workers": await self._tell_all()}

    async def tell(self, worker: Follower) -> None:
        """Every lock there is; a worker that began while they changed has them by this."""
        if worker.control is not None:
            try:
                locks = [replace(lock, reason="", by="").to_data() for lock in self._locks]
                message = {"locks": locks, "version": self._version}
                await asyncio.wait_for(worker.control.send(message), FOLLOW)
            except (TimeoutError, OSError):
                pass  # it is looked at below, or gone

    async def _tell_all(self) -> int:
        """How many workers have them in force. One that serves without them is killed: it starts anew with them."""
        everybody = list(self._workers())
        await asyncio.gather(*(self.tell(worker) for worker in everybody))
        deadline = time.monotonic() + FOLLOW
        while behind := [w for w in everybody if w.ready.is_set() and w.locks != self._version]:
            self.told.clear()
            try:
                await asyncio.wait_for(self.told.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                for worker in behind:
                    log.error("worker.without_locks", worker=worker.name)
                    worker.kill()
                break
        return sum(worker.ready.is_set() and worker.locks == self._version for worker in everybody)
