"""Holds as text for a terminal. The API has spelled out what hides or moves text; here nothing is trusted again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from extproc.domain.display import escape_unprintable

COLUMNS = ("id", "state", "target", "requester", "what", "risk", "needs", "expires")


def line_of(hold: Mapping[str, Any]) -> list[str]:
    """One hold's cells, in the order of `COLUMNS`."""
    requester = hold["requester"]
    return [
        escape_unprintable(str(cell))
        for cell in (
            hold["id"],
            hold["state"],
            hold["target"],
            f"{requester['subject']} ({requester['kind']})",
            hold["title"],
            hold["risk"]["total"],
            _places(hold["missing"]),
            hold["expires_at"],
        )
    ]


def print_table(holds: list[dict[str, Any]]) -> None:
    """For people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, overflow="fold", no_wrap=name in ("id", "state"))
    for hold in holds:
        table.add_row(*(Text(cell) for cell in line_of(hold)))  # Text: nothing in it is markup
    Console(highlight=False).print(table)


def plain_table(holds: list[dict[str, Any]]) -> Iterator[str]:
    """For pipes: one line a hold, cells separated by a tab."""
    for hold in holds:
        yield "\t".join(line_of(hold))


def page(hold: Mapping[str, Any]) -> Iterator[str]:
    """Everything about one hold: who and why, then our facts, the normalised request, the raw one."""
    requester = hold["requester"]
    yield f"Hold {_plain(hold['id'])} is {_plain(hold['state'])}"
    yield f"  target     {_plain(hold['target'])}"
    yield f"  requester  {_plain(requester['subject'])} ({_plain(requester['kind'])}), {_plain(requester['issuer'])}"
    yield f"  person     {_plain(requester['person'])}"
    if requester.get("act"):
        yield f"  acts for   {_plain(json.dumps(requester['act']))}"
    yield f"  reason     {_plain(hold['reason'])}"
    for rule in hold["rules"]:
        yield f"  rule       {_plain(rule)}"
    for part in hold["risk"]["parts"]:
        yield f"  risk       {int(part['risk']):+d} {_plain(part['rule'])}"
    yield f"  approvers  {_plain(_places(hold['approvers']))}"
    if hold["missing"]:
        yield f"  missing    {_plain(_places(hold['missing']))}"
    yield f"  made       {_plain(hold['created_at'])}"
    yield f"  expires    {_plain(hold['use_before'] or hold['expires_at'])}"
    for vote in hold["votes"]:
        who = vote["approver"]
        yield (
            f"  {'approved' if vote['vote'] == 'approve' else 'denied':10} {_plain(who['person'])}"
            f" at {_plain(vote['at'])}: {_plain(vote['reason'])}"
        )
    if hold["closed_reason"]:
        yield f"  closed     {_plain(hold['closed_reason'])}"
    if hold["released_to"]:
        yield f"  released   {_plain(hold['released_to'])}"
    yield f"  waiting    {int(hold['waiters'])}"
    yield f"  digest     {_plain(hold['view_digest'])}"
    for section, value in hold["view"].items():
        if section != "truncated":
            yield f"{_plain(section)}:"
            yield from _lines(value, "  │ ")
    if not hold["shown_in_full"]:
        yield "THIS IS NOT ALL OF IT: what is not shown in full cannot be approved."


def _lines(value: object, gutter: str, name: str = "") -> Iterator[str]:
    """A JSON value, a line a leaf. The gutter before each line keeps a text from posing as ours."""
    label = f"{_plain(name)}: " if name else ""
    match value:
        case dict() if value:
            if label:
                yield gutter + label.rstrip()
            for key, item in value.items():
                yield from _lines(item, gutter + "  " if label else gutter, str(key))
        case list() if any(isinstance(item, dict | list) for item in value):
            for n, item in enumerate(value):
                yield from _lines(item, gutter, f"{name}[{n}]")
        case str() if "\n" in value:
            yield gutter + label.rstrip()
            for line in value.split("\n"):
                yield f"{gutter}  │ {_plain(line)}"
        case str():
            yield gutter + label + _plain(value)
        case _:
            yield gutter + label + _plain(json.dumps(value, ensure_ascii=False))


def _places(quorums: list[dict[str, Any]]) -> str:
    return ", ".join(f"{quorum['count']} of {quorum['group']}" for quorum in quorums) or "-"


def _plain(value: object) -> str:
    return escape_unprintable(str(value))
