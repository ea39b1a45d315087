"""The settings file that a command is given."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from extproc.config import Settings, load_config
from extproc.domain.errors import ConfigError

DEFAULT = Path("extproc.yaml")


def load_or_exit(file: Path) -> Settings:
    """The settings, or every mistake on stderr and exit code 1."""
    try:
        return load_config(file)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
