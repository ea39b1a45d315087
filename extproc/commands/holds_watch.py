"""`extproc holds watch`: holds as they arrive, and a prompt that decides on one only when its id is typed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import click

from extproc.commands.approvals_client import ApprovalsClient, RefusedError, UnreachableError
from extproc.commands.holds_text import page, plain_table
from extproc.domain.errors import ExtprocError

POLL = 25
"""Seconds a call is kept open."""
RETRY = 2.0
HELP = "show ID, approve ID, deny ID, list, quit"


class Arrivals:
    """Asks again and again what is pending, and passes on what it has not passed on yet."""

    def __init__(self, client: ApprovalsClient) -> None:
        self._client = client
        self._told: dict[str, int] = {}
        self._news = 0

    def next(self, wait: int) -> list[dict[str, object]]:
        """Pending holds that are new or changed; at most `wait` seconds."""
        answer = self._client.list(("pending",), limit=500, wait=wait, since=self._news)
        self._news = answer["news"]
        fresh = [hold for hold in reversed(answer["holds"]) if self._told.get(hold["id"]) != hold["version"]]
        self._told = {hold["id"]: hold["version"] for hold in answer["holds"]}
        return fresh


def stream(client: ApprovalsClient, *, as_json: bool) -> None:
    """A line for each pending hold that is new or has changed, until interrupted."""
    arrivals = Arrivals(client)
    wait = 0
    while True:
        for hold in arrivals.next(wait):
            click.echo(json.dumps(hold) if as_json else next(iter(plain_table([hold]))))
        wait = POLL


def converse(client: ApprovalsClient, listener: ApprovalsClient, ask: Callable[[str], str | None]) -> None:
    """Tell what arrives, and do what is typed. `ask` shows a prompt and returns a line, None at the end."""
    arrivals = Arrivals(listener)
    _tell(arrivals.next(0))
    stop = threading.Event()
    thread = threading.Thread(target=_listen, args=(arrivals, stop), daemon=True, name="holds-watch")
    thread.start()
    try:
        while (line := ask("holds> ")) is not None:
            words = line.split()
            if words[:1] in (["quit"], ["exit"]):
                return
            try:
                _obey(client, words, ask)
            except ExtprocError as error:
                click.echo(f"{error}", err=True)
    finally:
        stop.set()


def _obey(client: ApprovalsClient, words: list[str], ask: Callable[[str], str | None]) -> None:
    match words:
        case []:
            return
        case ["list"]:
            for row in plain_table(client.list(("pending",))["holds"]):
                click.echo(row)
        case ["show", hold_id]:
            _show(client, hold_id)
        case ["approve" | "deny" as action, hold_id]:
            _decide(client, action, hold_id, ask)
        case _:
            click.echo(HELP)


def _show(client: ApprovalsClient, hold_id: str) -> dict[str, object]:
    hold = client.show(hold_id)
    for line in page(hold):
        click.echo(line)
    return hold


def _decide(client: ApprovalsClient, action: str, hold_id: str, ask: Callable[[str], str | None]) -> None:
    """Show all of it, ask why, and go on only if the id is typed once more."""
    hold = _show(client, hold_id)
    may = hold["may"]
    if isinstance(may, list) and action not in may:
        click.echo(f"You cannot {action} it now.")
        return
    reason = (ask("Reason: ") or "").strip()
    if not reason:
        click.echo("Nothing done: a reason is required.")
        return
    if (ask(f"Type the id to {action} it: ") or "").strip() != hold_id:
        click.echo("Nothing done: that was not its id.")
        return
    done = client.act(hold_id, action, reason)
    click.echo(f"{done['id']} is {done['state']}")


def _tell(holds: list[dict[str, object]]) -> None:
    for row in plain_table(holds):
        click.echo(row)


def _listen(arrivals: Arrivals, stop: threading.Event) -> None:
    lost = False
    while not stop.is_set():
        try:
            fresh = arrivals.next(POLL)
        except UnreachableError as error:
            if not stop.is_set() and not lost:
                click.echo(f"\n{error}; trying again", err=True)
            lost = True
            stop.wait(RETRY)
            continue
        except RefusedError as error:
            if not stop.is_set():
                click.echo(f"\n{error}; no more news", err=True)
            return
        lost = False
        if fresh and not stop.is_set():
            click.echo("")
            _tell(fresh)
