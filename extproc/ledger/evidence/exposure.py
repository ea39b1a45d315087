"""Tables of data: what was masked on its way out, and which routes and tables were reached."""

from __future__ import annotations

from extproc.ledger.evidence.approvals import Row
from extproc.ledger.evidence.period import Period, is_blind, of_kind


def masking(period: Period) -> list[Row]:
    """What was masked on the way out, and what a second look found afterwards."""
    found: dict[tuple[str, str], Row] = {}
    for exchange in period.exchanges:
        for name in ("masked", "residual"):
            counts = exchange.response.get(name)
            for entity, count in counts.items() if isinstance(counts, dict) else ():
                key = (exchange.text("target"), str(entity))
                blank = {"target": key[0], "entity": key[1], "exchanges": 0, "masked": 0, "residual": 0}
                row = found.setdefault(key, blank)
                row[name] += count
                row["exchanges"] += name == "masked"
    return [found[key] for key in sorted(found)]


def inventory(period: Period) -> list[Row]:
    """Targets with their routes and tables as they were seen, and whether anything was masked there."""
    found: dict[tuple[str, str, str], Row] = {}
    for exchange in period.exchanges:
        statement = exchange.part("statement")
        tables = [*statement.get("tables_read", ()), *statement.get("tables_written", ())]
        route = str(exchange.part("request").get("route", ""))
        for what, name in [("table", str(table)) for table in tables] or [("route", route)]:
            key = (exchange.text("target"), what, name)
            if not name:
                continue
            row = found.setdefault(
                key,
                {
                    "target": key[0],
                    "what": what,
                    "name": name,
                    "first": exchange.line.at,
                    "last": "",
                    "exchanges": 0,
                    "allowed": 0,
                    "with_masks": 0,
                    "inspected": 0,
                    "not_inspected": 0,
                    "owner": "",
                    "classification": "",
                },
            )
            row["last"] = max(row["last"], exchange.line.at)
            row["exchanges"] += 1
            row["allowed"] += exchange.text("verdict") == "allow"
            row["with_masks"] += bool(exchange.line.fields.get("masks"))
            row["inspected"] += exchange.response.get("inspected") == "full"
            row["not_inspected"] += is_blind(exchange)
    return [found[key] for key in sorted(found)]


CANARY_COLUMNS = (
    "at", "target", "verdict", "planted", "known", "masked", "looked_in", "bytes", "found", "what", "recorded", "seed",
    "exchange", "record",
)  # fmt: skip


def canaries(period: Period) -> list[Row]:
    """Every place in which a run looked for its canaries."""
    rows: list[Row] = []
    for line in of_kind(period.lines, "evidence.canary"):
        told = line.fields
        kept = {
            name: told.get(name, "")
            for name in ("target", "verdict", "known", "masked", "recorded", "seed", "exchange")
        }
        for looked in told.get("looked", ()):
            found = [str(one) for one in looked.get("found", ())]
            row = {
                "at": line.at,
                **kept,
                "planted": len(told.get("planted", ())),
                "looked_in": str(looked.get("where", "")),
                "bytes": looked.get("bytes", 0),
                "found": len(found),
                "what": ", ".join(found),
                "record": f"{line.writer}:{line.seq}",
            }
            rows.append({name: row[name] for name in CANARY_COLUMNS})
    return rows
