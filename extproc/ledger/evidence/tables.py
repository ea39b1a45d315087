"""The tables of a packet, each computed from the records of the period and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

from extproc.ledger.evidence import approvals as dossier
from extproc.ledger.evidence import deviations, exposure, people, service
from extproc.ledger.evidence.approvals import Row
from extproc.ledger.evidence.period import Period
from extproc.ledger.exchanges import COLUMNS, Exchange, pair, row_of, with_access
from extproc.ledger.lines import Line


class Table(NamedTuple):
    """A table's title, columns, what one row is, and how it is made."""

    title: str
    columns: tuple[str, ...]
    about: str
    build: Callable[[Period], list[Row]]


def join(lines: Sequence[Line]) -> list[Exchange]:
    """Exchanges of all writers, in the order of their times."""
    by_writer: dict[str, list[Line]] = {}
    for line in lines:
        by_writer.setdefault(line.writer, []).append(line)
    found = [exchange for own in by_writer.values() for exchange in pair(own)]
    found = with_access(found, lines)
    return sorted(found, key=lambda exchange: (exchange.line.at, exchange.line.writer, exchange.line.seq))


def build_tables(period: Period) -> dict[str, list[Row]]:
    """All TABLES by name; every row has its table's columns."""
    return {name: table.build(period) for name, table in TABLES.items()}


def _exchanges(period: Period) -> list[Row]:
    return [row_of(exchange) for exchange in period.exchanges]


def _sample(period: Period) -> list[Row]:
    """Those whose SHA-256 over seed and decision id is smallest: anybody with the seed picks the same."""
    drawn = sorted(
        (sha256(f"{period.seed}{exchange.text('decision_id')}".encode()).hexdigest(), index)
        for index, exchange in enumerate(period.exchanges)
    )
    rows = []
    for order, (draw, index) in enumerate(drawn[: period.sample_size], 1):
        exchange = period.exchanges[index]
        kept = {name: row_of(exchange)[name] for name in _SAMPLED}
        request = period.read(exchange.intent, "request") if exchange.intent is not None else None
        response = period.read(exchange.outcome, "response") if exchange.outcome is not None else None
        rows.append(
            {
                "order": order,
                "draw": draw,
                **kept,
                "kept_request": _text(request),
                "kept_response": _text(response),
            }
        )
    return rows


_SAMPLED = (
    "at",
    "decision_id",
    "principal",
    "target",
    "verdict",
    "code",
    "request",
    "rules",
    "end",
    "record",
)


def _text(payload: bytes | None) -> str:
    return payload.decode("utf-8", "replace") if payload is not None else ""


def _approvals(period: Period) -> list[Row]:
    return dossier.approvals(period.lines, period.exchanges, period.read)


def _population(period: Period) -> list[Row]:
    return [dict(row) for row in period.counts]


def _clock(period: Period) -> list[Row]:
    return [dict(row) for row in period.checkpoints]


TABLES: dict[str, Table] = {
    "population": Table(
        "Population",
        ("writer", "first", "last", "in_period", "shown", "tree_before", "tree_after", "unsigned"),
        "one writer's unbroken range of records, one record on each side of the period included",
        _population,
    ),
    "exchanges": Table("Exchanges", COLUMNS, "one request or statement", _exchanges),
    "sample": Table(
        "Sample",
        ("order", "draw", *_SAMPLED, "kept_request", "kept_response"),
        "one exchange drawn by the seed, with what was kept of it, masked",
        _sample,
    ),
    "approvals": Table("Approvals", dossier.COLUMNS, "one hold", _approvals),
    "access": Table(
        "Access review",
        (
            "principal",
            "issuer",
            "person",
            "kind",
            "groups",
            "target",
            "first",
            "last",
            "allowed",
            "denied",
            "held",
            "rules_used",
            "effects",
            "authentication",
            "keep",
            "reviewer",
            "reviewed_on",
        ),
        "one identity at one target; the last three columns are for the reviewer",
        people.access,
    ),
    "rules": Table(
        "Granted and used",
        ("rule", "target", "effect", "matched", "principals", "last_used", "used", "errors"),
        "one rule at one target",
        people.rules,
    ),
    "privileged": Table(
        "Privileged operations",
        ("why", *people.PRIVILEGED_COLUMNS),
        "one exchange with special rights",
        people.privileged,
    ),
    "shared": Table("Signs of shared identities", ("identity", "sign", "seen"), "one sign", people.shared),
    "masking": Table(
        "Masking",
        ("target", "entity", "exchanges", "masked", "residual"),
        "one kind of data at one target",
        exposure.masking,
    ),
    "canaries": Table(
        "Canaries",
        exposure.CANARY_COLUMNS,
        "one place in which the made-up secrets of a run were looked for",
        exposure.canaries,
    ),
    "inventory": Table(
        "Inventory",
        (
            "target",
            "what",
            "name",
            "first",
            "last",
            "exchanges",
            "allowed",
            "with_masks",
            "inspected",
            "not_inspected",
            "owner",
            "classification",
        ),
        "one route or table that was reached; owner and classification are for the owner",
        exposure.inventory,
    ),
    "refusals": Table(
        "Refusals",
        (
            "at",
            "principal",
            "source",
            "target",
            "request",
            "verdict",
            "code",
            "rules",
            "trace_id",
            "decision_id",
            "record",
        ),
        "one request or statement that was turned away",
        people.refusals,
    ),
    "exceptions": Table(
        "Exceptions",
        ("at", "what", "detail", "principal", "target", "request", "decision_id", "record"),
        "one exception",
        deviations.exceptions,
    ),
    "gaps": Table("Gaps", ("gap", "count"), "one kind of gap", deviations.gaps),
    "policies": Table(
        "Policies",
        ("at", "what", "policy", "before", "author", "asked_by", "error", "files", "change", "record"),
        "one policy that came into force or was refused",
        service.policies,
    ),
    "configuration": Table(
        "Configuration",
        ("at", "digest", "change", "settings", "record"),
        "one start of the service with its settings; secrets are references",
        service.configuration,
    ),
    "administration": Table(
        "Administration", ("at", "kind", "who", "detail", "record"), "one act", service.administration
    ),
    "clock": Table(
        "Clock", ("checkpoint", "time", "source", "offset_us"), "one checkpoint of the period", _clock
    ),
}
