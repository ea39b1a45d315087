"""`extproc holds`: read holds and decide on them, as a client of the approvals API and of nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from extproc.commands import holds_watch
from extproc.commands.approvals_client import ApprovalsClient
from extproc.commands.approvals_options import Connect, client_options, json_option, reason_option
from extproc.commands.holds_text import (
    REVIEW_COLUMNS,
    comparison,
    line_of,
    page,
    plain_table,
    print_table,
    review_line,
    table_of,
    terms_line,
)
from extproc.config.units import parse_duration
from extproc.domain.hold import HoldState, ReviewState
from extproc.domain.terms import SCOPES

STATES = [*(state.value for state in HoldState), "all"]


@click.group()
def holds() -> None:
    """List, show, approve, deny and watch holds, and review what went in an emergency.

    The token comes from --token-file or the variable EXTPROC_TOKEN, never from the command line, where every
    process of the machine could read it.

    Exit codes: 0 done, 1 refused, 2 wrong usage, 3 the API cannot be reached.
    """


@holds.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), default=("pending",))
@click.option("--mine", is_flag=True, help="Only your own requests.")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@click.option("--live", is_flag=True, help="Keep the table on the screen as it is now, until interrupted.")
@json_option
@client_options
def list_holds(
    connect: Connect, states: tuple[str, ...], mine: bool, limit: int, live: bool, as_json: bool
) -> None:
    """List holds, newest first; pending ones unless --state says otherwise."""
    wanted = () if "all" in states else states
    if live:
        if as_json or not sys.stdout.isatty():
            raise click.UsageError("--live is for a terminal; `watch` is for a pipe")
        _live(connect(), wanted, mine, limit)
        return
    answer = connect().list(wanted, mine=mine, limit=limit)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    if sys.stdout.isatty():
        print_table(map(line_of, answer["holds"]))
    else:
        for row in plain_table(answer["holds"]):
            click.echo(row)
    if answer["more"]:
        click.echo(f"There are more than these {limit}.", err=True)


@holds.command()
@click.argument("hold_id")
@click.option("--wait", type=click.IntRange(0, 60), default=0, help="Seconds to wait for a change first.")
@json_option
@client_options
def show(connect: Connect, hold_id: str, wait: int, as_json: bool) -> None:
    """Show everything about one hold: our facts first, then the normalised request, then the raw one."""
    client = connect()
    hold = client.show(hold_id, wait=wait)
    if as_json:
        click.echo(json.dumps(hold, indent=2))
        return
    for line in page(hold):
        click.echo(line)
    if hold["state"] == "pending":
        for line in comparison(client.compare(hold_id)):
            click.echo(line)


@holds.command()
@click.argument("hold_id")
@reason_option
@click.option(
    "--for", "duration", help="With --uses: how long it may be used, as in 30m; at most what the rule says."
)
@click.option(
    "--uses",
    type=click.IntRange(2),
    help="Let so many requests go, this one included; without it, this one alone.",
)
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    help="With --uses: exactly this request; its shape with pinned values; its shape with any values.",
)
@click.option(
    "--pin", "pins", multiple=True, help="With --scope pinned: a value that must stay as it is; repeatable."
)
@json_option
@client_options
def approve(
    connect: Connect,
    hold_id: str,
    reason: str,
    duration: str | None,
    uses: int | None,
    scope: str | None,
    pins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Vote for it: for this request alone, or with --uses for more of them, within what the rule allows."""
    if uses is None:
        if duration is not None or scope is not None or pins:
            raise click.UsageError("--for, --scope and --pin go with --uses")
        _act(connect, hold_id, "approve", reason, as_json)
        return
    if duration is None:
        raise click.UsageError("--uses goes with --for: say how long")
    if pins and scope != "pinned":
        raise click.UsageError("--pin goes with --scope pinned")
    grant = {"for": _seconds(duration), "uses": uses, "scope": scope or "exact", "pins": list(pins)}
    _act(connect, hold_id, "approve", reason, as_json, grant=grant)


@holds.command()
@click.argument("hold_id")
@reason_option
@json_option
@client_options
def deny(connect: Connect, hold_id: str, reason: str, as_json: bool) -> None:
    """Reject it. One rejection is enough."""
    _act(connect, hold_id, "deny", reason, as_json)


@holds.command()
@click.argument("hold_id")
@reason_option
@json_option
@client_options
def withdraw(connect: Connect, hold_id: str, reason: str, as_json: bool) -> None:
    """Take back your own request while it is pending."""
    _act(connect, hold_id, "withdraw", reason, as_json)


@holds.command()
@click.argument("hold_id")
@reason_option
@json_option
@client_options
def revoke(connect: Connect, hold_id: str, reason: str, as_json: bool) -> None:
    """Take back an approval that was not used yet."""
    _act(connect, hold_id, "revoke", reason, as_json)


@holds.command("break-glass")
@click.argument("hold_id")
@reason_option
@json_option
@client_options
def break_glass(connect: Connect, hold_id: str, reason: str, as_json: bool) -> None:
    """Let your own request go in an emergency. It is alarmed, and somebody else must review it."""
    _act(connect, hold_id, "break-glass", reason, as_json)


@holds.command()
@click.option("--done", is_flag=True, help="Those that were reviewed instead.")
@json_option
@client_options
def reviews(connect: Connect, done: bool, as_json: bool) -> None:
    """List what went in an emergency and nobody reviewed yet. Exit code 4 if a review is overdue."""
    states = (ReviewState.DONE,) if done else (ReviewState.OPEN, ReviewState.OVERDUE)
    answer = connect().list(reviews=tuple(state.value for state in states), limit=500)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    elif sys.stdout.isatty():
        print_table(map(review_line, answer["holds"]), REVIEW_COLUMNS)
    else:
        for hold in answer["holds"]:
            click.echo("\t".join(review_line(hold)))
    if any(hold["break_glass"]["review_state"] == ReviewState.OVERDUE for hold in answer["holds"]):
        sys.exit(4)


@holds.command()
@click.argument("hold_id")
@click.option("--justified/--not-justified", default=None, help="What you found.")
@reason_option
@json_option
@client_options
def review(connect: Connect, hold_id: str, justified: bool | None, reason: str, as_json: bool) -> None:
    """Say what you found about a request that went in an emergency."""
    if justified is None:
        raise click.UsageError("say --justified or --not-justified")
    hold = connect().review(hold_id, justified, reason)
    click.echo(json.dumps(hold, indent=2) if as_json else f"{hold['id']} is reviewed")


@holds.command()
@click.option(
    "--interactive/--no-interactive",
    default=None,
    help="Whether to read commands; by default if this is a terminal.",
)
@json_option
@client_options
def watch(connect: Connect, interactive: bool | None, as_json: bool) -> None:
    """Tell of holds as they arrive; at the prompt, approve or deny one by typing its id."""
    if interactive is None:
        interactive = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    try:
        if not interactive:
            holds_watch.stream(connect(), as_json=as_json)
            return
        click.echo(f"Commands: {holds_watch.HELP}")
        holds_watch.converse(connect(), connect(), _ask)
    except KeyboardInterrupt:
        return


def _live(client: ApprovalsClient, states: tuple[str, ...], mine: bool, limit: int) -> None:
    """The table, drawn anew whenever something moved."""
    news, wait = 0, 0
    try:
        with Live(console=Console(highlight=False), auto_refresh=False, screen=True) as screen:
            while True:
                answer = client.list(states, mine=mine, limit=limit, wait=wait, since=news)
                news, wait = answer["news"], holds_watch.POLL
                screen.update(table_of(map(line_of, answer["holds"])), refresh=True)
    except KeyboardInterrupt:
        return


def _act(
    connect: Connect,
    hold_id: str,
    action: str,
    reason: str,
    as_json: bool,
    *,
    grant: Mapping[str, Any] | None = None,
) -> None:
    hold = connect().act(hold_id, action, reason, grant=grant)
    if as_json:
        click.echo(json.dumps(hold, indent=2))
        return
    click.echo(next(iter(page(hold))))  # its first line says how it stands
    agreed = (hold["grant"] or {}).get("agreed")
    if grant is not None and agreed is not None:
        click.echo(f"  {terms_line(agreed)}")


def _seconds(text: str) -> int:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"--for: {error}") from None
    if seconds < 1:
        raise click.UsageError("--for is a second or more")
    return int(seconds)


def _ask(prompt: str) -> str | None:
    """A line from the user; None at the end of input."""
    try:
        return str(click.prompt(prompt, prompt_suffix="", default="", show_default=False))
    except click.Abort:
        return None
