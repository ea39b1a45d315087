"""`extproc sessions`: what was done, by whom and how it ended, found in the ledger."""

from __future__ import annotations

import csv
import functools
import heapq
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from extproc.adapters.ledger_reader import WriterTail, list_writers
from extproc.adapters.ledger_scan import parsed
from extproc.adapters.ledger_search import matching, whole_session
from extproc.commands.ledger_place import Place, config_option, dir_option, json_option, parse_moment
from extproc.domain.display import escape_for_display
from extproc.ledger.exchanges import COLUMNS, Exchange, csv_cell, row_of
from extproc.ledger.lines import Line
from extproc.ledger.search import Wanted, filters_of, typed_id
from extproc.ledger.session_sums import Session
from extproc.masking import typed_mask

FOLLOW_EVERY = 0.3
"""Seconds between two looks of `tail`."""
VERDICTS = ("allow", "deny", "hold", "error", "unseen")


@click.group()
def sessions() -> None:
    """List, show, follow and export what the ledger knows of sessions and their exchanges.

    With --config (or ./extproc.yaml) every reading is itself a record; --dir reads files, a copy say, and writes
    nothing.

    Exit codes: 0 done, 1 nothing is known of it, 2 wrong usage, 3 there is no ledger.
    """


def search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Filters, and where the ledger is; the command gets `place` and `wanted`."""

    @dir_option
    @config_option
    @click.option("--principal", default="", help="Subject, person or issuer|subject; `*` matches anything.")
    @click.option("--target", default="", help="Name of the target.")
    @click.option("--rule", default="", help="A rule that matched, shadow rules included.")
    @click.option("--verdict", "verdicts", multiple=True, type=click.Choice(VERDICTS), help="Repeatable.")
    @click.option("--code", default="", help="The decision's code, `rule-denied` say.")
    @click.option("--entity", default="", help="A kind or column that was masked: `EMAIL_ADDRESS`, `*.card`.")
    @click.option("--table", default="", help="A table that was read or written.")
    @click.option("--hold", default="", help="Id of a hold or grant.")
    @click.option("--trace", default="", help="Trace id, or its beginning.")
    @click.option("--session", default="", help="Session id.")
    @click.option("--text", default="", help="Text anywhere in the records, as they were masked.")
    @click.option("--from", "since", default="", help="Not before: 7d (ago), 2026-11-23 or RFC 3339.")
    @click.option("--to", "until", default="", help="Before that time.")
    @functools.wraps(command)
    def run(
        *, directory: Path | None, config: Path | None, since: str, until: str, verdicts: tuple[str, ...], **given: Any
    ) -> None:  # fmt: skip
        names = ("principal", "target", "rule", "code", "entity", "table", "hold", "trace", "session", "text")
        now = time.time()
        wanted = Wanted(
            **{name: given.pop(name) for name in names},
            verdicts=verdicts,
            since_us=_micros(since, now) or 0,
            until_us=_micros(until, now),
        )
        command(place=Place(directory, config), wanted=wanted, **given)

    return run


@sessions.command("list")
@search_options
@click.option("-n", "--limit", default=50, show_default=True, help="How many of the latest; 0 for all.")
@json_option
def list_(place: Place, wanted: Wanted, limit: int, as_json: bool) -> None:
    """Sessions with an exchange that matches, the latest last."""
    directory = place.find()
    place.note("evidence.searched", {"command": "sessions list", "filters": filters_of(wanted, typed_mask())})
    found: dict[str, Session] = {}
    for exchange in matching(directory, wanted):
        name = exchange.text("session_id") or exchange.text("decision_id")
        found.setdefault(name, Session(name)).add(exchange)
    every = sorted(found.values(), key=lambda session: session.first_at)
    shown = every[-limit:] if limit else every
    if as_json:
        click.echo(json.dumps([session.to_json() for session in shown]))
        return
    for session in shown:
        click.echo(escape_for_display(session.line()))
    if len(shown) < len(every):
        click.echo(f"the latest {len(shown)} of {len(every)}", err=True)


@sessions.command()
@click.argument("session_id")
@dir_option
@config_option
@json_option
def show(session_id: str, directory: Path | None, config: Path | None, as_json: bool) -> None:
    """Every exchange of a session in order, with the moves of its holds."""
    place = Place(directory, config)
    where = place.find()
    place.note("evidence.session_read", {"session_id": typed_id(session_id, typed_mask())})
    exchanges, moves = whole_session(where, session_id)
    if not exchanges:
        click.echo(f"nothing is known of {escape_for_display(session_id)}", err=True)
        sys.exit(1)
    if as_json:
        rows = [row_of(exchange) for exchange in sorted(exchanges, key=_when)]
        kept_moves = [{"at": m.at, "kind": m.kind, **m.fields} for m in sorted(moves, key=lambda m: m.at)]
        click.echo(json.dumps({"session_id": session_id, "exchanges": rows, "moves": kept_moves}))
        return
    session = Session(session_id)
    for exchange in exchanges:
        session.add(exchange)
    click.echo(escape_for_display(session.line()))
    events = [(_place(exchange.line), one_line(exchange)) for exchange in exchanges]
    events += [(_place(move), move_line(move)) for move in moves]
    for _, text in sorted(events):
        click.echo(escape_for_display(f"  {text}"))


@sessions.command()
@search_options
@click.option(
    "-n", "--lines", "count", default=20, show_default=True, help="How many of the latest to begin with."
)
@json_option
def tail(place: Place, wanted: Wanted, count: int, as_json: bool) -> None:
    """Follow exchanges as they end."""
    directory = place.find()
    place.note("evidence.searched", {"command": "sessions tail", "filters": filters_of(wanted, typed_mask())})
    tails: dict[str, Follower] = {}
    latest = heapq.nlargest(count, (e for e in _ended(directory, tails) if wanted(e)), key=_when)
    for exchange in reversed(latest):
        _print_one(exchange, as_json)
    while True:
        sys.stdout.flush()
        time.sleep(FOLLOW_EVERY)
        for exchange in sorted((e for e in _ended(directory, tails) if wanted(e)), key=_when):
            _print_one(exchange, as_json)


@sessions.command()
@search_options
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Instead of standard output."
)
def export(place: Place, wanted: Wanted, form: str, output: Path | None) -> None:
    """One row for each exchange that matches, writer by writer, each writer's in the order of their ends.

    In CSV, text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    directory = place.find()
    place.note(
        "evidence.searched",
        {"command": "sessions export", "filters": filters_of(wanted, typed_mask()), "format": form},
    )
    file = output.open("w", encoding="utf-8", newline="") if output is not None else sys.stdout
    count = 0
    try:
        table = csv.writer(file, lineterminator="\r\n")
        if form == "csv":
            table.writerow(COLUMNS)
        for exchange in matching(directory, wanted):
            row = row_of(exchange)
            if form == "csv":
                table.writerow([csv_cell(row[name]) for name in COLUMNS])
            else:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    finally:
        if output is not None:
            file.close()
    click.echo(f"{count} exchanges", err=True)


class Follower:
    """One writer's lines as they come, joined to exchanges."""

    def __init__(self, tail: WriterTail) -> None:
        self._tail = tail
        self._waiting: dict[str, Line] = {}

    def ended(self) -> Iterator[Exchange]:
        while lines := self._tail.read():
            for line in parsed(line.data for line in lines):
                decision = str(line.fields.get("decision_id", ""))
                if line.kind == "intent":
                    self._waiting[decision] = line
                elif line.kind == "outcome":
                    yield Exchange(self._waiting.pop(decision, None), line)


def one_line(exchange: Exchange) -> str:
    """One exchange for people."""
    row = row_of(exchange)
    parts = [
        row["at"],
        row["verdict"],
        row["code"],
        row["request"][:120],
        f"by {row['principal'] or 'nobody known'}",
    ]
    named = ("target", "response_code", "sqlstate", "rules", "hold", "masked", "rows", "end", "decision_id")
    parts += [f"{name}={row[name]}" for name in named if row[name] not in ("", 0, None)]
    return " ".join(part for part in parts if part)


def _print_one(exchange: Exchange, as_json: bool) -> None:
    click.echo(json.dumps(row_of(exchange)) if as_json else escape_for_display(one_line(exchange)))


def move_line(move: Line) -> str:
    """One move of a hold or grant for people."""
    approver = move.fields.get("approver")
    who = f" by {approver.get('subject', '')}" if isinstance(approver, dict) else ""
    named = ("vote", "reason", "grant", "use", "uses")
    facts = " ".join(
        f"{name}={move.fields[name]}" for name in named if move.fields.get(name) not in (None, "")
    )
    return f"{move.at} {move.kind} {move.fields.get('hold', '')}{who} {facts}".rstrip()


def _ended(directory: Path, tails: dict[str, Follower]) -> Iterator[Exchange]:
    for writer in list_writers(directory):
        follower = tails.setdefault(writer, Follower(WriterTail(directory / writer)))
        yield from follower.ended()


def _micros(text: str, now: float) -> int | None:
    return int(parse_moment(text, now) * 1_000_000) if text else None


def _when(exchange: Exchange) -> str:
    return exchange.line.at


def _place(line: Line) -> tuple[str, str, int]:
    return line.at, line.writer, line.seq
