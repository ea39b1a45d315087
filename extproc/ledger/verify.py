"""Checks a whole ledger against its checkpoints and names the first bad record (docs/ledger.md, section 6).

Any bytes give a report; nothing here raises because of what it read. Files come in as iterables of bytes.
"""

from __future__ import annotations

import heapq
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from extproc.ledger.checkpoint import Checkpoint, CheckpointError, Lineage, parse_checkpoint
from extproc.ledger.lines import (
    MAX_LINE,
    Line,
    RecordError,
    is_hash,
    is_writer_id,
    parse_line,
    parse_time,
    role_of,
)
from extproc.ledger.note import Note, NoteError, NoteKey, iter_notes, parse_note
from extproc.ledger.report import Problem, Report
from extproc.ledger.retention import ROLE, read_tombstones
from extproc.ledger.walk import Due, Gone, Opener, PayloadReader, Torn, Walk


@dataclass(frozen=True, slots=True)
class Segment:
    """One line segment. `chunks` may be called more than once; each time it gives all the bytes in order."""

    first: int
    name: str
    chunks: Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class WriterFiles:
    """One writer's segments, sorted by their first sequence numbers."""

    writer: str
    segments: Sequence[Segment]


def verify(
    writers: Sequence[WriterFiles],
    checkpoints: Iterable[bytes],
    key: NoteKey | None,
    payloads: PayloadReader | None = None,
    *,
    thorough: bool = False,
    opener: Opener | None = None,
) -> Report:
    """Check everything. Without `key` signatures go unchecked; without `payloads` so do the payloads.

    Without `opener` only the entries of sealed payloads are checked, not what is inside.

    `checkpoints` is the checkpoint file in chunks; it is read before the lines, so a living ledger verifies.
    """
    report = Report()
    signed = _check_checkpoints(checkpoints, key, report)
    claims = _Claims(writers)
    told = list(_records_of(files for files in writers if role_of(files.writer) == ROLE))
    erased = read_tombstones(told)
    vouched = read_tombstones(line for line in told if line.seq < signed[line.writer].last)
    for files in writers:
        dues = heapq.merge(signed[files.writer], claims.heads[files.writer], key=lambda due: due.size)
        gone = Gone(erased.get(files.writer, {}), vouched.get(files.writer, {}))
        walk = Walk(files.writer, report, dues, payloads, thorough=thorough, gone=gone, opener=opener)
        for segment in files.segments:
            walk.open_segment(segment.name, segment.first)
            for chunk in segment.chunks():
                walk.feed(chunk)
        _check_torn(files.writer, walk.finish(), claims.torn.get(files.writer), report)
    _check_absent({files.writer for files in writers}, signed, claims, report)
    unsigned = sum(writer.erased_unsigned for writer in report.writers.values())
    if unsigned:
        report.unchecked.append(f"{unsigned} payloads erased under tombstones that no checkpoint covers yet")
    if payloads is None:
        report.unchecked.append("payloads")
    sealed = sum(writer.sealed for writer in report.writers.values())
    if sealed:
        report.unchecked.append(f"what is inside {sealed} sealed payloads: their key is not here")
    if not thorough:
        report.unchecked.append("canonical form of every line")
    return report


class _SignedSizes:
    """A writer's checkpointed trees in 72 bytes each: size, head, root."""

    def __init__(self) -> None:
        self._sizes = array("Q")
        self._hashes = bytearray()

    def add(self, size: int, head: str, root: str) -> None:
        if not self._sizes or self._sizes[-1] != size:
            self._sizes.append(size)
            self._hashes += bytes.fromhex(head) + bytes.fromhex(root)

    def __iter__(self) -> Iterator[Due]:
        for at, size in enumerate(self._sizes):
            hashes = bytes(self._hashes[at * 64 : at * 64 + 64])
            yield Due(size, hashes[:32], hashes[32:], "a checkpoint")

    @property
    def last(self) -> int:
        """The greatest signed size."""
        return self._sizes[-1] if self._sizes else 0


class _Claims:
    """What `start` records say about the writers before them."""

    def __init__(self, writers: Sequence[WriterFiles]) -> None:
        self.heads: defaultdict[str, list[Due]] = defaultdict(list)
        self.torn: dict[str, tuple[Torn, str]] = {}
        for files in writers:
            fields = _first_fields(files)
            self._take_predecessor(fields.get("predecessor"), files.writer)
            self._take_torn(fields.get("torn"), files.writer)
        for dues in self.heads.values():
            dues.sort(key=lambda due: due.size)

    def _take_predecessor(self, named: object, by: str) -> None:
        if not isinstance(named, dict) or named.get("unreadable"):
            return
        writer, seq, head = named.get("writer"), named.get("seq"), named.get("head")
        if _is_writer(writer) and type(seq) is int and 0 <= seq < 1 << 53 and is_hash(head):
            self.heads[str(writer)].append(Due(seq + 1, bytes.fromhex(str(head)), b"", f"the start of {by}"))

    def _take_torn(self, named: object, by: str) -> None:
        if not isinstance(named, dict):
            return
        writer, size, digest = named.get("writer"), named.get("bytes"), named.get("digest")
        if _is_writer(writer) and type(size) is int and is_hash(digest):
            self.torn[str(writer)] = (Torn(size, str(digest)), by)


def _check_checkpoints(
    chunks: Iterable[bytes], key: NoteKey | None, report: Report
) -> defaultdict[str, _SignedSizes]:
    """Follow the checkpoints as far as they can be trusted."""
    signed: defaultdict[str, _SignedSizes] = defaultdict(_SignedSizes)
    lineage = Lineage()
    last: Checkpoint | None = None
    waiting: list[Checkpoint] = []  # not signed by the key: a handover to it may vouch for them by its hash
    for raw, whole in iter_notes(chunks):
        if not whole:
            report.notes.append(f"{len(raw)} bytes of a partial checkpoint at the end")
            break
        try:
            note = parse_note(raw)
            checkpoint = parse_checkpoint(note.text)
            is_signed = key is None or _is_signed(note, checkpoint, key)
            lineage.follow(raw, checkpoint)
        except (NoteError, CheckpointError) as trouble:
            if not waiting:
                message = f"checkpoint {lineage.number + 1}: {trouble}; what follows it is not trusted"
                report.add(Problem("checkpoint", "", -1, message))
            break
        following = checkpoint.next_key
        if key is not None and (not is_signed or (waiting and following != key)):
            waiting.append(checkpoint)
            continue
        if key is not None and following is not None:
            key = following
        for known in (*waiting, checkpoint):
            for head in known.heads:
                signed[head.writer].add(head.size, head.head, head.root)
        waiting.clear()
        if last is not None and (step := parse_time(last.time) - parse_time(checkpoint.time)) > 0:
            report.notes.append(
                f"checkpoint {checkpoint.number}: the clock went back by {step / 1_000_000:.1f} s"
            )
        last = checkpoint
    if waiting and key is not None:
        message = f"not signed by {key.name}+{key.id.hex()}; what follows it is not trusted"
        report.add(Problem("signature", "", -1, f"checkpoint {waiting[0].number}: {message}"))
    report.checkpoints = last.number + 1 if last is not None else 0
    if last is not None:
        report.last_checkpoint = last.time
        for alarm in last.alarms:
            message = f"the checkpointer refused this writer: {alarm.code}"
            report.add(Problem("alarm", alarm.writer, alarm.seq, message))
    else:
        report.unchecked.append("truncation and rewriting: there is no checkpoint that can be trusted")
        if key is not None and not report.problems:
            report.add(Problem("signature", "", -1, "there is no checkpoint that the key has signed"))
    if key is None:
        report.unchecked.append("signatures of checkpoints: no key was given")
    return signed


def _is_signed(note: Note, checkpoint: Checkpoint, key: NoteKey) -> bool:
    """By the key that is due, and by the one that it hands over to."""
    following = checkpoint.next_key
    return (
        checkpoint.origin == key.name
        and note.is_signed_by(key)
        and (following is None or note.is_signed_by(following))
    )


def _check_torn(writer: str, torn: Torn, named: tuple[Torn, str] | None, report: Report) -> None:
    if named is not None and named[0] != torn:
        message = f"the torn tail is not the one that the start of {named[1]} names"
        report.add(Problem("torn", writer, -1, message))
    elif torn.size:
        known = f"named by the start of {named[1]}" if named is not None else "not named by any successor yet"
        report.notes.append(f"{writer}: torn tail of {torn.size} bytes, {known}")


def _check_absent(
    present: set[str], signed: Mapping[str, _SignedSizes], claims: _Claims, report: Report
) -> None:
    for writer in sorted(set(signed) | set(claims.heads)):
        if writer in present:
            continue
        dues = list(claims.heads.get(writer, ()))
        size = max((signed[writer].last if writer in signed else 0), *(due.size for due in dues), 0)
        if size:
            message = "this writer's files are gone"
            report.add(Problem("missing-writer", writer, 0, message, size - 1))


def _records_of(writers: Iterable[WriterFiles]) -> Iterator[Line]:
    """The records of few and short writers; what is none is named when they are walked."""
    for files in writers:
        for segment in files.segments:
            for raw in b"".join(segment.chunks()).split(b"\n")[:-1]:  # a torn tail is no record
                try:
                    line = parse_line(raw)
                except RecordError:
                    continue
                if line.writer == files.writer:
                    yield line


def _first_fields(files: WriterFiles) -> Mapping[str, object]:
    """The fields of the first record if it is a `start`."""
    if not files.segments or files.segments[0].first != 0:
        return {}
    head = b""
    for chunk in files.segments[0].chunks():
        head += chunk
        if b"\n" in chunk or len(head) >= MAX_LINE:
            break
    line, newline, _ = head.partition(b"\n")
    try:
        record = parse_line(line) if newline else None
    except RecordError:
        return {}
    if record is None or record.kind != "start" or record.writer != files.writer:
        return {}
    return record.fields


def _is_writer(name: object) -> bool:
    return isinstance(name, str) and is_writer_id(name)
