"""`extproc ledger status`: the ledger against what was signed and against the spans that arrived."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from extproc.adapters.ledger_reader import list_writers, read_end
from extproc.adapters.ledger_tally import last_checkpoint, read_cursor
from extproc.commands.ledger_place import Place, config_option, dir_option, json_option
from extproc.ledger.accounting import Account, accounts

CURSOR = "exporter.cursor"


@click.command()
@dir_option
@config_option
@click.option(
    "--cursor",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The exporter's own file; default is exporter.cursor beside the ledger.",
)
@json_option
def status(directory: Path | None, config: Path | None, cursor: Path | None, as_json: bool) -> None:
    """How many records there are, are signed, and stand in spans that arrived.

    Exit codes: 0 nothing is lost, 1 records are in no span although they should be, 3 there is no ledger.
    """
    place = Place(directory, config).find()
    try:
        sizes = {writer: read_end(place / writer).seq + 1 for writer in list_writers(place)}
    except OSError as failure:
        click.echo(f"{place}: {failure.strerror}", err=True)
        sys.exit(3)
    state = read_cursor(cursor or place.parent / CURSOR)
    checkpoint = last_checkpoint(place)
    signed = checkpoint.records if checkpoint is not None else 0
    found = accounts(sizes, state or {})
    whole = sum(found.values(), Account())
    exported = state.get("exported", 0) if state is not None else None
    lost = whole.lost if state is not None else None
    if as_json:
        writers = {
            name: {"records": each.records, "behind": each.behind, "open": each.open, "lost": each.lost}
            for name, each in found.items()
        }
        click.echo(
            json.dumps(
                {
                    "records": whole.records,
                    "signed": signed,
                    "spans_exported": exported,
                    "shown": whole.shown,
                    "sampled_out": whole.sampled_out,
                    "spanless": whole.spanless,
                    "open": whole.open,
                    "behind": whole.behind,
                    "lost": lost,
                    "writers": writers,
                }
            )
        )
    else:
        click.echo(f"ledger: {whole.records} records by {len(sizes)} writers, {signed} signed")
        if state is None:
            click.echo("spans: nothing was ever exported")
        else:
            click.echo(
                f"spans: {exported} exported, showing {whole.shown} records; {whole.sampled_out} records sampled "
                f"out, {whole.spanless} without a span, {whole.open} not ended, {whole.behind} not read yet"
            )
            click.echo(f"lost: {lost}")
            for name, each in found.items():
                if each.lost:
                    click.echo(f"  {name}: {each.lost} of {each.records}")
    if lost:
        sys.exit(1)
