"""One record with its inclusion proof, for somebody who must not see the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extproc.adapters.evidence_reader import PayloadShelf
from extproc.adapters.ledger_payloads import Payloads
from extproc.adapters.ledger_reader import CHECKPOINTS, CHUNK, list_segments, list_writers
from extproc.adapters.ledger_scan import raw_lines
from extproc.app.evidence import own_key
from extproc.domain.errors import ExtprocError
from extproc.ledger.checkpoint import parse_checkpoint
from extproc.ledger.lines import parse_line
from extproc.ledger.merkle import prove_range
from extproc.ledger.note import iter_notes, parse_note
from extproc.ledger.sealing import KeyRing

FORMAT = "extproc-record/v1"


class ShareError(ExtprocError):
    """A record that is not there, or that nothing has signed yet."""


def share_record(
    directory: Path, writer: str, seq: int, *, payloads: bool, ring: KeyRing | None = None
) -> dict[str, Any]:
    """What `verify.py` checks alone. Raises ShareError, RecordError, CheckpointError, NoteError and OSError."""
    note, size, handovers = _covering(directory, writer, seq)
    if writer not in list_writers(directory):
        raise ShareError(f"{writer}: no such writer")
    hashes: list[bytes] = []
    record, raw = None, b""
    for segment in list_segments(directory / writer):
        for data in raw_lines(segment):
            if len(hashes) == size:
                break
            line = parse_line(data)
            hashes.append(bytes.fromhex(line.hash))
            if line.seq == seq:
                record, raw = line, data
    if record is None or len(hashes) < size:
        raise ShareError(f"{writer}:{seq}: the ledger's files end before it")
    shared: dict[str, Any] = {
        "format": FORMAT,
        "line": raw.decode("utf-8"),
        "proof": [node.hex() for node in prove_range(hashes, seq, seq + 1)],
        "checkpoint": note.decode("utf-8"),
    }
    if handovers:
        shared["handovers"] = handovers
    key = own_key(directory)
    if key:
        shared["ledger_key"] = key
    if payloads and record.payloads:
        shelf = PayloadShelf(Payloads(directory, ring), 1 << 30)
        for name in record.payloads:
            shelf.read(record, name)
        shared["payloads"] = {row["name"]: row for row in shelf.rows()}
        if shelf.left_out:
            raise ShareError(
                f"{writer}:{seq}: a payload is erased, damaged or sealed; share it without --payloads"
            )
    return shared


def _covering(directory: Path, writer: str, seq: int) -> tuple[bytes, int, list[str]]:
    """The first checkpoint that lists the writer with this record, its tree's size, and changes of keys before it."""
    handovers: list[str] = []
    log = directory / CHECKPOINTS
    if log.exists():
        with log.open("rb") as file:
            for raw, whole in iter_notes(iter(lambda: file.read(CHUNK), b"")):
                if not whole:
                    break
                checkpoint = parse_checkpoint(parse_note(raw).text)
                for head in checkpoint.heads:
                    if head.writer == writer and head.size > seq:
                        return raw, head.size, handovers
                if checkpoint.next_key is not None:
                    handovers.append(raw.decode("utf-8"))
    raise ShareError(f"{writer}:{seq}: under no checkpoint yet, or not there at all")
