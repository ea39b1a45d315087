"""`extproc sessions`: what was done, by whom and how it ended, found in the ledger."""

from __future__ import annotations

import csv
import functools
import heapq
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from extproc.adapters.ledger_reader import WriterTail, list_writers
from extproc.adapters.ledger_scan import parsed, writer_lines
from extproc.commands.ledger_place import Place, config_option, dir_option, json_option, parse_moment
from extproc.domain.display import escape_for_display
from extproc.ledger.exchanges import COLUMNS, Exchange, csv_cell, pair, row_of
from extproc.ledger.lines import Line
from extproc.ledger.search import Wanted

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
    place.note("evidence.searched", {"command": "sessions list", "filters": _filters(wanted)})
    found: dict[str, Session] = {}
    for exchange in _search(directory, wanted):
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
    place.note("evidence.session_read", {"session_id": session_id})
    exchanges: list[Exchange] = []
    moves: list[Line] = []
    for writer in list_writers(where):
        kept = [line for line in writer_lines(where, writer) if _is_of_session(line, session_id)]
        exchanges += pair(kept)
        moves += [line for line in kept if line.kind.startswith(("hold.", "grant."))]
    holds = {str(line.fields.get("hold")) for line in moves}
    moves += [
        line
        for writer in list_writers(where)
        for line in writer_lines(where, writer)
        if line.kind.startswith(("hold.", "grant."))
        and str(line.fields.get("hold")) in holds
        and line.fields.get("session_id") != session_id
    ]
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
    place.note("evidence.searched", {"command": "sessions tail", "filters": _filters(wanted)})
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
        "evidence.searched", {"command": "sessions export", "filters": _filters(wanted), "format": form}
    )
    file = output.open("w", encoding="utf-8", newline="") if output is not None else sys.stdout
    count = 0
    try:
        table = csv.writer(file, lineterminator="\r\n")
        if form == "csv":
            table.writerow(COLUMNS)
        for exchange in _search(directory, wanted):
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


@dataclass(slots=True)
class Session:
    """What a session's exchanges add up to."""

    session_id: str
    first_at: str = ""
    last_at: str = ""
    target: str = ""
    protocol: str = ""
    principal: str = ""
    exchanges: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    masked: int = 0
    rows: int = 0
    asked: str = ""

    def add(self, exchange: Exchange) -> None:
        at = exchange.line.at
        self.first_at = min(self.first_at or at, at)
        self.last_at = max(self.last_at, at)
        self.target = self.target or exchange.text("target")
        self.protocol = self.protocol or exchange.text("protocol")
        self.principal = self.principal or str(exchange.part("principal").get("subject", ""))
        if exchange.text("operation") == "login" and exchange.text("verdict") == "allow":
            return
        self.exchanges += 1
        self.asked = self.asked or exchange.asked
        verdict = exchange.text("verdict") or "unknown"
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        masked = exchange.response.get("masked")
        self.masked += sum(masked.values()) if isinstance(masked, dict) else 0
        rows = exchange.response.get("rows")
        self.rows += rows if type(rows) is int else 0

    def line(self) -> str:
        """One line for people."""
        verdicts = " ".join(f"{name}={self.verdicts[name]}" for name in sorted(self.verdicts))
        parts = [
            self.first_at,
            self.session_id,
            self.target,
            f"by {self.principal or 'nobody known'}",
            verdicts,
        ]
        if self.masked:
            parts.append(f"masked={self.masked}")
        if self.rows:
            parts.append(f"rows={self.rows}")
        parts.append(self.asked[:80])
        return " ".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


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


def _search(directory: Path, wanted: Wanted) -> Iterator[Exchange]:
    for writer in list_writers(directory):
        lines = writer_lines(directory, writer, since_us=wanted.since_us)
        yield from (exchange for exchange in pair(lines) if wanted(exchange))


def _ended(directory: Path, tails: dict[str, Follower]) -> Iterator[Exchange]:
    for writer in list_writers(directory):
        follower = tails.setdefault(writer, Follower(WriterTail(directory / writer)))
        yield from follower.ended()


def _is_of_session(line: Line, session_id: str) -> bool:
    return line.fields.get("session_id") == session_id


def _filters(wanted: Wanted) -> dict[str, Any]:
    kept = {name: getattr(wanted, name) for name in Wanted.__slots__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items() if value}


def _micros(text: str, now: float) -> int | None:
    return int(parse_moment(text, now) * 1_000_000) if text else None


def _when(exchange: Exchange) -> str:
    return exchange.line.at


def _place(line: Line) -> tuple[str, str, int]:
    return line.at, line.writer, line.seq
