"""Walks one writer's lines: each must be exactly the one that was due, or it is named.

The main path compares a line's beginning with the bytes that must stand there; only where they differ is the
line taken apart to say what happened. After a problem the walk goes on from what it finds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import NamedTuple

import msgspec

from extproc.ledger.lines import MAX_LINE, ZERO_HASH, Line, RecordError, canonical, parse_line, parse_time
from extproc.ledger.merkle import Tree
from extproc.ledger.payloads import check_entry
from extproc.ledger.report import Problem, Report, WriterReport

PayloadReader = Callable[[str, str, int], bytes | None]
"""(writer, ref, size) → header and body of the entry, or None if it is not there."""

Opener = Callable[[Line, str, bytes], str]
"""(record, name of a sealed payload, its checked entry) → what came of opening it."""

_AT_AND_KIND = re.compile(
    rb"([0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){2}\.[0-9]{6}Z)"
    rb'","kind":"([a-z][a-z0-9_.]{0,63})"[,}]'
)
_PAYLOAD_PROBLEMS = {
    "erased": ("payload-erased", "was erased"),
    "mismatch": ("payload-mismatch", "is not what the line commits to"),
    "malformed": ("payload-mismatch", "is no payload entry"),
    "key-missing": ("payload-missing", "cannot be opened by anybody: its key is not there"),
    "wrong-key": (
        "payload-mismatch",
        "cannot be opened: its key was spoiled, or the key that was given is another",
    ),
}


CLOCK_STEP_US = 1_000_000
"""A clock that goes back by this much is told of."""


class _Shape(msgspec.Struct):
    """Decoding to this checks that a line is JSON, and skips everything else quickly."""

    seq: int
    payloads: msgspec.Raw = msgspec.Raw(b"")


_is_json = msgspec.json.Decoder(_Shape).decode


class Due(NamedTuple):
    """What somebody said about the tree at `size`: the last record's hash, and the root if they named it."""

    size: int
    head: bytes
    root: bytes
    source: str


class Torn(NamedTuple):
    """Bytes after the last whole line of the last segment."""

    size: int
    digest: str


class Gone(NamedTuple):
    """Names of payloads by sequence number that a tombstone tells of, and those of which a signed one does."""

    told: Mapping[int, frozenset[str]]
    signed: Mapping[int, frozenset[str]]


class _Suspect(NamedTuple):
    """`line` (record `seq`) does not continue the record before it: one of the two was changed."""

    seq: int
    line: bytes
    expected_prev: str


class Walk:
    """One writer. Feed it segments in order, then `finish`."""

    def __init__(
        self,
        writer: str,
        report: Report,
        dues: Iterator[Due],
        payloads: PayloadReader | None = None,
        *,
        thorough: bool = False,
        gone: Gone | None = None,
        opener: Opener | None = None,
    ) -> None:
        """`dues` come sorted by size. `thorough` also checks that every line is in canonical form."""
        self._gone = gone or Gone({}, {})
        self._opener = opener
        self.found = report.writers.setdefault(writer, WriterReport(writer))
        self._report = report
        self._writer = writer
        self._start = f'{{"v":1,"writer":"{writer}","seq":'.encode()
        self._dues = dues
        self._due = next(dues, None)
        self._agreed = 0
        self._payloads = payloads
        self._thorough = thorough
        self._tree = Tree()
        self._fresh: list[bytes] = []  # record hashes not yet in the tree
        self._last = (b"", b"")
        self._seq = 0
        self._prev: str | None = ZERO_HASH  # None: not known, anything is accepted
        self._prev_before: str | None = None
        self._malformed = 0
        self._stray: tuple[int, str] | None = None
        self._suspect: _Suspect | None = None
        self._contradiction: Due | None = None
        self._whole = True
        self._steps_back: list[tuple[int, int]] = []
        self._segment = ""
        self._line_number = 0
        self._carry = b""
        self._long: _Long | None = None

    def open_segment(self, name: str, first: int) -> None:
        """The next segment begins."""
        torn = self._take_rest()
        if torn.size:
            self._problem("torn", self._seq, f"{torn.size} bytes of a partial line in the middle")
        if first > self._seq:
            self._problem(
                "missing-segment", self._seq, "records are missing before this segment", first - 1, name
            )
        elif first < self._seq:
            self._problem(
                "repeated", first, "this segment begins before the one ahead of it ends", place=name
            )
        if first != self._seq:
            self._seq, self._prev = first, None
        self._segment, self._line_number = name, 0

    def feed(self, chunk: bytes) -> None:
        """The segment's next bytes."""
        *lines, rest = chunk.split(b"\n")
        if lines:
            first = self._carry + lines[0] if self._carry else lines[0]
            self._carry = b""
            if self._long is not None:
                self._line_number += 1
                self._long = None
                self._bad_line("longer than a line may be")
            else:
                self._check(first)
            for line in lines[1:]:
                self._check(line)
            self._grow()
        if self._long is not None:
            self._long.add(rest)
        elif len(self._carry) + len(rest) >= MAX_LINE:
            self._long = _Long(self._carry + rest)
            self._carry = b""
        else:
            self._carry += rest

    def finish(self) -> Torn:
        """All segments were fed; what stands after the last whole line."""
        torn = self._take_rest()
        self._resolve_suspect(None, None)
        self._resolve_contradiction(None)
        if self._steps_back:
            seq, step = max(self._steps_back, key=lambda back: back[1])
            self._report.notes.append(
                f"{self._writer}: time goes back at {len(self._steps_back)} records, most by {step / 1_000_000:.1f} s"
                f" at {seq}: news that came late, or a clock that was set back"
            )
        found = self.found
        found.torn_bytes = torn.size
        found.records = self._seq
        found.head = self._prev or ""
        found.last_at, found.stopped = self._last[0].decode(), self._last[1] == b"stop"
        self._grow()
        found.root = self._tree.root().hex()
        while self._due is not None:
            due, self._due = self._due, next(self._dues, None)
            if due.root:
                found.signed = max(found.signed, due.size)
            if due.size > self._seq and self._due is None:
                self._problem("truncated", self._seq, f"{due.source} names {due.size} records", due.size - 1)
        return torn

    def _check(self, line: bytes) -> None:
        self._line_number += 1
        if self._prev is not None and not self._malformed and self._stray is None:
            start = self._start + f'{self._seq},"prev":"{self._prev}","at":"'.encode()
            if line.startswith(start) and (match := _AT_AND_KIND.match(line, len(start))) is not None:
                try:
                    shape = _is_json(line)
                except msgspec.MsgspecError:
                    self._bad_line("not JSON")
                    return
                if len(line) < MAX_LINE:
                    self._accept(line, match[1], match[2], bool(shape.payloads))
                    return
        self._examine(line)

    def _accept(self, line: bytes, at: bytes, kind: bytes, has_payloads: bool) -> None:
        digest = sha256(line).digest()
        self._fresh.append(digest)
        seq = self._seq
        self._prev_before, self._prev = self._prev, digest.hex()
        self._seq = seq + 1
        if self._suspect is not None and self._suspect.seq != seq:
            self._resolve_suspect(None, self._prev_before)
        if self._contradiction is not None:
            self._resolve_contradiction(self._prev_before)
        if seq == 0:
            self.found.first_at = at.decode()
            if kind != b"start":
                self._problem("malformed", 0, "a writer's first record is `start`")
        if at < self._last[0]:
            self._went_back(at)
        self._last = (at, kind)
        if has_payloads or self._thorough:
            self._check_deeper(line, seq)
        if self._due is not None and self._due.size <= self._seq:
            self._meet_dues()

    def _went_back(self, at: bytes) -> None:
        """Records of one callback are stamped in any order; a second or more is told of."""
        step = parse_time(self._last[0].decode()) - parse_time(at.decode())
        if step >= CLOCK_STEP_US:
            self._steps_back.append((self._seq - 1, step))

    def _check_deeper(self, line: bytes, seq: int) -> None:
        try:
            record = parse_line(line)
            if self._thorough and canonical(record) != line:
                self._problem("malformed", seq, "not in canonical form")
        except RecordError as trouble:
            self._problem("malformed", seq, str(trouble))
            return
        if self._payloads is None:
            return
        for name, place in record.payloads.items():
            self.found.payloads += 1
            entry = self._payloads(self._writer, place.ref, place.size)
            if entry is None:
                self._problem("payload-missing", seq, f"payload {name} is not there", place=place.ref)
                continue
            state: str = check_entry(entry, place.size, place.commitment, place.sealed)
            if state == "sealed" and self._opener is not None:
                state = self._opener(record, name, entry)
            if state == "erased" and name in self._gone.told.get(seq, ()):
                self.found.erased += 1
                self.found.erased_unsigned += name not in self._gone.signed.get(seq, ())
            elif state in ("sealed", "unknown-key"):
                self.found.sealed += 1
            elif state != "good":
                code, what = _PAYLOAD_PROBLEMS[state]
                self._problem(code, seq, f"payload {name} {what}", place=place.ref)

    def _meet_dues(self) -> None:
        """A tree size that a checkpoint or a successor named has been reached."""
        while (due := self._due) is not None and due.size <= self._seq:
            self._due = next(self._dues, None)
            if due.root:
                self.found.signed = due.size
            if self._suspect is not None:
                self._resolve_suspect(due.head, None)
            if due.size < self._seq or not self._whole:
                continue  # a segment was missing in between, or the chain is broken already: named elsewhere
            self._grow()
            if due.head != bytes.fromhex(self._prev or ""):
                self._whole = False
                self._contradiction = due
            elif due.root and due.root != self._tree.root():
                self._problem("rewritten", self._agreed, f"{due.source} names another root", due.size - 1)
            else:
                self._agreed = due.size

    def _resolve_contradiction(self, next_prev: str | None) -> None:
        """The chain was whole, but not the one that was named. What follows says how far back it goes."""
        due, self._contradiction = self._contradiction, None
        if due is None:
            return
        last = due.size - 1
        if next_prev == due.head.hex():
            self._problem("altered", last, f"{due.source} and the next record know another one")
        elif due.root:
            message = f"the chain is whole but not the one that {due.source} names"
            self._problem("rewritten", min(self._agreed, last), message, last)
        else:
            self._problem("predecessor", last, f"{due.source} names another record")

    def _grow(self) -> None:
        self._tree.extend(self._fresh)
        self._fresh = []

    def _examine(self, line: bytes) -> None:
        """The line is not the one that was due. Say what happened and go on from here."""
        try:
            record = parse_line(line)
        except RecordError as trouble:
            self._bad_line(str(trouble))
            return
        due = self._seq
        after_malformed, self._malformed = self._malformed, 0
        if record.writer != self._writer:
            self._malformed = after_malformed
            self._problem("foreign", due, "a line of another writer")
            return
        if after_malformed and due <= record.seq <= due + after_malformed:
            # the lines in between are named already, and so is whatever they broke
            self._seq, self._prev = record.seq, None
            self._take(record, line)
        elif record.seq == due:
            if self._prev is not None and record.prev != self._prev:
                self._doubt(record, line)
            elif self._prev is not None and self._stray is None:
                self._problem("malformed", due, "not in canonical form")
            self._take(record, line)
        elif record.seq > due and record.prev == self._prev:
            self._problem("altered", due, f"its sequence number says {record.seq}")
            self._take(record, line)
            self._prev = None  # what follows continues the record as it was
        elif record.seq > due:
            self._resolve_suspect(None, None)
            self._problem("missing", due, "records are missing here", record.seq - 1)
            self._seq, self._prev = record.seq, None
            self._take(record, line)
        else:
            self._out_of_place(record, line)

    def _out_of_place(self, record: Line, line: bytes) -> None:
        """A sequence number that was there already."""
        if self._stray is not None and self._stray == (record.seq - 1, record.prev):
            self._stray = None  # these continue one another: go on with them
            self._seq, self._prev = record.seq, record.prev
            self._take(record, line)
            return
        if record.seq == self._seq - 1 and record.prev == self._prev_before and self._prev_before is not None:
            self._problem(
                "repeated", record.seq, "two lines claim to be this record; the first continues nothing"
            )
            self._seq, self._prev = record.seq, record.prev
            self._take(record, line)
            return
        self._problem("repeated", record.seq, f"stands where record {self._seq} was due")
        self._stray = (record.seq, record.hash)

    def _take(self, record: Line, line: bytes) -> None:
        stray, self._stray = self._stray, None
        if stray is not None and record.prev != self._prev:
            self._stray = stray
        self._accept(line, record.at.encode(), record.kind.encode(), bool(record.payloads))

    def _doubt(self, record: Line, line: bytes) -> None:
        """Record `seq` does not continue the one before: wait for what follows before blaming one of them."""
        if self._contradiction is not None:
            self._resolve_contradiction(record.prev)
            return
        if self._suspect is not None and self._suspect.seq == record.seq - 1:
            self._resolve_suspect(None, record.prev)
            return
        self._whole = False
        self._suspect = _Suspect(record.seq, line, self._prev or "")

    def _resolve_suspect(self, head: bytes | None, next_prev: str | None) -> None:
        """`head` or `next_prev` is the hash that others know the suspect record by."""
        suspect, self._suspect = self._suspect, None
        if suspect is None:
            return
        known = head.hex() if head is not None else next_prev
        before = suspect.seq - 1
        if known == sha256(suspect.line).hexdigest():
            self._problem("altered", before, f"record {suspect.seq} does not continue it")
        elif known is not None and known == _with_prev(suspect):
            self._problem("altered", suspect.seq, "its link to the record before was changed")
        else:
            message = f"record {suspect.seq} does not continue it: one of the two was changed, or both"
            self._problem("altered", before, message, suspect.seq)

    def _bad_line(self, message: str) -> None:
        self._problem("malformed", self._seq, message)
        self._malformed += 1

    def _take_rest(self) -> Torn:
        rest, self._carry = self._carry, b""
        long, self._long = self._long, None
        if long is not None:
            return Torn(long.size, long.digest.hexdigest())
        return Torn(len(rest), sha256(rest).hexdigest())

    def _problem(self, code: str, seq: int, message: str, last: int = -1, place: str = "") -> None:
        self._whole = False
        place = place or (f"{self._segment} line {self._line_number}" if self._segment else "")
        self._report.add(Problem(code, self._writer, seq, message, last, place))


class _Long:
    """A line that is too long to keep: only its length and digest."""

    def __init__(self, data: bytes) -> None:
        self.digest = sha256(data)
        self.size = len(data)

    def add(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += len(data)


def _with_prev(suspect: _Suspect) -> str:
    """The suspect's hash if its `prev` were the one that was due."""
    start = suspect.line.find(b'"prev":"') + 8
    return sha256(
        suspect.line[:start] + suspect.expected_prev.encode() + suspect.line[start + 64 :]
    ).hexdigest()
