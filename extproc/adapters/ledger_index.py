"""Which ids stand in which segment, so that a search by id reads the few segments that can have it.

The index is a file of its own beside the ledger, made from the segments and worth nothing without them: an answer is
always read from the segments. A segment is passed over only if the index knows it as it is now, size and all, and
lacks the id; an index that is missing, old, damaged or unreadable costs time and changes no answer.
"""

from __future__ import annotations

import os
import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, Final, Self

from extproc.adapters.ledger_reader import SegmentFile, is_running, list_segments, list_writers
from extproc.adapters.ledger_scan import parsed, raw_lines
from extproc.ledger.lines import Line

NAME: Final = "ledger-index.db"
VERSION: Final = 1
WIDTH: Final = 8
"""Bytes of each id's digest: two ids that share one cost a needless reading and nothing else."""
_MADE = (
    f"PRAGMA user_version = {VERSION}; CREATE TABLE segments (writer TEXT NOT NULL, first INTEGER NOT NULL,"
    " size INTEGER NOT NULL, checked BLOB NOT NULL, ids BLOB NOT NULL, PRIMARY KEY (writer, first)) WITHOUT ROWID"
)

Skips = Callable[[SegmentFile], bool]


def place_of(directory: Path) -> Path:
    """The index of the ledger in `directory`."""
    return directory.parent / NAME


class LedgerIndex:
    """An index opened for one search. Close it, or use it as a context."""

    def __init__(self, directory: Path) -> None:
        self._db: sqlite3.Connection | None = None
        path = place_of(directory)
        if path.exists():
            try:
                self._db = sqlite3.connect(
                    f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False
                )
                if self._db.execute("PRAGMA user_version").fetchone() != (VERSION,):
                    self.close()
            except sqlite3.Error:
                self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """No segment is passed over from now on."""
        if self._db is not None:
            self._db.close()
        self._db = None

    def skips(self, writer: str, ids: Sequence[str]) -> Skips:
        """Says of a writer's segments whether they certainly hold no record with one of these ids."""
        digests = [_digest(each) for each in ids]
        return lambda segment: bool(digests) and self._lacks(writer, segment, digests)

    def _lacks(self, writer: str, segment: SegmentFile, digests: Sequence[bytes]) -> bool:
        if self._db is None:
            return False
        try:
            row = self._db.execute(
                "SELECT size, checked, ids FROM segments WHERE writer = ? AND first = ?",
                (writer, segment.first),
            ).fetchone()
            if row is None or row[0] != segment.path.stat().st_size:
                return False
            if not isinstance(row[2], bytes) or row[1] != _checked(writer, segment.first, row[0], row[2]):
                return False
        except (sqlite3.Error, OSError, ValueError, OverflowError):
            return False
        return not any(_has(row[2], digest) for digest in digests)


def build_index(directory: Path, *, anew: bool = True) -> tuple[int, int]:
    """Index every segment that is closed: (segments in the index, how many were read for it).

    Without `anew` those that the old index knows as they are now are taken over. The new index takes the old one's
    place whole or not at all. Raises OSError.
    """
    path = place_of(directory)
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    known = {} if anew else _rows(path)
    read = 0
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(sqlite3.connect(part)) as db:
            db.executescript(_MADE)
            for writer in list_writers(directory):
                for segment in _closed(directory, writer):
                    size = segment.path.stat().st_size
                    row = known.get((writer, segment.first))
                    if (
                        row is None
                        or row[0] != size
                        or row[1] != _checked(writer, segment.first, *_sized(row))
                    ):
                        read += 1
                        ids = _ids_of(segment)
                        row = (size, _checked(writer, segment.first, size, ids), ids)
                    db.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?)", (writer, segment.first, *row))
            count = db.execute("SELECT count(*) FROM segments").fetchone()[0]
            db.commit()
    except sqlite3.Error as trouble:
        raise OSError(0, f"the index cannot be written: {trouble}") from None
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    return int(count), read


def ids_in(line: Line) -> Iterator[str]:
    """Every id that a search may name, as it stands in a record."""
    fields = line.fields
    trace, hold = fields.get("trace"), fields.get("hold")
    found = [
        fields.get("session_id"),
        fields.get("decision_id"),
        fields.get("trace_id"),
        fields.get("grant"),
        hold,
    ]
    if isinstance(trace, Mapping):
        found.append(trace.get("trace_id"))
    if isinstance(hold, Mapping):
        grant = hold.get("grant")
        found += [hold.get("id"), grant.get("id") if isinstance(grant, Mapping) else None]
    return (each for each in found if isinstance(each, str) and each)


def _closed(directory: Path, writer: str) -> Sequence[SegmentFile]:
    """All but the one that somebody may be writing."""
    running = is_running(directory / writer)  # asked first: what ends meanwhile is indexed the next time
    segments = list_segments(directory / writer)
    return segments[:-1] if running else segments


def _ids_of(segment: SegmentFile) -> bytes:
    found = {_digest(each) for line in parsed(raw_lines(segment)) for each in ids_in(line)}
    return b"".join(sorted(found))


def _rows(path: Path) -> dict[tuple[str, int], tuple[Any, Any, Any]]:
    """What an index has; nothing if it cannot be read."""
    if not path.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as db:
            if db.execute("PRAGMA user_version").fetchone() != (VERSION,):
                return {}
            rows = db.execute("SELECT writer, first, size, checked, ids FROM segments")
            return {(writer, first): (size, checked, ids) for writer, first, size, checked, ids in rows}
    except sqlite3.Error:
        return {}


def _sized(row: tuple[Any, Any, Any]) -> tuple[int, bytes]:
    return row[0], row[2] if isinstance(row[2], bytes) else b""


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=WIDTH).digest()


def _checked(writer: str, first: int, size: int, ids: bytes) -> bytes:
    return sha256(f"{writer} {first} {size} ".encode() + ids).digest()


def _has(ids: bytes, digest: bytes) -> bool:
    count = len(ids) // WIDTH
    at = bisect_left(range(count), digest, key=lambda number: ids[number * WIDTH : (number + 1) * WIDTH])
    return at < count and ids[at * WIDTH : (at + 1) * WIDTH] == digest
