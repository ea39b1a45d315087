"""`extproc serve`: everything, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), default=Path("extproc.yaml"),
    show_default=True, help="Settings file.",
)  # fmt: skip
def serve(config_path: Path) -> None:
    """Run the service: workers, approvals API, exporter, checkpointer.

    SIGHUP reloads policies. SIGUSR2 reloads the settings file and the installed code, worker by worker, without
    losing a request. SIGTERM drains and stops. Exit code 1 when settings or policies are no good.
    """
    from extproc.app.memory import start_loading

    start_loading()
    from extproc.app.logs import set_up_logs
    from extproc.app.supervisor import Supervisor
    from extproc.config import Settings, parse_config
    from extproc.config.document import read_text
    from extproc.domain.errors import ExtprocError

    path = config_path.absolute()

    async def run(settings: Settings, text: str) -> None:
        await Supervisor(settings, path, text).run()

    os.umask(0o077)  # what we keep is ours alone, parent folders included
    set_up_logs("supervisor")
    try:
        text = read_text(config_path)
        settings = parse_config(text, file=str(config_path), base=path.parent)
        asyncio.run(run(settings, text))
    except ExtprocError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
