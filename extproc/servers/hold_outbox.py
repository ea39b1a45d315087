"""Moves of holds on their way from the store to the ledger: at least once, in order, never lost.

A move is in the store in the same transaction as what it tells of. It is marked only after the ledger has it;
a crash in between writes it again, under the same `move` id. One process drains, so that order is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from extproc.domain.errors import ExtprocError, StoreUnavailableError
from extproc.domain.hold import HoldMove, HoldStore
from extproc.domain.lifecycle import view_bytes
from extproc.domain.record import Record

log = structlog.get_logger("extproc.holds")

INTERVAL = 0.25
"""Seconds between two looks when nothing is going on."""
TROUBLE_INTERVAL = 2.0


async def drain_outbox(store: HoldStore, record: Callable[[Record], None], limit: int = 100) -> int:
    """Write what is not in the ledger yet, oldest first, and mark it; how many moves that were.

    `record` appends and commits. Raises StoreUnavailableError and LedgerUnavailableError: what was not marked
    then comes again.
    """
    done = 0
    while moves := await store.unrecorded(limit):
        written: list[str] = []
        try:
            for move in moves:
                _write(record, await _as_record(store, move))
                written.append(move.id)
        finally:
            if written:
                await store.recorded(written)
        done += len(written)
    return done


async def tend_holds(
    store: HoldStore,
    record: Callable[[Record], None],
    now: Callable[[], float],
    interval: float = INTERVAL,
) -> None:
    """Expire what is overdue and drain the outbox, for ever; ends by being cancelled."""
    while True:
        pause = interval
        try:
            await store.sweep(now())
            await drain_outbox(store, record)
        except StoreUnavailableError as error:  # the ledger's trouble is one of these
            log.warning("hold_outbox_waits", error=str(error))
            pause = TROUBLE_INTERVAL
        except Exception as error:
            # what is not recorded stays in the outbox and shows in the health check; giving up would hide it
            log.error("hold_outbox_fails", error=type(error).__name__)
            pause = TROUBLE_INTERVAL
        await asyncio.sleep(pause)


def _write(record: Callable[[Record], None], entry: Record) -> None:
    """A record that the ledger cannot put into a line must not stop those behind it: it is told without detail."""
    try:
        record(entry)
    except StoreUnavailableError:
        raise
    except ExtprocError as error:
        log.error("hold_move_incomplete", move=entry.fields["move"], error=str(error))
        kept = {name: entry.fields[name] for name in ("move", "hold")}
        record(Record(entry.kind, entry.at, {**kept, "incomplete": True}))


async def _as_record(store: HoldStore, move: HoldMove) -> Record:
    """An opened hold takes its (masked) view along, so that the dossier can show what was approved."""
    fields = {"move": move.id, "hold": move.hold_id, **move.fields}
    if move.kind != "hold.opened":
        return Record(move.kind, move.at, fields)
    held = await store.get(move.hold_id, move.at)  # as of then: nothing can have expired yet
    if held is None:
        return Record(move.kind, move.at, fields)
    return Record(move.kind, move.at, fields, {"view": view_bytes(held.ask.view)})
