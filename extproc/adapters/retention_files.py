"""Finds payloads whose time is over, and erases them in place: the bytes go, the chain stays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from extproc.adapters.ledger_reader import list_writers
from extproc.adapters.ledger_scan import writer_lines
from extproc.domain.record import INTENT
from extproc.ledger.lines import Line, format_time, role_of
from extproc.ledger.payloads import HEADER_SIZE, build_erased_header, is_erased, parse_header, parse_ref
from extproc.ledger.retention import ROLE, KeepRule, LegalHold, people_of

ZEROS = bytes(1 << 16)


@dataclass(slots=True)
class Due:
    """Payloads of one name in one writer whose time is over: sequence number and place of each."""

    writer: str
    payload: str
    places: list[tuple[int, str]] = field(default_factory=list)
    size: int = 0


@dataclass(slots=True)
class Plan:
    """What a purge would erase, and what legal holds keep."""

    dues: list[Due] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Payloads to erase."""
        return sum(len(due.places) for due in self.dues)

    @property
    def size(self) -> int:
        """Their bytes."""
        return sum(due.size for due in self.dues)


def retention_lines(directory: Path) -> Iterator[Line]:
    """Records of all retention writers. Raises OSError."""
    for writer in list_writers(directory):
        if role_of(writer) == ROLE:
            yield from writer_lines(directory, writer)


def plan_purge(directory: Path, rules: Iterable[KeepRule], holds: Iterable[LegalHold], now: float) -> Plan:
    """Look at every record; the first rule that is for a payload decides. Raises OSError."""
    plan = Plan()
    kept = [(rule, format_time(max(0.0, now - rule.keep))) for rule in rules]
    standing = list(holds)
    for writer in list_writers(directory):
        dues: dict[str, Due] = {}
        asked: dict[str, tuple[str, ...]] = {}  # an outcome does not say who asked: its intent does
        for line in writer_lines(directory, writer):
            decision = str(line.fields.get("decision_id", ""))
            people = people_of(line) or asked.pop(decision, ())
            if line.kind == INTENT:
                asked[decision] = people
            for name, place in line.payloads.items():
                target = str(line.fields.get("target", ""))
                before = next((before for rule, before in kept if rule.is_for(target, name)), "")
                if line.at >= before or _is_gone(directory / writer, place.ref):
                    continue
                holding = [hold for hold in standing if hold.covers(line, people)]
                for hold in holding:
                    plan.held[hold.id] = plan.held.get(hold.id, 0) + 1
                if not holding:
                    due = dues.setdefault(name, Due(writer, name))
                    due.places.append((line.seq, place.ref))
                    due.size += place.size
        plan.dues += dues.values()
    return plan


def erase(directory: Path, due: Due) -> None:
    """Overwrite each entry's salt and body with zeros and sync. Raises OSError.

    What is no entry is left as it is; an erasure that a crash cut short is finished.
    """
    for file_name, offsets in _by_file(due).items():
        fd = os.open(directory / due.writer / file_name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            for offset in offsets:
                header = parse_header(os.pread(fd, HEADER_SIZE, offset))
                if header is None:
                    continue
                # the salt first: without it the commitment tells nothing, should we die in between
                os.pwrite(fd, build_erased_header(header.size), offset)
                for at in range(0, header.size, len(ZEROS)):
                    os.pwrite(fd, ZEROS[: header.size - at], offset + HEADER_SIZE + at)
            os.fsync(fd)
        finally:
            os.close(fd)


def _by_file(due: Due) -> dict[str, list[int]]:
    files: dict[str, list[int]] = {}
    for _, ref in due.places:
        place = parse_ref(ref)
        if place is not None:
            files.setdefault(place[0], []).append(place[1])
    return files


def _is_gone(writer: Path, ref: str) -> bool:
    """Erased before, or not there."""
    place = parse_ref(ref)
    if place is None:
        return True
    try:
        with (writer / place[0]).open("rb") as file:
            file.seek(place[1])
            header = parse_header(file.read(HEADER_SIZE))
    except OSError:
        return True
    return header is None or (is_erased(header) and not _has_rest(writer / place[0], place[1], header.size))


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
