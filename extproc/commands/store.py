"""`extproc store`: the hold store that several machines share."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

DEFAULT_CONFIG = Path("extproc.yaml")


@click.group()
def store() -> None:
    """Tables of a hold store in Postgres.

    Exit codes: 0 done, 2 wrong usage or configuration, 3 the database cannot be used.
    """


@store.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    help="extproc.yaml with holds.postgres.",
)
def migrate(config: Path) -> None:
    """Make the tables, or bring them up to date. Doing it again changes nothing.

    Run it before the first `extproc serve`, and after an update that says so; a role that may create a schema is
    needed for this alone.
    """
    from extproc.adapters.hold_postgres_dsn import check_dsn
    from extproc.config import load_config
    from extproc.domain.errors import ConfigError

    try:
        settings = load_config(config)
        if settings.holds.postgres is None:
            raise click.UsageError(f"{config} has no holds.postgres")
        dsn = settings.holds.postgres.resolve()
        check_dsn(dsn)
    except ConfigError as mistake:
        raise click.UsageError(str(mistake)) from None
    try:
        before, after = asyncio.run(_migrate(dsn))
    except Exception as error:
        click.echo(f"the database cannot be used: {_safe(error)}", err=True)
        sys.exit(3)
    told = "are up to date" if before == after else "were made" if not before else f"were of version {before}"
    click.echo(f"tables of version {after}: {told}")


async def _migrate(dsn: str) -> tuple[int, int]:
    import asyncpg  # type: ignore[import-untyped]

    from extproc.adapters.hold_postgres_schema import migrate as bring_up_to_date

    db = await asyncpg.connect(dsn, timeout=10)
    try:
        return await bring_up_to_date(db, "extproc")
    finally:
        await db.close()


def _safe(error: Exception) -> str:
    """Our own words, or the kind alone: other texts may quote the connection string."""
    return str(error) if isinstance(error, ValueError) and "version" in str(error) else type(error).__name__
