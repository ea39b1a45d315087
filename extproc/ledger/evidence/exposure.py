"""Tables of data: what was masked on its way out, and which routes and tables were reached."""

from __future__ import annotations

from extproc.ledger.evidence.approvals import Row
from extproc.ledger.evidence.period import Period, is_blind


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
