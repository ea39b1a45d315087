"""`extproc policy reload` and `extproc config reload`: what an operator asks of the approvals API."""

from __future__ import annotations

import json

import click

from extproc.commands.approvals_options import Connect, client_options, json_option, reason_option


@click.command("reload")
@reason_option
@json_option
@client_options
def reload_policy(connect: Connect, reason: str, as_json: bool) -> None:
    """Load the policies again: in force in all workers, or in none.

    Operators only. The token comes from --token-file or the variable EXTPROC_TOKEN, as for `extproc holds`.

    Exit codes: 0 they are in force, 1 refused, 2 wrong usage, 3 the API cannot be reached.
    """
    answer = connect().reload_policy(reason)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    as_before = ", as before" if answer["policy"] == answer.get("before") else ""
    click.echo(f"{answer['policy']} is in force{as_before}")


@click.command("reload")
@reason_option
@json_option
@client_options
def reload_settings(connect: Connect, reason: str, as_json: bool) -> None:
    """Begin a rolling reload: of the settings file that the service runs by, and of the installed code.

    Says what changes, or every mistake and what needs a restart. How it went on is in the log and the ledger.

    Operators only. The token comes from --token-file or the variable EXTPROC_TOKEN, as for `extproc holds`.

    Exit codes: 0 it has begun, 1 refused, 2 wrong usage, 3 the API cannot be reached.
    """
    answer = connect().reload_settings(reason)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"Rolling to {answer['configuration']}")
    for place in answer["changed"]:
        click.echo(f"  {place}")
