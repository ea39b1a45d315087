"""Reads the ledger for the exporter: lines in, spans out, and a cursor that moves only when told to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from extproc.adapters.ledger_reader import (
    CHECKPOINTS,
    CHUNK,
    Position,
    TailError,
    WriterTail,
    is_running,
    list_writers,
    read_line_at,
)
from extproc.ledger.accounting import accounts
from extproc.ledger.checkpoint import CheckpointError, parse_checkpoint
from extproc.ledger.join import Joiner, is_spanless
from extproc.ledger.lines import RecordError, parse_line
from extproc.ledger.note import NoteError, parse_note, split_notes
from extproc.ledger.spans import SpanView, checkpoint_span

READ_AT_ONCE = 128 << 10
"""Bytes of lines taken from one writer before the next has its turn."""

log = structlog.get_logger(__name__)


class LinePlace(NamedTuple):
    """Where a line can be read again."""

    writer: str
    place: Position


@dataclass(slots=True)
class _Follow:
    """One writer: how far it was read, and whether more can come."""

    tail: WriterTail
    records: int = 0
    """Records read so far."""
    shown: int = 0
    """Of these, how many stand in spans that were delivered."""
    sampled_out: int = 0
    spanless: int = 0
    """Records that become no span by design, or that could not be read."""
    lost: int = 0
    """Of these, how many were told to be in no span."""
    ended: bool = False
    damaged: bool = False


@dataclass(slots=True)
class Counts:
    """Totals since the first start: they are in the cursor file."""

    exported: int = 0
    sampled_out: int = 0
    unreadable: int = 0


class SpanFeed:
    """Spans in the order in which their records become complete. `save` makes them past."""

    def __init__(self, directory: Path, cursor: Path) -> None:
        """`cursor` is this exporter's own file; without it everything in the ledger is new."""
        self._directory = directory
        self._cursor = cursor
        self._joiner: Joiner[LinePlace] = Joiner()
        self._writers: dict[str, _Follow] = {}
        self._checkpoint_offset = 0
        self._restored: list[SpanView] = []
        self._unsaved = False
        self.counts = Counts()
        self._load()

    def next_batch(self, about: int, now: float) -> list[SpanView]:
        """Roughly `about` spans; empty when there is nothing to tell. Call `save` once all are delivered."""
        batch, self._restored = self._restored, []
        self._discover()
        moved = True
        while moved and len(batch) < about:
            moved = False
            for name, follow in self._writers.items():
                if not follow.ended and not follow.damaged:
                    moved |= self._read_writer(name, follow, batch)
        batch += self._joiner.give_up(int(now * 1_000_000), self._has_ended)
        batch += self._read_checkpoints()
        return batch

    def delivered(self, view: SpanView) -> None:
        """The collector took this span."""
        self.counts.exported += 1
        for writer in view.writers:
            self._writers[writer].shown += 1

    def left_out(self, view: SpanView) -> None:
        """Sampling keeps this span back."""
        self.counts.sampled_out += 1
        for writer in view.writers:
            self._writers[writer].sampled_out += 1

    @property
    def has_moved(self) -> bool:
        """Something was read since the last `save`: what is open, or becomes no span, has moved as well."""
        return self._unsaved

    def save(self) -> None:
        """Everything given out so far was delivered. Raises OSError."""
        writers: dict[str, dict[str, Any]] = {
            name: {
                "segment": follow.tail.place.segment,
                "offset": follow.tail.place.offset,
                "records": follow.records,
                "shown": follow.shown,
                "sampled_out": follow.sampled_out,
                "spanless": follow.spanless,
            }
            for name, follow in self._writers.items()
        }
        for writer, place in self._joiner.open_places():
            writers[writer].setdefault("open", []).append([place.segment, place.offset])
        self._check(writers)
        state = {
            "version": 1,
            "exported": self.counts.exported,
            "sampled_out": self.counts.sampled_out,
            "unreadable": self.counts.unreadable,
            "checkpoints": self._checkpoint_offset,
            "writers": writers,
        }
        part = self._cursor.with_name(self._cursor.name + ".part")
        self._cursor.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with part.open("w", encoding="ascii") as file:
            part.chmod(0o600)
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._cursor)
        self._unsaved = False

    def _check(self, writers: dict[str, dict[str, Any]]) -> None:
        """Tell, once for each number, of records that are read and in no span: there should be none."""
        for name, found in accounts({}.fromkeys(writers, 0), {"writers": writers}).items():
            if found.lost != self._writers[name].lost:
                self._writers[name].lost = found.lost
                log.error("telemetry.lost", writer=name, records=found.lost)

    def close(self) -> None:
        """Let go of all files."""
        for follow in self._writers.values():
            follow.tail.close()

    def _read_writer(self, name: str, follow: _Follow, batch: list[SpanView]) -> bool:
        """Take what was added; False if that was nothing."""
        running = is_running(self._directory / name)  # asked before reading, so that its last lines are read
        try:
            lines = follow.tail.read(READ_AT_ONCE)
        except (TailError, OSError) as trouble:
            # the checkpointer and the verifier say what is wrong; here it only must not stop the others
            log.error("telemetry.unreadable", writer=name, error=str(trouble))
            follow.damaged = True
            follow.tail.close()
            return False
        for line in lines:
            batch += self._take(name, line.data, line.place)
        follow.records += len(lines)
        self._unsaved |= bool(lines)
        if not lines and not running:
            follow.ended = True
            follow.tail.close()
        return bool(lines)

    def _take(self, writer: str, data: bytes, place: Position) -> Iterator[SpanView]:
        try:
            line = parse_line(data)
            if line.writer != writer:
                raise RecordError("a line of another writer")
        except RecordError as trouble:
            self.counts.unreadable += 1
            self._writers[writer].spanless += 1
            log.error("telemetry.no_record", writer=writer, offset=place.offset, error=str(trouble))
            return
        if is_spanless(line):
            self._writers[writer].spanless += 1
            return
        yield from self._joiner.take(line, LinePlace(writer, place))

    def _read_checkpoints(self) -> Iterator[SpanView]:
        try:
            with (self._directory / CHECKPOINTS).open("rb") as file:
                file.seek(self._checkpoint_offset)
                notes, _ = split_notes(file.read(CHUNK))
        except OSError:
            return
        for raw in notes:
            self._checkpoint_offset += len(raw) + 1
            try:
                yield checkpoint_span(parse_checkpoint(parse_note(raw).text), sha256(raw).hexdigest())
            except (NoteError, CheckpointError) as trouble:
                self.counts.unreadable += 1
                log.error("telemetry.no_checkpoint", error=str(trouble))

    def _discover(self) -> None:
        try:
            present = list_writers(self._directory)
        except OSError:
            return
        for name in present:
            if name not in self._writers:
                self._writers[name] = _Follow(WriterTail(self._directory / name))

    def _has_ended(self, writer: str) -> bool:
        follow = self._writers.get(writer)
        return follow is None or follow.ended or follow.damaged

    def _load(self) -> None:
        try:
            state = json.loads(self._cursor.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as trouble:
            log.error("telemetry.cursor_lost", error=str(trouble), consequence="everything is exported again")
            return
        try:
            self._restore(state)
        except (KeyError, TypeError, ValueError, AttributeError):
            log.error("telemetry.cursor_lost", consequence="everything is exported again")
            self._joiner, self._writers, self._checkpoint_offset = Joiner(), {}, 0

    def _restore(self, state: dict[str, Any]) -> None:
        present = set(list_writers(self._directory)) if self._directory.exists() else set()
        self.counts = Counts(int(state["exported"]), int(state["sampled_out"]), int(state["unreadable"]))
        self._checkpoint_offset = int(state["checkpoints"])
        reopened: list[tuple[str, Position]] = []
        for name, kept in state["writers"].items():
            if name not in present:
                continue  # purged
            start = Position(int(kept["segment"]), int(kept["offset"]))
            records = int(kept.get("records", start.segment))
            follow = _Follow(WriterTail(self._directory / name, start), records)
            # a cursor of an older version: what it read is taken as delivered
            follow.shown = int(kept.get("shown", max(0, records - len(kept.get("open", ())))))
            follow.sampled_out = int(kept.get("sampled_out", 0))
            follow.spanless = int(kept.get("spanless", 0))
            self._writers[name] = follow
            reopened += [(name, Position(int(at[0]), int(at[1]))) for at in kept.get("open", ())]
        lines = []
        for name, place in reopened:
            try:
                lines.append((parse_line(read_line_at(self._directory, name, place)), LinePlace(name, place)))
            except (TailError, RecordError, OSError) as trouble:
                log.error("telemetry.no_record", writer=name, offset=place.offset, error=str(trouble))
        for line, at in sorted(lines, key=lambda pair: (pair[0].at, pair[0].seq)):
            self._restored += self._joiner.take(line, at)
