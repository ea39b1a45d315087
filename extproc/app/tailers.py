"""The two processes that follow the ledger: the checkpointer signs it, the exporter shows it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import structlog

from extproc.adapters.checkpoint_key import load_or_create_key
from extproc.adapters.checkpointer import Checkpointer
from extproc.adapters.control import Control
from extproc.config import Settings

log = structlog.get_logger()


async def run_checkpointer(settings: Settings, control: Control, stopping: asyncio.Event) -> None:
    """Sign until `stopping`. It alone reads the signing key."""
    signer = load_or_create_key(settings.state / "checkpoint" / "signing.key")
    checkpointer = Checkpointer(settings.ledger.directory, signer)
    stop = threading.Event()
    await _follow(control, stopping, stop, asyncio.to_thread(checkpointer.run, stop))
    if checkpointer.alarms:
        log.critical("ledger.alarms", writers=[alarm.writer for alarm in checkpointer.alarms])


async def _follow(
    control: Control, stopping: asyncio.Event, stop: threading.Event, work: Coroutine[Any, Any, int]
) -> None:
    """Run blocking work on a thread until the supervisor says stop or is gone; it finishes what it has begun."""
    working = asyncio.create_task(work)
    stopped = asyncio.create_task(stopping.wait())
    gone = asyncio.create_task(control.receive())
    await control.send({"ready": True})
    await asyncio.wait((working, stopped, gone), return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    code = await working
    for task in (stopped, gone):
        task.cancel()
    if code:
        log.error("tailer.ended", code=code)
