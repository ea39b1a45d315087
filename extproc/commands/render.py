"""`extproc render`: write configuration for what stands around us."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from extproc.commands.settings_file import DEFAULT, load_or_exit
from extproc.domain.errors import ConfigError


@click.group()
def render() -> None:
    """Write Envoy configuration from extproc.yaml."""


@render.command()
@click.option("--config", "file", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write; default is stdout."
)
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml")
def envoy(file: Path, out: Path | None, form: str) -> None:
    """Write a complete Envoy 1.40 configuration.

    Exit codes: 0 written, 1 the configuration is not good.
    """
    settings = load_or_exit(file)
    from extproc.render.bootstrap import envoy_config

    try:
        text = render_text(envoy_config(settings), form)
    except ConfigError as error:
        click.echo(f"{file}: {error}", err=True)
        sys.exit(1)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text)


def render_text(config: dict[str, object], form: str) -> str:
    """YAML or JSON; both are what `envoy -c` reads by the file's ending."""
    if form == "json":
        return json.dumps(config, indent=2) + "\n"
    import yaml

    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=110)
