"""`index.html` of a packet: one file without scripts or anything from elsewhere.

Every number is a `<data>` whose `data-of` says how it is computed from the packet's tables, so that a reader (and
a test) can do it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from extproc.domain.display import escape_for_display
from extproc.ledger.evidence.numbers import Tables, evaluate
from extproc.ledger.evidence.tables import TABLES

ROWS_SHOWN = 200
"""Rows of a table on the page; all of them are in the files."""
LINE = 100
"""Characters of JSON that are shown in one line."""
STYLE = Path(__file__).with_name("page.css")
_TILES = (
    ("exchanges", "exchanges", ""),
    ("approvals", "held for people", ""),
    ("refusals", "turned away", ""),
    ("masking#masked", "values masked", ""),
    ("exceptions", "exceptions", "warn"),
    ("population#unsigned", "records not signed yet", "warn"),
)
_SHOWN: Mapping[str, tuple[str, ...]] = {
    "population": TABLES["population"].columns,
    "sample": ("order", "at", "principal", "target", "request", "verdict", "rules", "end", "record"),
    "access": (
        "principal", "kind", "groups", "target", "allowed", "denied", "held", "rules_used", "last", "keep", "reviewer",
        "reviewed_on",
    ),
    "rules": ("rule", "target", "effect", "matched", "principals", "last_used", "used"),
    "privileged": ("at", "principal", "target", "request", "why", "verdict", "hold", "record"),
    "shared": TABLES["shared"].columns,
    "masking": TABLES["masking"].columns,
    "canaries": (
        "at", "target", "verdict", "planted", "known", "masked", "looked_in", "bytes", "found", "what", "recorded",
        "record",
    ),
    "inventory": (
        "target", "what", "name", "exchanges", "with_masks", "inspected", "not_inspected", "owner", "classification",
    ),
    "refusals": ("at", "principal", "target", "request", "code", "rules", "trace_id"),
    "exceptions": ("at", "what", "detail", "principal", "target", "request", "record"),
    "gaps": TABLES["gaps"].columns,
    "administration": TABLES["administration"].columns,
    "clock": TABLES["clock"].columns,
}  # fmt: skip
_FOR_PEOPLE = frozenset(("keep", "reviewer", "reviewed_on", "owner", "classification"))
_PLACES = frozenset(("record", "writer", "trace_id"))
_TIMES = frozenset(("at", "first", "last", "last_used", "time"))


def render_page(scope: Mapping[str, Any], tables: Tables, mapping: Mapping[str, Any], verify: str) -> str:
    """`scope` are facts to show in order; `mapping` is controls.json; `verify` the command that checks the packet."""
    wanted = {name for control in mapping["controls"] for name in control["tables"]} | {"population", "gaps"}
    sections = [name for name in _SHOWN if name in wanted]
    links = [("controls", "Controls"), *(("t-" + name, TABLES[name].title) for name in sections)]
    if "approvals" in wanted:
        links.insert(1, ("approvals", "Approvals"))
    if "policies" in wanted:
        links.append(("policies", "Policies"))
    if "configuration" in wanted:
        links.append(("configuration", "Configuration"))
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>Evidence {_t(scope['packet'])}</title><style>{STYLE.read_text('utf-8')}</style></head><body>",
        f'<header><div class="in"><h1>Evidence packet</h1><p class="soft">{_t(mapping["framework"])}</p>',
        '<dl class="facts">',
        *(f"<dt>{_t(name)}</dt><dd>{_t(value)}</dd>" for name, value in scope.items()),
        "</dl><nav>",
        *(f'<a href="#{name}">{_t(title)}</a>' for name, title in links),
        "</nav></div></header><main>",
        '<div class="tiles">',
        *(_tile(query, label, kind, tables) for query, label, kind in _TILES),
        "</div>",
        '<div class="box"><h3>Check this packet without trusting anyone</h3>'
        f"<p>With Python and nothing else, in the folder of this page:</p><pre>{_t(verify)}</pre>"
        "<p>Take the key from a source that is not this packet. The program names the first record that was edited, "
        "removed, inserted or moved, and says what it could not check. This page only repeats what the tables say; "
        "every number on it can be computed from the files in <code>tables/</code>.</p></div>",
        '<h2 id="controls">Controls</h2>',
        f'<p class="soft">{_t(mapping["source"])}</p>',
        *(_control(control, tables) for control in mapping["controls"]),
    ]
    if "approvals" in wanted:
        parts += _approvals(tables)
    parts += [_table(name, tables) for name in sections]
    if "policies" in wanted:
        parts += _policies(tables)
    if "configuration" in wanted:
        parts += _configuration(tables)
    parts.append("</main><footer>Times are UTC. What is shown was masked before it was recorded. ")
    parts.append("Files and their hashes: <code>manifest.json</code>.</footer></body></html>\n")
    return "".join(parts)


def number(query: str, tables: Tables) -> str:
    """A number with its address."""
    value = evaluate(query, tables)
    return f'<data value="{value}" data-of="{escape(query)}">{value}</data>'


def _tile(query: str, label: str, kind: str, tables: Tables) -> str:
    mark = f" {kind}" if kind and evaluate(query, tables) else ""
    return f'<div class="tile{mark}">{number(query, tables)}<span>{_t(label)}</span></div>'


def _control(control: Mapping[str, Any], tables: Tables) -> str:
    unmet = [query for query, value in control["expect"] if evaluate(query, tables) != value]
    if not control["expect"]:
        mark = '<span class="mark open">for review</span>'
    elif unmet:
        mark = '<span class="mark bad">not as expected</span>'
    else:
        mark = '<span class="mark good">as expected</span>'
    numbers = "".join(f"<li>{number(query, tables)} {_t(label)}</li>" for label, query in control["numbers"])
    files = " ".join(f"<code>tables/{_t(name)}.csv</code>" for name in control["tables"])
    return (
        f'<section class="control"><div class="head"><span class="id">{_t(control["id"])}</span>'
        f"<h3>{_t(control['title'])}</h3>{mark}</div><p>{_t(control['claim'])}</p><ul>{numbers}</ul>"
        f'<div class="row"><span>Artefact</span><span>{files}</span>'
        f"<span>Check</span><span>{_t(control['check'])}</span>"
        f"<span>Gaps</span><span>{_t(control['gaps'])}</span><span>Owner</span><span>______________________</span></div>"
        "</section>"
    )


def _table(name: str, tables: Tables) -> str:
    table, columns = TABLES[name], _SHOWN[name]
    rows = tables[name]
    head = (
        f'<h2 id="t-{name}">{_t(table.title)}</h2><p class="soft">{number(name, tables)} rows, each {_t(table.about)}. '
        f"<code>tables/{name}.csv</code></p>"
    )
    if not rows:
        return head + "<p>None.</p>"
    body = "".join(
        f"<tr>{''.join(_cell(column, row) for column in columns)}</tr>" for row in rows[:ROWS_SHOWN]
    )
    titles = "".join(_title(column, rows[0]) for column in columns)
    more = '<p class="soft">The rest is in the file.</p>' if len(rows) > ROWS_SHOWN else ""
    return f'{head}<div class="wrap"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>{more}'


def _title(column: str, row: Mapping[str, Any]) -> str:
    kind = ' class="num"' if type(row[column]) is int else ""
    return f"<th{kind}>{_t(column.replace('_', ' '))}</th>"


def _cell(column: str, row: Mapping[str, Any]) -> str:
    value = row[column]
    if column in _FOR_PEOPLE:
        return '<td class="blank"></td>'
    if isinstance(value, bool) or value is None:
        return f"<td>{ {True: 'yes', False: 'no', None: ''}[value] }</td>"
    if isinstance(value, int):
        return f'<td class="num">{value}</td>'
    if column in _PLACES:
        return f'<td class="rec">{_t(value)}</td>'
    if column in _TIMES:
        return f'<td class="time">{_t(str(value)[:23].replace("T", " "))}</td>'
    text = str(value)
    return f"<td>{_t(text if len(text) <= 300 else text[:300] + ' …')}</td>"


def _approvals(tables: Tables) -> list[str]:
    rows = tables["approvals"]
    parts = [
        '<h2 id="approvals">Approvals</h2>',
        f'<p class="soft">{number("approvals", tables)} holds, {number("approvals?separate=true", tables)} agreed to '
        f"by somebody else than who asked, {number('approvals?separate=false', tables)} by the same person. "
        "<code>tables/approvals.csv</code></p>",
    ]
    parts += [_hold(row) for row in rows[:ROWS_SHOWN]]
    return [*parts, "<p>None.</p>" if not rows else ""]


def _hold(row: Mapping[str, Any]) -> str:
    if row["separate"] is None:
        mark = '<span class="mark open">nobody agreed</span>'
    elif row["separate"] and row["enough"]:
        mark = '<span class="mark good">separate people, enough of them</span>'
    else:
        mark = '<span class="mark bad">look at this one</span>'
    facts = {
        "asked by": f"{row['requester']} (person {row['requester_person']})",
        "on": row["target"],
        "rules": row["rules"],
        "needed": row["quorum"],
        "agreed": row["approvers"],
        "against": row["against"],
        "reasons": row["reasons"],
        "opened": row["opened_at"],
        "decided": row["decided_at"],
        "used by": row["used_by"],
        "ran": {True: "yes", False: "no", None: ""}[row["executed"]],
        "record": row["record"],
    }
    shown = "".join(f"<dt>{_t(name)}</dt><dd>{_t(value)}</dd>" for name, value in facts.items() if value)
    view = (
        f'<p class="soft small">What the approvers saw:</p><pre>{_t(_indented(row["view"]), multiline=True)}</pre>'
        if row["view"]
        else ""
    )
    return (
        f"<details open><summary>{_t(row['hold'])} — {_t(row['state'])} {mark}</summary>"
        f'<dl class="facts">{shown}</dl>{view}</details>'
    )


def _indented(text: str) -> str:
    try:
        return _laid_out(json.loads(text), "")
    except (ValueError, RecursionError):
        return text


def _laid_out(value: Any, indent: str) -> str:
    """What fits in a line stays in one."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or len(indent) + len(line) <= LINE:
        return line
    deeper = indent + "  "
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(name, ensure_ascii=False)}: {_laid_out(value[name], deeper)}" for name in value
        ]
    else:
        parts = [_laid_out(item, deeper) for item in value]
    begin, end = "{}" if isinstance(value, dict) else "[]"
    inner = f",\n{deeper}".join(parts)
    return f"{begin}\n{deeper}{inner}\n{indent}{end}"


def _policies(tables: Tables) -> list[str]:
    parts = [
        '<h2 id="policies">Policies</h2>',
        f'<p class="soft">{number("policies?what=policy.activated", tables)} came into force in the period, '
        f"{number('policies?what=policy.refused', tables)} were refused. <code>tables/policies.csv</code></p>",
    ]
    for row in tables["policies"]:
        lines = str(row["change"]).splitlines()
        change = "\n".join(_diff_line(line) for line in lines)
        error = f"<p>{_t(row['error'])}</p>" if row["error"] else ""
        parts.append(
            f"<details><summary>{_t(row['at'])} {_t(row['what'])} by {_t(row['author'] or row['asked_by'])}</summary>"
            f'<p class="small soft">{_t(row["policy"])}, before: {_t(row["before"] or "nothing")}</p>{error}'
            f"<pre>{change}</pre></details>"
        )
    return parts


def _configuration(tables: Tables) -> list[str]:
    rows = tables["configuration"]
    parts = [
        '<h2 id="configuration">Configuration</h2>',
        f'<p class="soft">{number("configuration", tables)} starts of the service in the period. '
        "<code>tables/configuration.csv</code></p>",
    ]
    for row in rows[:ROWS_SHOWN]:
        change = "\n".join(_diff_line(line) for line in str(row["change"]).splitlines())
        parts.append(
            f"<details><summary>{_t(row['at'])}</summary>"
            f'<p class="small soft">{_t(row["digest"])}, record {_t(row["record"])}</p><pre>{change}</pre></details>'
        )
    return parts


def _diff_line(line: str) -> str:
    kind = "add" if line.startswith("+") else "del" if line.startswith("-") else ""
    return f'<span class="{kind}">{_t(line)}</span>' if kind else _t(line)


def _t(text: object, *, multiline: bool = False) -> str:
    return escape(escape_for_display(str(text), multiline=multiline))
