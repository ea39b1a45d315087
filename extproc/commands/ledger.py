"""`extproc ledger`: verify what was recorded, watch it, look at one exchange."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from extproc.adapters.ledger_payloads import Payloads
from extproc.adapters.ledger_reader import (
    CHECKPOINTS,
    PUBLIC_KEY,
    TailError,
    WriterTail,
    list_segments,
    list_writers,
)
from extproc.adapters.ledger_scan import raw_lines
from extproc.adapters.ledger_verify import hold_against, verify_directory
from extproc.commands.ledger_index import rebuild_index
from extproc.commands.ledger_keys import rotate_key
from extproc.commands.ledger_place import Place, config_option, dir_option, json_option
from extproc.commands.ledger_retention import hold, purge
from extproc.commands.ledger_ship import ship
from extproc.commands.ledger_status import status
from extproc.domain.display import escape_for_display
from extproc.ledger import Line, NoteError, NoteKey, RecordError, Report, parse_key, parse_line
from extproc.ledger.alone import VERIFIER

FOLLOW_EVERY = 0.3
"""Seconds between two looks of `tail --follow`."""


@click.group()
def ledger() -> None:
    """Verify, tail and show the ledger."""


@ledger.command()
@dir_option
@config_option
@click.option("--key", help="The checkpoint public key, or a file that holds it. Get it from elsewhere.")
@click.option(
    "--witness",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A witness's copy of the checkpoints: the ledger's must begin with it.",
)
@click.option("--thorough", is_flag=True, help="Also check that every line is in canonical form.")
@json_option
def verify(
    directory: Path | None,
    config: Path | None,
    key: str | None,
    witness: Path | None,
    thorough: bool,
    as_json: bool,
) -> None:
    """Recompute every hash, link, tree, signature and payload commitment.

    Exit codes: 0 nothing is wrong, 1 something is, 2 wrong usage, 3 there is no ledger.
    """
    where = Place(directory, config)
    place = where.find()
    trusted, own_key = _find_key(place, key)
    try:
        report = verify_directory(place, trusted, thorough=thorough, ring=where.ring())
        if witness is not None:
            hold_against(witness, place / CHECKPOINTS, report)
    except OSError as failure:
        click.echo(f"{place}: {failure.strerror}", err=True)
        sys.exit(3)
    if own_key:
        report.unchecked.append(
            "the key: it came from the ledger itself, so compare it with one kept elsewhere"
        )
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        _print_report(report, trusted)
    sys.exit(0 if report.ok else 1)


ledger.add_command(purge)
ledger.add_command(status)
ledger.add_command(rebuild_index)
ledger.add_command(hold)
ledger.add_command(ship)
ledger.add_command(rotate_key)


@ledger.command()
def verifier() -> None:
    """Write `verify.py` to standard output: it checks a ledger with nothing but Python."""
    click.echo(VERIFIER.read_text("utf-8"), nl=False)


@ledger.command()
@dir_option
@config_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added.")
@click.option("-n", "--lines", "count", default=20, show_default=True, help="How many of the latest records.")
@click.option("--kind", "kinds", multiple=True, help="Only records of this kind (or `hold.*`); repeatable.")
@json_option
def tail(
    directory: Path | None,
    config: Path | None,
    follow: bool,
    count: int,
    kinds: tuple[str, ...],
    as_json: bool,
) -> None:
    """The latest records of all writers, in the order of their times."""
    where = Place(directory, config)
    place = where.find()
    where.note("evidence.searched", {"command": "ledger tail", "filters": {"kinds": list(kinds)}})
    show = _as_json if as_json else _in_one_line
    tails: dict[str, WriterTail] = {}
    latest: list[Line] = []
    for line in _added(place, tails):
        if _is_wanted(line, kinds):
            latest.append(line)
            if len(latest) > 4 * count + 1000:
                latest = _last(latest, count)
    for line in _last(latest, count):
        click.echo(show(line))
    while follow:
        sys.stdout.flush()
        time.sleep(FOLLOW_EVERY)
        for line in _last([line for line in _added(place, tails) if _is_wanted(line, kinds)], sys.maxsize):
            click.echo(show(line))


@ledger.command()
@click.argument("what")
@dir_option
@config_option
@json_option
def show(what: str, directory: Path | None, config: Path | None, as_json: bool) -> None:
    """Everything about WHAT: a decision or session id, a hold id, a record's hash (or its beginning), writer:seq.

    Exit codes: 0 found, 1 nothing is known of it, 3 there is no ledger.
    """
    where = Place(directory, config)
    place = where.find()
    where.note("evidence.record_read", {"asked": what[:200]})
    found = list(_find(place, what))
    payloads = Payloads(place, where.ring())
    if as_json:
        click.echo(json.dumps([_whole_record(payloads, line) for line in found]))
    for line in [] if as_json else found:
        _print_record(_whole_record(payloads, line))
    if not found:
        click.echo(f"nothing is known of {escape_for_display(what)}", err=True)
        sys.exit(1)


def _find_key(place: Path, key: str | None) -> tuple[NoteKey | None, bool]:
    """The key to trust, and whether it came out of the ledger itself."""
    own, log = place / PUBLIC_KEY, place / CHECKPOINTS
    try:
        if key is not None:
            file = Path(key)
            return parse_key(file.read_text("ascii") if file.is_file() else key), False
        has_signed = own.is_file() and log.is_file() and log.stat().st_size > 0
        return (parse_key(own.read_text("ascii")), True) if has_signed else (None, False)
    except (NoteError, OSError, ValueError) as mistake:
        if key is None:
            return None, False
        raise click.UsageError(f"--key: {mistake}") from None


def _print_report(report: Report, key: NoteKey | None) -> None:
    for writer in report.writers.values():
        ended = "stopped" if writer.stopped else "no stop record"
        counts = f"{writer.records} records, {writer.payloads} payloads, {writer.unsigned} unsigned"
        click.echo(f"{writer.writer}: {counts}, {ended}")
    signed_by = f" signed by {key.name}+{key.id.hex()}" if key is not None else ""
    until = f", the last at {report.last_checkpoint}" if report.last_checkpoint else ""
    click.echo(f"{report.checkpoints} checkpoints{signed_by}{until}")
    for note in report.notes:
        click.echo(escape_for_display(f"note: {note}"))
    for gap in report.unchecked:
        click.echo(escape_for_display(f"not checked: {gap}"))
    for problem in report.problems:
        click.echo(escape_for_display(f"PROBLEM {problem}"), err=True)
    if report.more_problems:
        click.echo(f"PROBLEM and {report.more_problems} more", err=True)
    click.echo(
        f"{report.records} records, {report.unsigned} after the last checkpoint: "
        + ("nothing is wrong" if report.ok else f"{len(report.problems) + report.more_problems} problems")
    )


def _added(place: Path, tails: dict[str, WriterTail]) -> Iterator[Line]:
    """Records of all writers that were not read before; what cannot be read is said on stderr."""
    for writer in list_writers(place):
        follower = tails.setdefault(writer, WriterTail(place / writer))
        try:
            while lines := follower.read():
                for line in lines:
                    try:
                        yield parse_line(line.data)
                    except RecordError as trouble:
                        click.echo(f"{writer}: no record at {line.place}: {trouble}", err=True)
        except (TailError, OSError) as trouble:
            click.echo(escape_for_display(f"{writer}: {trouble}"), err=True)


def _last(lines: list[Line], count: int) -> list[Line]:
    return sorted(lines, key=lambda line: (line.at, line.writer, line.seq))[-count:] if count > 0 else []


def _is_wanted(line: Line, kinds: tuple[str, ...]) -> bool:
    return not kinds or any(
        line.kind == kind or (kind.endswith("*") and line.kind.startswith(kind[:-1])) for kind in kinds
    )


def _in_one_line(line: Line) -> str:
    fields = line.fields
    parts = [line.at, line.kind]
    request, response = fields.get("request"), fields.get("response")
    if isinstance(request, dict):
        parts.append(f"{request.get('method', '')} {request.get('path', '')}")
    if isinstance(response, dict) and response.get("code"):
        parts.append(str(response["code"]))
    principal = fields.get("principal")
    if isinstance(principal, dict):
        parts.append(f"by {principal.get('subject', '')}")
    named = ("target", "verdict", "code", "end", "reason", "decision_id", "hold")
    parts += [
        f"{name}={fields[name]}" for name in named if isinstance(fields.get(name), str) and fields[name]
    ]
    parts.append(f"{line.writer}:{line.seq}")
    return escape_for_display(" ".join(parts))


def _as_json(line: Line) -> str:
    return json.dumps(_plain(line))


def _plain(line: Line) -> dict[str, Any]:
    envelope = {"writer": line.writer, "seq": line.seq, "at": line.at, "kind": line.kind, "hash": line.hash}
    return {**envelope, "prev": line.prev, **line.fields}


def _find(place: Path, what: str) -> Iterator[Line]:
    """Reads every line: the ledger has no index. The text is looked for before a line is taken apart."""
    writer, colon, seq = what.rpartition(":")
    if colon and seq.isascii() and seq.isdigit():
        yield from _find_place(place, writer, int(seq))
        return
    by_hash = 8 <= len(what) <= 64 and not what.strip("0123456789abcdef")
    needle = json.dumps(what, ensure_ascii=False).encode()
    for name in list_writers(place):
        for segment in list_segments(place / name):
            for data in raw_lines(segment):
                if needle in data or by_hash:
                    line = _parse(data)
                    if line is not None and _is_about(line, what, by_hash):
                        yield line


def _find_place(place: Path, writer: str, seq: int) -> Iterator[Line]:
    if writer not in list_writers(place):
        return
    segments = [segment for segment in list_segments(place / writer) if segment.first <= seq]
    for data in raw_lines(segments[-1]) if segments else ():
        line = _parse(data)
        if line is not None and line.seq == seq:
            yield line


def _parse(data: bytes) -> Line | None:
    try:
        return parse_line(data)
    except RecordError:
        return None


def _is_about(line: Line, what: str, by_hash: bool) -> bool:
    hold = line.fields.get("hold")
    ids = (
        line.fields.get("decision_id"),
        line.fields.get("session_id"),
        hold.get("id") if isinstance(hold, dict) else hold,
        (line.fields.get("trace") or {}).get("trace_id")
        if isinstance(line.fields.get("trace"), dict)
        else None,
    )
    return what in ids or (by_hash and line.hash.startswith(what))


def _whole_record(files: Payloads, line: Line) -> dict[str, Any]:
    """The record with its payloads, each checked against its commitment."""
    shown = _plain(line)
    payloads: dict[str, Any] = {}
    for name, named in line.payloads.items():
        state, body, _ = files.read(line, name)
        payloads[name] = {"size": named.size, "ref": named.ref, "state": state}
        if state == "good":
            payloads[name]["content"] = _content(body)
    return shown | ({"payloads": payloads} if payloads else {})


def _content(data: bytes) -> Any:
    text = data.decode("utf-8", "backslashreplace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _print_record(record: dict[str, Any], depth: int = 0) -> None:
    for name, value in record.items():
        label = "  " * depth + escape_for_display(name)
        if isinstance(value, dict) and value:
            click.echo(f"{label}:")
            _print_record(value, depth + 1)
        elif isinstance(value, str):
            click.echo(f"{label}: {escape_for_display(value)}")
        else:
            click.echo(f"{label}: {escape_for_display(json.dumps(value, ensure_ascii=False))}")
    if depth == 0:
        click.echo("")
