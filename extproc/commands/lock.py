"""`extproc lock`: lock a caller or a session out, list locks, remove one; a client of the approvals API."""

from __future__ import annotations

import json
import re
from typing import Any

import click

from extproc.commands.approvals_options import Connect, client_options, json_option, reason_option

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Span(click.ParamType[int]):
    """A duration such as 30m or 8h, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([1-9][0-9]{0,7})([smhd])", str(value))
        if found is None:
            self.fail("is a number with s, m, h or d, such as 30m", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


@click.group()
def lock() -> None:
    """Lock a caller or a session out, at once and everywhere; list and remove locks.

    Operators only. The token comes from --token-file or the variable EXTPROC_TOKEN, as for `extproc holds`.

    Exit codes: 0 done, 1 refused, 2 wrong usage, 3 the API cannot be reached.
    """


@lock.command()
@click.option("--subject", default="", help="The caller: `sub` of its token, or the URI of its certificate.")
@click.option("--issuer", default="", help="With --subject: of this issuer only.")
@click.option("--person", default="", help="Everybody behind whom this person stands.")
@click.option("--session", default="", help="One database session (ses_…).")
@click.option("--for", "span", type=Span(), help="Until it ends by itself, such as 30m or 8h.")
@reason_option
@json_option
@client_options
def add(
    connect: Connect,
    subject: str,
    issuer: str,
    person: str,
    session: str,
    span: int | None,
    reason: str,
    as_json: bool,
) -> None:
    """Lock: live database sessions end, new logins and requests are refused."""
    if sum(map(bool, (subject, person, session))) != 1 or (issuer and not subject):
        raise click.UsageError(
            "say whom: one of --subject (with --issuer or without), --person and --session"
        )
    whom = {"subject": subject, "issuer": issuer, "person": person, "session": session}
    asked: dict[str, Any] = {name: value for name, value in whom.items() if value}
    if span:
        asked["expires_in"] = span
    _tell(connect().lock({**asked, "reason": reason}), as_json)


@lock.command("list")
@json_option
@client_options
def list_locks(connect: Connect, as_json: bool) -> None:
    """List the locks in force."""
    answer = connect().locks()
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for each in answer["locks"]:
        click.echo(_line(each))


@lock.command()
@click.argument("lock_id")
@reason_option
@json_option
@client_options
def remove(connect: Connect, lock_id: str, reason: str, as_json: bool) -> None:
    """Remove a lock."""
    _tell(connect().unlock(lock_id, reason), as_json)


def _tell(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"{_line(answer)}\nin force in {answer['workers']} workers")


def _line(each: dict[str, Any]) -> str:
    names = ("subject", "issuer", "person", "session")
    whom = " ".join(f"{name} {each[name]}" for name in names if each[name])
    until = f"until {each['expires_at']}" if each["expires_at"] else "until removed"
    return f"{each['id']}  {whom}  {until}  by {each['by']}: {each['reason']}"
