"""Holds as text for a terminal. The API has spelled out what hides or moves text; here nothing is trusted again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from extproc.config.units import format_duration
from extproc.domain.display import escape_unprintable

COLUMNS = ("id", "state", "target", "requester", "what", "risk", "needs", "expires")
REVIEW_COLUMNS = ("id", "review", "target", "by", "what", "reason", "review by")
GRANT_COLUMNS = ("id", "state", "target", "requester", "used", "covers", "expires")


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


def review_line(hold: Mapping[str, Any]) -> list[str]:
    """One emergency's cells, in the order of `REVIEW_COLUMNS`."""
    glass = hold["break_glass"]
    found = glass["review"]
    state = glass["review_state"]
    if found is not None:
        state = "justified" if found["justified"] else "not justified"
    cells = (
        hold["id"],
        state,
        hold["target"],
        glass["by"]["person"],
        hold["title"],
        glass["reason"],
        glass["review_by"],
    )
    return [escape_unprintable(str(cell)) for cell in cells]


def table_of(rows: Iterable[list[str]], columns: tuple[str, ...] = COLUMNS) -> Table:
    """For people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name in ("id", "state"))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: nothing in it is markup
    return table


def print_table(rows: Iterable[list[str]], columns: tuple[str, ...] = COLUMNS) -> None:
    """For people, once."""
    Console(highlight=False).print(table_of(rows, columns))


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
    for pattern in hold["reason_patterns"]:
        yield f"  reasons    of approvals match {_plain(pattern)}"
    for rule in hold["rules"]:
        yield f"  rule       {_plain(rule)}"
    for part in hold["risk"]["parts"]:
        yield f"  risk       {int(part['risk']):+d} {_plain(part['rule'])}"
    yield f"  approvers  {_plain(_places(hold['approvers']))}"
    if hold["conflict_groups"]:
        yield f"  one of     {_plain(', '.join(hold['conflict_groups']))} at most, the requester included"
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
        if vote["grant"]:
            yield f"             {terms_line(vote['grant'])}"
    if glass := hold["break_glass"]:
        yield f"  EMERGENCY  {_plain(glass['by']['person'])} at {_plain(glass['at'])}: {_plain(glass['reason'])}"
        if found := glass["review"]:
            verdict = "justified" if found["justified"] else "not justified"
            yield f"  reviewed   {_plain(found['reviewer']['person'])}: {verdict}: {_plain(found['reason'])}"
        else:
            yield f"  review by  {_plain(glass['review_by'])} ({_plain(glass['review_state'])})"
    yield from _offer(hold["grant"])
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


def comparison(compared: Mapping[str, Any]) -> Iterator[str]:
    """What is another in a hold than in the last of its kind that was approved; nothing where there is none."""
    last = compared["last"]
    if last is None:
        return
    who = ", ".join(last["approvers"])
    yield f"compared with {_plain(last['id'])}, approved by {_plain(who)} at {_plain(last['decided_at'])}:"
    for each in compared["differences"]:
        before, now = ("(not there)" if each[side] is None else each[side] for side in ("before", "now"))
        yield f"  │ {_plain(each['where'])}: {_plain(before)} → {_plain(now)}"
    if compared["more"]:
        yield f"  │ and {int(compared['more'])} more"
    if not compared["differences"]:
        yield "  │ nothing that is shown is another"


def terms_line(terms: Mapping[str, Any]) -> str:
    """What a grant gives, in one line."""
    return (
        f"for {int(terms['uses'])} uses within {format_duration(int(terms['for']))}: {_plain(terms['covers'])}"
        f" ({_plain(terms['scope'])})"
    )


def _offer(offer: Mapping[str, Any] | None) -> Iterator[str]:
    """What an approver may give beyond this one request, in words: above all which values do not count."""
    if offer is None:
        yield "  may grant  this request, once"
        return
    most = offer["max"]
    within = format_duration(int(most["for"]))
    yield f"  may grant  at most {int(most['uses'])} uses, this one included, within {within}"
    for scope in offer["scopes"]:
        yield f"    {_plain(scope['scope']):8} {_plain(scope['covers'])}"
    if offer["pinnable"]:
        yield f"    can be pinned: {_plain(', '.join(map(str, offer['pinnable'])))}"
    if offer["agreed"]:
        yield f"  granted    {terms_line(offer['agreed'])}"


def grant_line(grant: Mapping[str, Any]) -> list[str]:
    """One grant's cells, in the order of `GRANT_COLUMNS`."""
    requester, terms = grant["requester"], grant["terms"]
    return [
        escape_unprintable(str(cell))
        for cell in (
            grant["id"],
            grant["state"],
            grant["target"],
            f"{requester['subject']} ({requester['kind']})",
            f"{grant['used']} of {terms['uses']}",
            terms["covers"],
            grant["expires_at"],
        )
    ]


def grant_page(grant: Mapping[str, Any]) -> Iterator[str]:
    """Everything about one grant."""
    requester = grant["requester"]
    yield f"Grant {_plain(grant['id'])} is {_plain(grant['state'])}"
    yield f"  hold       {_plain(grant['hold'])}"
    yield f"  target     {_plain(grant['target'])}"
    yield f"  requester  {_plain(requester['subject'])} ({_plain(requester['kind'])}), {_plain(requester['issuer'])}"
    for rule in grant["rules"]:
        yield f"  rule       {_plain(rule)}"
    yield f"  covers     {_plain(grant['terms']['covers'])} ({_plain(grant['terms']['scope'])})"
    ran = "ran" if grant["held_request_ran"] else "has not run"
    yield f"  used       {int(grant['used'])} of {int(grant['terms']['uses'])}; the held request {ran}"
    yield f"  made       {_plain(grant['made_at'])}"
    yield f"  expires    {_plain(grant['expires_at'])}"
    for approver in grant["approvers"]:
        yield f"  approved   {_plain(approver['person'])}"
    if grant["closed_reason"]:
        yield f"  closed     {_plain(grant['closed_reason'])}"


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
