"""`extproc why`: why a request was decided as it was, and what that rests on, in plain words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from extproc.adapters.ledger_reader import list_writers
from extproc.adapters.ledger_scan import all_lines, covering_checkpoint, writer_lines
from extproc.commands.ledger_place import Place, config_option, dir_option, json_option
from extproc.commands.sessions import move_line
from extproc.domain.display import escape_for_display
from extproc.ledger.exchanges import Exchange, pair, row_of
from extproc.ledger.lines import Line

_EFFECTS = {"allow": "allows it", "deny": "denies it", "hold": "wants people to agree", "none": "adds to it"}


@click.command()
@click.argument("what")
@dir_option
@config_option
@json_option
def why(what: str, directory: Path | None, config: Path | None, as_json: bool) -> None:
    """Why WHAT was decided as it was: a decision id, a trace id or a hold id.

    Tells who asked, which rules matched in which policy and who activated it, who approved, what was masked, how
    it ended, and under which signed checkpoint the records stand.

    Exit codes: 0 found, 1 nothing is known of it, 3 there is no ledger.
    """
    place = Place(directory, config)
    where = place.find()
    place.note("evidence.record_read", {"asked": what[:200]})
    found = sorted(
        (
            exchange
            for writer in list_writers(where)
            for exchange in pair(writer_lines(where, writer))
            if _is_about(exchange, what)
        ),
        key=lambda exchange: exchange.line.at,
    )
    if not found:
        click.echo(f"nothing is known of {escape_for_display(what)}", err=True)
        sys.exit(1)
    holds = {str(exchange.part("hold").get("id", "")) for exchange in found} - {""}
    policies = {exchange.text("policy") for exchange in found}
    moves: list[Line] = []
    activations: list[Line] = []
    for line in all_lines(where):
        if line.kind.startswith(("hold.", "grant.")) and line.fields.get("hold") in holds:
            moves.append(line)
        elif line.kind == "policy.activated" and line.fields.get("policy") in policies:
            activations.append(line)
    moves.sort(key=lambda line: (line.at, line.writer, line.seq))
    reasons = [_reasons(where, exchange, moves, activations) for exchange in found]
    if as_json:
        click.echo(json.dumps(reasons))
        return
    for number, reason in enumerate(reasons):
        if number:
            click.echo("")
        for sentence in _sentences(reason):
            click.echo(escape_for_display(sentence))


def _is_about(exchange: Exchange, what: str) -> bool:
    hold = exchange.part("hold")
    return what in (exchange.text("decision_id"), exchange.part("trace").get("trace_id"), hold.get("id"))


def _reasons(where: Path, exchange: Exchange, moves: list[Line], activations: list[Line]) -> dict[str, Any]:
    row = row_of(exchange)
    earlier = [a for a in activations if a.fields["policy"] == row["policy"] and a.at <= row["at"]]
    activated = max(earlier, key=lambda line: line.at, default=None)
    lines = [line for line in (exchange.intent, exchange.outcome) if line is not None]
    return {
        "exchange": row,
        "rules": [dict(rule) for rule in exchange.rules],
        "errors": list(exchange.line.fields.get("errors", ())),
        "policy": None
        if activated is None
        else {
            "digest": row["policy"],
            "activated_at": activated.at,
            "author": activated.fields.get("author", ""),
            "files": activated.fields.get("files", []),
            "record": f"{activated.writer}:{activated.seq}",
        },
        "moves": [
            {"at": move.at, "kind": move.kind, "line": move_line(move), "record": f"{move.writer}:{move.seq}"}
            for move in moves
            if move.fields.get("hold") == row["hold"]
        ],
        "records": [
            {
                "record": f"{line.writer}:{line.seq}",
                "hash": line.hash,
                "checkpoint": covering_checkpoint(where, line.writer, line.seq),
            }
            for line in lines
        ],
    }


def _sentences(reason: Mapping[str, Any]) -> Iterator[str]:
    row = reason["exchange"]
    who = (
        f"{row['principal']} ({row['kind']}, {row['issuer']})"
        if row["principal"]
        else "somebody without a name"
    )
    yield f"{row['decision_id']}: {row['verdict'] or 'no intent recorded'} ({row['code']})"
    yield f"  asked by {who} at {row['at']} from {row['source'] or 'an unknown address'}"
    if row["person"] and row["person"] != row["principal"]:
        yield f"  on behalf of {row['person']}"
    yield f"  for {row['request']} on {row['target'] or 'no target'}"
    for rule in reason["rules"]:
        would = "would, if it were not in shadow mode: " if rule.get("shadow") else ""
        errored = ", though it could not be evaluated" if rule.get("errored") else ""
        risk = f", risk {rule['risk']}" if rule.get("risk") else ""
        effect = _EFFECTS.get(str(rule.get("effect")), "matched")
        yield f"  rule {rule.get('rule')} {would}{effect}{risk}{errored} [{rule.get('digest', '')}]"
    if not reason["rules"]:
        yield "  no rule matched: the policy's default, or a refusal before any rule; the code says which"
    for error in reason["errors"]:
        yield f"  not evaluated: {error}"
    policy = reason["policy"]
    if policy is not None:
        yield f"  policy {policy['digest']} in force since {policy['activated_at']}, by {policy['author']}"
    elif row["policy"]:
        yield f"  policy {row['policy']}, whose activation is not in this ledger"
    for move in reason["moves"]:
        yield f"  {move['line']}"
    for name, label in (("masks", "mask plans"), ("masked", "masked"), ("residual", "found afterwards")):
        if row[name]:
            yield f"  {label}: {row[name]}"
    if row["degraded"]:
        yield f"  degraded: {row['degraded']}"
    yield f"  ended: {_ending(row)}"
    for record in reason["records"]:
        number = record["checkpoint"]
        signed = f"under checkpoint {number}" if number is not None else "not under any checkpoint yet"
        yield f"  record {record['record']} {record['hash']}, {signed}"


def _ending(row: Mapping[str, Any]) -> str:
    executed = {True: "it ran", False: "it did not run", None: "whether it ran is not known"}[row["executed"]]
    facts = [row["end"], executed]
    if row["response_code"]:
        facts.append(f"status {row['response_code']}")
    if row["sqlstate"]:
        facts.append(f"SQLSTATE {row['sqlstate']}")
    if row["reason"]:
        facts.append(f"reason {row['reason']}")
    if row["duration_us"] != "":
        facts.append(f"after {row['duration_us']} µs")
    return ", ".join(facts)
