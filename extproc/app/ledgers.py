"""The ledger as every process of `extproc serve` writes it: each with a writer of its own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from extproc.adapters.ledger_files import LedgerWriter
from extproc.app.payload_keys import payload_ring
from extproc.config import Settings
from extproc.domain.errors import ConfigError, LedgerUnavailableError
from extproc.domain.record import Record
from extproc.ledger.lines import new_writer_id


def open_ledger(settings: Settings, role: str) -> LedgerWriter:
    """A writer of its own for this process start. Raises LedgerUnavailableError."""
    try:
        ring = payload_ring(settings)
    except ConfigError as mistake:
        raise LedgerUnavailableError(f"the ledger cannot be opened: {mistake}") from None
    return LedgerWriter(
        settings.ledger.directory,
        writer_id=new_writer_id(role, time.time(), secrets.token_bytes(4)),
        clock=time.time,
        durability=settings.ledger.durability,
        segment_bytes=settings.ledger.segment_bytes,
        ring=ring,
    )


def recorder(ledger: LedgerWriter) -> Callable[[Record], None]:
    """Append and commit one record. Raises LedgerUnavailableError."""

    def record(entry: Record) -> None:
        ledger.append(entry)
        ledger.commit()

    return record
