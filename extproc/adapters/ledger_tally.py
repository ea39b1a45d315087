"""Follows the ledger for whoever counts: reads what was added, and knows how far others have come with it.

A writer that began before `since` is not counted again after a restart of `serve`; one that began since then is read
from its first record, so that the death of the counting process loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from extproc.adapters.ledger_reader import (
    ALARM,
    CHECKPOINTS,
    TailError,
    WriterTail,
    is_running,
    list_writers,
    read_end,
)
from extproc.domain.metric import Family, gauge, total
from extproc.ledger.accounting import Account, accounts
from extproc.ledger.checkpoint import Checkpoint, CheckpointError, parse_checkpoint
from extproc.ledger.lines import parse_time
from extproc.ledger.note import NoteError, parse_note
from extproc.ledger.tallies import Tallies

READ_AT_ONCE = 1 << 20
LAST_NOTE = 4 << 20
"""Bytes at the end of the checkpoint log in which the last checkpoint is looked for."""
_BEGIN = b"extproc-ledger-checkpoint/v1\n"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Followed:
    """One writer: `tail` is None for one that is not counted; `size` is how many records it has."""

    tail: WriterTail | None
    size: int = 0
    done: bool = False


class LedgerTally:
    """Counts what was written since `since` (a writer id's time stamp)."""

    def __init__(self, directory: Path, since: str) -> None:
        self._directory = directory
        self._since = since
        self._writers: dict[str, _Followed] = {}
        self.tallies = Tallies()
        self.damaged = 0

    def look(self) -> bool:
        """Read what was added, about a megabyte of each writer; False if that was nothing."""
        try:
            present = list_writers(self._directory)
        except OSError:
            return False
        for name in present:
            if name not in self._writers:
                began = name.split("-")[1:2]
                counted = bool(began) and began[0] >= self._since
                self._writers[name] = _Followed(WriterTail(self._directory / name) if counted else None)
        moved = [self._read(name, writer) for name, writer in self._writers.items() if not writer.done]
        return any(moved)

    def sizes(self) -> dict[str, int]:
        """Records of each writer, those of before included."""
        return {name: writer.size for name, writer in self._writers.items()}

    def families(self, now: float, cursor: Path) -> Iterator[Family]:
        """The counts, and how far the checkpointer and the exporter (by its `cursor` file) have come."""
        yield from self.tallies.families()
        sizes = self.sizes()
        records = sum(sizes.values())
        yield gauge("extproc_ledger_records", "Records in the ledger.", (), {(): records})
        damaged = self.damaged + self.tallies.unread
        yield total(
            "extproc_ledger_unreadable_total", "Lines or writers that could not be read.", (), {(): damaged}
        )
        last = last_checkpoint(self._directory)
        if last is not None:
            lag = max(0, records - last.records)
            yield gauge(
                "extproc_ledger_unsigned_records", "Records that no checkpoint covers yet.", (), {(): lag}
            )
            age = max(0.0, now - parse_time(last.time) / 1_000_000)
            yield gauge("extproc_checkpoint_age_seconds", "Age of the last checkpoint.", (), {(): age})
        alarm = int((self._directory / ALARM).exists())
        yield gauge("extproc_ledger_alarm", "1 if the checkpointer refused a writer.", (), {(): alarm})
        yield from _exporter(cursor, sizes)

    def close(self) -> None:
        """Let go of all files."""
        for writer in self._writers.values():
            if writer.tail is not None:
                writer.tail.close()

    def _read(self, name: str, writer: _Followed) -> bool:
        running = is_running(self._directory / name)  # asked first, so that its last lines are read
        try:
            if writer.tail is None:
                writer.size = read_end(self._directory / name).seq + 1
                writer.done = not running
                return False
            lines = writer.tail.read(READ_AT_ONCE)
        except (TailError, OSError) as trouble:
            log.error("metrics.unreadable", writer=name, error=str(trouble))
            self.damaged += 1
            writer.done = True
            return False
        for line in lines:
            seq = self.tallies.take(line.data)
            if seq is not None:
                writer.size = seq + 1
        if not lines and not running:
            writer.done = True
            if writer.tail is not None:
                writer.tail.close()
        return bool(lines)


def last_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest whole note of the log, its signature unchecked; None if there is none."""
    try:
        with (directory / CHECKPOINTS).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LAST_NOTE))
            data = file.read(LAST_NOTE)
    except OSError:
        return None
    end = len(data)
    while (at := data.rfind(_BEGIN, 0, end)) >= 0:
        try:
            return parse_checkpoint(parse_note(data[at:end].removesuffix(b"\n")).text)
        except (NoteError, CheckpointError):
            end = at  # half written: the one before
    return None


def read_cursor(cursor: Path) -> dict[str, Any] | None:
    """What the exporter says of itself; None if it never ran."""
    try:
        state = json.loads(cursor.read_bytes())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _exporter(cursor: Path, sizes: dict[str, int]) -> Iterator[Family]:
    state = read_cursor(cursor)
    if state is None:
        return
    for name, member, text in (
        ("extproc_spans_exported_total", "exported", "Spans that the collector took."),
        ("extproc_spans_sampled_out_total", "sampled_out", "Plain allows that sampling left out."),
        ("extproc_spans_unreadable_total", "unreadable", "Records that no span could be made of."),
    ):
        yield total(name, text, (), {(): int(state.get(member, 0))})
    found = sum(accounts(sizes, state).values(), Account())
    text = "Records the exporter has not read yet."
    yield gauge("extproc_exporter_lag_records", text, (), {(): found.behind})
    text = "Records of exchanges and holds that the exporter waits to see the end of."
    yield gauge("extproc_exporter_open_records", text, (), {(): found.open})
    text = "Records that stand in no span that arrived, though they should: always 0."
    yield gauge("extproc_spans_missing_records", text, (), {(): found.lost})
