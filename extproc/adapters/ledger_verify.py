"""Verifying a ledger's directory: the files are opened here, `extproc.ledger.verify` checks what is in them."""

from __future__ import annotations

from collections.abc import Iterator
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


def _chunks_of(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(CHUNK, size))):
            size -= len(chunk)
            yield chunk
