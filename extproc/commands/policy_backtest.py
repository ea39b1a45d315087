"""`extproc policy backtest`: what other policies would have decided about what was recorded."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extproc.adapters.ledger_reader import list_writers
from extproc.adapters.ledger_scan import writer_lines
from extproc.adapters.policy_files import find_policies
from extproc.commands.dialects import analyze
from extproc.commands.ledger_place import Place, config_option, dir_option, json_option, parse_moment
from extproc.domain.display import escape_for_display
from extproc.domain.errors import PolicyError
from extproc.ledger.exchanges import Exchange, pair
from extproc.policy import PolicySet, TargetInfo, load_policies, named_targets

if TYPE_CHECKING:
    from extproc.pipeline.replay import Replayed


@click.command()
@dir_option
@config_option
@click.option("--since", default="7d", show_default=True, help="How far back: 7d, 2026-11-23 or RFC 3339.")
@click.option(
    "--policy", "paths", multiple=True, required=True, type=click.Path(exists=True, path_type=Path),
    help="File or folder of the policies to judge by; repeatable.",
)  # fmt: skip
@click.option("--show", default=20, show_default=True, help="How many changed exchanges to list; 0 for all.")
@click.option("--fail-on-change", is_flag=True, help="Exit with 1 if any verdict changes or may change.")
@json_option
def backtest(
    directory: Path | None,
    config: Path | None,
    since: str,
    paths: tuple[Path, ...],
    show: int,
    fail_on_change: bool,
    as_json: bool,
) -> None:
    """Judge recorded requests and statements by the policies in --policy, and show whose verdict would change.

    Records do not hold everything: claims, headers, bodies and masked values are gone. Where a rule needs them,
    the verdict is said to be uncertain, with the facts that would tell. Rules over responses are not replayed.
    Targets and their labels come from --config; with --dir, from the policies themselves.

    Exit codes: 0 done, 1 the policies are no good (or a verdict changes, with --fail-on-change), 3 no ledger.
    """
    from extproc.pipeline.replay import (  # the pipeline: no other command on policies needs it
        replay,
        unplayed_rules,
    )

    place = Place(directory, config)
    where = place.find()
    sources = find_policies(paths).policies
    try:
        policies = load_policies(sources, _targets(place, directory) or named_targets(sources))
    except PolicyError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    start = parse_moment(since, time.time())
    place.note("evidence.searched", {"command": "policy backtest", "policy": policies.digest})
    result = _Result(show)
    for writer in list_writers(where):
        for exchange in pair(writer_lines(where, writer, since_us=int(start * 1_000_000))):
            if exchange.intent is not None and exchange.at_us >= start * 1_000_000:
                result.add(exchange, replay(exchange.intent.fields, _began(exchange), policies, analyze))
    skipped_rules = sorted(
        {rule for target in policies.targets for rule in unplayed_rules(policies.for_target(target))}
    )
    if as_json:
        click.echo(
            json.dumps({"policy": policies.digest, **result.to_json(), "rules_not_replayed": skipped_rules})
        )
    else:
        _print(result, policies, skipped_rules)
    sys.exit(1 if fail_on_change and (result.changes or result.uncertain) else 0)


@dataclass(slots=True)
class _Result:
    """What came out. `most` changed exchanges are kept; 0 keeps all."""

    most: int
    same: int = 0
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    uncertain: Counter[tuple[str, str]] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    changed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, exchange: Exchange, replayed: Replayed) -> None:
        if replayed.skipped:
            self.skipped[replayed.skipped] += 1
            return
        if replayed.is_certain and not replayed.has_changed:
            self.same += 1
            return
        after = " or ".join(replayed.after)
        if replayed.is_certain:
            self.changes[replayed.before, after] += 1
        else:
            self.uncertain[replayed.before, after] += 1
        if not self.most or len(self.changed) < self.most:
            self.changed.append(
                {
                    "at": exchange.line.at,
                    "decision_id": exchange.text("decision_id"),
                    "target": exchange.text("target"),
                    "principal": exchange.part("principal").get("subject", ""),
                    "request": exchange.asked,
                    "before": replayed.before,
                    "after": list(replayed.after),
                    "rules": list(replayed.rules),
                    "missing": list(replayed.missing),
                }
            )

    def to_json(self) -> dict[str, Any]:
        def listed(counts: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
            return [{"before": b, "after": a, "count": n} for (b, a), n in sorted(counts.items())]

        return {
            "same": self.same,
            "changed": listed(self.changes),
            "uncertain": listed(self.uncertain),
            "not_compared": dict(sorted(self.skipped.items())),
            "exchanges": self.changed,
        }


def _print(result: _Result, policies: PolicySet, skipped_rules: list[str]) -> None:
    for one in result.changed:
        missing = f" (would tell: {', '.join(one['missing'])})" if one["missing"] else ""
        rules = ", ".join(one["rules"]) or "the default"
        text = (
            f"{one['at']} {one['decision_id']} {one['before']} -> {' or '.join(one['after'])} by {rules}{missing}:"
            f" {one['request'][:100]} by {one['principal']} on {one['target']}"
        )
        click.echo(escape_for_display(text))
    click.echo(f"{policies.digest}")
    click.echo(f"{result.same} decided as before")
    for (before, after), count in sorted(result.changes.items()):
        click.echo(f"{count} changed: {before} -> {after}")
    for (before, after), count in sorted(result.uncertain.items()):
        click.echo(f"{count} uncertain: {before} -> {after}")
    for reason, count in sorted(result.skipped.items()):
        click.echo(escape_for_display(f"{count} not compared: {reason}"))
    if skipped_rules:
        click.echo(
            escape_for_display(f"not replayed, because they judge responses: {', '.join(skipped_rules)}")
        )


def _targets(place: Place, directory: Path | None) -> dict[str, TargetInfo]:
    if directory is not None:
        return {}
    return {target.name: TargetInfo(target.kind, target.labels) for target in place.settings().targets}


def _began(exchange: Exchange) -> float:
    """When the request came: the intent of one that was held is written when it is let go."""
    outcome = exchange.outcome
    took = outcome.fields.get("duration_us") if outcome is not None else None
    if outcome is not None and type(took) is int:
        return min(exchange.at_us, outcome.at_us - took) / 1_000_000
    return exchange.at_us / 1_000_000
