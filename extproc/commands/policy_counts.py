"""`extproc policy counts`: what each rule did, and what shadow rules would have done."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from extproc.adapters.ledger_reader import list_segments, list_writers
from extproc.adapters.ledger_scan import raw_lines
from extproc.commands.ledger_place import Place
from extproc.domain.display import escape_for_display
from extproc.ledger.rule_counts import RuleTally, count_rules


@click.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="The ledger's directory.")
@click.option("--config", type=click.Path(path_type=Path), help="extproc.yaml that names it.")
@click.option("--shadow", is_flag=True, help="Only rules in shadow mode.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def counts(directory: Path | None, config: Path | None, shadow: bool, as_json: bool) -> None:
    """Count in the ledger how often each rule matched, shadow rules included.

    A shadow rule that denies shows how many requests it would have denied, of how many.
    Exit codes: 0 counted, 2 wrong usage, 3 there is no ledger.
    """
    place = Place(directory, config).find()
    try:
        found = count_rules(_lines(place))
    except OSError as failure:
        click.echo(f"{place}: {failure.strerror}", err=True)
        sys.exit(3)
    rules = [tally for tally in found.rules if tally.shadow or not shadow]
    if as_json:
        click.echo(json.dumps({"decisions": found.decisions, "rules": [asdict(tally) for tally in rules]}))
        return
    for tally in rules:
        click.echo(_sentence(tally, found.decisions.get(tally.target, 0)))
    if not rules:
        click.echo("no rule has matched")


def _sentence(tally: RuleTally, decisions: int) -> str:
    did = {"allow": "allowed", "deny": "denied", "hold": "held"}.get(tally.effect, "matched")
    if tally.shadow:
        did = f"would have {did}"
    name = escape_for_display(f"{tally.target} {tally.rule}")
    errors = f", {tally.errored} of them because it could not be evaluated" if tally.errored else ""
    return f"{name}: {did} {tally.matched} of {decisions}{errors}"


def _lines(place: Path) -> Iterator[bytes]:
    for writer in list_writers(place):
        for segment in list_segments(place / writer):
            yield from (line for line in raw_lines(segment) if line.strip())
