#!/usr/bin/env python3
"""Checks an extproc ledger with nothing but Python 3.9 or newer: no installation, no network, no credentials.

    python3 verify.py LEDGER --key 'extproc-ledger+…'     a ledger's directory
    python3 verify.py PACKET --key 'extproc-ledger+…'     an evidence packet: a zip, or the folder it was unpacked to
    python3 verify.py RECORD --key 'extproc-ledger+…'     a single record that was handed over with its proof
    python3 verify.py                                     the packet in the folder this file lies in

Get the key from somewhere else than the ledger: a key that lies beside it proves only that it agrees with
itself. Exit status: 0 nothing is wrong in what could be checked, 1 something is, 2 wrong usage, 3 nothing there.

Written from docs/ledger.md (the format), RFC 8032 (Ed25519), RFC 6962 (Merkle trees) and c2sp.org/signed-note,
apart from the verifier in `extproc ledger verify`, so that each can be held against the other.
"""

from __future__ import annotations

import argparse
import base64
import csv
import difflib
import hashlib
import hmac
import io
import itertools
import json
import re
import struct
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

# --------------------------------------------------------------------------- Ed25519, RFC 8032 section 5.1

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)
# A point is (X, Y, Z, T): extended homogeneous coordinates X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z


def point_add(a: Any, b: Any) -> Any:
    """Section 5.1.4."""
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    c, d = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = f - e, d - c, d + c, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def point_multiply(scalar: int, point: Any) -> Any:
    total = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = point_add(total, point)
        point = point_add(point, point)
        scalar >>= 1
    return total


def point_decode(data: bytes) -> Any:
    """Section 5.1.3; None if these 32 bytes are no point."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * SQRT_M1 % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def point_equal(a: Any, b: Any) -> bool:
    return not ((a[0] * b[2] - b[0] * a[2]) % P or (a[1] * b[2] - b[1] * a[2]) % P)


_base_y = 4 * pow(5, P - 2, P) % P
BASE = point_decode(_base_y.to_bytes(32, "little"))


def ed25519_verifies(public: bytes, message: bytes, signature: bytes) -> bool:
    """Section 5.1.7: is this 64-byte signature of `message` by this 32-byte key?"""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, first = point_decode(public), point_decode(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if key is None or first is None or s >= L:
        return False
    if point_equal(point_multiply(8, key), (0, 1, 1, 0)):
        return False  # a key of small order would verify many messages
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    return point_equal(point_multiply(s, BASE), point_add(first, point_multiply(h, key)))


# --------------------------------------------------------------------------- Merkle trees, RFC 6962 section 2.1

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """Grows at the right. Keeps (height, root) of its complete subtrees, the largest first."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[tuple[int, bytes]] = []

    def append(self, entry: bytes) -> None:
        self.push(0, leaf_hash(entry))

    def push(self, height: int, node: bytes) -> None:
        """Add a complete subtree of 2**height entries."""
        self.size += 1 << height
        while self.peaks and self.peaks[-1][0] == height:
            node = node_hash(self.peaks.pop()[1], node)
            height += 1
        self.peaks.append((height, node))

    def root(self) -> bytes:
        """The root over everything so far."""
        if not self.peaks:
            return EMPTY_ROOT
        node = self.peaks[-1][1]
        for _, left in reversed(self.peaks[:-1]):
            node = node_hash(left, node)
        return node


def split_size(size: int) -> int:
    """The largest power of two smaller than `size`: where RFC 6962 divides a tree."""
    return 1 << ((size - 1).bit_length() - 1)


def root_of_range(hashes: Sequence[bytes], first: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root of a tree of `size` entries of which those from `first` on are `hashes`.

    `proof` has the roots of the largest subtrees without any of them, from left to right. Raises Bad.
    """
    end = first + len(hashes)
    rest = list(reversed(proof))

    def node(low: int, high: int) -> bytes:
        if high <= first or low >= end:
            if not rest:
                raise Bad("the proof is too short")
            return rest.pop()
        if high - low == 1:
            return leaf_hash(hashes[low - first])
        middle = low + split_size(high - low)
        return node_hash(node(low, middle), node(middle, high))

    if not 0 <= first < end <= size:
        raise Bad("the range is not inside the tree")
    root = node(0, size)
    if rest:
        raise Bad("the proof is too long")
    return root


def is_beginning(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """RFC 9162 section 2.1.4.2: is the tree of `old_size` entries a beginning of the one of `size`?"""
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    if old_size == size:
        return not proof and old_root == root
    if not 0 < old_size < size or not proof:
        return False
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    fn, sn = old_size - 1, size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == old_root and sr == root


# --------------------------------------------------------------------------- what was found


class Problem(NamedTuple):
    """`seq` is the first record it concerns, -1 if none can be named; `last` the last, if they differ."""

    code: str
    writer: str
    seq: int
    message: str
    last: int = -1
    place: str = ""

    def __str__(self) -> str:
        where = self.writer or "checkpoints"
        if self.seq >= 0:
            where += ":%d" % self.seq + ("-%d" % self.last if self.last > self.seq else "")
        return "{}: {}: {}{}".format(where, self.code, self.message, f" ({self.place})" if self.place else "")


class Report:
    """Everything that is wrong, what was seen, and what could not be checked."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.more = 0
        self.counts: dict[str, int] = {}
        self.notes: list[str] = []
        self.unchecked: list[str] = []

    def add(self, code: str, writer: str, seq: int, message: str, last: int = -1, place: str = "") -> None:
        if len(self.problems) < 1000:
            self.problems.append(Problem(code, writer, seq, message, last, place))
        else:
            self.more += 1

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number


# --------------------------------------------------------------------------- lines, docs/ledger.md section 2

MAX_LINE = 1 << 20
ZERO = "0" * 64
ENVELOPE = ["v", "writer", "seq", "prev", "at", "kind"]
HASH = re.compile(r"[0-9a-f]{64}\Z")
WRITER = re.compile(r"(?=.{1,96}\Z)[a-z0-9][a-z0-9_]*(?:-[a-z0-9]+)*\Z")
KIND = re.compile(r"[a-z][a-z0-9_.]{0,63}\Z")
TIME = re.compile(
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){2}\.[0-9]{6}Z\Z"
)


class Bad(Exception):
    """Bytes that are not what they should be."""


class Line(NamedTuple):
    """One record. `values` has everything, the envelope included."""

    raw: bytes
    writer: str
    seq: int
    prev: str
    at: str
    kind: str
    hash: str
    values: dict[str, Any]


def parse_line(raw: bytes) -> Line:
    """Read a line without its newline; it must be canonical. Raises Bad."""
    if len(raw) >= MAX_LINE:
        raise Bad("longer than a line may be")
    try:
        values = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError):
        raise Bad("not JSON") from None
    if not isinstance(values, dict) or list(values)[:6] != ENVELOPE:
        raise Bad("the envelope is not v, writer, seq, prev, at, kind")
    v, writer, seq, prev, at, kind = (values[name] for name in ENVELOPE)
    if v != 1 or type(v) is not int:
        raise Bad("unknown format version")
    if type(seq) is not int or seq < 0 or not all(isinstance(text, str) for text in (writer, prev, at, kind)):
        raise Bad("a member of the envelope has the wrong type")
    if not HASH.match(prev) or not KIND.match(kind) or not TIME.match(at):
        raise Bad("prev, at or kind is malformed")
    line = Line(raw, writer, seq, prev, at, kind, hashlib.sha256(raw).hexdigest(), values)
    for place in payloads_of(line).values():
        if not isinstance(place, dict) or sorted({*place} - {"sealed"}) != ["commitment", "ref", "size"]:
            raise Bad("a payload is not commitment, ref, size")
        if not HASH.match(str(place.get("sealed", ZERO))):
            raise Bad("a payload's digest is malformed")
        if not HASH.match(str(place["commitment"])) or type(place["size"]) is not int or place["size"] < 0:
            raise Bad("a payload's commitment or size is malformed")
        if not isinstance(place["ref"], str):
            raise Bad("a payload's ref is malformed")
    return line


def is_canonical(line: Line) -> bool:
    """Is there only this one way to write the record?"""
    values = dict(line.values)
    payloads = values.pop("payloads", None)
    ordered = {name: values.pop(name) for name in ENVELOPE}
    for name in sorted(values):
        ordered[name] = _sorted(values[name])
    if payloads is not None:
        ordered["payloads"] = _sorted(payloads)
    try:
        made = json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except (ValueError, RecursionError):
        return False
    return made == line.raw


def payloads_of(line: Line) -> dict[str, Any]:
    found = line.values.get("payloads", {})
    if not isinstance(found, dict):
        raise Bad("payloads is no object")
    return found


def _unique(pairs: Any) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name twice")
    return values


def _integer(text: str) -> int:
    if len(text) > 17 or not -(2**53) < int(text) < 2**53:
        raise ValueError("an integer beyond 53 bits")
    return int(text)


def _refuse(text: str) -> Any:
    raise ValueError("not an integer: " + text[:20])


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


# --------------------------------------------------------------------------- checkpoints, section 5

NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,17})\Z")
WORD = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")
MAX_NOTE = 64 << 20


class Key(NamedTuple):
    """A named Ed25519 public key."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n\x01" + self.public).digest()[:4]

    def __str__(self) -> str:
        return "{}+{}+{}".format(self.name, self.id.hex(), base64.b64encode(b"\x01" + self.public).decode())


def parse_key(text: str) -> Key:
    """Read `name+id+base64`. Raises Bad."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise Bad("the key is not base64") from None
    if not name or any(c.isspace() or not c.isprintable() for c in name) or len(data) != 33 or data[0] != 1:
        raise Bad("not an Ed25519 note key")
    key = Key(name, data[1:])
    if key.id.hex() != key_id:
        raise Bad("the key's id does not match the key")
    return key


class Note(NamedTuple):
    """A signed text; `signatures` are (key name, key id, signature)."""

    text: bytes
    signatures: list[tuple[str, bytes, bytes]]
    raw: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()

    def is_signed_by(self, key: Key) -> bool:
        return any(
            name == key.name and key_id == key.id and ed25519_verifies(key.public, self.text, signature)
            for name, key_id, signature in self.signatures
        )


def parse_note(raw: bytes) -> Note:
    """Read a signed note up to its last signature line. Raises Bad."""
    text, gap, tail = raw.partition(b"\n\n")
    if not gap or not tail.endswith(b"\n"):
        raise Bad("not a signed note")
    signatures = []
    for line in tail[:-1].split(b"\n")[:17]:
        try:
            dash, name, encoded = line.decode("utf-8").split(" ")
            blob = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise Bad("a signature line is malformed") from None
        if dash != "\N{EM DASH}" or not name or len(blob) != 68:
            raise Bad("a signature line is malformed")
        signatures.append((name, blob[:4], blob[4:]))
    if len(signatures) > 16:
        raise Bad("too many signatures")
    return Note(text + b"\n", signatures, raw)


class Head(NamedTuple):
    """One writer's tree in a checkpoint."""

    writer: str
    size: int
    root: str
    head: str

    def __str__(self) -> str:
        return f"writer {self.writer} {self.size} {self.root} {self.head}"


class Checkpoint(NamedTuple):
    """What a checkpoint says."""

    origin: str
    number: int
    previous: str
    time: str
    full: bool
    records: int
    writers: int
    writers_root: str
    heads: list[Head]
    alarms: list[tuple[str, int, str]]
    key: Key | None
    source: str
    offset: int | None  # microseconds, of the clock


def parse_checkpoint(text: bytes) -> Checkpoint:
    """Read a checkpoint's text, strictly in its order. Raises Bad."""
    try:
        lines = text.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Bad("a checkpoint is ASCII") from None
    if lines.pop() != "" or not lines or lines.pop(0) != "extproc-ledger-checkpoint/v1":
        raise Bad("not a checkpoint of version 1")
    lines.reverse()

    def take(name: str, words: int) -> Iterator[list[str]]:
        while lines and lines[-1].split(" ")[0] == name and len(lines[-1].split(" ")) == words + 1:
            yield lines.pop().split(" ")[1:]

    def one(name: str, words: int) -> list[str]:
        for found in take(name, words):
            return found
        raise Bad(f"no {name} line where one was due")

    def number(text: str) -> int:
        if not NUMBER.match(text):
            raise Bad("malformed number")
        return int(text)

    def hash_(text: str) -> str:
        if not HASH.match(text):
            raise Bad("malformed hash")
        return text

    origin, index, previous, time = (one(name, 1)[0] for name in ("origin", "number", "previous", "time"))
    source, offset = one("clock", 2)
    scope, records = one("scope", 1)[0], one("records", 1)[0]
    counts = [(name, number(value)) for name, value in take("count", 2)]
    writers, writers_root = one("writers", 2)
    heads = [Head(w, number(size), hash_(root), hash_(head)) for w, size, root, head in take("writer", 4)]
    alarms = [(w, number(seq), code) for w, seq, code in take("alarm", 3)]
    keys = [found[0] for found in take("key", 1)]
    if lines or len(keys) > 1:
        raise Bad("unknown or misplaced line")
    if not TIME.match(time) or scope not in ("full", "moved"):
        raise Bad("time or scope is malformed")
    if offset != "unknown" and not NUMBER.match(offset[1:] if offset[0] == "-" else offset):
        raise Bad("the clock's offset is malformed")
    names, words = [head.writer for head in heads], [name for name, _ in counts]
    if names != sorted(set(names)) or words != sorted(set(words)):
        raise Bad("lines are not sorted")
    if not all(WRITER.match(name) for name in names + [alarm[0] for alarm in alarms]):
        raise Bad("malformed writer id")
    if not all(WORD.match(word) for word in [source, *words, *(alarm[2] for alarm in alarms)]):
        raise Bad("malformed word")
    return Checkpoint(
        origin, number(index), hash_(previous), time, scope == "full", number(records), number(writers),
        hash_(writers_root), heads, alarms, parse_key(keys[0]) if keys else None,
        source, None if offset == "unknown" else int(offset),
    )  # fmt: skip


def split_notes(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """The notes of a file; a last one that is not whole comes with False."""
    note: list[bytes] = []
    size, gaps = 0, 0
    while line := file.readline(MAX_LINE):
        if line == b"\n":
            gaps += 1
            if gaps == 2:
                yield b"".join(note), True
                note, size, gaps = [], 0, 0
                continue
        note.append(line)
        size += len(line)
        if size > MAX_NOTE:
            break
    if note:
        yield b"".join(note), False


class Signed(NamedTuple):
    """What somebody said about a writer's tree; `root` is empty if they named only the last record."""

    size: int
    head: str
    root: str
    source: str


class Checkpoints:
    """Follows the checkpoint log as far as it can be trusted."""

    def __init__(self) -> None:
        self.signed: dict[str, list[Signed]] = {}
        self.last: Checkpoint | None = None
        self.followed = 0

    def read(self, file: BinaryIO, key: Key | None, report: Report, every: bool) -> None:
        """Check form and links of all, and as many signatures as are needed: each note names the one before
        it by its hash, so the latest good signature vouches for all notes before it. `every` checks each."""
        chain: list[tuple[Note, Checkpoint, Key | None]] = []  # with the key that was in force
        heads: dict[str, Head] = {}
        due = key
        trouble = ""
        for raw, whole in split_notes(file):
            if not whole:
                report.notes.append("%d bytes of a partial checkpoint at the end" % len(raw))
                break
            try:
                note = parse_note(raw)
                checkpoint = parse_checkpoint(note.text)
                hands_over = due is not None and checkpoint.key is not None and note.is_signed_by(due)
                self._follow(checkpoint, chain[-1] if chain else None, heads)
            except Bad as bad:
                trouble = str(bad)
                break
            chain.append((note, checkpoint, due))
            if hands_over:
                due = checkpoint.key
        good = len(chain)
        if key is not None:
            good = _signed_part(chain, every)
        if good < len(chain):
            named = chain[good][2]
            wanted = f"{named.name}+{named.id.hex()}" if named is not None else "the key that was due"
            message = "checkpoint %d: not signed by %s; what follows it is not trusted" % (good, wanted)
            report.add("signature", "", -1, message)
        elif trouble:
            message = "checkpoint %d: %s; what follows it is not trusted" % (good, trouble)
            report.add("checkpoint", "", -1, message)
        for _, checkpoint, _ in chain[:good]:
            for head in checkpoint.heads:
                named_before = self.signed.setdefault(head.writer, [])
                if not named_before or named_before[-1].size < head.size:
                    source = "checkpoint %d" % checkpoint.number
                    named_before.append(Signed(head.size, head.head, head.root, source))
        self.followed = good
        if good:
            self.last = chain[good - 1][1]
            for writer, seq, code in self.last.alarms:
                report.add("alarm", writer, seq, "the checkpointer refused this writer: " + code)
        else:
            report.unchecked.append("truncation and rewriting: there is no checkpoint that can be trusted")
            if key is not None and not report.problems:
                report.add("signature", "", -1, "there is no checkpoint that the key has signed")
        if key is None:
            report.unchecked.append("signatures of checkpoints: no key was given")

    @staticmethod
    def _follow(
        checkpoint: Checkpoint, before: tuple[Note, Checkpoint, Any] | None, heads: dict[str, Head]
    ) -> None:
        """Raises Bad unless it continues the note before it. Keeps every writer's latest tree in `heads`."""
        number, digest = (before[1].number + 1, before[0].digest) if before is not None else (0, ZERO)
        if checkpoint.number != number:
            raise Bad("number %d where %d was due" % (checkpoint.number, number))
        if checkpoint.previous != digest:
            raise Bad("it does not name the checkpoint before it")
        updated = dict(heads)
        for head in checkpoint.heads:
            known = heads.get(head.writer)
            if known is not None and (head.size < known.size or (head.size == known.size and head != known)):
                raise Bad(f"writer {head.writer} shrinks or changes")
            updated[head.writer] = head
        if checkpoint.full and len(updated) != len(checkpoint.heads):
            raise Bad("a full checkpoint leaves out a writer")
        if checkpoint.writers != len(updated) or checkpoint.writers_root != writers_root(updated):
            raise Bad("the writers' root is wrong")
        if checkpoint.records != sum(head.size for head in updated.values()):
            raise Bad("the number of records is wrong")
        heads.update(updated)


def _signed_part(chain: Sequence[tuple[Note, Checkpoint, Key | None]], every: bool) -> int:
    """How many notes, from the first on, are vouched for by signatures."""

    def holds(at: int) -> bool:
        note, checkpoint, key = chain[at]
        hands_to = checkpoint.key
        return (
            key is not None
            and checkpoint.origin == key.name
            and note.is_signed_by(key)
            and (hands_to is None or note.is_signed_by(hands_to))
        )

    if every:
        begun = 0  # where the key that was given took over: it vouches for what came before by its hash
        for at, (_, checkpoint, key) in enumerate(chain):
            if checkpoint.key is not None and checkpoint.key == key and holds(at):
                begun = at
        return next((at for at in range(begun, len(chain)) if not holds(at)), len(chain))
    return next((at + 1 for at in reversed(range(len(chain))) if holds(at)), 0)


def writers_root(heads: dict[str, Head]) -> str:
    tree = Tree()
    for writer in sorted(heads):
        tree.append(str(heads[writer]).encode())
    return tree.root().hex()


# --------------------------------------------------------------------------- payloads, section 3

ENTRY = struct.Struct(">4sB3sQ32s")
REF = re.compile(r"([0-9]{12})\.payloads:(0|[1-9][0-9]{0,14})\Z")
SEAL = 48  # a sealed body is so much longer
KEY_ENTRY = 84


def check_payload(folder: Path, place: dict[str, Any]) -> str:
    """`good`, `sealed` (nobody can look inside without the key), or what is wrong with the entry that a line names."""
    found = REF.match(place["ref"])
    if found is None:
        return "missing"
    sealed = place.get("sealed")
    length = place["size"] + (SEAL if sealed else 0)
    try:
        with (folder / (found[1] + ".payloads")).open("rb") as file:
            file.seek(int(found[2]))
            header = file.read(ENTRY.size)
            if not header:
                return "missing"
            if len(header) < ENTRY.size:
                return "mismatch"
            magic, scheme, zeros, size, salt = ENTRY.unpack(header)
            if magic != b"XPE1" or zeros != b"\0\0\0":
                return "mismatch"
            if scheme == 255:
                return "erased"
            if scheme != (1 if sealed else 0):
                return "mismatch"
            body = file.read(length) if size == length else b""
    except OSError:
        return "missing"
    if size != length or len(body) != size:
        return "mismatch"
    if sealed:
        if hashlib.sha256(header + body).hexdigest() != sealed:
            return "mismatch"
        return _check_key(folder / (found[1] + ".keys"), salt)
    good = hmac.compare_digest(hmac.new(salt, body, "sha256").hexdigest(), place["commitment"])
    return "good" if good else "mismatch"


def _check_key(path: Path, place: bytes) -> str:
    """Is there a wrapped key for a sealed entry? A copy may be without any: then its payloads stay `sealed`."""
    if any(place[8:]):
        return "mismatch"
    try:
        with path.open("rb") as file:
            file.seek(min(int.from_bytes(place[:8], "big"), 1 << 53))
            key = file.read(KEY_ENTRY)
    except FileNotFoundError:
        return "sealed"
    except OSError:
        return "missing-key"
    if key[:8] == b"XKE1\xff\0\0\0":
        return "erased"
    return "sealed" if len(key) == KEY_ENTRY and key[:8] == b"XKE1\x01\0\0\0" else "missing-key"


PAYLOAD_PROBLEMS = {
    "missing": ("payload-missing", "is not there"),
    "missing-key": ("payload-missing", "cannot be opened by anybody: its key is not there"),
    "erased": ("payload-erased", "was erased"),
    "mismatch": ("payload-mismatch", "is not what the line commits to"),
}

# --------------------------------------------------------------------------- one writer's lines, section 6


class Row(NamedTuple):
    """A line as it was found: a record, or why it is none."""

    line: Line | None
    trouble: str
    place: str


class Writer:
    """Walks one writer's segments and names what is not as it was.

    Every line is looked at together with the one after it: that one's `prev` says what this one was.
    """

    def __init__(
        self, folder: Path, report: Report, signed: list[Signed], erased: dict[int, dict[str, bool]]
    ) -> None:
        self.erased = (
            erased  # payloads by sequence number that a tombstone tells of, and whether it is signed
        )
        self.erased_unsigned = 0
        self.name = folder.name
        self.folder = folder
        self.report = report
        self.dues = sorted(signed, key=lambda due: due.size)
        self.tree = Tree()
        self.seq = 0
        self.prev: str | None = ZERO  # None: unknown, whatever comes is taken
        self.prev_before: str | None = None
        self.whole = True
        self.agreed = 0  # records that a checkpoint agreed with
        self.signed = 0
        self.named: set[int] = set()  # records whose neighbours' links are explained already
        self.malformed = 0
        self.stray: tuple[int, str] | None = None
        self.torn = (0, hashlib.sha256(b"").hexdigest())

    def walk(self) -> None:
        """Read everything."""
        waiting: Row | None = None
        for segment in segments_of(self.folder):
            first = int(segment.stem)
            at_border = True
            for row in self._rows(segment):
                if waiting is not None:
                    self._take(waiting, row.line)
                if at_border:
                    self._open(segment.name, first)
                    at_border = False
                waiting = row
            if at_border:  # an empty segment
                if waiting is not None:
                    self._take(waiting, None)
                    waiting = None
                self._open(segment.name, first)
        if waiting is not None:
            self._take(waiting, None)
        for at, due in enumerate(self.dues):
            if due.root:
                self.signed = max(self.signed, due.size)
            if due.size > self.seq and at == len(self.dues) - 1:
                self._problem(
                    "truncated", self.seq, "%s names %d records" % (due.source, due.size), due.size - 1
                )

    def _rows(self, segment: Path) -> Iterator[Row]:
        number = 0
        with segment.open("rb") as file:
            while raw := file.readline(MAX_LINE):
                if raw.endswith(b"\n"):
                    number += 1
                    yield self._row(raw[:-1], "%s line %d" % (segment.name, number))
                    continue
                digest, size = hashlib.sha256(raw), len(raw)
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_LINE)
                    if not raw.endswith(b"\n"):
                        digest.update(raw)
                        size += len(raw)
                if raw:
                    number += 1
                    yield Row(None, "longer than a line may be", "%s line %d" % (segment.name, number))
                else:
                    self.torn = (size, digest.hexdigest())

    def _row(self, raw: bytes, place: str) -> Row:
        try:
            return Row(parse_line(raw), "", place)
        except Bad as bad:
            return Row(None, str(bad), place)

    def _open(self, name: str, first: int) -> None:
        if self.torn[0]:
            self._problem("torn", self.seq, "%d bytes of a partial line in the middle" % self.torn[0])
            self.torn = (0, hashlib.sha256(b"").hexdigest())
        if first == self.seq:
            return
        if first > self.seq:
            message = "records are missing before this segment"
            self._problem("missing-segment", self.seq, message, first - 1, name)
        else:
            self._problem(
                "repeated", first, "this segment begins before the one ahead of it ends", place=name
            )
        self.seq, self.prev = first, None

    def _take(self, row: Row, following: Line | None) -> None:
        """One line; `following` is the record after it, if that can be read."""
        line, due = row.line, self.seq
        if line is None:
            self._problem("malformed", due, row.trouble, place=row.place)
            self.malformed += 1
            return
        if line.writer != self.name:
            self._problem("foreign", due, "a line of another writer", place=row.place)
            return
        after_malformed, self.malformed = self.malformed, 0
        if after_malformed and due <= line.seq <= due + after_malformed:
            self.seq, self.prev = line.seq, None
        elif line.seq == due:
            self._check_link(line, following, row.place)
        elif line.seq > due and line.prev == self.prev:
            self._problem("altered", due, "its sequence number says %d" % line.seq, place=row.place)
            self._accept(line, following, row.place)
            self.prev = None
            return
        elif line.seq > due:
            self._problem("missing", due, "records are missing here", line.seq - 1, row.place)
            self.seq, self.prev = line.seq, None
        elif not self._is_taken_up(line, row.place):
            return
        self._accept(line, following, row.place)

    def _is_taken_up(self, line: Line, place: str) -> bool:
        """A sequence number that was there already: go on from it, or leave it aside?"""
        if self.stray == (line.seq - 1, line.prev):
            self.stray = None  # these continue one another: the writer goes on from there
        elif line.seq == self.seq - 1 and line.prev == self.prev_before:
            message = "two lines claim to be this record; the first continues nothing"
            self._problem("repeated", line.seq, message, place=place)
        else:
            self._problem("repeated", line.seq, "stands where record %d was due" % self.seq, place=place)
            self.stray = (line.seq, line.hash)
            return False
        self.seq, self.prev = line.seq, line.prev
        return True

    def _check_link(self, line: Line, following: Line | None, place: str) -> None:
        if self.prev is None or line.prev == self.prev:
            return
        before = line.seq - 1
        if before in self.named:
            return
        known = self._known_hash(line, following)
        start = line.raw.find(b'"prev":"') + 8
        as_due = line.raw[:start] + self.prev.encode() + line.raw[start + 64 :]
        if known == line.hash:
            self._problem("altered", before, "record %d does not continue it" % line.seq, place=place)
        elif known is not None and known == hashlib.sha256(as_due).hexdigest():
            self._problem("altered", line.seq, "its link to the record before was changed", place=place)
        else:
            message = "record %d does not continue it: one of the two was changed, or both" % line.seq
            self._problem("altered", before, message, line.seq, place)
            self.named.add(line.seq)
        self.whole = False

    def _known_hash(self, line: Line, following: Line | None) -> str | None:
        """What others call this record: a checkpoint, or else the record after it."""
        for due in self.dues:
            if due.size == line.seq + 1:
                return due.head
        if following is not None and following.seq == line.seq + 1:
            return following.prev
        return None

    def _accept(self, line: Line, following: Line | None, place: str) -> None:
        if line.seq == 0 and line.kind != "start":
            self._problem("malformed", 0, "a writer's first record is `start`", place=place)
        if not is_canonical(line):
            self._problem("malformed", line.seq, "not in canonical form", place=place)
        self.prev_before, self.prev = self.prev, line.hash
        self.seq += 1
        self.tree.append(bytes.fromhex(line.hash))
        self.report.count("records")
        for name, entry in payloads_of(line).items():
            self._check_payload(line, name, entry)
        while self.dues and self.dues[0].size <= self.seq:
            self._meet(self.dues.pop(0), following)

    def _meet(self, due: Signed, following: Line | None) -> None:
        """The tree has a size that somebody named."""
        if due.root:
            self.signed = max(self.signed, due.size)
        if due.size < self.seq or not self.whole:
            return  # named elsewhere already
        last = due.size - 1
        if due.head != self.prev:
            if following is not None and following.seq == due.size and following.prev == due.head:
                self._problem("altered", last, f"{due.source} and the next record know another one")
                self.named.add(last)
            elif due.root:
                message = f"the chain is whole but not the one that {due.source} names"
                self._problem("rewritten", min(self.agreed, last), message, last)
            else:
                self._problem("predecessor", last, f"{due.source} names another record")
        elif due.root and due.root != self.tree.root().hex():
            self._problem("rewritten", self.agreed, f"{due.source} names another root", last)
        else:
            self.agreed = due.size

    def _check_payload(self, line: Line, name: str, entry: dict[str, Any]) -> None:
        self.report.count("payloads")
        state = check_payload(self.folder, entry)
        if state == "erased" and name in self.erased.get(line.seq, {}):
            self.report.count("payloads erased under a tombstone")
            self.erased_unsigned += not self.erased[line.seq][name]
        elif state == "sealed":
            self.report.count("payloads sealed")
        elif state != "good":
            code, what = PAYLOAD_PROBLEMS[state]
            self._problem(code, line.seq, f"payload {name} {what}", place=entry["ref"])

    def _problem(self, code: str, seq: int, message: str, last: int = -1, place: str = "") -> None:
        if not code.startswith("payload-"):
            self.whole = False
        self.report.add(code, self.name, seq, message, last, place)


# --------------------------------------------------------------------------- a ledger's directory, section 1

CHECKPOINTS = "checkpoints.log"
PUBLIC_KEY = "checkpoint.pub"


def writers_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if WRITER.match(path.name) and path.is_dir())


def segments_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if re.match(r"[0-9]{12}\.jsonl\Z", path.name))


def verify_ledger(directory: Path, key: Key | None, report: Report, every: bool = False) -> None:
    """Check a whole ledger. Raises OSError if it cannot be read."""
    checkpoints = Checkpoints()
    log = directory / CHECKPOINTS
    with log.open("rb") if log.exists() else io.BytesIO() as file:
        checkpoints.read(file, key, report, every)
    folders = writers_of(directory)
    starts = {folder.name: _start_of(folder) for folder in folders}
    claims, torn = _claims(starts)
    erased = _tombstones(folders, checkpoints)
    unsigned = erased_unsigned = 0
    for folder in folders:
        name = folder.name
        signed = checkpoints.signed.get(name, []) + claims.get(name, [])
        writer = Writer(folder, report, signed, erased.get(name, {}))
        writer.walk()
        unsigned += max(0, writer.seq - writer.signed)
        erased_unsigned += writer.erased_unsigned
        _check_torn(name, writer.torn, torn.get(name), report)
    for name in sorted(set(checkpoints.signed) | set(claims)):
        size = max([due.size for due in checkpoints.signed.get(name, []) + claims.get(name, [])] + [0])
        if name not in starts and size:
            report.add("missing-writer", name, 0, "this writer's files are gone", size - 1)
    if erased_unsigned:
        text = "%d payloads erased under tombstones that no checkpoint covers yet"
        report.unchecked.append(text % erased_unsigned)
    report.counts["writers"] = len(folders)
    report.counts["checkpoints"] = checkpoints.followed
    report.counts["records after the last checkpoint"] = unsigned
    if sealed := report.counts.get("payloads sealed"):
        report.unchecked.append("what is inside %d sealed payloads: their key is not here" % sealed)


def _tombstones(folders: list[Path], checkpoints: Checkpoints) -> dict[str, dict[int, dict[str, bool]]]:
    """Which payloads were erased on purpose: writer, sequence number, names; True if a checkpoint covers it."""
    found: dict[str, dict[int, dict[str, bool]]] = {}
    for folder in folders:
        if folder.name.split("-")[0] != "retention":
            continue
        signed = max([due.size for due in checkpoints.signed.get(folder.name, [])] + [0])
        for segment in segments_of(folder):
            for raw in segment.read_bytes().split(b"\n")[:-1]:  # what no newline ends is no record
                try:
                    line = parse_line(raw)
                except Bad:
                    continue  # named when this writer is walked
                values = line.values
                if line.kind != "retention.erased" or line.writer != folder.name:
                    continue
                if not isinstance(values.get("seqs"), list):
                    continue
                of_writer = found.setdefault(str(values.get("writer_of")), {})
                for seq in values["seqs"]:
                    if type(seq) is int:
                        names = of_writer.setdefault(seq, {})
                        payload = str(values.get("payload"))
                        names[payload] = names.get(payload, False) or line.seq < signed
    return found


def _start_of(folder: Path) -> dict[str, Any]:
    """The first record, if it is a `start` of this writer."""
    segments = segments_of(folder)
    if not segments or int(segments[0].stem) != 0:
        return {}
    with segments[0].open("rb") as file:
        raw = file.readline(MAX_LINE)
    try:
        line = parse_line(raw[:-1])
    except Bad:
        return {}
    return line.values if line.kind == "start" and line.writer == folder.name and raw.endswith(b"\n") else {}


def _claims(
    starts: dict[str, dict[str, Any]],
) -> tuple[dict[str, list[Signed]], dict[str, tuple[int, str, str]]]:
    """What `start` records say about the writers before them: last records, and torn tails."""
    heads: dict[str, list[Signed]] = {}
    torn: dict[str, tuple[int, str, str]] = {}
    for by, start in starts.items():
        named = start.get("predecessor")
        if isinstance(named, dict) and not named.get("unreadable"):
            writer, seq, head = named.get("writer"), named.get("seq"), str(named.get("head"))
            if WRITER.match(str(writer)) and type(seq) is int and seq >= 0 and HASH.match(head):
                heads.setdefault(str(writer), []).append(Signed(seq + 1, head, "", "the start of " + by))
        tail = start.get("torn")
        if isinstance(tail, dict) and type(tail.get("bytes")) is int:
            torn[str(tail.get("writer"))] = (tail["bytes"], str(tail.get("digest")), by)
    return heads, torn


def _check_torn(name: str, torn: tuple[int, str], named: tuple[int, str, str] | None, report: Report) -> None:
    if named is not None and named[:2] != torn:
        report.add("torn", name, -1, f"the torn tail is not the one that the start of {named[2]} names")
    elif torn[0]:
        known = "named by the start of " + named[2] if named is not None else "not named by any successor yet"
        report.notes.append("%s: torn tail of %d bytes, %s" % (name, torn[0], known))


# --------------------------------------------------------------------------- evidence packets, docs/evidence.md

MANIFEST, MANIFEST_NOTE, VERIFIER = "manifest.json", "manifest.note", "verify.py"
MANIFEST_TITLE = "extproc-evidence-manifest/v1"


FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z")
MAX_PACKET = 8 << 30  # bytes of all files together, unpacked


class Packet:
    """A packet's files, in a folder or in a zip; nothing is ever unpacked.

    Raises Bad for a name that is there twice or would lead out of the folder, for links, and for more than MAX_PACKET.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path if path.is_dir() else None
        self._zip = zipfile.ZipFile(path) if self._folder is None else None
        sizes = self._sizes_in_zip() if self._zip is not None else self._sizes_in_folder()
        self._names = sorted(name for name, _ in sizes)
        for before, name in zip(["", *self._names], self._names):
            if not FILE_NAME.match(name):
                raise Bad("a file's name is not one of a packet: %s" % name[:200])
            if name == before:
                raise Bad("%s is in the packet twice" % name)
        if sum(size for _, size in sizes) > MAX_PACKET:
            raise Bad("the packet unpacks to more than %d bytes" % MAX_PACKET)

    def _sizes_in_zip(self) -> list[tuple[str, int]]:
        assert self._zip is not None
        found = [(one.filename, one.file_size) for one in self._zip.infolist()]
        return [(name, size) for name, size in found if size or not name.endswith("/")]

    def _sizes_in_folder(self) -> list[tuple[str, int]]:
        assert self._folder is not None
        sizes = []
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder).as_posix()
            if "__pycache__" in name.split("/"):
                continue  # Python's own, beside a verify.py that was imported
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise Bad("%s is neither a file nor a folder" % name)
            if path.is_file():
                sizes.append((name, path.stat().st_size))
        return sizes

    def names(self) -> list[str]:
        return self._names

    def read(self, name: str) -> bytes:
        """Raises Bad if it is not there."""
        if name not in self._names:
            raise Bad("%s is not there" % name)
        try:
            if self._zip is not None:
                return self._zip.read(name)
            assert self._folder is not None
            return (self._folder / name).read_bytes()
        except Exception as failure:  # damaged, encrypted, packed in a way that is not known here
            raise Bad(f"{name} cannot be read: {type(failure).__name__}") from None

    def json(self, name: str) -> Any:
        return parse_json(self.read(name), name)

    def lines(self, name: str) -> list[Any]:
        """A file of JSON lines."""
        return [parse_json(line, name) for line in self.read(name).split(b"\n") if line]


def parse_json(data: bytes, name: str) -> Any:
    """Any JSON that is read the same everywhere: no name twice, no NaN. Raises Bad."""
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Bad("%s is not JSON" % name) from None


def whole(value: Any) -> int:
    """A whole number that is not negative. Raises Bad."""
    if type(value) is not int or value < 0:
        raise Bad("not a whole number: %s" % str(value)[:100])
    return value


def verify_packet(path: Path, key: Key | None, report: Report) -> None:
    """Files against the manifest, records against the checkpoints, the manifest's signature against the records."""
    try:
        packet = Packet(path)
        manifest = packet.json(MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_TITLE:
            raise Bad("not an evidence packet of version 1")
        _check_files(packet, manifest, report)
        if key is None:
            key = parse_key(str(manifest.get("ledger_key")))
            report.unchecked.append(
                "the key: it came out of the packet itself, so compare %s with one that you have from elsewhere"
                % str(key)
            )
        checked = PacketLedger(packet, manifest["scope"], key, report)
        checked.check()
        _check_exchanges(packet, checked, report)
        _check_tables(packet, manifest, checked, report)
        _check_sheets(packet, report)
        _check_custody(packet, manifest, checked, report)
    except (Bad, zipfile.BadZipFile) as bad:
        report.add("packet", "", -1, str(bad))
    except OSError:
        raise
    except Exception as bad:  # whatever hostile bytes may lead to: it does not verify
        report.add("packet", "", -1, "malformed: %s" % type(bad).__name__)


def _check_files(packet: Packet, manifest: dict[str, Any], report: Report) -> None:
    listed = {str(one["name"]): one for one in manifest["files"]}
    for name, one in sorted(listed.items()):
        try:
            data = packet.read(name)
        except Bad as bad:
            report.add("file-missing", "", -1, str(bad))
            continue
        report.count("files")
        if len(data) != one["size"] or hashlib.sha256(data).hexdigest() != one["sha256"]:
            report.add("file-changed", "", -1, "%s is not the file that the manifest names" % name)
    for name in packet.names():
        if name not in listed and name not in (MANIFEST, MANIFEST_NOTE):
            report.add("file-foreign", "", -1, "%s is not in the manifest" % name)


def learn_keys(keys: dict[str, Key], pairs: list[tuple[Note, Checkpoint]]) -> None:
    """A handover that bears both signatures makes the new key good if the old one is."""
    waiting = [(note, checkpoint.key) for note, checkpoint in pairs if checkpoint.key is not None]
    known = -1
    while known != len(keys):
        known = len(keys)
        for note, following in waiting:
            if any(note.is_signed_by(key) for key in list(keys.values())) and note.is_signed_by(following):
                keys[str(following)] = following


class PacketLedger:
    """The cut of the ledger in a packet: ranges of records, proven to be in signed trees without the others."""

    def __init__(self, packet: Packet, scope: dict[str, str], key: Key, report: Report) -> None:
        self.scope = scope  # "from" and "to" as times are written in lines, so that text sorts as time
        self.packet = packet
        self.keys = {str(key): key}
        self.report = report
        self.lines: dict[tuple[str, int], Line] = {}
        self.proven: set[tuple[str, int]] = set()
        self.covered: set[str] = set()  # writers of which a range reaches into the signed tree
        self.proof = packet.json("ledger/proof.json")
        self.last_time = ""  # of the checkpoint that the proof rests on
        self.notes: dict[int, tuple[Note, Checkpoint]] = {}

    def check(self) -> None:
        notes = self.notes = self._notes()
        after = self._heads("after", notes)
        before = self._heads("before", notes)
        self._check_before(notes)
        hashes = self._hashes()
        for one in self.proof["ranges"]:
            self._check_range(one, hashes, after, before)
        self._check_foreign(hashes)
        for writer, known in sorted(before.items()):
            now = after.get(writer)
            if now is None or now.size < known.size or (now.size == known.size and now != known):
                message = "is not in the latest checkpoint what it was before the period"
                self.report.add("rewritten", writer, 0, message, known.size - 1)
        for writer, head in sorted(after.items()):
            old = before[writer].size if writer in before else 0
            if writer not in self.covered and head.size > old:
                message = "grew from %d to %d records, and none of them is accounted for" % (old, head.size)
                self.report.add("incomplete", writer, old, message, head.size - 1)
        self._check_payloads()
        if self.last_time < self.scope["to"]:
            text = "whether more was recorded after %s: the latest checkpoint here is older than the end of the period"
            self.report.unchecked.append(text % (self.last_time or "the beginning"))
        if not notes and self.lines:
            self.report.add("signature", "", -1, "no checkpoint here is signed by the key")
        hidden = len(hashes) - len(self.lines)
        self.report.count("records", len(self.lines))
        if hidden:
            self.report.count("records shown by their hash only", hidden)
            if not self.scope.get("target"):
                self.report.add(
                    "hidden",
                    "",
                    -1,
                    "a packet about all targets shows %d records by their hash only" % hidden,
                )
        for gap in self.proof.get("unchecked", []):
            self.report.unchecked.append(str(gap))

    def _notes(self) -> dict[int, tuple[Note, Checkpoint]]:
        """Good checkpoints by number. Neighbours must be linked; the latest signature of a run vouches for it."""
        runs: list[list[tuple[Note, Checkpoint]]] = []
        file = io.BytesIO(self.packet.read("ledger/checkpoints.log"))
        for raw, whole in split_notes(file):
            if not whole:
                raise Bad("the checkpoints end in the middle of one")
            note = parse_note(raw)
            checkpoint = parse_checkpoint(note.text)
            if runs and runs[-1][-1][1].number + 1 == checkpoint.number:
                if checkpoint.previous != runs[-1][-1][0].digest:
                    raise Bad("checkpoint %d does not name the one before it" % checkpoint.number)
                runs[-1].append((note, checkpoint))
            else:
                runs.append([(note, checkpoint)])
        learn_keys(self.keys, [pair for run in runs for pair in run])
        good: dict[int, tuple[Note, Checkpoint]] = {}
        for run in runs:
            if not self._is_signed(*run[-1]):
                self.report.add(
                    "signature", "", -1, "checkpoint %d is not signed by the key" % run[-1][1].number
                )
                continue
            for note, checkpoint in run:
                good[checkpoint.number] = (note, checkpoint)
                for writer, seq, code in checkpoint.alarms if (note, checkpoint) == run[-1] else []:
                    self.report.add("alarm", writer, seq, "the checkpointer refused this writer: " + code)
        self.report.counts["checkpoints"] = len(good)
        return good

    def _is_signed(self, note: Note, checkpoint: Checkpoint) -> bool:
        return any(checkpoint.origin == key.name and note.is_signed_by(key) for key in self.keys.values())

    def _heads(self, which: str, notes: dict[int, tuple[Note, Checkpoint]]) -> dict[str, Head]:
        """Every writer's tree at a checkpoint; the checkpoint commits to all of them by one root."""
        named = self.proof.get(which)
        if named is None:
            return {}
        if named["checkpoint"] not in notes:
            raise Bad(
                "checkpoint %s, which the proof rests on, is not there or not signed" % named["checkpoint"]
            )
        checkpoint = notes[named["checkpoint"]][1]
        if which == "after":
            self.last_time = checkpoint.time
        heads = {w: Head(w, whole(size), root, head) for w, size, root, head in named["heads"]}
        if len(heads) != checkpoint.writers or writers_root(heads) != checkpoint.writers_root:
            raise Bad("the trees are not those that checkpoint %d commits to" % checkpoint.number)
        return heads

    def _check_before(self, notes: dict[int, tuple[Note, Checkpoint]]) -> None:
        """What `before` names was there already when the period began: only then may it go unaccounted for."""
        before, after = self.proof.get("before"), self.proof.get("after")
        if notes and (after is None or after["checkpoint"] != max(notes)):
            self.report.add("incomplete", "", -1, "the proof does not rest on the latest checkpoint")
        if before is None:
            return
        checkpoint = notes[before["checkpoint"]][1]
        if checkpoint.time >= self.scope["from"]:
            message = "checkpoint %d, before which nothing is accounted for, is of %s: not before the period"
            self.report.add("incomplete", "", -1, message % (checkpoint.number, checkpoint.time))
        if after is None or checkpoint.number > after["checkpoint"]:
            message = "checkpoint %d, before which nothing is accounted for, comes after the latest one"
            self.report.add("incomplete", "", -1, message % checkpoint.number)

    def _check_foreign(self, hashes: dict[tuple[str, int], str]) -> None:
        """Every record and hash belongs to a range: nothing else ties it to a signed tree."""
        ranges = sorted((str(one["writer"]), one["first"], one["last"]) for one in self.proof["ranges"])
        for before, one in zip(ranges, ranges[1:]):
            if before[0] == one[0] and one[1] <= before[2]:
                raise Bad("ranges of %s overlap" % one[0])
        last = "", 0, -1
        coming = iter(ranges)
        for writer, seq in sorted(hashes):
            while (last[0], last[2]) < (writer, seq):
                last = next(coming, ("\U0010ffff", 0, 0))
            if last[0] != writer or seq < last[1]:
                self.report.add("foreign", writer, seq, "is in no range of the proof")

    def _hashes(self) -> dict[tuple[str, int], str]:
        """Record hashes by place, of the lines that are shown and of those that are not."""
        hashes: dict[tuple[str, int], str] = {}
        for number, raw in enumerate(self.packet.read("ledger/records.jsonl").split(b"\n")[:-1], 1):
            try:
                line = parse_line(raw)
            except Bad as bad:
                self.report.add("malformed", "", -1, str(bad), place="ledger/records.jsonl line %d" % number)
                continue
            if (line.writer, line.seq) in hashes:
                self.report.add("repeated", line.writer, line.seq, "is in the packet twice")
            self.lines[line.writer, line.seq] = line
            hashes[line.writer, line.seq] = line.hash
        for one in self.packet.lines("ledger/hidden.jsonl"):
            place = (str(one["writer"]), whole(one["seq"]))
            if place in hashes or not HASH.match(str(one["hash"])):
                raise Bad("ledger/hidden.jsonl: %s:%d is shown as well, or malformed" % place)
            hashes[place] = one["hash"]
        return hashes

    def _check_range(
        self,
        one: dict[str, Any],
        hashes: dict[tuple[str, int], str],
        after: dict[str, Head],
        before: dict[str, Head],
    ) -> None:
        writer, first, last = str(one["writer"]), whole(one["first"]), whole(one["last"])
        if first > last:
            raise Bad("a range from %d to %d" % (first, last))
        absent = next((seq for seq in range(first, last + 1) if (writer, seq) not in hashes), None)
        if absent is not None:
            self.covered.add(writer)  # named here
            self.report.add("missing", writer, absent, "is not in the packet")
            return
        prev = None
        for seq in range(first, last + 1):
            line = self.lines.get((writer, seq))
            if line is not None and prev is not None and line.prev != prev:
                self.report.add("altered", writer, seq - 1, "record %d does not continue it" % seq)
            prev = hashes[writer, seq]
        head = after.get(writer)
        signed = min(last + 1, head.size if head is not None else 0)
        self.report.count("records after the last checkpoint", last + 1 - max(first, signed))
        if head is None or signed <= first:
            self.report.unchecked.append("%s:%d-%d: under no checkpoint yet" % (writer, first, last))
            return
        if not one.get("extra"):  # a record from outside the period that something in it rests on
            self.covered.add(writer)
        entries = [bytes.fromhex(hashes[writer, seq]) for seq in range(first, signed)]
        try:
            root = root_of_range(entries, first, head.size, [bytes.fromhex(node) for node in one["proof"]])
        except Bad as bad:
            self.report.add("proof", writer, first, str(bad), signed - 1)
            return
        if root.hex() != head.root:
            self.report.add(
                "rewritten", writer, first, "not the records that the checkpoint names", signed - 1
            )
            return
        self.proven.update((writer, seq) for seq in range(first, signed))
        if not one.get("extra"):
            self._check_borders(
                writer, first, last, before[writer].size if writer in before else 0, head.size
            )
        old = before.get(writer)
        if old is not None:
            path = [bytes.fromhex(node) for node in one["consistency"]]
            if not is_beginning(old.size, bytes.fromhex(old.root), head.size, root, path):
                message = "the tree before the period is no beginning of this one"
                self.report.add("rewritten", writer, 0, message, old.size - 1)

    def _check_borders(self, writer: str, first: int, last: int, old_size: int, size: int) -> None:
        """The range reaches beyond the period on both sides, or begins or ends with what there is."""
        sides = [(first, "begins")] if first > old_size else []
        if last + 1 < size:
            sides.append((last, "ends"))
        for seq, what in sides:
            line = self.lines.get((writer, seq))
            if line is None:
                text = "%s: that the range %s where the period does: record %d is shown by its hash only"
                self.report.unchecked.append(text % (writer, what, seq))
            elif line.at >= self.scope["from"] if what == "begins" else line.at < self.scope["to"]:
                self.report.add("incomplete", writer, seq, "the range %s inside the period" % what)

    def _check_payloads(self) -> None:
        for one in self.packet.lines("ledger/payloads.jsonl"):
            line = self.lines.get((str(one["writer"]), int(one["seq"])))
            place = payloads_of(line).get(str(one["name"])) if line is not None else None
            if line is None or place is None:
                self.report.add(
                    "payload-mismatch", str(one["writer"]), int(one["seq"]), "no record names this payload"
                )
                continue
            data = one["text"].encode("utf-8") if "text" in one else base64.b64decode(one["base64"])
            made = hmac.new(bytes.fromhex(one["salt"]), data, "sha256").hexdigest()
            self.report.count("payloads")
            if made != place["commitment"] or len(data) != place["size"]:
                message = "payload %s is not what the line commits to" % one["name"]
                self.report.add("payload-mismatch", line.writer, line.seq, message)


def _check_exchanges(packet: Packet, ledger: PacketLedger, report: Report) -> None:
    """The table of exchanges tells of every request in the period what its records say, once."""
    since, until = ledger.scope["from"], ledger.scope["to"]
    due: dict[tuple[str, int], Line] = {}
    ends: dict[tuple[str, str], int] = {}  # the last outcome of a decision
    for place, line in sorted(ledger.lines.items()):
        if line.kind in ("intent", "outcome") and since <= line.at < until:
            due[place] = line
            if line.kind == "outcome":
                ends[line.writer, str(line.values.get("decision_id"))] = line.seq
    for row in packet.lines("tables/exchanges.jsonl"):
        report.count("exchanges")
        named = _records_of(row, ledger)
        if not all(due.pop((line.writer, line.seq), None) for line in named) or not named:
            message = "tables/exchanges.jsonl rests on a record that is not there, or on one twice: %s"
            report.add("table", "", -1, message % (row["record"] or row["outcome_record"] or "none at all"))
            continue
        first = named[0]
        where = first.writer, first.seq
        decision = first.values.get("decision_id")
        if decision and len(named) == 1 and first.kind == "intent":
            if ends.get((first.writer, str(decision)), -1) > first.seq:
                report.add("table", *where, "tables/exchanges.jsonl does not name its outcome")
    for writer, seq in sorted(due):
        report.add("table", writer, seq, "is missing in tables/exchanges.jsonl")


def _records_of(row: dict[str, Any], ledger: PacketLedger) -> list[Line]:
    """The records a row names, its intent first; none if one of them is not there or is of another kind."""
    found = []
    for name, kind, digest in (("record", "intent", "hash"), ("outcome_record", "outcome", "outcome_hash")):
        if row[name]:
            writer, _, seq = str(row[name]).rpartition(":")
            line = ledger.lines.get((writer, int(seq) if seq.isascii() and seq.isdigit() else -1))
            if line is None or line.hash != row[digest] or line.kind != kind:
                return []
            found.append(line)
    if len({(line.writer, line.values.get("decision_id", "")) for line in found}) > 1:
        return []
    return found


def _check_sheets(packet: Packet, report: Report) -> None:
    """Every table says the same as CSV and as JSON lines."""
    names = {name.rpartition(".")[0] for name in packet.names() if name.startswith("tables/")}
    csv.field_size_limit(1 << 30)
    for name in sorted(names):
        try:
            sheet = packet.read(name + ".csv").decode("utf-8-sig")
            titles, *cells = csv.reader(io.StringIO(sheet, newline=""), strict=True)
            rows = packet.lines(name + ".jsonl")
            same = all(set(row) == set(titles) for row in rows) and len(set(titles)) == len(titles)
            same = same and cells == [[csv_cell(row[title]) for title in titles] for row in rows]
        except (Bad, ValueError, csv.Error):
            same = False
        if not same:
            report.add("table", "", -1, "%s.csv does not say what %s.jsonl says" % (name, name))


def csv_cell(value: Any) -> str:
    """A value as it stands in a sheet: what would run as a formula there has an apostrophe before it."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "true", False: "false"}[value]
    text = str(value)
    is_formula = isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n")
    return "'" + text if is_formula else text


def _person(principal: Any) -> str:
    known = principal if isinstance(principal, dict) else {}
    return str(known.get("person") or "%s|%s" % (known.get("issuer", ""), known.get("subject", "")))


def _check_custody(packet: Packet, manifest: dict[str, Any], ledger: PacketLedger, report: Report) -> None:
    """The manifest is signed by the key that a record under a checkpoint names for this packet."""
    named = manifest.get("custody")
    if named is None:
        report.unchecked.append("who exported this packet: it was made from a copy, without a record of it")
        return
    place = (str(named["writer"]), int(named["seq"]))
    line = ledger.lines.get(place)
    if line is None or line.kind != "evidence.exporting" or line.values.get("packet") != manifest["packet"]:
        raise Bad("the record of this export is not in the packet")
    scope = manifest["scope"]
    told = {
        **{name: scope[name] for name in ("from", "to", "target", "controls")},
        "reason": manifest["reason"],
    }
    for name, value in told.items():
        if value != line.values.get(name):
            report.add(
                "custody", line.writer, line.seq, "the manifest names another `%s` than the record" % name
            )
    key = parse_key(str(line.values.get("key")))
    note = parse_note(packet.read(MANIFEST_NOTE))
    digest = hashlib.sha256(packet.read(MANIFEST)).hexdigest()
    if note.text.decode("utf-8", "replace").split("\n")[:2] != [MANIFEST_TITLE, "manifest " + digest]:
        report.add("signature", "", -1, "manifest.note signs another manifest")
    elif not note.is_signed_by(key):
        report.add("signature", "", -1, "the manifest is not signed by %s, which the ledger names" % str(key))
    elif place not in ledger.proven:
        report.unchecked.append("the exporter's key: its record is under no checkpoint yet")


# --------------------------------------------------------------------------- the packet's tables, made again


class Exchange(NamedTuple):
    """A request or statement: what was asked and how it ended, of which one may be missing; Envoy's word on it."""

    intent: Line | None
    outcome: Line | None
    access: Line | None

    @property
    def named(self) -> list[Line]:
        return [line for line in (self.intent, self.outcome) if line is not None]

    @property
    def at(self) -> str:
        return self.named[0].at

    def text(self, name: str) -> str:
        found = (line.values.get(name) for line in self.named)
        return next((value for value in found if isinstance(value, str)), "")

    def part(self, name: str) -> dict[str, Any]:
        found = (line.values.get(name) for line in self.named)
        return next((value for value in found if isinstance(value, dict)), {})

    @property
    def rules(self) -> list[dict[str, Any]]:
        found = [line.values.get("rules") for line in self.named]
        return [
            rule for rules in found if isinstance(rules, list) for rule in rules if isinstance(rule, dict)
        ]

    @property
    def response(self) -> dict[str, Any]:
        found = self.outcome.values.get("response") if self.outcome is not None else None
        return found if isinstance(found, dict) else {}

    @property
    def asked(self) -> str:
        """The statement's text, or method and path, or what else was done."""
        statement, request = self.part("statement"), self.part("request")
        if statement:
            return str(statement.get("text", ""))
        if request:
            return "{} {}".format(request.get("method", ""), request.get("path", ""))
        return self.text("operation")

    @property
    def is_blind(self) -> bool:
        return self.response.get("inspected") in ("uninspected", "opaque")

    @property
    def tables(self) -> list[str]:
        statement = self.part("statement")
        return [*_texts(statement.get("tables_read")), *_texts(statement.get("tables_written"))]


def _texts(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _once(words: Any) -> str:
    return " ".join(dict.fromkeys(str(word) for word in words))


def _counted(value: Any) -> str:
    return (
        " ".join("%s=%s" % (name, value[name]) for name in sorted(value)) if isinstance(value, dict) else ""
    )


def _place(line: Line | None) -> str:
    return "%s:%d" % (line.writer, line.seq) if line is not None else ""


class Tables:
    """What each table must say, computed from the records, payloads and checkpoints in the packet alone."""

    def __init__(self, packet: Packet, manifest: dict[str, Any], ledger: PacketLedger) -> None:
        self.packet, self.ledger = packet, ledger
        self.since, self.until = ledger.scope["from"], ledger.scope["to"]
        self.seed, self.sample_size = str(manifest["sample"]["seed"]), whole(manifest["sample"]["size"])
        ordered = [ledger.lines[place] for place in sorted(ledger.lines)]
        self.period = [line for line in ordered if self.since <= line.at < self.until]
        self.lines = [
            line for kind in ("policy.activated", "config.loaded") for line in self._in_force(ordered, kind)
        ] + self.period
        self.payloads = {
            (str(one["writer"]), whole(one["seq"]), str(one["name"])): one["text"].encode("utf-8")
            if "text" in one
            else base64.b64decode(one["base64"])
            for one in packet.lines("ledger/payloads.jsonl")
        }
        self.exchanges = self._exchanges()
        self.rows = [self.exchange(one) for one in self.exchanges]

    def _in_force(self, ordered: list[Line], kind: str) -> list[Line]:
        """The last record of a kind from before the period."""
        found: list[Line] = []
        for line in ordered:
            if line.kind == kind and line.at < self.since and (not found or found[0].at <= line.at):
                found = [line]
        return found

    def _exchanges(self) -> list[Exchange]:
        told: dict[str, Line] = {}
        waiting: dict[tuple[str, str], Line] = {}
        pairs: list[tuple[Line | None, Line | None]] = []
        for line in self.period:
            decision = str(line.values.get("decision_id", ""))
            if line.kind == "intent":
                waiting[line.writer, decision or line.hash] = line
            elif line.kind == "outcome":
                pairs.append((waiting.pop((line.writer, decision), None), line))
            elif line.kind == "access":
                name = next(
                    (str(line.values[n]) for n in ("decision_id", "session_id") if line.values.get(n)), ""
                )
                told.setdefault(name, line)
        pairs += [(line, None) for line in waiting.values()]
        found = []
        for intent, outcome in pairs:
            one = Exchange(intent, outcome, None)
            ended_by = one.text("session_id" if one.text("operation") else "decision_id")
            found.append(one._replace(access=told.get(ended_by) if ended_by else None))
        return sorted(found, key=lambda one: (one.at, one.named[0].writer, one.named[0].seq))

    def payload(self, line: Line | None, name: str) -> bytes | None:
        return self.payloads.get((line.writer, line.seq, name)) if line is not None else None

    def payload_text(self, line: Line | None, name: str) -> str:
        return (self.payload(line, name) or b"").decode("utf-8", "replace")

    def of_kind(self, kind: str) -> list[Line]:
        return [line for line in self.lines if line.kind == kind]

    # ------------------------------------------------------------------ one method for each table

    def exchange(self, one: Exchange) -> dict[str, Any]:
        principal, statement, hold = one.part("principal"), one.part("statement"), one.part("hold")
        response, outcome, intent = one.response, one.outcome, one.intent
        grant = hold.get("grant")
        codes = [response.get("code"), one.access.values.get("code") if one.access is not None else None]
        return {
            "at": one.at,
            **{
                name: one.text(name)
                for name in ("decision_id", "session_id", "target", "protocol", "operation")
            },
            "principal": principal.get("subject", ""),
            **{name: principal.get(name, "") for name in ("issuer", "person", "kind")},
            "source": one.part("request").get("source") or one.part("connection").get("source", ""),
            "verdict": one.text("verdict"),
            "code": one.text("code"),
            "rules": " ".join(str(rule.get("rule", "")) for rule in one.rules if not rule.get("shadow")),
            "shadow_rules": " ".join(str(rule.get("rule", "")) for rule in one.rules if rule.get("shadow")),
            "risk": intent.values.get("risk", 0) if intent is not None else "",
            "policy": one.text("policy"),
            "hold": hold.get("id", ""),
            "grant": grant.get("id", "") if isinstance(grant, dict) else "",
            "request": one.asked,
            "tables": _once(one.tables),
            "effects": _once(_texts(statement.get("effects"))),
            "response_code": next((code for code in codes if isinstance(code, int) and code), ""),
            "sqlstate": response.get("sqlstate", ""),
            "executed": outcome.values.get("executed") if outcome is not None else None,
            "end": one.text("end") or "unknown",
            "reason": one.text("reason"),
            "duration_us": outcome.values.get("duration_us", "") if outcome is not None else "",
            "rows": response.get("rows", ""),
            "bytes": response.get("bytes", response.get("size", "")),
            "masks": _once(intent.values.get("masks", ())) if intent is not None else "",
            "masked": _counted(response.get("masked")),
            "residual": _counted(response.get("residual")),
            "inspected": response.get("inspected", ""),
            "degraded": _once(one.named[0].values.get("degraded", ())),
            "trace_id": one.part("trace").get("trace_id", ""),
            "record": _place(intent),
            "hash": intent.hash if intent is not None else "",
            "outcome_record": _place(outcome),
            "outcome_hash": outcome.hash if outcome is not None else "",
        }

    def sample(self) -> list[dict[str, Any]]:
        names = [
            "at",
            "decision_id",
            "principal",
            "target",
            "verdict",
            "code",
            "request",
            "rules",
            "end",
            "record",
        ]
        drawn = sorted(
            (hashlib.sha256((self.seed + row["decision_id"]).encode("utf-8")).hexdigest(), at)
            for at, row in enumerate(self.rows)
        )
        return [
            {
                "order": order,
                "draw": draw,
                **{name: self.rows[at][name] for name in names},
                "kept_request": self.payload_text(self.exchanges[at].intent, "request"),
                "kept_response": self.payload_text(self.exchanges[at].outcome, "response"),
            }
            for order, (draw, at) in enumerate(drawn[: self.sample_size], 1)
        ]

    def approvals(self) -> list[dict[str, Any]]:
        moves: dict[str, list[Line]] = {}
        for line in self.lines:
            hold = line.values.get("hold")
            if line.kind.startswith(("hold.", "grant.")) and isinstance(hold, str):
                moves.setdefault(hold, []).append(line)
        rows = [
            self._approval(hold, sorted(found, key=lambda x: (x.at, x.seq))) for hold, found in moves.items()
        ]
        return sorted(rows, key=lambda row: (row["opened_at"], row["hold"]))

    def _approval(self, hold: str, moves: list[Line]) -> dict[str, Any]:
        opened = next((line for line in moves if line.kind == "hold.opened"), None)
        fields = opened.values if opened is not None else {}
        votes = [line for line in moves if line.kind == "hold.vote"]
        agreed = [line.values.get("approver") for line in votes if line.values.get("vote") == "approve"]
        against = {
            _person(line.values.get("approver")) for line in votes if line.values.get("vote") != "approve"
        }
        people = {_person(one) for one in agreed}
        ends = [
            "hold." + word
            for word in ["approved", "released", "denied", "expired", "abandoned", "void", "cancelled"]
        ]
        beside = ("hold.vote", "hold.break_glass", "hold.reviewed", "hold.review_overdue")
        decided = next((line for line in moves if line.kind in ends), None)
        states = [line.kind for line in moves if line.kind.startswith("hold.") and line.kind not in beside]
        judged = opened is not None and bool(agreed)
        asked = fields["requester"] if isinstance(fields.get("requester"), dict) else {}
        used = [one for one in self.exchanges if one.part("hold").get("id", "") == hold]
        enough = None
        if judged and decided is not None and all(line.kind != "hold.break_glass" for line in moves):
            enough = True
            for due in fields.get("approvers", ()):
                members = {
                    _person(one) for one in agreed if due.get("group") in (one or {}).get("groups", ())
                }
                enough = enough and len(members) >= due.get("count", 1)
        return {
            "hold": hold,
            "target": fields.get("target", ""),
            "requester": asked.get("subject", ""),
            "requester_person": _person(asked) if asked else "",
            "rules": " ".join(str(rule) for rule in fields.get("rules", ())),
            "quorum": " ".join(
                "%s=%s" % (one.get("group"), one.get("count")) for one in fields.get("approvers", ())
            ),
            "opened_at": opened.at if opened is not None else "",
            "decided_at": decided.at if decided is not None else "",
            "state": states[-1][len("hold.") :] if states else "",
            "approvers": " ".join(sorted(people)),
            "against": " ".join(sorted(against)),
            "reasons": "; ".join(str(line.values["reason"]) for line in votes if line.values.get("reason")),
            "separate": _person(asked) not in people if judged else None,
            "enough": enough,
            "used_by": " ".join(one.text("decision_id") for one in used),
            "executed": any(
                bool(one.outcome is not None and one.outcome.values.get("executed")) for one in used
            ),
            "grant_uses": sum(line.kind == "grant.used" for line in moves),
            "view": self.payload_text(opened, "view"),
            "record": _place(opened if opened is not None else moves[0]),
        }

    def access(self) -> list[dict[str, Any]]:
        groups: dict[tuple[str, str, str], list[Exchange]] = {}
        for one in self.exchanges:
            who = one.part("principal")
            if who:
                key = str(who.get("issuer", "")), str(who.get("subject", "")), one.text("target")
                groups.setdefault(key, []).append(one)
        rows = []
        for (issuer, subject, target), found in sorted(groups.items()):
            people = [one.part("principal") for one in found]
            rows.append(
                {
                    "principal": subject,
                    "issuer": issuer,
                    "person": str(people[0].get("person", "")),
                    "kind": str(people[0].get("kind", "")),
                    "groups": _merged(who.get("groups", ()) for who in people),
                    "target": target,
                    "first": found[0].at,
                    "last": max(one.at for one in found),
                    "allowed": sum(one.text("verdict") == "allow" for one in found),
                    "denied": sum(one.text("verdict") == "deny" for one in found),
                    "held": sum("id" in one.part("hold") for one in found),
                    "rules_used": _merged(
                        [str(rule.get("rule")) for rule in one.rules if not rule.get("shadow")]
                        if one.text("verdict") == "allow"
                        else []
                        for one in found
                    ),
                    "effects": _merged(one.part("statement").get("effects", ()) for one in found),
                    "authentication": _merged(
                        [f"{n}={who[n]}".replace(" ", "") for n in ("acr", "amr") if who.get(n)]
                        for who in people
                    ),
                    "keep": "",
                    "reviewer": "",
                    "reviewed_on": "",
                }
            )
        return rows

    def rules(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Of the rules that matched; what else is granted stands in the policies' text."""
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for one in self.exchanges:
            for rule in one.rules:
                key = str(rule.get("rule")), one.text("target")
                row = rows.setdefault(key, {"matched": 0, "principals": "", "last_used": "", "errors": 0})
                row["matched"] += 1
                row["errors"] += bool(rule.get("errored"))
                row["last_used"] = max(row["last_used"], one.at)
                row["principals"] = _merged(
                    [row["principals"].split(), [one.part("principal").get("subject", "")]]
                )
        return rows

    def privileged(self) -> list[dict[str, Any]]:
        names = [
            "at",
            "principal",
            "person",
            "target",
            "request",
            "verdict",
            "code",
            "hold",
            "executed",
            "decision_id",
            "record",
        ]
        rows = []
        for one, row in zip(self.exchanges, self.rows):
            effects = one.part("statement").get("effects", ())
            why = [effect for effect in ("admin", "ddl", "file", "network") if effect in effects]
            risk = one.intent.values.get("risk", 0) if one.intent is not None else 0
            why += (["risk %d" % risk] if risk >= 50 else []) + (["approval"] if one.part("hold") else [])
            if why:
                rows.append({"why": ", ".join(why), **{name: row[name] for name in names}})
        return rows

    def shared(self) -> list[dict[str, Any]]:
        people: dict[str, set[str]] = {}
        sources: dict[str, tuple[str, set[str]]] = {}
        for one, row in zip(self.exchanges, self.rows):
            who = one.part("principal")
            if not who:
                continue
            name = "%s|%s" % (who.get("issuer", ""), who.get("subject", ""))
            people.setdefault(name, set()).add(str(who.get("person", "")))
            token, address = str(who.get("token_id", "")), str(row["source"]).rpartition(":")[0]
            if token and address:
                sources[token] = name, {*sources.get(token, ("", set()))[1], address}
        signs = [(name, "several people", seen) for name, seen in sorted(people.items())]
        signs += [
            (name, "one token from several addresses", seen) for _, (name, seen) in sorted(sources.items())
        ]
        return [
            {"identity": name, "sign": sign, "seen": " ".join(sorted(seen))}
            for name, sign, seen in signs
            if len(seen) > 1
        ]

    def masking(self) -> list[dict[str, Any]]:
        found: dict[tuple[str, str], dict[str, int]] = {}
        for one in self.exchanges:
            for name in ("masked", "residual"):
                counts = one.response.get(name)
                for entity, number in counts.items() if isinstance(counts, dict) else ():
                    blank = {"exchanges": 0, "masked": 0, "residual": 0}
                    row = found.setdefault((one.text("target"), str(entity)), blank)
                    row[name] += number
                    row["exchanges"] += name == "masked"
        return [
            {"target": target, "entity": entity, **row} for (target, entity), row in sorted(found.items())
        ]

    def canaries(self) -> list[dict[str, Any]]:
        names = (
            "target", "verdict", "known", "masked", "recorded", "seed", "exchange",
        )  # fmt: skip
        return [
            {
                "at": line.at,
                **{name: line.values.get(name, "") for name in names},
                "planted": len(line.values.get("planted", ())),
                "looked_in": str(looked.get("where", "")),
                "bytes": looked.get("bytes", 0),
                "found": len(looked.get("found", ())),
                "what": ", ".join(str(one) for one in looked.get("found", ())),
                "record": _place(line),
            }
            for line in self.of_kind("evidence.canary")
            for looked in line.values.get("looked", ())
        ]

    def inventory(self) -> list[dict[str, Any]]:
        found: dict[tuple[str, str, str], list[Exchange]] = {}
        for one in self.exchanges:
            names = [("table", table) for table in one.tables]
            for what, name in names or [("route", str(one.part("request").get("route", "")))]:
                if name:
                    found.setdefault((one.text("target"), what, name), []).append(one)
        return [
            {
                "target": target,
                "what": what,
                "name": name,
                "first": seen[0].at,
                "last": max(one.at for one in seen),
                "exchanges": len(seen),
                "allowed": sum(one.text("verdict") == "allow" for one in seen),
                "with_masks": sum(bool(one.named[0].values.get("masks")) for one in seen),
                "inspected": sum(one.response.get("inspected") == "full" for one in seen),
                "not_inspected": sum(one.is_blind for one in seen),
                "owner": "",
                "classification": "",
            }
            for (target, what, name), seen in sorted(found.items())
        ]

    def refusals(self) -> list[dict[str, Any]]:
        names = [
            "at",
            "principal",
            "source",
            "target",
            "request",
            "verdict",
            "code",
            "rules",
            "trace_id",
            "decision_id",
            "record",
        ]
        return [
            {name: row[name] for name in names} for row in self.rows if row["verdict"] in ("deny", "error")
        ]

    def exceptions(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        denied: dict[tuple[str, str, str], str] = {}
        for one, row in zip(self.exchanges, self.rows):
            verdict, first = row["verdict"], one.named[0].values
            told = [("degraded", name) for name in first.get("degraded", ())]
            told += [("not inspected", one.response["inspected"])] if one.is_blind else []
            told += [("rule not evaluated", error) for error in first.get("errors", ())]
            residual = one.response.get("residual")
            told += [("found after masking", " ".join(str(name) for name in residual))] if residual else []
            told += [("outcome unknown", "no outcome in the period")] if one.outcome is None else []
            told += [(verdict, row["code"])] if verdict in ("error", "unseen") else []
            asked = str(one.part("principal").get("subject", "")), row["target"], one.asked
            if verdict == "deny":
                denied[asked] = one.at
            elif verdict == "allow" and asked in denied and not one.part("hold"):
                told.append(("denied before, allowed later", "denied at " + denied.pop(asked)))
            kept = {name: row[name] for name in ("principal", "target", "request", "decision_id", "record")}
            rows += [{"at": one.at, "what": what, "detail": str(detail), **kept} for what, detail in told]
        for line in self.lines:
            if line.kind in (
                "admin.child_died", "admin.refused", "admin.roll_failed", "admin.roll_refused", "policy.refused",
            ):  # fmt: skip
                rows.append(_exception(line, line.kind, _detail(line), _who(line), ""))
        rows += self._emergencies()
        return sorted(rows, key=lambda row: (row["at"], row["record"]))

    def _emergencies(self) -> list[dict[str, Any]]:
        reviews = {str(line.values.get("hold")): line for line in self.of_kind("hold.reviewed")}
        late = {str(line.values.get("hold")) for line in self.of_kind("hold.review_overdue")}
        rows: list[dict[str, Any]] = []
        told: set[str] = set()
        for line in self.lines:
            hold = str(line.values.get("hold"))
            if line.kind not in ("hold.break_glass", "hold.review_overdue") or hold in told:
                continue
            told.add(hold)
            review, by = reviews.get(hold), line.values.get("by") or line.values.get("requester")
            detail = "%s: %s; review by %s" % (
                hold, line.values.get("reason", ""), line.values.get("review_by", ""),
            )  # fmt: skip
            what = "break-glass without a review"
            if review is not None:
                is_just = review.values.get("justified") is True
                what = "break-glass, reviewed" if is_just else "break-glass, not justified"
                words = (review.values.get("by", ""), review.at, review.values.get("reason", ""))
                detail += "; {} at {}: {}".format(*words)
            detail += "; overdue" if hold in late else ""
            who = str(by.get("subject", "")) if isinstance(by, dict) else ""
            rows.append(_exception(line, what, detail, who, str(line.values.get("target", ""))))
        return rows

    def gaps(self) -> list[dict[str, Any]]:
        ones, lines = self.exchanges, {(line.writer, line.seq): line for line in self.lines}
        crashed = refused = 0
        stopped = {line.writer for line in self.of_kind("stop")}
        for line in self.of_kind("start"):
            named = line.values.get("predecessor")
            silent = bool(line.values.get("torn"))
            if isinstance(named, dict):
                writer, seq = str(named.get("writer")), named.get("seq")
                last = lines.get((writer, seq)) if type(seq) is int else None
                still_ran = named.get("running") is True
                silent |= writer not in stopped if still_ran else last is not None and last.kind != "stop"
            crashed += silent
        for line in self.of_kind("gap"):
            number = line.values.get("refused_records")
            refused += number if type(number) is int else 0
        population = self.packet.lines("tables/population.jsonl")
        coverage = [line.values.get("coverage", "") for line in self.of_kind("access")]
        relayed = {
            line.values.get("target")
            for line in self.of_kind("access")
            if line.values.get("coverage") == "unknown"
        }
        alone = [one for one in ones if one.access is None and one.text("operation") != "statement"]
        parts = [part for one in ones for part in (one.part("statement"), one.response)]
        first = [one.named[0].values for one in ones]
        counted = {
            "records refused while the ledger could not be written": refused,
            "writers that ended without saying so": crashed,
            "records under no checkpoint yet": sum(row["unsigned"] for row in population),
            "records shown by their hash only": sum(row["in_period"] - row["shown"] for row in population),
            "exchanges whose outcome is unknown": sum(one.outcome is None for one in ones),
            "exchanges that nobody can be named for": sum(not one.part("principal") for one in ones),
            "exchanges in a degraded mode": sum(bool(values.get("degraded")) for values in first),
            "responses that were not inspected": sum(one.is_blind for one in ones),
            "statements that were not understood": sum(bool(p.get("incomplete")) for p in parts[::2]),
            "texts that were cut": sum(bool(part.get("cut_at")) for part in parts),
            "rules that could not be evaluated": sum(
                bool(r.get("errored")) for one in ones for r in one.rules
            ),
            "checkpoints without a disciplined clock": sum(
                row["source"] != "kernel" for row in self.packet.lines("tables/clock.jsonl")
            ),
            "requests and connections that went on without extproc": coverage.count("unseen"),
            "requests and connections that Envoy refused before it asked extproc": coverage.count("refused"),
            "connections of a relay, whose end in the access log cannot be joined": coverage.count("unknown"),
            "requests and connections whose end no access log confirms": sum(
                one.text("target") not in relayed for one in alone
            ),
        }
        return [{"gap": gap, "count": number} for gap, number in counted.items()]

    def policies(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        before: dict[str, str] = {}
        for line in sorted(self.lines, key=lambda line: line.at):
            if line.kind not in ("policy.activated", "policy.refused"):
                continue
            sources = _sources(self.payload(line, "sources"))
            files = [one for one in line.values.get("files", ()) if isinstance(one, dict)]
            rows.append(
                {
                    "at": line.at,
                    "what": line.kind,
                    **{name: line.values.get(name, "") for name in ("policy", "before", "author")},
                    "asked_by": _who(line),
                    "error": str(line.values.get("error", "")),
                    "files": " ".join("%s@%s" % (one.get("name"), one.get("digest")) for one in files),
                    "change": _difference(before, sources) if sources else "",
                    "record": _place(line),
                }
            )
            before = sources or before
        return rows

    def configuration(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        before: dict[str, str] = {}
        for line in sorted(self.of_kind("config.loaded"), key=lambda line: line.at):
            found = _json_or_none(self.payload(line, "settings"))
            settings = json.dumps(found, indent=1, sort_keys=True) if found is not None else ""
            now = {"settings": settings} if settings else {}
            rows.append(
                {
                    "at": line.at,
                    "digest": line.values.get("digest", ""),
                    "change": _difference(before, now) if now else "",
                    "settings": settings,
                    "record": _place(line),
                }
            )
            before = now or before
        return rows

    def administration(self) -> list[dict[str, Any]]:
        kinds = ("admin.", "evidence.", "policy.", "config.", "grant.", "retention.", "start", "stop", "gap")
        return [
            {
                "at": line.at,
                "kind": line.kind,
                "who": _who(line),
                "detail": _detail(line),
                "record": _place(line),
            }
            for line in sorted(self.lines, key=lambda line: (line.at, line.writer, line.seq))
            if line.kind.startswith(kinds)
        ]

    def population(self) -> list[dict[str, Any]]:
        """How many hidden records lie in the period nobody can see: there `in_period` is taken as it stands."""
        proof, rows = self.ledger.proof, []
        sizes = {
            which: {str(head[0]): whole(head[1]) for head in (proof.get(which) or {"heads": []})["heads"]}
            for which in ("before", "after")
        }
        told = {str(row["writer"]): row for row in self.packet.lines("tables/population.jsonl")}
        for one in proof["ranges"]:
            if one.get("extra"):
                continue
            writer, first, last = str(one["writer"]), whole(one["first"]), whole(one["last"])
            shown = sum(line.writer == writer and first <= line.seq <= last for line in self.period)
            seen = sum(place[0] == writer and first <= place[1] <= last for place in self.ledger.lines)
            inside, hidden = shown, last + 1 - first - seen
            if hidden:
                inside = min(max(whole(told[writer]["in_period"]), shown), shown + hidden)
            size = sizes["after"].get(writer, 0)
            rows.append(
                {
                    "writer": writer,
                    "first": first,
                    "last": last,
                    "in_period": inside,
                    "shown": shown,
                    "tree_before": sizes["before"].get(writer, 0),
                    "tree_after": size,
                    "unsigned": max(0, last + 1 - max(min(last + 1, size), first)),
                }
            )
        return rows


def _merged(groups: Iterable[Iterable[Any]]) -> str:
    """The words of all, each once and sorted; a word that holds a space counts as several once more come after it."""
    known = ""
    for words in groups:
        known = " ".join(sorted({*known.split(), *(str(word) for word in words if word)}))
    return known


def _exception(line: Line, what: str, detail: str, who: str, target: str) -> dict[str, Any]:
    row = {"at": line.at, "what": what, "detail": detail, "principal": who, "target": target}
    return {**row, "request": "", "decision_id": "", "record": _place(line)}


def _who(line: Line) -> str:
    """The person, or else the name, or the user of the machine, or else the process."""
    for name in ("by", "asked_by", "approver", "requester"):
        found = line.values.get(name)
        if isinstance(found, dict):
            known = found["principal"] if isinstance(found.get("principal"), dict) else found
            of_machine = "uid:%s" % known["uid"] if "uid" in known else ""
            return str(known.get("person") or known.get("subject") or of_machine)
    return line.writer.partition("-")[0]


def _detail(line: Line) -> str:
    """A record's plain fields in a few words."""
    beside = [
        "by",
        "asked_by",
        "approver",
        "requester",
        "approvers",
        "files",
        "demand_digest",
        "key",
        "binding",
        "move",
        "payloads",
    ]
    words = []
    for name in sorted(set(line.values) - set(beside) - set(ENVELOPE)):
        value = line.values[name]
        if not isinstance(value, dict):
            words.append("%s=%s" % (name, ",".join(map(str, value)) if isinstance(value, list) else value))
    return " ".join(words)[:400]


def _json_or_none(payload: bytes | None) -> Any:
    try:
        return json.loads(payload) if payload is not None else None
    except ValueError:
        return None


def _sources(payload: bytes | None) -> dict[str, str]:
    found = _json_or_none(payload)
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def _difference(before: dict[str, str], after: dict[str, str]) -> str:
    lines: list[str] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, "").splitlines(), after.get(name, "").splitlines()
        lines += difflib.unified_diff(old, new, "before/" + name, "after/" + name, lineterm="", n=2)
    return "\n".join(lines)


MADE_AGAIN = (
    "population", "sample", "approvals", "access", "privileged", "shared", "masking", "canaries", "inventory",
    "refusals", "exceptions", "gaps", "policies", "configuration", "administration",
)  # fmt: skip


def _check_tables(packet: Packet, manifest: dict[str, Any], ledger: PacketLedger, report: Report) -> None:
    """Every table says in every column what follows from the records, in the same order, and nothing else."""
    made = Tables(packet, manifest, ledger)
    _compare("exchanges", packet.lines("tables/exchanges.jsonl"), made.rows, report)
    for name in MADE_AGAIN:
        _compare(name, packet.lines("tables/%s.jsonl" % name), getattr(made, name)(), report)
    report.count("holds", len(packet.lines("tables/approvals.jsonl")))
    _check_rules(packet.lines("tables/rules.jsonl"), made, report)
    _check_clock(packet.lines("tables/clock.jsonl"), made, report)


def _compare(name: str, rows: list[Any], due: list[dict[str, Any]], report: Report) -> None:
    """Names the first row that is not what it should be: what follows may only have moved."""
    for number, (row, wanted) in enumerate(itertools.zip_longest(rows, due), 1):
        if row is not None and wanted is not None and sorted(row) == sorted(wanted):
            columns = [column for column in wanted if not _is_same(row[column], wanted[column])]
            if not columns:
                continue
            message = "says something else than the records in: " + ", ".join(columns)
        elif wanted is None:
            message = "tells what no record tells"
        elif row is None:
            message = "is missing"
        else:
            message = "has other columns"
        writer, _, seq = str((wanted or {}).get("record", "")).rpartition(":")
        report.add(
            "table", writer, int(seq) if writer else -1, "tables/%s.jsonl row %d %s" % (name, number, message)
        )
        return


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _check_rules(rows: list[Any], made: Tables, report: Report) -> None:
    """What matched is counted right; a rule that did not is named in the policies and says that it was not used."""
    due = made.rules()
    keys = [(str(row["rule"]), str(row["target"])) for row in rows]
    wrong = next((key for key in due if key not in set(keys)), None)
    if wrong is None and keys != sorted(set(keys)):
        wrong = ("the order of the rows", "any target")
    idle = {"matched": 0, "principals": "", "last_used": "", "errors": 0}
    texts = [made.payload_text(line, "sources") for line in made.of_kind("policy.activated")]
    for key, row in zip(keys, rows):
        wanted = due.get(key, idle)
        same = all(_is_same(row[name], value) for name, value in wanted.items()) and row["used"] is (
            key in due
        )
        named = key in due or any(key[0].rpartition("/")[2] in text for text in texts)
        if not same or not named:
            wrong = wrong or key
    if wrong is not None:
        message = "tables/rules.jsonl says something else than the records about %s at %s" % wrong
        report.add("table", "", -1, message)


def _check_clock(rows: list[Any], made: Tables, report: Report) -> None:
    """A row for every checkpoint of the period; of very many a packet holds only some."""
    known = {
        number: one for number, (_, one) in made.ledger.notes.items() if made.since <= one.time < made.until
    }
    due = [
        {"checkpoint": number, "time": one.time, "source": one.source, "offset_us": one.offset}
        for number, one in sorted(known.items())
    ]
    ours = [row for row in rows if row["checkpoint"] in known]
    others = [row for row in rows if row["checkpoint"] not in known]
    _compare("clock", ours, due, report)
    if others and not all(
        min(known, default=0) < row["checkpoint"] < max(known, default=0) for row in others
    ):
        report.add("table", "", -1, "tables/clock.jsonl tells of a checkpoint that is not there")
    elif others:
        report.unchecked.append(
            "%d rows of tables/clock.jsonl: their checkpoints are not in the packet" % len(others)
        )


# --------------------------------------------------------------------------- one record alone


def verify_record(path: Path, key: Key | None, report: Report) -> None:
    """A record with its inclusion proof, and nothing of the others."""
    try:
        shared = parse_json(path.read_bytes(), "the record")
        if not isinstance(shared, dict) or shared.get("format") != "extproc-record/v1":
            raise Bad("not a ledger, a packet or a record that was handed over")
        line = parse_line(shared["line"].encode("utf-8"))
        note = parse_note(shared["checkpoint"].encode("utf-8"))
        checkpoint = parse_checkpoint(note.text)
        if key is None:
            key = parse_key(str(shared.get("ledger_key")))
            report.unchecked.append(
                "the key: it came with the record, so compare %s with one from elsewhere" % str(key)
            )
        keys = {str(key): key}
        handovers = [parse_note(text.encode("utf-8")) for text in shared.get("handovers", [])]
        learn_keys(keys, [(one, parse_checkpoint(one.text)) for one in handovers])
        if not any(checkpoint.origin == one.name and note.is_signed_by(one) for one in keys.values()):
            report.add("signature", "", -1, "checkpoint %d is not signed by the key" % checkpoint.number)
        head = next((head for head in checkpoint.heads if head.writer == line.writer), None)
        if head is None:
            raise Bad("the checkpoint does not list this writer")
        proof = [bytes.fromhex(node) for node in shared["proof"]]
        root = root_of_range([bytes.fromhex(line.hash)], line.seq, head.size, proof)
        if root.hex() != head.root:
            report.add("rewritten", line.writer, line.seq, "not the record that the checkpoint names")
        report.count("records")
        for name, one in sorted(shared.get("payloads", {}).items()):
            place = payloads_of(line)[name]
            data = one["text"].encode("utf-8") if "text" in one else base64.b64decode(one["base64"])
            made = hmac.new(bytes.fromhex(one["salt"]), data, "sha256").hexdigest()
            report.count("payloads")
            if made != place["commitment"] or len(data) != place["size"]:
                message = "payload %s is not what the line commits to" % name
                report.add("payload-mismatch", line.writer, line.seq, message)
        report.notes.append(
            "%s:%d of kind %s, signed %s" % (line.writer, line.seq, line.kind, checkpoint.time)
        )
    except Bad as bad:
        report.add("record", "", -1, str(bad))
    except OSError:
        raise
    except Exception as bad:  # whatever hostile bytes may lead to: it does not verify
        report.add("record", "", -1, "malformed: %s" % type(bad).__name__)


# --------------------------------------------------------------------------- the command


def printable(text: str) -> str:
    """Nothing that was recorded may steer the terminal."""
    return "".join(c if c.isprintable() else f"\\u{{{ord(c):X}}}" for c in text)


def find_key(given: str | None, beside: Path | None, report: Report) -> Key | None:
    """The key to trust. Raises Bad if one was given that is none."""
    if given is not None:
        path = Path(given)
        try:
            text = path.read_text("ascii") if path.is_file() else given
        except (OSError, ValueError):
            text = given
        return parse_key(text)
    if beside is None:
        return None
    try:
        key = parse_key(beside.read_text("ascii"))
    except (OSError, ValueError, Bad):
        return None
    report.unchecked.append(f"the key: it lay beside what it signs, so compare {key} with one kept elsewhere")
    return key


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Check an extproc ledger or evidence packet without extproc."
    )
    parser.add_argument(
        "path",
        type=Path,
        nargs="?",
        default=Path(__file__).parent,
        help="a ledger's directory, a packet, or a single record; default: the packet around this file",
    )
    parser.add_argument("--key", help="the checkpoint public key, or a file that holds it; from elsewhere")
    parser.add_argument(
        "--every-signature", action="store_true", help="check each checkpoint's signature (slow)"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter stops nothing
    report = Report()
    path = options.path
    if not path.exists():
        print("%s: nothing there to verify" % path, file=sys.stderr)
        return 3
    try:
        if path.is_dir() and not (path / MANIFEST).exists():
            log = path / CHECKPOINTS
            has_signed = log.is_file() and log.stat().st_size > 0
            key = find_key(options.key, path / PUBLIC_KEY if has_signed else None, report)
            verify_ledger(path, key, report, options.every_signature)
        else:
            key = find_key(options.key, None, report)
            is_packet = path.is_dir() or zipfile.is_zipfile(path)
            (verify_packet if is_packet else verify_record)(path, key, report)
    except Bad as mistake:
        parser.error(str(mistake))
    except OSError as failure:
        print("%s: %s" % (path, failure.strerror), file=sys.stderr)
        return 3
    if options.json:
        print(json.dumps(as_json(report)))
    else:
        show(report)
    return 1 if report.problems else 0


def as_json(report: Report) -> dict[str, Any]:
    return {
        "ok": not report.problems,
        "counts": report.counts,
        "problems": [problem._asdict() for problem in report.problems],
        "more_problems": report.more,
        "notes": report.notes,
        "unchecked": report.unchecked,
    }


def show(report: Report) -> None:
    for name, number in report.counts.items():
        print("%s: %d" % (name, number))
    for note in report.notes:
        print(printable("note: " + note))
    for gap in report.unchecked:
        print(printable("not checked: " + gap))
    sys.stdout.flush()
    for problem in report.problems:
        print(printable(f"PROBLEM {problem}"), file=sys.stderr)
    if report.more:
        print("PROBLEM and %d more" % report.more, file=sys.stderr)
    sys.stderr.flush()
    print("nothing is wrong in what was checked" if not report.problems else "NOT SOUND: see the problems")


if __name__ == "__main__":
    sys.exit(main())
