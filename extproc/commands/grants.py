"""`extproc grants`: read grants and end them, as a client of the approvals API and of nothing else."""

from __future__ import annotations

import json
import sys

import click

from extproc.commands.approvals_options import Connect, client_options, json_option, reason_option
from extproc.commands.holds_text import GRANT_COLUMNS, grant_line, grant_page, print_table
from extproc.domain.grant import GrantState

STATES = [*(state.value for state in GrantState), "all"]


@click.group()
def grants() -> None:
    """List, show and revoke grants: approvals that let more than one request go.

    A grant is made by `extproc holds approve --uses`. Token, API and exit codes are as for `extproc holds`.
    """


@grants.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), default=("live",))
@click.option("--mine", is_flag=True, help="Only those for your own requests.")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@json_option
@client_options
def list_grants(connect: Connect, states: tuple[str, ...], mine: bool, limit: int, as_json: bool) -> None:
    """List grants, newest first; live ones unless --state says otherwise."""
    answer = connect().grants(() if "all" in states else states, mine=mine, limit=limit)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    if sys.stdout.isatty():
        print_table(map(grant_line, answer["grants"]), GRANT_COLUMNS)
    else:
        for grant in answer["grants"]:
            click.echo("\t".join(grant_line(grant)))
    if answer["more"]:
        click.echo(f"There are more than these {limit}.", err=True)


@grants.command()
@click.argument("grant_id")
@json_option
@client_options
def show(connect: Connect, grant_id: str, as_json: bool) -> None:
    """Show one grant: what it covers, how much of it is left, who gave it."""
    grant = connect().grant(grant_id)
    if as_json:
        click.echo(json.dumps(grant, indent=2))
        return
    for line in grant_page(grant):
        click.echo(line)


@grants.command()
@click.argument("grant_id")
@reason_option
@json_option
@client_options
def revoke(connect: Connect, grant_id: str, reason: str, as_json: bool) -> None:
    """End it now; an unused approval of its hold ends with it."""
    grant = connect().revoke_grant(grant_id, reason)
    click.echo(json.dumps(grant, indent=2) if as_json else next(iter(grant_page(grant))))
