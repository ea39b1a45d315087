"""Finds payloads whose time is over, and erases them in place: the bytes go, the chain stays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from extproc.adapters.ledger_reader import CHECKPOINTS, CHUNK, list_segments, list_writers
from extproc.adapters.ledger_scan import raw_lines, writer_lines
from extproc.domain.errors import ExtprocError
from extproc.domain.record import INTENT, OUTCOME
from extproc.ledger.checkpoint import CheckpointError, WriterHead, parse_checkpoint
from extproc.ledger.lines import ZERO_HASH, Line, RecordError, format_time, parse_line, role_of
from extproc.ledger.note import NoteError, iter_notes, parse_note
from extproc.ledger.payloads import (
    HEADER_SIZE,
    SEAL_SIZE,
    build_erased_header,
    is_erased,
    key_offset_of,
    parse_header,
    parse_ref,
)
from extproc.ledger.retention import ROLE, KeepRule, LegalHold, people_of
from extproc.ledger.sealing import KEY_ENTRY_SIZE, build_erased_key, key_segment_of

LOCK = "retention.lock"
"""Held by whoever erases, and by whoever makes or ends a legal hold."""
ZEROS = bytes(1 << 16)


class RetentionError(ExtprocError):
    """The records of legal holds are not whole: nobody can tell what must be kept."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A payload as its line names it."""

    seq: int
    ref: str
    size: int
    sealed: bool = False

    @property
    def stored(self) -> int:
        """Bytes of its body on the disk."""
        return self.size + SEAL_SIZE if self.sealed else self.size


@dataclass(slots=True)
class Due:
    """Payloads of one name in one writer whose time is over."""

    writer: str
    payload: str
    entries: list[Entry] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    """What a purge would erase, what legal holds keep, and how many entries are not what their lines say."""

    dues: list[Due] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)
    odd: int = 0

    @property
    def count(self) -> int:
        """Payloads to erase."""
        return sum(len(due.entries) for due in self.dues)

    @property
    def size(self) -> int:
        """Their bytes."""
        return sum(entry.size for due in self.dues for entry in due.entries)


def retention_lines(directory: Path) -> Iterator[Line]:
    """Records of all retention writers, each whole and as long as the checkpoints say.

    Raises RetentionError where one is damaged or gone, and OSError. Signatures are not checked here.
    """
    signed = _signed_heads(directory)
    present = [writer for writer in list_writers(directory) if role_of(writer) == ROLE]
    for writer in sorted({*signed, *present}):
        due = signed.get(writer)
        if writer not in present:
            raise _damaged(writer, 0)
        prev, seq = ZERO_HASH, 0
        for segment in list_segments(directory / writer):
            if segment.first != seq:
                raise _damaged(writer, seq)
            for raw in raw_lines(segment):
                try:
                    line = parse_line(raw)
                except RecordError:
                    raise _damaged(writer, seq) from None
                if (line.writer, line.seq, line.prev) != (writer, seq, prev):
                    raise _damaged(writer, seq)
                prev, seq = line.hash, seq + 1
                if due is not None and due.size == seq and due.head != prev:
                    raise _damaged(writer, seq - 1)
                yield line
        if due is not None and due.size > seq:
            raise _damaged(writer, seq)


def _damaged(writer: str, seq: int) -> RetentionError:
    return RetentionError(
        f"{writer}:{seq} is damaged or gone, and with it perhaps legal holds: run `extproc ledger verify`"
    )


def _signed_heads(directory: Path) -> dict[str, WriterHead]:
    """What the latest checkpoints say of retention writers. Raises RetentionError and OSError."""
    heads: dict[str, WriterHead] = {}
    log = directory / CHECKPOINTS
    if not log.exists():
        return heads
    with log.open("rb") as file:
        for raw, whole in iter_notes(iter(lambda: file.read(CHUNK), b"")):
            if whole:
                try:
                    found = parse_checkpoint(parse_note(raw).text).heads
                except (NoteError, CheckpointError):
                    raise RetentionError(
                        f"{CHECKPOINTS} is damaged: nobody can tell whether legal holds are missing"
                    ) from None
                heads |= {head.writer: head for head in found if role_of(head.writer) == ROLE}
    return heads


def plan_purge(directory: Path, rules: Iterable[KeepRule], holds: Iterable[LegalHold], now: float) -> Plan:
    """Look at every record; the first rule that is for a payload decides. Raises OSError."""
    plan = Plan()
    kept = [(rule, format_time(max(0.0, now - rule.keep))) for rule in rules]
    standing = list(holds)
    for writer in list_writers(directory):
        dues: dict[str, Due] = {}
        for line, people in _with_people(writer_lines(directory, writer)):
            for name, place in line.payloads.items():
                before = next((before for rule, before in kept if rule.is_for(line, name, people or ())), "")
                if line.at >= before:
                    continue
                entry = Entry(line.seq, place.ref, place.size, bool(place.sealed))
                state = _state_of(directory / writer, entry)
                plan.odd += state == "odd"
                if state != "there":
                    continue
                holding = [hold for hold in standing if hold.covers(line, people)]
                for hold in holding:
                    plan.held[hold.id] = plan.held.get(hold.id, 0) + 1
                if not holding:
                    dues.setdefault(name, Due(writer, name)).entries.append(entry)
        plan.dues += dues.values()
    return plan


def _with_people(lines: Iterable[Line]) -> Iterator[tuple[Line, tuple[str, ...] | None]]:
    """One writer's records with who they are about. An outcome does not say who asked: its intent does."""
    asked: dict[str, tuple[str, ...]] = {}
    for line in lines:
        decision = str(line.fields.get("decision_id", ""))
        people: tuple[str, ...] | None = people_of(line)
        if line.kind == INTENT:
            asked[decision] = people or ()
        elif line.kind == OUTCOME:
            people = people or asked.pop(decision, None)
        yield line, people


def erase(directory: Path, due: Due) -> None:
    """Overwrite each entry's key, then its salt and body with zeros and sync. Raises OSError.

    What is no entry of the length that its line says is left as it is; an erasure cut short is finished.
    """
    for file_name, places in _by_file(due).items():
        _erase_keys(directory / due.writer / file_name, places)
        fd = os.open(directory / due.writer / file_name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            for offset, size in places:
                header = parse_header(os.pread(fd, HEADER_SIZE, offset))
                if header is None or header.size != size:
                    continue
                # the salt first: without it the commitment tells nothing, should we die in between
                os.pwrite(fd, build_erased_header(size), offset)
                for at in range(0, size, len(ZEROS)):
                    os.pwrite(fd, ZEROS[: size - at], offset + HEADER_SIZE + at)
            os.fsync(fd)
        finally:
            os.close(fd)


def _erase_keys(payloads: Path, entries: list[tuple[int, int]]) -> None:
    """The keys of sealed entries: with them every copy of the payloads is erased."""
    with payloads.open("rb") as file:
        places = [_key_place(os.pread(file.fileno(), HEADER_SIZE, offset)) for offset, _ in entries]
    found = [place for place in places if place is not None]
    path = payloads.with_name(key_segment_of(payloads.name))
    if not found or not path.exists():
        return  # a copy without keys
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size
        for place in found:
            if place + KEY_ENTRY_SIZE <= size:
                os.pwrite(fd, build_erased_key(), place)
        os.fsync(fd)
    finally:
        os.close(fd)


def _key_place(data: bytes) -> int | None:
    header = parse_header(data)
    return key_offset_of(header) if header is not None else None


def _by_file(due: Due) -> dict[str, list[tuple[int, int]]]:
    files: dict[str, list[tuple[int, int]]] = {}
    for entry in due.entries:
        place = parse_ref(entry.ref)
        if place is not None:
            files.setdefault(place[0], []).append((place[1], entry.stored))
    return files


def _state_of(writer: Path, entry: Entry) -> str:
    """`there`, `gone` (erased before, or not there), or `odd`: not as long as its line says."""
    place = parse_ref(entry.ref)
    if place is None:
        return "gone"
    try:
        with (writer / place[0]).open("rb") as file:
            file.seek(place[1])
            header = parse_header(file.read(HEADER_SIZE))
    except OSError:
        return "gone"
    if header is None:
        return "gone"
    if header.size != entry.stored:
        return "odd"
    has_rest = not is_erased(header) or _has_rest(writer / place[0], place[1], header.size)
    return "there" if has_rest else "gone"


def _has_rest(path: Path, offset: int, size: int) -> bool:
    """A crash in the middle of an erasure left some of the body."""
    with path.open("rb") as file:
        file.seek(offset + HEADER_SIZE)
        left = size
        while left > 0 and (chunk := file.read(min(left, len(ZEROS)))):
            if chunk.strip(b"\0"):
                return True
            left -= len(chunk)
    return False
