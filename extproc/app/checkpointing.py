"""The process that signs the ledger, and tells witnesses outside."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from pathlib import Path

import structlog

from extproc.adapters.checkpoint_key import KeyChange, load_or_create_key
from extproc.adapters.checkpointer import Checkpointer
from extproc.adapters.control import Control
from extproc.adapters.ledger_reader import CHECKPOINTS
from extproc.adapters.witness import FileWitness, Witness, tell_witnesses
from extproc.app.tailers import CURSOR, exported_count, follow
from extproc.config import Settings

log = structlog.get_logger()


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
    await follow(control, stopping, stop, asyncio.to_thread(checkpointer.run, stop))
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
            from extproc.adapters.webhooks import Endpoint, key_of  # an HTTP client, and only these need one
            from extproc.adapters.witness_webhook import WebhookWitness

            endpoint = Endpoint(each.name, each.url, key_of(each.secret.resolve()), frozenset())
            found.append(WebhookWitness(endpoint, settings.state / "witnesses" / each.name, time.time))
    return found


def signing_key(settings: Settings) -> Path:
    """Where the checkpointer's private key is."""
    return settings.state / "checkpoint" / "signing.key"
