"""`extproc config`: check extproc.yaml, show what it amounts to, describe it to editors, put it in force."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from extproc.commands.reload import reload_settings
from extproc.commands.settings_file import DEFAULT, load_or_exit
from extproc.config import InvalidConfigError, Problem, Settings, load_config
from extproc.config.certificates import certificate_faults
from extproc.config.document import dotted
from extproc.domain.errors import ConfigError

_file = click.argument(
    "file", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT, required=False
)
_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


@click.group()
def config() -> None:
    """Check, show or describe extproc.yaml, or put it in force."""


config.add_command(reload_settings)


@config.command()
@_file
@click.option("--secrets", is_flag=True, help="Also read every secret it refers to.")
@_json
def check(file: Path, secrets: bool, as_json: bool) -> None:
    """Check FILE (default extproc.yaml) and name every mistake with its line.

    Certificates of TLS that ends here are read, secrets only with --secrets.

    Exit codes: 0 it is good, 1 it is not.
    """
    problems: tuple[Problem, ...] = ()
    settings: Settings | None = None
    try:
        settings = load_config(file)
        problems = tuple(Problem(f"{place}: {fault}") for place, fault in certificate_faults(settings))
        problems += tuple(_unreadable_secrets(settings)) if secrets else ()
    except InvalidConfigError as error:
        problems = error.problems
    if as_json:
        click.echo(
            json.dumps({"file": str(file), "ok": not problems, "problems": [_to_json(p) for p in problems]})
        )
    elif problems:
        for problem in problems:
            click.echo(problem.render(str(file)), err=True)
    elif settings is not None:
        click.echo(
            f"{file}: good ({len(settings.targets)} targets, {len(settings.listeners)} listeners, "
            f"{len(settings.identity.providers)} identity providers)"
        )
    if problems:
        sys.exit(1)


@config.command()
@_file
@_json
def show(file: Path, as_json: bool) -> None:
    """Print the effective settings of FILE, defaults included. Secrets stay references."""
    from extproc.config.show import to_data

    data = to_data(load_or_exit(file))
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    import yaml

    click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)


@config.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "markdown"]),
    default="json",
    help="JSON Schema or a table.",
)
@click.option("--json", "_as_json", is_flag=True, help="JSON Schema, which is the default.")
def schema(form: str, _as_json: bool) -> None:
    """Print the JSON Schema of extproc.yaml, for editors."""
    from extproc.config.show import reference
    from extproc.config.show import schema as json_schema

    click.echo(json.dumps(json_schema(), indent=2) if form == "json" else reference(), nl=form == "json")


def _unreadable_secrets(settings: Settings) -> list[Problem]:
    problems = []
    for place, reference in settings.secrets():
        try:
            reference.resolve_bytes()
        except ConfigError as error:
            problems.append(Problem(f"{place}: {error}"))
    return problems


def _to_json(problem: Problem) -> dict[str, object]:
    return {
        "place": dotted(problem.place),
        "line": problem.mark.line if problem.mark else None,
        "column": problem.mark.column if problem.mark else None,
        "message": problem.message,
    }
