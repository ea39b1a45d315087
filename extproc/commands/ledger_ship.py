"""`extproc ledger ship`: copies of closed segments and checkpoints where nobody can change them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from extproc.adapters.ledger_files import LedgerWriter
from extproc.adapters.shipping import ObjectStore, Result, Shipped
from extproc.adapters.shipping import ship as ship_files
from extproc.commands.ledger_place import Place, config_option, json_option
from extproc.config import Settings
from extproc.domain.display import escape_for_display
from extproc.domain.errors import ExtprocError
from extproc.domain.record import Record
from extproc.ledger.retention import ROLE

SHIPPED = "retention.shipped"
IN_RECORD = 500
"""Objects that one record tells of."""


@click.command()
@config_option
@click.option("--to", "url", help="Instead of ledger.ship.url.")
@click.option("--payloads", is_flag=True, help="Ship payloads too: what is locked there cannot be erased.")
@click.option("--check-all", is_flag=True, help="Compare everything that is there already byte by byte.")
@json_option
def ship(config: Path | None, url: str | None, payloads: bool, check_all: bool, as_json: bool) -> None:
    """Copy closed segments and checkpoints to object storage, create-only, and read each back.

    Run it again at any time: it goes on where it stopped, and names what the store holds otherwise than we do.
    What was shipped is recorded with its SHA-256.

    Exit codes: 0 done, 1 the store holds something else, 2 wrong usage, 3 no ledger, no store, or no record.
    """
    place = Place(None, config)
    directory = place.find()
    settings = place.settings()
    try:
        store, shown, with_payloads = _store(settings, url, payloads)
        with _recording(settings, shown) as done:
            result = ship_files(directory, store, payloads=with_payloads, everything=check_all, done=done)
    except (ExtprocError, OSError) as failure:
        click.echo(escape_for_display(f"not everything was shipped: {failure}"), err=True)
        sys.exit(3)
    _print(result, as_json)
    sys.exit(1 if result.different else 0)


def _store(settings: Settings, url: str | None, payloads: bool) -> tuple[ObjectStore, str, bool]:
    configured = settings.ledger.ship
    if url is not None:
        return ObjectStore(url, {}), url, payloads
    if configured is None:
        raise click.UsageError("the configuration has no ledger.ship; say --to")
    options: dict[str, Any] = {}
    if configured.endpoint is not None:
        options["endpoint"] = configured.endpoint
        if configured.endpoint.startswith("http://"):
            options["client_options"] = {"allow_http": True}
    if configured.region is not None:
        options["region"] = configured.region
    return ObjectStore(configured.url, options), configured.url, payloads or configured.payloads


@contextmanager
def _recording(settings: Settings, url: str) -> Iterator[Any]:
    """Records of what was shipped, also when it ends in trouble. The writer opens with the first object."""
    from extproc.app.ledgers import open_ledger

    waiting: list[Shipped] = []
    ledgers: list[LedgerWriter] = []

    def write() -> None:
        if waiting:
            if not ledgers:
                ledgers.append(open_ledger(settings, ROLE))
            objects = [{"name": one.name, "size": one.size, "sha256": one.sha256} for one in waiting]
            ledgers[0].append(Record(SHIPPED, time.time(), {"store": url, "objects": objects}))
            ledgers[0].commit()
            waiting.clear()

    def done(one: Shipped) -> None:
        waiting.append(one)
        if len(waiting) >= IN_RECORD:
            write()

    try:
        yield done
    finally:
        try:
            write()
        finally:
            for ledger in ledgers:
                ledger.close()


def _print(result: Result, as_json: bool) -> None:
    size = sum(one.size for one in result.shipped)
    if as_json:
        facts = {
            "shipped": len(result.shipped),
            "bytes": size,
            "present": result.present,
            "different": result.different,
        }
        click.echo(json.dumps(facts))
        return
    click.echo(f"{len(result.shipped)} objects of {size} bytes shipped, {result.present} were there")
    for name in result.different:
        click.echo(escape_for_display(f"PROBLEM {name}: the store holds something else"), err=True)
