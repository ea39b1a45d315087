"""The process that shows the ledger: its records leave as spans."""

from __future__ import annotations

import asyncio
import threading

from extproc.adapters.control import Control
from extproc.adapters.telemetry import open_exporter
from extproc.app.collectors import telemetry_settings
from extproc.app.figures import tell_figures
from extproc.app.tailers import CURSOR, follow
from extproc.config import Settings


async def run_exporter(settings: Settings, control: Control, stopping: asyncio.Event) -> None:
    """Send spans until `stopping`, then what is left if the collector can be reached."""
    exporter = open_exporter(settings.ledger.directory, settings.state / CURSOR, telemetry_settings(settings))
    stop = threading.Event()
    telling = None
    if settings.telemetry.metrics is not None:
        figures = tell_figures(
            control, lambda: {"export_failures": exporter.failures, "spans_rejected": exporter.rejected}
        )
        telling = asyncio.create_task(figures, name="figures")
    try:
        await follow(control, stopping, stop, asyncio.to_thread(exporter.run, stop))
    finally:
        if telling is not None:
            telling.cancel()
