"""Exchanges and sessions found in a ledger's files: for the command line and the console alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from extproc.adapters.ledger_index import LedgerIndex
from extproc.adapters.ledger_payloads import Payloads
from extproc.adapters.ledger_reader import list_writers
from extproc.adapters.ledger_scan import as_written, never, writer_lines
from extproc.domain.record import ACCESS
from extproc.ledger.exchanges import Exchange, pair, with_access
from extproc.ledger.lines import Line
from extproc.ledger.search import Wanted

TRACE_ID = 32
"""Characters of a whole trace id; a shorter one is a beginning."""


def matching(directory: Path, wanted: Wanted, is_over: Callable[[], bool] = never) -> Iterator[Exchange]:
    """Exchanges that match, writer by writer, each writer's in the order of their ends. Raises OSError."""
    # intent and outcome both name the session and the trace, and nothing else that one may look for
    needle = as_written(wanted.session or wanted.trace)
    holding = (needle,) if needle else ()
    whole = wanted.session or (wanted.trace if len(wanted.trace) == TRACE_ID else "")
    with LedgerIndex(directory) as index:
        for writer in list_writers(directory):
            skips = index.skips(writer, [whole] if whole else [])
            lines = writer_lines(
                directory, writer, since_us=wanted.since_us, is_over=is_over, holding=holding, skips=skips
            )
            yield from (exchange for exchange in pair(lines) if wanted(exchange))


def whole_session(
    directory: Path, session_id: str, *, at_most: int | None = None, is_over: Callable[[], bool] = never
) -> tuple[list[Exchange], list[Line]]:
    """A session's exchanges, and the moves of its holds and of their grants. Raises OSError.

    `at_most` records of each writer and as many of the holds' other moves are looked at.
    """
    exchanges: list[Exchange] = []
    moves: list[Line] = []
    ends: list[Line] = []
    needle = as_written(session_id)
    with LedgerIndex(directory) as index:
        for writer in list_writers(directory):
            lines = writer_lines(
                directory, writer, is_over=is_over, holding=(needle,) if needle else (),
                skips=index.skips(writer, [session_id]),
            )  # fmt: skip
            ours = (line for line in lines if line.fields.get("session_id") == session_id)
            kept = list(islice(ours, at_most))
            exchanges += pair(kept)
            moves += [line for line in kept if _is_move(line)]
            ends += [line for line in kept if line.kind == ACCESS]
        holds = {str(line.fields.get("hold")) for line in moves}
        if holds:
            needles = tuple(map(as_written, holds))
            others = (
                line
                for writer in list_writers(directory)
                for line in writer_lines(
                    directory, writer, is_over=is_over, holding=needles,
                    skips=index.skips(writer, list(holds)),
                )
                if _is_move(line)
                and str(line.fields.get("hold")) in holds
                and line.fields.get("session_id") != session_id
            )  # fmt: skip
            moves += islice(others, at_most)
    return with_access(exchanges, ends), moves


def payloads_of(files: Payloads, line: Line, at_most: int) -> dict[str, tuple[str, bytes]]:
    """A record's payloads by name: their state and, where it is `good`, up to `at_most` bytes of them."""
    found: dict[str, tuple[str, bytes]] = {}
    for name, place in line.payloads.items():
        if place.size > at_most:
            found[name] = ("too large to be shown here", b"")
            continue
        read = files.read(line, name)
        found[name] = (read.state, read.body)
    return found


def _is_move(line: Line) -> bool:
    return line.kind.startswith(("hold.", "grant."))
