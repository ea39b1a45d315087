"""Checkpoints told to somebody outside: what the ledger's own machine could rewrite, a witness still has.

A witness file is a copy of the checkpoint log, kept on another disk or machine; it only ever grows. A webhook is told
the newest checkpoint, which names all before it. Both follow behind: signing never waits for them, and what they did
not take is told again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog

from extproc.domain.errors import ExtprocError

log = structlog.get_logger("extproc.witness")

POLL: Final = 1.0
PAUSE: Final = 15.0
"""Seconds until a witness that did not take something is tried again."""
COMPARED: Final = 1 << 20
"""Bytes of a witness file's end that must be those of the log before anything is added."""


class WitnessError(ExtprocError):
    """A witness that has something else than the log, or cannot be reached."""


class Witness(Protocol):
    """Somebody who is told."""

    name: str

    async def tell(self, notes: Path, size: int) -> bool:
        """The first `size` bytes of the log are signed and on disk; True if that was news. Raises WitnessError."""
        ...


class FileWitness:
    """A copy of the log at `path`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._told = -1

    async def tell(self, notes: Path, size: int) -> bool:
        if size == self._told:
            return False
        news = await asyncio.to_thread(self._copy, notes, size)
        self._told = size
        return news

    def _copy(self, notes: Path, size: int) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "r+b", buffering=0) as copy, notes.open("rb") as original:
                has = os.fstat(copy.fileno()).st_size
                if has > size:
                    raise WitnessError(f"the witness has {has} bytes of checkpoints, the ledger {size}")
                since = max(0, has - COMPARED)
                original.seek(since)
                if os.pread(copy.fileno(), has - since, since) != original.read(has - since):
                    raise WitnessError("the witness has other checkpoints than the ledger")
                left = size - has
                while left:
                    chunk = original.read(min(left, COMPARED))
                    if not chunk:
                        raise WitnessError("the checkpoint log is shorter than it was")
                    while chunk:
                        written = copy.write(chunk)
                        chunk, left = chunk[written:], left - written
                os.fsync(copy.fileno())
                return has < size
        except OSError as failure:
            raise WitnessError(failure.strerror or "cannot be written") from None


async def tell_witnesses(
    witnesses: Sequence[Witness], notes: Path, signed: Callable[[], int], stopping: asyncio.Event
) -> None:
    """Tell each whatever is new until `stopping`, then once more. One that hangs holds no other back."""
    async with asyncio.TaskGroup() as group:
        for witness in witnesses:
            group.create_task(_tend(witness, notes, signed, stopping))


async def _tend(witness: Witness, notes: Path, signed: Callable[[], int], stopping: asyncio.Event) -> None:
    trouble, last = "", False
    while not last:
        last = stopping.is_set()
        try:
            if size := signed():
                await witness.tell(notes, size)
            trouble = ""
        except WitnessError as refusal:
            if str(refusal) != trouble:
                trouble = str(refusal)
                log.error("witness.not_told", witness=witness.name, error=trouble)
        if not last:
            try:
                await asyncio.wait_for(stopping.wait(), PAUSE if trouble else POLL)
            except TimeoutError:
                continue
