"""`extproc ledger rebuild-index`: which ids stand in which segment, for searches in a large ledger."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from extproc.adapters.ledger_index import build_index, place_of
from extproc.commands.ledger_place import Place, config_option, dir_option


@click.command("rebuild-index")
@dir_option
@config_option
@click.option("--update", is_flag=True, help="Read only segments that the index does not know as they are.")
def rebuild_index(directory: Path | None, config: Path | None, update: bool) -> None:
    """Make the index of sessions, decisions, traces and holds anew from the segments.

    It is used by `sessions`, `why` and the console from then on, for the segments it knows; others are read. Exit
    codes: 0 it is made, 1 it cannot be written, 3 there is no ledger.
    """
    place = Place(directory, config).find()
    try:
        count, read = build_index(place, anew=not update)
    except OSError as failure:
        click.echo(f"{place_of(place)}: {failure.strerror}", err=True)
        sys.exit(1)
    click.echo(f"{place_of(place)}: {count} segments, {read} of them read")
