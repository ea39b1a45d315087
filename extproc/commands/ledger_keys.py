"""`extproc ledger rotate-key`: another key signs the checkpoints from the next one on."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from extproc.commands.ledger_place import Place, config_option

POLL = 0.2


@click.command("rotate-key")
@config_option
@click.option("--reason", required=True, help="Why; it is recorded.")
@click.option("--wait", default=15.0, show_default=True, help="Seconds to wait for the checkpointer.")
def rotate_key(config: Path | None, reason: str, wait: float) -> None:
    """Have the checkpointer make a new key, hand over to it under both signatures, and drop the old one.

    Verifiers follow: whoever was given an earlier key can go on using it. The new public key is printed.

    Exit codes: 0 done, 1 it will be done by the checkpointer's next start, 2 wrong usage, 3 it cannot be asked for.
    """
    from extproc.adapters.checkpoint_key import KeyChange
    from extproc.app.checkpointing import signing_key

    place = Place(None, config)
    place.find()
    path = signing_key(place.settings())
    public = path.with_name(path.name + ".pub")
    try:
        before = public.read_text("ascii").strip()
    except (OSError, ValueError) as failure:
        click.echo(f"there is no key to change yet: {failure}", err=True)
        sys.exit(3)
    place.note("admin.key_rotation", {"signs": "checkpoints", "before": before[:300], "reason": reason[:500]})
    change = KeyChange(path)
    try:
        change.ask()
    except OSError as failure:
        click.echo(f"{path.parent}: {failure.strerror}", err=True)
        sys.exit(3)
    end = time.monotonic() + wait
    while change.is_asked and time.monotonic() < end:
        time.sleep(POLL)
    if change.is_asked:
        click.echo("asked for; the checkpointer does it when it runs", err=True)
        sys.exit(1)
    click.echo(public.read_text("ascii").strip())
