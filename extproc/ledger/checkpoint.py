"""What a checkpoint says: every writer's tree, and the checkpoint before (docs/ledger.md, section 5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from extproc.domain.errors import ExtprocError
from extproc.ledger.lines import ZERO_HASH, RecordError, is_hash, is_writer_id, parse_time
from extproc.ledger.merkle import root_of
from extproc.ledger.note import NoteError, NoteKey, is_key_name, parse_key

TITLE = "extproc-ledger-checkpoint/v1"
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,17})\Z")
_OFFSET = re.compile(r"(?:unknown|0|-?[1-9][0-9]{0,17})\Z")
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")


class CheckpointError(ExtprocError):
    """A checkpoint that cannot be read or does not follow the one before."""


@dataclass(frozen=True, slots=True)
class WriterHead:
    """A writer's tree: how many records, the root over them, the hash of the last. Hashes in hex."""

    writer: str
    size: int
    root: str
    head: str

    def __str__(self) -> str:
        return f"writer {self.writer} {self.size} {self.root} {self.head}"


@dataclass(frozen=True, slots=True)
class Alarm:
    """The checkpointer refuses `writer` from record `seq` on."""

    writer: str
    seq: int
    code: str


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the time comes from and how far off the kernel thinks it is, in microseconds (None: unknown)."""

    source: str = "unknown"
    offset_us: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint's text. `time` is RFC 3339; `heads` are sorted by writer and only those `scope` asks for."""

    origin: str
    number: int
    previous: str
    time: str
    heads: tuple[WriterHead, ...]
    writers: int
    writers_root: str
    records: int
    full: bool = True
    clock: Clock = Clock()
    counts: Mapping[str, int] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()
    next_key: NoteKey | None = None

    def to_text(self) -> bytes:
        """The note's text."""
        offset = "unknown" if self.clock.offset_us is None else self.clock.offset_us
        lines = [
            TITLE,
            f"origin {self.origin}",
            f"number {self.number}",
            f"previous {self.previous}",
            f"time {self.time}",
            f"clock {self.clock.source} {offset}",
            f"scope {'full' if self.full else 'moved'}",
            f"records {self.records}",
            *(f"count {name} {self.counts[name]}" for name in sorted(self.counts)),
            f"writers {self.writers} {self.writers_root}",
            *map(str, self.heads),
            *(f"alarm {alarm.writer} {alarm.seq} {alarm.code}" for alarm in self.alarms),
        ]
        if self.next_key is not None:
            lines.append(f"key {self.next_key}")
        return "".join(line + "\n" for line in lines).encode()


def parse_checkpoint(text: bytes) -> Checkpoint:
    """Read a note's text. Raises CheckpointError."""
    try:
        lines = text.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise CheckpointError("a checkpoint is ASCII") from None
    if lines.pop() != "" or not lines or lines.pop(0) != TITLE:
        raise CheckpointError("not a checkpoint of version 1")
    reader = _Reader(lines)
    try:
        return reader.read()
    except (NoteError, RecordError) as trouble:
        raise CheckpointError(str(trouble)) from None


def writers_root(heads: Iterable[WriterHead]) -> str:
    """The RFC 6962 root over all writers' lines, in hex."""
    ordered = sorted(heads, key=lambda head: head.writer)
    return root_of(str(head).encode() for head in ordered).hex()


class Lineage:
    """Walks checkpoints from the first on, and keeps what all of them together say.

    `heads` is every writer's latest signed tree. `follow` raises CheckpointError at the first that does not
    follow the one before it: number, link, shrinking writer, wrong set of writers.
    """

    def __init__(self) -> None:
        self.heads: dict[str, WriterHead] = {}
        self.number = -1
        self.digest = ZERO_HASH
        self.last: Checkpoint | None = None

    def follow(self, raw: bytes, checkpoint: Checkpoint) -> None:
        """Take the next checkpoint; `raw` is its whole note."""
        if checkpoint.number != self.number + 1:
            raise CheckpointError(f"number {checkpoint.number} where {self.number + 1} was due")
        if checkpoint.previous != self.digest:
            raise CheckpointError("it does not name the checkpoint before it")
        heads = dict(self.heads)
        for head in checkpoint.heads:
            before = heads.get(head.writer)
            if before is not None and (
                head.size < before.size or (head.size == before.size and head != before)
            ):
                raise CheckpointError(f"writer {head.writer} shrinks or changes")
            heads[head.writer] = head
        if checkpoint.full and len(heads) != len(checkpoint.heads):
            raise CheckpointError("a full checkpoint leaves out a writer")
        if checkpoint.writers != len(heads) or checkpoint.writers_root != writers_root(heads.values()):
            raise CheckpointError("the writers' root is wrong")
        if checkpoint.records != sum(head.size for head in heads.values()):
            raise CheckpointError("the number of records is wrong")
        self.heads = heads
        self.number = checkpoint.number
        self.digest = sha256(raw).hexdigest()
        self.last = checkpoint


class _Reader:
    """Takes a checkpoint's lines apart, strictly in their order."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._at = 0

    def read(self) -> Checkpoint:
        (origin,) = self._one("origin", 1)
        (number,) = self._one("number", 1)
        (previous,) = self._one("previous", 1)
        (time,) = self._one("time", 1)
        source, offset = self._one("clock", 2)
        (scope,) = self._one("scope", 1)
        (records,) = self._one("records", 1)
        counts = {name: _whole(count) for name, count in self._many("count", 2)}
        writers, root = self._one("writers", 2)
        heads = tuple(
            WriterHead(writer, _whole(size), _hash(tree), _hash(head))
            for writer, size, tree, head in self._many("writer", 4)
        )
        alarms = tuple(Alarm(writer, _whole(seq), code) for writer, seq, code in self._many("alarm", 3))
        keys = list(self._many("key", 1))
        parse_time(time)
        if self._at != len(self._lines) or len(keys) > 1:
            raise CheckpointError("unknown or misplaced line")
        names = [head.writer for head in heads]
        if names != sorted(set(names)) or list(counts) != sorted(counts):
            raise CheckpointError("lines are not sorted")
        if not is_key_name(origin) or scope not in ("full", "moved") or _OFFSET.match(offset) is None:
            raise CheckpointError("origin, scope or clock is malformed")
        if not all(map(is_writer_id, (*names, *(alarm.writer for alarm in alarms)))):
            raise CheckpointError("malformed writer id")
        if not all(_WORD.match(word) for word in (source, *counts, *(alarm.code for alarm in alarms))):
            raise CheckpointError("malformed word")
        return Checkpoint(
            origin=origin,
            number=_whole(number),
            previous=_hash(previous),
            time=time,
            heads=heads,
            writers=_whole(writers),
            writers_root=_hash(root),
            records=_whole(records),
            full=scope == "full",
            clock=Clock(source, None if offset == "unknown" else int(offset)),
            counts=counts,
            alarms=alarms,
            next_key=parse_key(keys[0][0]) if keys else None,
        )

    def _one(self, name: str, words: int) -> list[str]:
        found = self._take(name, words)
        if found is None:
            raise CheckpointError(f"no {name} line where one was due")
        return found

    def _many(self, name: str, words: int) -> Iterable[list[str]]:
        while (found := self._take(name, words)) is not None:
            yield found

    def _take(self, name: str, words: int) -> list[str] | None:
        if self._at == len(self._lines):
            return None
        first, *rest = self._lines[self._at].split(" ")
        if first != name or len(rest) != words:
            return None
        self._at += 1
        return rest


def _whole(text: str) -> int:
    if _NUMBER.match(text) is None:
        raise CheckpointError("malformed number")
    return int(text)


def _hash(text: str) -> str:
    if not is_hash(text):
        raise CheckpointError("malformed hash")
    return text
