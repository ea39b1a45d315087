"""What the checkpointer and the exporter share: both follow the ledger on a thread, and both know the cursor."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog

from extproc.adapters.control import Control

log = structlog.get_logger()

CURSOR = "exporter.cursor"
"""The exporter's own file in the state folder: how far it has come."""


def exported_count(cursor: Path) -> int | None:
    """Spans delivered so far, as the exporter's cursor says; None when there is no exporter."""
    try:
        state = json.loads(cursor.read_bytes())
        return int(state["exported"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def follow(
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
