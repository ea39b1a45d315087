"""Reads from a ledger's files what an evidence packet is made of. It is held in memory: a packet is for a period."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from extproc.adapters.ledger_payloads import Payloads
from extproc.adapters.ledger_reader import (
    CHECKPOINTS,
    CHUNK,
    list_segments,
    list_writers,
)
from extproc.adapters.ledger_scan import raw_lines
from extproc.ledger.checkpoint import Checkpoint, Lineage, parse_checkpoint
from extproc.ledger.cut import Cut, Heads, Shown
from extproc.ledger.lines import Line, RecordError, parse_line
from extproc.ledger.note import iter_notes, parse_note

MAX_NOTES = 8 << 20
"""Bytes of checkpoints within the period that are kept one and all; beyond that only every hundredth."""


@dataclass(slots=True)
class Notes:
    """The checkpoints a packet needs: the last before the period, those in it, the latest, and every handover."""

    before: Heads | None = None
    after: Heads | None = None
    kept: list[bytes] = field(default_factory=list)
    clock: list[dict[str, Any]] = field(default_factory=list)
    last_raw: bytes = b""


def read_notes(directory: Path, since: str, until: str) -> Notes:
    """Follow the checkpoint log. Raises CheckpointError or NoteError where it does not follow itself, and OSError."""
    notes, lineage = Notes(), Lineage()
    picked: dict[int, bytes] = {}
    size = 0
    log = directory / CHECKPOINTS
    if not log.exists():
        return notes
    with log.open("rb") as file:
        for raw, whole in iter_notes(iter(lambda: file.read(CHUNK), b"")):
            if not whole:
                break
            checkpoint = parse_checkpoint(parse_note(raw).text)
            before = lineage.last
            if notes.before is None and before is not None and before.time < since <= checkpoint.time:
                notes.before = Heads(lineage.number, dict(lineage.heads))
                picked[lineage.number] = notes.last_raw
            lineage.follow(raw, checkpoint)
            notes.last_raw = raw
            if since <= checkpoint.time < until:
                notes.clock.append(_clock(checkpoint))
                if size < MAX_NOTES or checkpoint.number % 100 == 0 or checkpoint.alarms:
                    picked[checkpoint.number] = raw
                    size += len(raw)
            elif checkpoint.next_key is not None:
                picked[checkpoint.number] = raw
    if lineage.number >= 0:
        notes.after = Heads(lineage.number, dict(lineage.heads))
        picked[lineage.number] = notes.last_raw
        if notes.before is None and lineage.last is not None and lineage.last.time < since:
            notes.before = notes.after
    notes.kept = [picked[number] for number in sorted(picked)]
    return notes


@dataclass(slots=True)
class Found:
    """What the cut does not hold: policy and settings when the period began, and the latest policy before its end."""

    hashes: dict[str, list[bytes]] = field(default_factory=dict)
    policy_before: tuple[Line, bytes] | None = None
    settings_before: tuple[Line, bytes] | None = None
    policy_last: Line | None = None


def cut_ledger(directory: Path, cut: Cut, shown: Shown, custody: str) -> Found:
    """Take every writer's part of the period; all of the writer `custody`. Raises OSError, RecordError.

    Damaged ledgers are not cut: `verify` comes first.
    """
    found = Found()
    for writer in list_writers(directory):
        hashes, times = [], []
        for raw in _lines(directory, writer):
            line = parse_line(raw)
            hashes.append(bytes.fromhex(line.hash))
            times.append(line.at)
            if (
                line.kind == "config.loaded"
                and line.at < cut.since
                and _is_later(line, found.settings_before)
            ):
                found.settings_before = line, raw
            if line.kind == "policy.activated" and line.at < cut.until:
                if line.at < cut.since and _is_later(line, found.policy_before):
                    found.policy_before = line, raw
                if found.policy_last is None or found.policy_last.at <= line.at:
                    found.policy_last = line
        found.hashes[writer] = hashes
        cut.add_writer(writer, hashes, times, _reader(directory, writer), shown, whole=writer == custody)
    for before in (found.policy_before, found.settings_before):
        if before is not None:
            cut.add_record(found.hashes[before[0].writer], *before)
    return found


def _is_later(line: Line, known: tuple[Line, bytes] | None) -> bool:
    return known is None or known[0].at <= line.at


def holds_of(directory: Path, target: str) -> frozenset[str]:
    """Ids of the holds on a target. Raises OSError."""
    holds = set()
    for writer in list_writers(directory):
        for raw in _lines(directory, writer):
            if b'"kind":"hold.opened"' in raw:
                try:
                    line = parse_line(raw)
                except RecordError:
                    continue
                if line.fields.get("target") == target:
                    holds.add(str(line.fields.get("hold")))
    return frozenset(holds)


class PayloadShelf:
    """Reads payloads that still are what their lines commit to, and keeps what was read for the packet."""

    def __init__(self, files: Payloads, limit: int) -> None:
        """`limit` is in bytes over all payloads; what does not fit is left out and counted in `left_out`."""
        self._files = files
        self._room = limit
        self._taken: dict[tuple[str, int, str], dict[str, Any]] = {}
        self.left_out = 0

    def read(self, line: Line, name: str) -> bytes | None:
        """The payload's bytes; None if the line names none, it is gone, changed or sealed, or there is no room."""
        place = line.payloads.get(name)
        if place is None:
            return None
        state, body, salt = self._files.read(line, name)
        if state != "good":
            self.left_out += 1
            return None
        key = (line.writer, line.seq, name)
        if key not in self._taken:
            if place.size > self._room:
                self.left_out += 1
                return None
            self._room -= place.size
            self._taken[key] = entry_for_packet(line, name, salt, body)
        return body

    def rows(self) -> list[dict[str, Any]]:
        """`ledger/payloads.jsonl`."""
        return [self._taken[key] for key in sorted(self._taken)]


def entry_for_packet(line: Line, name: str, salt: bytes, body: bytes) -> dict[str, Any]:
    """A payload with the salt of its commitment, as text where it is text."""
    row: dict[str, Any] = {"writer": line.writer, "seq": line.seq, "name": name, "salt": salt.hex()}
    try:
        return row | {"text": body.decode("utf-8")}
    except UnicodeDecodeError:
        return row | {"base64": base64.b64encode(body).decode()}


def _lines(directory: Path, writer: str) -> Iterator[bytes]:
    for segment in list_segments(directory / writer):
        yield from raw_lines(segment)


def _reader(directory: Path, writer: str) -> Callable[[int, int], Iterable[tuple[Line, bytes]]]:
    def read(first: int, last: int) -> Iterator[tuple[Line, bytes]]:
        for raw in islice(_lines(directory, writer), first, last + 1):
            yield parse_line(raw), raw

    return read


def _clock(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.number,
        "time": checkpoint.time,
        "source": checkpoint.clock.source,
        "offset_us": checkpoint.clock.offset_us,
    }
