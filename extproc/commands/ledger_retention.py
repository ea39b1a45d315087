"""`extproc ledger purge` and `extproc ledger hold`: payloads go when their time is over, unless the law wants them."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from extproc.adapters.file_lock import locked
from extproc.adapters.ledger_files import LedgerWriter
from extproc.adapters.retention_files import (
    LOCK,
    Plan,
    RetentionError,
    erase,
    plan_purge,
    retention_lines,
)
from extproc.commands.ledger_place import Place, config_option, json_option, parse_moment
from extproc.config.units import parse_duration
from extproc.domain.display import escape_for_display
from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.record import Record
from extproc.ledger.lines import format_time
from extproc.ledger.retention import (
    ERASED,
    HELD,
    LET_GO,
    ROLE,
    KeepRule,
    LegalHold,
    standing_holds,
    tombstones,
)


@click.command()
@config_option
@click.option("--older-than", help="Instead of the configuration's rules: 90d, say.")
@click.option(
    "--target", "targets", multiple=True, help="With --older-than: only of this target; repeatable."
)
@click.option(
    "--payload", "payloads", multiple=True, help="With --older-than: only `request`, `response`, `view`, …"
)
@click.option(
    "--principal", "principals", multiple=True, help="With --older-than: only of this subject or person."
)
@click.option("--record", "records", multiple=True, help="Only of this record, however old: `writer:seq`.")
@click.option("--except-held", is_flag=True, help="Erase what no legal hold covers, and leave the rest.")
@click.option("--dry-run", is_flag=True, help="Say what would be erased, and erase nothing.")
@click.option("--reason", default="retention", show_default=True, help="On whose word; it is recorded.")
@json_option
def purge(
    config: Path | None,
    older_than: str | None,
    targets: tuple[str, ...],
    payloads: tuple[str, ...],
    principals: tuple[str, ...],
    records: tuple[str, ...],
    except_held: bool,
    dry_run: bool,
    reason: str,
    as_json: bool,
) -> None:
    """Erase payloads whose time is over. The records stay, and a tombstone tells what is gone.

    The tombstones are on disk before anything is erased. If a legal hold covers any of it, nothing is erased
    (--except-held leaves that part alone).

    Exit codes: 0 done, 1 a legal hold forbids it or some payloads are damaged, 2 wrong usage, 3 there is no ledger,
    it cannot be written, or its records of legal holds are damaged.
    """
    place = Place(None, config)
    directory = place.find()
    if records and older_than is None:
        older_than = "0s"
    rules = _rules(place, older_than, KeepRule(0.0, targets, payloads, principals, records))
    try:
        with nullcontext() if dry_run else locked(directory / LOCK, wait=True):
            plan = plan_purge(directory, rules, standing_holds(retention_lines(directory)), time.time())
            forbidden = bool(plan.held) and not except_held
            if not (dry_run or forbidden) and plan.count:
                _erase(place, directory, plan, reason)
    except (OSError, LedgerUnavailableError, RetentionError) as failure:
        click.echo(f"not everything was erased: {failure}", err=True)
        sys.exit(3)
    done = 0 if dry_run or forbidden else plan.count
    if as_json:
        facts = {"due": plan.count, "bytes": plan.size, "erased": done, "held": plan.held, "odd": plan.odd}
        click.echo(json.dumps(facts))
    else:
        what = "would be erased" if dry_run else "erased" if not forbidden else "due"
        click.echo(f"{plan.count} payloads of {plan.size} bytes {what}")
        for hold, count in sorted(plan.held.items()):
            click.echo(f"{count} kept by the legal hold {hold}", err=True)
    if forbidden:
        click.echo("nothing was erased: a legal hold covers some of it (see --except-held)", err=True)
    if plan.odd:
        click.echo(
            f"{plan.odd} payloads are not what their lines say, and stay (see `ledger verify`)", err=True
        )
    if forbidden or plan.odd:
        sys.exit(1)


def _erase(place: Place, directory: Path, plan: Plan, reason: str) -> None:
    """Tombstones first, then the bytes: after a crash in between a purge does the rest."""
    with _retention_writer(place) as ledger:
        for due in plan.dues:
            for fields in tombstones(due.writer, due.payload, [entry.seq for entry in due.entries]):
                told = {**fields, "by": {"uid": os.getuid()}, "reason": reason[:500]}
                ledger.append(Record(ERASED, time.time(), told))
        ledger.commit()
        ledger.sync()
        for due in plan.dues:
            erase(directory, due)


def _rules(place: Place, older_than: str | None, only: KeepRule) -> list[KeepRule]:
    if older_than is not None:
        try:
            return [replace(only, keep=parse_duration(older_than))]
        except ValueError as mistake:
            raise click.BadParameter(str(mistake)) from None
    if only != KeepRule(0.0):
        raise click.UsageError("--target, --payload and --principal go with --older-than")
    rules = [KeepRule(one.keep, one.targets, one.payloads) for one in place.settings().ledger.retention]
    if not rules:
        raise click.UsageError("the configuration has no ledger.retention; say --older-than")
    return rules


@click.group()
def hold() -> None:
    """Legal holds: what they cover is not erased until they are let go. Each is a record."""


@hold.command()
@config_option
@click.option("--target", default="", help="Only this target; `*` matches anything.")
@click.option("--principal", default="", help="Only this subject or person.")
@click.option("--from", "since", default="", help="Only from then on: 2026-11-23, RFC 3339 or 7d (ago).")
@click.option("--to", "until", default="", help="Only before then.")
@click.option("--reason", required=True, help="The matter it is for.")
def add(config: Path | None, target: str, principal: str, since: str, until: str, reason: str) -> None:
    """Keep payloads from erasure; without any option, all of them."""
    now = time.time()
    given = {
        "target": target,
        "principal": principal,
        "since": _moment(since, now),
        "until": _moment(until, now),
    }
    name = f"lh-{secrets.token_hex(4)}"
    fields = {"legal_hold": name, "reason": reason[:500], "scope": {k: v for k, v in given.items() if v}}
    _write(Place(None, config), HELD, fields)
    click.echo(name)


@hold.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """The legal holds that stand."""
    holds = _standing(Place(None, config).find())
    if as_json:
        click.echo(json.dumps([{name: getattr(one, name) for name in one.__slots__} for one in holds]))
        return
    for one in holds:
        scope = " ".join(
            f"{name}={getattr(one, name)}"
            for name in ("target", "principal", "since", "until")
            if getattr(one, name)
        )
        click.echo(escape_for_display(f"{one.id} since {one.at} {scope or 'everything'}: {one.reason}"))


@hold.command()
@click.argument("name")
@config_option
@click.option("--reason", required=True, help="On whose word.")
def remove(name: str, config: Path | None, reason: str) -> None:
    """Let a legal hold go."""
    place = Place(None, config)
    if name not in {one.id for one in _standing(place.find())}:
        click.echo(f"no legal hold {escape_for_display(name)} stands", err=True)
        sys.exit(1)
    _write(place, LET_GO, {"legal_hold": name, "reason": reason[:500]})


def _standing(directory: Path) -> list[LegalHold]:
    try:
        return standing_holds(retention_lines(directory))
    except (OSError, RetentionError) as failure:
        click.echo(f"which legal holds stand cannot be told: {failure}", err=True)
        sys.exit(3)


def _write(place: Place, kind: str, fields: dict[str, Any]) -> None:
    """A hold that is confirmed is on disk, and no purge is under way that does not know it."""
    directory = place.find()
    try:
        with locked(directory / LOCK, wait=True), _retention_writer(place) as ledger:
            ledger.append(Record(kind, time.time(), {**fields, "by": {"uid": os.getuid()}}))
            ledger.commit()
            ledger.sync()
    except (OSError, LedgerUnavailableError) as failure:
        click.echo(f"nothing was changed: {failure}", err=True)
        sys.exit(3)


@contextmanager
def _retention_writer(place: Place) -> Iterator[LedgerWriter]:
    from extproc.app.ledgers import open_ledger

    ledger = open_ledger(place.settings(), ROLE)
    try:
        yield ledger
    finally:
        ledger.close()


def _moment(text: str, now: float) -> str:
    return format_time(parse_moment(text, now)) if text else ""
