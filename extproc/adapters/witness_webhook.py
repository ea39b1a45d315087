"""A witness that is told by signed messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2

from extproc.adapters.webhooks import Endpoint, post
from extproc.adapters.witness import WitnessError
from extproc.ledger.checkpoint import CheckpointError, parse_checkpoint
from extproc.ledger.note import NoteError, parse_note, split_notes


class WebhookWitness:
    """A receiver of signed messages (Standard Webhooks); `cursor` keeps what it was told."""

    def __init__(
        self,
        endpoint: Endpoint,
        cursor: Path,
        now: Callable[[], float],
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = endpoint.name
        self._endpoint = endpoint
        self._cursor = cursor
        self._now = now
        self._transport = transport
        self._told = _read_cursor(cursor)

    async def tell(self, notes: Path, size: int) -> bool:
        if size == self._told:
            return False
        if size < self._told:
            raise WitnessError(f"it was told of {self._told} bytes of checkpoints, the ledger has {size}")
        try:
            message = await asyncio.to_thread(newest, notes, self._told, size)
        except OSError as failure:
            raise WitnessError(failure.strerror or "the checkpoint log cannot be read") from None
        message_id = f"checkpoint.{message['data']['number']}"
        if not await post(self._endpoint, message_id, message, self._now(), self._transport):
            raise WitnessError("it did not take a checkpoint")
        try:
            await asyncio.to_thread(_write_cursor, self._cursor, size)
        except OSError as failure:
            raise WitnessError(failure.strerror or "the cursor cannot be written") from None
        self._told = size
        return True


def newest(notes: Path, since: int, size: int) -> dict[str, Any]:
    """The message about the last checkpoint of the first `size` bytes; those before `since` are not read.

    Should `since` be no end of a checkpoint, all of the log is read. Raises OSError and WitnessError.
    """
    with notes.open("rb") as file:
        file.seek(since)
        found, rest = split_notes(file.read(size - since))
    try:
        if not found or rest:
            raise WitnessError("the checkpoint log does not end in a checkpoint")
        raw = found[-1]
        checkpoint = parse_checkpoint(parse_note(raw).text)
    except (NoteError, CheckpointError, WitnessError) as trouble:
        if since:
            return newest(notes, 0, size)
        raise WitnessError(str(trouble)) from None
    data = {"number": checkpoint.number, "sha256": sha256(raw).hexdigest(), "note": raw.decode()}
    return {"type": "ledger.checkpoint", "timestamp": checkpoint.time, "data": data}


def _read_cursor(path: Path) -> int:
    """0 where there is none: then it is told again."""
    try:
        return max(0, int(path.read_text("ascii")))
    except (OSError, ValueError):
        return 0


def _write_cursor(path: Path, size: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(str(size), "ascii")
    part.replace(path)
