"""Tables of what went another way than the ordinary one: exceptions, emergencies, and what cannot be shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from extproc.domain.record import ACCESS
from extproc.ledger.evidence.approvals import Row
from extproc.ledger.evidence.period import Period, detail_of, is_blind, of_kind, who_of
from extproc.ledger.exchanges import Exchange, row_of
from extproc.ledger.lines import Line

REVIEWED, UNREVIEWED, UNJUSTIFIED = (
    "break-glass, reviewed",
    "break-glass without a review",
    "break-glass, not justified",
)
TROUBLE = ("admin.refused", "admin.child_died", "admin.roll_failed", "admin.roll_refused", "policy.refused")
"""Kinds of records that are exceptions whatever they say."""


def exceptions(period: Period) -> list[Row]:
    """Everything that went another way than the ordinary one."""
    rows: list[Row] = []
    denied: dict[tuple[str, ...], str] = {}

    def add(exchange: Exchange, what: str, detail: str) -> None:
        row = row_of(exchange)
        kept = {name: row[name] for name in ("principal", "target", "request", "decision_id", "record")}
        rows.append({"at": row["at"], "what": what, "detail": detail, **kept})

    for exchange in period.exchanges:
        verdict = exchange.text("verdict")
        for name in exchange.line.fields.get("degraded", ()):
            add(exchange, "degraded", str(name))
        if is_blind(exchange):
            add(exchange, "not inspected", str(exchange.response["inspected"]))
        for error in exchange.line.fields.get("errors", ()):
            add(exchange, "rule not evaluated", str(error))
        residual = exchange.response.get("residual")
        if residual:
            add(exchange, "found after masking", " ".join(map(str, residual)))
        if exchange.outcome is None:
            add(exchange, "outcome unknown", "no outcome in the period")
        if verdict in ("error", "unseen"):
            add(exchange, verdict, exchange.text("code"))
        asked = (str(exchange.part("principal").get("subject", "")), exchange.text("target"), exchange.asked)
        if verdict == "deny":
            denied[asked] = exchange.line.at
        elif verdict == "allow" and asked in denied and not exchange.part("hold"):
            add(exchange, "denied before, allowed later", f"denied at {denied.pop(asked)}")
    rows += [
        {
            "at": line.at,
            "what": line.kind,
            "detail": detail_of(line),
            "principal": who_of(line),
            "target": "",
            "request": "",
            "decision_id": "",
            "record": f"{line.writer}:{line.seq}",
        }
        for line in period.lines
        if line.kind in TROUBLE
    ]
    rows += _emergencies(period.lines)
    return sorted(rows, key=lambda row: (row["at"], row["record"]))


def _emergencies(lines: Sequence[Line]) -> list[Row]:
    """Every request that its requester let go in an emergency, by what somebody else found about it since."""
    found = {str(line.fields.get("hold")): line for line in lines if line.kind == "hold.reviewed"}
    late = {str(line.fields.get("hold")) for line in lines if line.kind == "hold.review_overdue"}
    rows: list[Row] = []
    told = set[str]()
    for line in lines:
        hold = str(line.fields.get("hold"))
        # a glass that broke before the period shows by the review that did not come in time
        if line.kind not in ("hold.break_glass", "hold.review_overdue") or hold in told:
            continue
        told.add(hold)
        review, by = found.get(hold), line.fields.get("by") or line.fields.get("requester")
        what = UNREVIEWED
        detail = f"{hold}: {line.fields.get('reason', '')}; review by {line.fields.get('review_by', '')}"
        if review is not None:
            what = REVIEWED if review.fields.get("justified") is True else UNJUSTIFIED
            detail += f"; {review.fields.get('by', '')} at {review.at}: {review.fields.get('reason', '')}"
        if hold in late:
            detail += "; overdue"
        rows.append(
            {
                "at": line.at,
                "what": what,
                "detail": detail,
                "principal": str(by.get("subject", "")) if isinstance(by, dict) else "",
                "target": str(line.fields.get("target", "")),
                "request": "",
                "decision_id": "",
                "record": f"{line.writer}:{line.seq}",
            }
        )
    return rows


def gaps(period: Period) -> list[Row]:
    """What this packet cannot show, counted. Every line is there even where its count is zero."""
    exchanges, lines = period.exchanges, period.lines
    cut = sum(
        bool(part.get("cut_at"))
        for exchange in exchanges
        for part in (exchange.part("statement"), exchange.response)
    )
    clocks = [row for row in period.checkpoints if row["source"] != "kernel"]
    counted = (
        (
            "records refused while the ledger could not be written",
            sum(number_of(g, "refused_records") for g in of_kind(lines, "gap")),
        ),
        ("writers that ended without saying so", _silent_ends(lines)),
        ("records under no checkpoint yet", sum(int(row["unsigned"]) for row in period.counts)),
        (
            "records shown by their hash only",
            sum(int(row["in_period"]) - int(row["shown"]) for row in period.counts),
        ),
        ("exchanges whose outcome is unknown", sum(exchange.outcome is None for exchange in exchanges)),
        (
            "exchanges that nobody can be named for",
            sum(not exchange.part("principal") for exchange in exchanges),
        ),
        (
            "exchanges in a degraded mode",
            sum(bool(exchange.line.fields.get("degraded")) for exchange in exchanges),
        ),
        ("responses that were not inspected", sum(is_blind(exchange) for exchange in exchanges)),
        (
            "statements that were not understood",
            sum(bool(e.part("statement").get("incomplete")) for e in exchanges),
        ),
        ("texts that were cut", cut),
        (
            "rules that could not be evaluated",
            sum(bool(r.get("errored")) for e in exchanges for r in e.rules),
        ),
        ("checkpoints without a disciplined clock", len(clocks)),
        *_uncovered(period),
    )
    return [{"gap": gap, "count": count} for gap, count in counted]


def _uncovered(period: Period) -> Iterator[tuple[str, int]]:
    """What Envoy's access log says beside our own records: who passed us by, and what it does not confirm."""
    told = of_kind(period.lines, ACCESS)
    by_coverage = Counter(str(line.fields.get("coverage", "")) for line in told)
    yield "requests and connections that went on without extproc", by_coverage["unseen"]
    yield "requests and connections that Envoy refused before it asked extproc", by_coverage["refused"]
    yield "connections of a relay, whose end in the access log cannot be joined", by_coverage["unknown"]
    relayed = {line.fields.get("target") for line in told if line.fields.get("coverage") == "unknown"}
    unconfirmed = sum(
        exchange.access is None and exchange.text("operation") != "statement"
        for exchange in period.exchanges
        if exchange.text("target") not in relayed
    )
    yield "requests and connections whose end no access log confirms", unconfirmed


def _silent_ends(lines: Sequence[Line]) -> int:
    """Writers that others followed, and that left half a line or no `stop`.

    One that still ran when it was followed is judged by whether it stopped in the period.
    """
    kinds = {(line.writer, line.seq): line.kind for line in lines}
    stopped = {line.writer for line in lines if line.kind == "stop"}

    def is_silent(start: Line) -> bool:
        named = start.fields.get("predecessor")
        if start.fields.get("torn") or not isinstance(named, dict):
            return bool(start.fields.get("torn"))
        writer, seq = str(named.get("writer")), named.get("seq")
        if named.get("running") is True:
            return writer not in stopped
        return type(seq) is int and kinds.get((writer, seq), "stop") != "stop"

    return sum(map(is_silent, of_kind(lines, "start")))


def number_of(line: Line, name: str) -> int:
    found = line.fields.get(name)
    return found if type(found) is int else 0
