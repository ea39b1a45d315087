"""Reading a ledger's lines from end to end, for whoever looks for something in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import orjson

from extproc.adapters.ledger_reader import (
    CHECKPOINTS,
    CHUNK,
    SegmentFile,
    list_segments,
    list_writers,
    read_first_line,
)
from extproc.ledger import Line, NoteError, RecordError, parse_line
from extproc.ledger.checkpoint import CheckpointError, parse_checkpoint
from extproc.ledger.note import iter_notes, parse_note

SLACK_US = 3_600_000_000
"""Microseconds that a writer's clock may have been set back: segments this close to a range are read as well."""


def every(segment: SegmentFile) -> bool:
    """A reading that passes over no segment."""
    return False


def never() -> bool:
    """A reading that has all the time it needs."""
    return False


def raw_lines(segment: SegmentFile, is_over: Callable[[], bool] = never) -> Iterator[bytes]:
    """A segment's whole lines without their newlines, until `is_over`, asked once a chunk. Raises OSError."""
    rest = b""
    for chunk in segment.chunks():
        if is_over():
            return
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def parsed(lines: Iterable[bytes]) -> Iterator[Line]:
    """Those that are records; `verify` names the others."""
    for data in lines:
        try:
            yield parse_line(data)
        except RecordError:
            continue


def writer_lines(
    directory: Path,
    writer: str,
    *,
    since_us: int = 0,
    is_over: Callable[[], bool] = never,
    holding: tuple[bytes, ...] = (),
    skips: Callable[[SegmentFile], bool] = every,
) -> Iterator[Line]:
    """One writer's records, until `is_over`. Segments that end well before `since_us` are not read. Raises OSError.

    Nor are those that `skips` says can have nothing that is looked for.

    With `holding` only lines that hold one of these: to look for bytes takes a tenth of the time of reading a record.
    """
    segments = list_segments(directory / writer)
    for segment, following in zip(segments, [*segments[1:], None], strict=True):
        if is_over():
            return
        if following is not None and since_us:
            first = next(parsed([read_first_line(following.path)]), None)
            if first is not None and first.at_us < since_us - SLACK_US:
                continue
        if skips(segment):
            continue
        lines = raw_lines(segment, is_over)
        if holding:
            lines = (line for line in lines if any(needle in line for needle in holding))
        yield from parsed(lines)


def all_lines(
    directory: Path,
    *,
    since_us: int = 0,
    is_over: Callable[[], bool] = never,
    holding: tuple[bytes, ...] = (),
) -> Iterator[Line]:
    """All writers' records, writer by writer, as `writer_lines` gives them. Raises OSError."""
    for writer in list_writers(directory):
        yield from writer_lines(directory, writer, since_us=since_us, is_over=is_over, holding=holding)


def as_written(text: str) -> bytes:
    """How a text, or its beginning, stands in a canonical line; empty for what no line can hold."""
    try:
        return orjson.dumps(text)[1:-1]
    except orjson.JSONEncodeError:
        return b""


def covering_checkpoint(directory: Path, writer: str, seq: int) -> int | None:
    """The number of the first checkpoint whose tree has this record; None if there is none yet.

    Signatures are not checked here: `verify` does that. Raises OSError.
    """
    log = directory / CHECKPOINTS
    if not log.exists():
        return None
    with log.open("rb") as file:
        for raw, whole in iter_notes(iter(lambda: file.read(CHUNK), b"")):
            if not whole:
                return None
            try:
                checkpoint = parse_checkpoint(parse_note(raw).text)
            except (NoteError, CheckpointError):
                return None
            if any(head.writer == writer and head.size > seq for head in checkpoint.heads):
                return checkpoint.number
    return None
