"""Reading a ledger's files: what is there, where a writer ended, and what was added since."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from extproc.domain.errors import ExtprocError
from extproc.ledger.lines import MAX_LINE, ZERO_HASH, RecordError, is_writer_id, parse_line
from extproc.ledger.payloads import HEADER_SIZE, SEAL_SIZE, is_sealed, parse_header, parse_ref

CHUNK = 1 << 20
CHECKPOINTS = "checkpoints.log"
PUBLIC_KEY = "checkpoint.pub"
ALARM = "alarm.json"

_SEGMENT = re.compile(r"([0-9]{12})\.jsonl\Z")


class TailError(ExtprocError):
    """A segment is not what it was: `code` is missing, replaced, shrunken, torn or oversized."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One line segment; `first` is the sequence number in its name."""

    first: int
    path: Path

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, a megabyte at a time. Raises OSError."""
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk


class WriterEnd(NamedTuple):
    """Where a writer's files end: the last whole line, and what stands torn behind it.

    `seq` is -1 and `head` zeros when there is no whole line; `readable` is False if that line is no record.
    """

    seq: int
    head: str
    readable: bool
    torn_bytes: int
    torn_digest: str
    segment: str
    offset: int


class Position(NamedTuple):
    """A place in a writer's lines: the segment's first sequence number and a byte offset in it."""

    segment: int
    offset: int


class TailLine(NamedTuple):
    """One whole line without its newline, and where it begins."""

    data: bytes
    place: Position


def segment_name(first: int) -> str:
    """The line segment's file name."""
    return f"{first:012d}.jsonl"


def payload_segment_name(first: int) -> str:
    """The payload segment's file name."""
    return f"{first:012d}.payloads"


def list_writers(directory: Path) -> list[str]:
    """Writer ids in the order of their names. Raises OSError."""
    with os.scandir(directory) as entries:
        return sorted(e.name for e in entries if is_writer_id(e.name) and e.is_dir(follow_symlinks=False))


def list_segments(writer_directory: Path) -> list[SegmentFile]:
    """A writer's line segments in order. Raises OSError."""
    found = ((_SEGMENT.match(name), name) for name in os.listdir(writer_directory))  # noqa: PTH208
    return sorted(
        (SegmentFile(int(match[1]), writer_directory / name) for match, name in found if match is not None),
        key=lambda segment: segment.first,
    )


def is_running(writer_directory: Path) -> bool:
    """Does a living process hold this writer?"""
    try:
        fd = os.open(writer_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def read_end(writer_directory: Path) -> WriterEnd:
    """Find the last whole line by reading backwards. Raises OSError."""
    torn: tuple[int, str, str, int] = (0, "", "", 0)
    for segment in reversed(list_segments(writer_directory)):
        size = segment.path.stat().st_size
        end = _last_newline(segment.path, size) + 1
        if end < size and not torn[0]:
            torn = (size - end, _digest(segment.path, end), segment.path.name, end)
        if end:
            start = _last_newline(segment.path, end - 1) + 1
            line = _read_at(segment.path, start, min(end - 1 - start, MAX_LINE))
            seq, readable = _seq_of(line)
            return WriterEnd(seq, sha256(line).hexdigest(), readable, *torn)
    return WriterEnd(-1, ZERO_HASH, True, *torn)


def read_first_line(segment: Path) -> bytes:
    """A segment's first line without its newline; empty if there is no whole one. Raises OSError."""
    line, newline, _ = _read_at(segment, 0, MAX_LINE).partition(b"\n")
    return line if newline else b""


def read_line_at(directory: Path, writer: str, place: Position) -> bytes:
    """The whole line at a place, without its newline. Raises TailError or OSError."""
    data = _read_at(directory / writer / segment_name(place.segment), place.offset, MAX_LINE)
    line, newline, _ = data.partition(b"\n")
    if not newline:
        raise TailError("torn", f"no whole line at {writer}:{place.segment}+{place.offset}")
    return line


def read_payload_entry(directory: Path, writer: str, ref: str, size: int) -> bytes | None:
    """Header and body of a payload entry; None if its file or place is not there."""
    found = parse_ref(ref)
    if found is None or not is_writer_id(writer):
        return None
    try:
        with (directory / writer / found[0]).open("rb") as file:
            file.seek(found[1])
            header = file.read(HEADER_SIZE)
            entry = parse_header(header)
            if entry is None:
                return header or None
            # the line says how long the payload is: nothing longer is read, whatever the entry claims
            longest = size + SEAL_SIZE if is_sealed(entry) else size
            return header + file.read(min(entry.size, longest))
    except OSError:
        return None


class WriterTail:
    """Follows one writer's segments from a place on. `read` gives whole lines only."""

    def __init__(self, writer_directory: Path, start: Position | None = None) -> None:
        self._directory = writer_directory
        self.place = start or Position(0, 0)
        self._fd = -1
        self._inode = 0
        self._known: set[int] = set()

    def read(self, limit: int = CHUNK) -> list[TailLine]:
        """Lines added since, roughly `limit` bytes at most; empty when there are none. Raises TailError."""
        try:
            return self._read(limit)
        except FileNotFoundError:
            raise TailError("missing", f"{self._directory.name}: a segment is gone") from None

    def close(self) -> None:
        """Let go of the open segment; it is opened again when there is something to read."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self, limit: int) -> list[TailLine]:
        while True:
            # look for a successor first: if there is one, the current segment is complete
            following = self._following()
            if following is None and not self._known:
                return []
            fd = self._open()
            size = os.fstat(fd).st_size
            if size < self.place.offset:
                raise TailError("shrunken", f"{self._directory.name}: a segment is shorter than it was")
            data = os.pread(fd, limit, self.place.offset)
            if len(data) == limit and b"\n" not in data:
                data = os.pread(fd, max(limit, MAX_LINE), self.place.offset)
            lines = self._whole_lines(data)
            if lines:
                return lines
            if following is None:
                return []
            if size != self.place.offset:
                raise TailError("torn", f"{self._directory.name}: a partial line in the middle")
            self.close()
            self._inode = 0
            self.place = Position(following, 0)

    def _whole_lines(self, data: bytes) -> list[TailLine]:
        end = data.rfind(b"\n") + 1
        if not end:
            if len(data) >= MAX_LINE:
                raise TailError("oversized", f"{self._directory.name}: a line is too long")
            return []
        lines = []
        segment, offset = self.place
        for line in data[: end - 1].split(b"\n"):
            lines.append(TailLine(line, Position(segment, offset)))
            offset += len(line) + 1
        self.place = Position(segment, offset)
        return lines

    def _following(self) -> int | None:
        present = {segment.first for segment in list_segments(self._directory)}
        if not self._known <= present:
            raise TailError("missing", f"{self._directory.name}: a segment is gone")
        self._known = present
        later = [first for first in present if first > self.place.segment]
        return min(later) if later else None

    def _open(self) -> int:
        path = self._directory / segment_name(self.place.segment)
        inode = path.stat().st_ino
        if inode != self._inode and self._inode:
            raise TailError("replaced", f"{self._directory.name}: a segment was replaced")
        self._inode = inode
        if self._fd < 0:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._fd


def _last_newline(path: Path, end: int) -> int:
    """Offset of the last newline before `end`, or -1."""
    with path.open("rb") as file:
        while end > 0:
            start = max(0, end - CHUNK)
            file.seek(start)
            at = file.read(end - start).rfind(b"\n")
            if at >= 0:
                return start + at
            end = start
    return -1


def _read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _digest(path: Path, offset: int) -> str:
    digest = sha256()
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _seq_of(line: bytes) -> tuple[int, bool]:
    try:
        return parse_line(line).seq, True
    except RecordError:
        return -1, False
