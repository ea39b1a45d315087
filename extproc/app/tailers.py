"""The two processes that follow the ledger: the checkpointer signs it, the exporter shows it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from extproc.adapters.checkpoint_key import KeyChange, load_or_create_key
from extproc.adapters.checkpointer import Checkpointer
from extproc.adapters.control import Control
from extproc.adapters.ledger_reader import CHECKPOINTS
from extproc.adapters.telemetry import TelemetrySettings, is_enabled, open_exporter, read_environment
from extproc.adapters.webhooks import Endpoint, key_of
from extproc.adapters.witness import FileWitness, WebhookWitness, Witness, tell_witnesses
from extproc.app.figures import tell_figures
from extproc.config import Settings

log = structlog.get_logger()

CURSOR = "exporter.cursor"
"""The exporter's own file in the state folder: how far it has come."""


async def run_checkpointer(settings: Settings, control: Control, stopping: asyncio.Event) -> None:
    """Sign until `stopping`. It alone reads the signing key."""
    path = signing_key(settings)
    signer, change = load_or_create_key(path), KeyChange(path)
    exported = partial(exported_count, settings.state / CURSOR)
    checkpointer = Checkpointer(settings.ledger.directory, signer, exported=exported, change=change)
    stop, signed_all = threading.Event(), asyncio.Event()
    notes = settings.ledger.directory / CHECKPOINTS
    telling = asyncio.create_task(
        tell_witnesses(open_witnesses(settings), notes, lambda: checkpointer.signed_bytes, signed_all),
        name="witnesses",
    )
    await _follow(control, stopping, stop, asyncio.to_thread(checkpointer.run, stop))
    signed_all.set()
    await telling
    if checkpointer.alarms:
        log.critical("ledger.alarms", writers=[alarm.writer for alarm in checkpointer.alarms])


def open_witnesses(settings: Settings) -> list[Witness]:
    """Those of the settings. Raises ConfigError for a secret that is none."""
    found: list[Witness] = []
    for each in settings.ledger.witnesses:
        if each.file is not None:
            found.append(FileWitness(each.file))
        elif each.secret is not None:
            endpoint = Endpoint(each.name, each.url, key_of(each.secret.resolve()), frozenset())
            found.append(WebhookWitness(endpoint, settings.state / "witnesses" / each.name, time.time))
    return found


def signing_key(settings: Settings) -> Path:
    """Where the checkpointer's private key is."""
    return settings.state / "checkpoint" / "signing.key"


async def run_exporter(settings: Settings, control: Control, stopping: asyncio.Event) -> None:
    """Send spans until `stopping`, then what is left if the collector can be reached."""
    exporter = open_exporter(settings.ledger.directory, settings.state / CURSOR, telemetry_settings(settings))
    stop = threading.Event()
    telling = None
    if settings.telemetry.metrics is not None:
        figures = tell_figures(control, lambda: {"export_failures": exporter.failures})
        telling = asyncio.create_task(figures, name="figures")
    try:
        await _follow(control, stopping, stop, asyncio.to_thread(exporter.run, stop))
    finally:
        if telling is not None:
            telling.cancel()


def telemetry_settings(settings: Settings) -> TelemetrySettings:
    """What extproc.yaml names; the OTEL_* variables say the rest."""
    otlp = settings.telemetry.otlp
    name = settings.telemetry.service_name
    if otlp is None:
        return TelemetrySettings(service_name=name)
    headers = {header: reference.resolve() for header, reference in otlp.headers.items()}
    return TelemetrySettings(otlp.endpoint, otlp.protocol, headers or None, name)


def wants_spans(settings: Settings) -> bool:
    """Whether anybody named a collector. Raises ConfigError for OTEL_* variables that cannot be understood."""
    return is_enabled(telemetry_settings(settings), read_environment())


def exported_count(cursor: Path) -> int | None:
    """Spans delivered so far, as the exporter's cursor says; None when there is no exporter."""
    try:
        state = json.loads(cursor.read_bytes())
        return int(state["exported"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
