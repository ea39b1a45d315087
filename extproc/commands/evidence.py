"""`extproc evidence`: packets that an auditor can check alone, and single records with their proof."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import click

from extproc.commands.ledger_place import Place, config_option, dir_option, parse_moment
from extproc.domain.display import escape_for_display
from extproc.domain.errors import ExtprocError
from extproc.ledger.alone import verify as alone

MAX_SHEET = 1 << 20
"""Bytes of a reviewed sheet that are kept."""


@click.group()
def evidence() -> None:
    """Export, verify and share evidence from the ledger.

    Exit codes: 0 done, 1 it does not verify (or is not known), 2 wrong usage, 3 there is no ledger, or it is damaged.
    """


@evidence.command()
@dir_option
@config_option
@click.option("--from", "since", required=True, help="Beginning: 7d (ago), 2026-11-23 or RFC 3339.")
@click.option("--to", "until", default="", help="End, not included; default: now.")
@click.option("--target", default="", help="Show only records about this target; of others only hashes.")
@click.option(
    "--control", "controls", multiple=True, help="Only this control of the mapping, `8.15` say; repeatable."
)
@click.option("--reason", default="", help="Who asked for it and why; it is recorded.")
@click.option("--seed", default="", help="Seed of the sample; default: the hash of the latest checkpoint.")
@click.option("--sample", default=25, show_default=True, help="Exchanges in the sample.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: ./<packet>.zip"
)
def export(
    directory: Path | None,
    config: Path | None,
    since: str,
    until: str,
    target: str,
    controls: tuple[str, ...],
    reason: str,
    seed: str,
    sample: int,
    output: Path | None,
) -> None:
    """Write one zip with the records of a period, their proof, tables, a page and a verifier.

    With --config the export is a record before anything is read, and the packet is signed with a key that this
    record names. With --dir the packet is made from files and says that nobody vouches for the export.
    """
    from extproc.app.evidence import Asked, EvidenceError
    from extproc.app.evidence import export as make

    place = Place(directory, config)
    where = place.find()
    now = time.time()
    start, end = _moment(since, now), _moment(until, now) if until else _text(now)
    if start >= end:
        raise click.UsageError("--from must lie before --to")
    asked = Asked(start, end, target, controls, reason[:500], seed[:200], max(0, sample))
    try:
        packet, data = make(where, asked, place.settings() if directory is None else None, ring=place.ring())
        path = output or Path(f"{packet}.zip")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
    except EvidenceError as mistake:
        raise click.UsageError(str(mistake)) from None
    except ExtprocError as failure:
        click.echo(escape_for_display(f"no packet was made: {failure}"), err=True)
        sys.exit(3)
    except OSError as failure:
        click.echo(f"no packet was written: {failure.filename}: {failure.strerror}", err=True)
        sys.exit(3)
    click.echo(f"{path}: {packet}, {len(data)} bytes")


@evidence.command()
@click.argument("packet", type=click.Path(exists=True, path_type=Path))
@click.option("--key", help="The checkpoint public key, or a file that holds it. Get it from elsewhere.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def verify(packet: Path, key: str | None, as_json: bool) -> None:
    """Check PACKET (a zip, its folder, or a shared record) with the same program that lies in it."""
    given = [str(packet), *(["--key", key] if key is not None else []), *(["--json"] if as_json else [])]
    sys.exit(alone.main(given))


@evidence.command()
@click.argument("what")
@dir_option
@config_option
@click.option("--payloads", is_flag=True, help="Hand over what was kept beside the record as well.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Instead of standard output."
)
def share(
    what: str, directory: Path | None, config: Path | None, payloads: bool, output: Path | None
) -> None:
    """Write the record WHAT (`writer:seq`) with the proof that a signed checkpoint holds it, and no other record.

    `verify.py` checks the file.
    """
    from extproc.app.evidence_share import share_record

    place = Place(directory, config)
    where = place.find()
    writer, _, seq = what.rpartition(":")
    if not writer or not (seq.isascii() and seq.isdigit()):
        raise click.UsageError("say which record: writer:seq")
    place.note("evidence.shared", {"record": what[:200], "with_payloads": payloads})
    try:
        shared = share_record(where, writer, int(seq), payloads=payloads, ring=place.ring())
    except (ExtprocError, OSError) as failure:
        click.echo(escape_for_display(str(failure)), err=True)
        sys.exit(1)
    text = json.dumps(shared, indent=1, ensure_ascii=False) + "\n"
    if output is not None:
        output.write_text(text, "utf-8")
    else:
        click.echo(text, nl=False)


@evidence.command()
@config_option
@click.option(
    "--url", required=True, help="Where to send it: a path behind the gateway, as callers reach it."
)
@click.option("--method", default="POST", show_default=True, help="GET and HEAD carry no canaries in a body.")
@click.option(
    "--token",
    envvar="EXTPROC_TOKEN",
    default="",
    help="The caller's; without one it is refused, and recorded.",
)
@click.option(
    "--known",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of values, one a line, that the target holds and that must not come out.",
)
@click.option(
    "--also",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file to look into as well, a log say; repeatable.",
)
@click.option("--wait", default=10.0, show_default=True, help="Seconds until the request must be recorded.")
def canary(
    config: Path | None,
    url: str,
    method: str,
    token: str,
    known: Path | None,
    also: tuple[Path, ...],
    wait: float,
) -> None:
    """Send a request full of made-up secrets and look for them in its answer, in the ledger, and in files.

    The result is a record, and part of every evidence packet of that time. Exit code 1: one of them was found, or
    the request left no record.
    """
    from extproc.app.canary import Run, run_canary

    place = Place(None, config)
    where = place.find()
    values = [line for line in known.read_text("utf-8").splitlines() if line] if known is not None else []
    run = Run(url, method.upper(), token, tuple(values), also, wait)
    try:
        result = run_canary(where, run, place.ring())
    except (ExtprocError, OSError) as failure:
        click.echo(escape_for_display(str(failure)), err=True)
        sys.exit(3)
    place.note("evidence.canary", result)
    for looked in result["looked"]:
        found = ", ".join(looked["found"]) or "nothing"
        click.echo(escape_for_display(f"{looked['where']}: {looked['bytes']} bytes, {found} found"))
    click.echo(
        f"{len(result['planted'])} planted, {result['masked']} values masked in the answer ({result['status']})"
    )
    if not result["recorded"]:
        click.echo("the request left no complete record", err=True)
    sys.exit(int(not result["recorded"] or any(looked["found"] for looked in result["looked"])))


@evidence.command("sign-off")
@click.argument("sheet", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@config_option
@click.option("--packet", required=True, help="The packet it came from: evd_…")
@click.option("--reviewer", required=True, help="Who reviewed it.")
@click.option("--decision", required=True, help="What was decided, in a sentence.")
def sign_off(sheet: Path, config: Path | None, packet: str, reviewer: str, decision: str) -> None:
    """Record that SHEET (a filled-in access.csv, say) was reviewed: its hash, by whom, and what was decided.

    The sheet is kept beside the record, up to 1 MiB; a larger one by its hash only.
    """
    place = Place(None, config)
    place.find()
    data = sheet.read_bytes()
    fields = {
        "packet": packet[:100], "sheet": sheet.name[:200], "sha256": sha256(data).hexdigest(), "size": len(data),
        "reviewer": reviewer[:200], "decision": decision[:500],
    }  # fmt: skip
    place.note("evidence.reviewed", fields, {"sheet": data} if len(data) <= MAX_SHEET else {})
    click.echo(fields["sha256"])


def _moment(text: str, now: float) -> str:
    return _text(parse_moment(text, now))


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
