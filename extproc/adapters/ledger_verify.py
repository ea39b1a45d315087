"""Verifying a ledger's directory: the files are opened here, `extproc.ledger.verify` checks what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import zip_longest
from pathlib import Path

from extproc.adapters.ledger_payloads import Payloads
from extproc.adapters.ledger_reader import (
    CHECKPOINTS,
    CHUNK,
    list_segments,
    list_writers,
    read_payload_entry,
)
from extproc.ledger import NoteKey, Report, Segment, WriterFiles, verify
from extproc.ledger.note import split_notes
from extproc.ledger.report import Problem
from extproc.ledger.sealing import KeyRing


def verify_directory(
    directory: Path, key: NoteKey | None, *, thorough: bool = False, ring: KeyRing | None = None
) -> Report:
    """Verify all of a ledger's files; with `ring` what is inside sealed payloads too.

    Raises OSError if the directory cannot be read.
    """
    # the checkpoints are opened first: a living ledger may grow meanwhile, but never shrink
    log = directory / CHECKPOINTS
    checkpoints = _chunks_of(log, log.stat().st_size) if log.exists() else ()
    files = []
    for writer in list_writers(directory):
        segments = list_segments(directory / writer)
        files.append(
            WriterFiles(writer, [Segment(each.first, each.path.name, each.chunks) for each in segments])
        )

    def read_entry(writer: str, ref: str, size: int) -> bytes | None:
        return read_payload_entry(directory, writer, ref, size)

    opener = Payloads(directory, ring).opened
    return verify(files, checkpoints, key, read_entry, thorough=thorough, opener=opener)


def hold_against(witness: Path, log: Path, report: Report) -> None:
    """Does the checkpoint log begin with what a witness has of it? What it has not yet is noted. Raises OSError."""
    told, kept = witness.stat().st_size, log.stat().st_size if log.exists() else 0
    same = _common(witness, log) if kept else 0
    if same == told:
        if told < kept:
            report.notes.append(f"{kept - told} bytes of checkpoints that the witness has not seen")
        return
    with log.open("rb") if kept else BytesIO() as file:
        number = len(split_notes(file.read(same))[0]) + 1
    problem = "is not there" if same == kept else "is another"
    report.add(Problem("witness", "", -1, f"checkpoint {number} of the witness {problem} in the ledger"))


def _common(one: Path, two: Path) -> int:
    """How many bytes two files begin with that are the same."""
    same = 0
    with one.open("rb") as first, two.open("rb") as second:
        while mine := first.read(CHUNK):
            theirs = second.read(len(mine))
            if mine != theirs:
                return same + next(at for at, (a, b) in enumerate(zip_longest(mine, theirs)) if a != b)
            same += len(mine)
    return same


def _chunks_of(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(CHUNK, size))):
            size -= len(chunk)
            yield chunk
