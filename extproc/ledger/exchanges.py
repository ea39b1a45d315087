"""An exchange as it is read back: an intent with its outcome, flattened to one row of plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from extproc.domain.record import ACCESS, INTENT, OUTCOME
from extproc.ledger.lines import Line

COLUMNS = (
    "at", "decision_id", "session_id", "target", "protocol", "operation", "principal", "issuer", "person", "kind",
    "source", "verdict", "code", "rules", "shadow_rules", "risk", "policy", "hold", "grant", "request", "tables",
    "effects", "response_code", "sqlstate", "executed", "end", "reason", "duration_us", "rows", "bytes", "masks",
    "masked", "residual", "inspected", "degraded", "trace_id", "record", "hash", "outcome_record", "outcome_hash",
)  # fmt: skip
"""One row of `sessions export`, in this order."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was asked and how it ended. Either may be missing: a crash, or a range that cuts between them."""

    intent: Line | None
    outcome: Line | None
    access: Line | None = None
    """What Envoy said of its end, where that was looked up."""

    @property
    def line(self) -> Line:
        """The line that is there."""
        line = self.intent or self.outcome
        assert line is not None  # noqa: S101
        return line

    @property
    def at_us(self) -> int:
        """When it began, in microseconds since 1970."""
        return self.line.at_us

    def text(self, name: str) -> str:
        """A text field of the intent, or else of the outcome; empty if neither has it."""
        for line in (self.intent, self.outcome):
            if line is not None and isinstance(line.fields.get(name), str):
                return str(line.fields[name])
        return ""

    def part(self, name: str) -> Mapping[str, Any]:
        """An object of the intent, or else of the outcome."""
        for line in (self.intent, self.outcome):
            if line is not None and isinstance(line.fields.get(name), dict):
                part: Mapping[str, Any] = line.fields[name]
                return part
        return {}

    @property
    def rules(self) -> list[Mapping[str, Any]]:
        """Every rule that matched, those over the response included."""
        return [
            rule
            for line in (self.intent, self.outcome)
            if line is not None and isinstance(line.fields.get("rules"), list)
            for rule in line.fields["rules"]
            if isinstance(rule, dict)
        ]

    @property
    def response(self) -> Mapping[str, Any]:
        """The response's summary."""
        found = self.outcome.fields.get("response") if self.outcome is not None else None
        return found if isinstance(found, dict) else {}

    @property
    def code(self) -> int | str:
        """The HTTP status. An outcome that saw no response (ext_authz) has it from Envoy's access log."""
        seen = self.response.get("code")
        told = self.access.fields.get("code") if self.access is not None else None
        return next((code for code in (seen, told) if isinstance(code, int) and code), "")

    @property
    def asked(self) -> str:
        """The request or statement in one text, as it was recorded: masked."""
        statement, request = self.part("statement"), self.part("request")
        if statement:
            return str(statement.get("text", ""))
        if request:
            return f"{request.get('method', '')} {request.get('path', '')}"
        return self.text("operation")


def pair(lines: Iterable[Line]) -> Iterator[Exchange]:
    """Joins one writer's lines. An exchange comes when its outcome does; those without come at the end."""
    waiting: dict[str, Line] = {}
    for line in lines:
        decision = str(line.fields.get("decision_id", ""))
        if line.kind == INTENT:
            waiting[decision or line.hash] = line
        elif line.kind == OUTCOME:
            yield Exchange(waiting.pop(decision, None), line)
    for line in waiting.values():
        yield Exchange(line, None)


def with_access(exchanges: Iterable[Exchange], lines: Iterable[Line]) -> list[Exchange]:
    """The same exchanges, each with the access record that names its decision, or its session if it is a login."""
    told: dict[str, Line] = {}
    for line in lines:
        if line.kind == ACCESS:
            for name in ("decision_id", "session_id"):
                if value := str(line.fields.get(name, "")):
                    told.setdefault(value, line)
                    break
    return (
        [replace(exchange, access=told.get(_ended_by(exchange))) for exchange in exchanges]
        if told
        else list(exchanges)
    )


def _ended_by(exchange: Exchange) -> str:
    return exchange.text("session_id" if exchange.text("operation") else "decision_id")


def row_of(exchange: Exchange) -> dict[str, Any]:
    """All COLUMNS. Several values are joined with spaces, counts are written `EMAIL_ADDRESS=2`."""
    principal, response = exchange.part("principal"), exchange.response
    statement, hold = exchange.part("statement"), exchange.part("hold")
    intent, outcome = exchange.intent, exchange.outcome
    grant = hold.get("grant")
    rules = exchange.rules
    return {
        "at": exchange.line.at,
        "decision_id": exchange.text("decision_id"),
        "session_id": exchange.text("session_id"),
        "target": exchange.text("target"),
        "protocol": exchange.text("protocol"),
        "operation": exchange.text("operation"),
        "principal": principal.get("subject", ""),
        "issuer": principal.get("issuer", ""),
        "person": principal.get("person", ""),
        "kind": principal.get("kind", ""),
        "source": exchange.part("request").get("source") or exchange.part("connection").get("source", ""),
        "verdict": exchange.text("verdict"),
        "code": exchange.text("code"),
        "rules": " ".join(str(rule.get("rule", "")) for rule in rules if not rule.get("shadow")),
        "shadow_rules": " ".join(str(rule.get("rule", "")) for rule in rules if rule.get("shadow")),
        "risk": intent.fields.get("risk", 0) if intent is not None else "",
        "policy": exchange.text("policy"),
        "hold": hold.get("id", ""),
        "grant": grant.get("id", "") if isinstance(grant, dict) else "",
        "request": exchange.asked,
        "tables": _names([*_list(statement, "tables_read"), *_list(statement, "tables_written")]),
        "effects": _names(_list(statement, "effects")),
        "response_code": exchange.code,
        "sqlstate": response.get("sqlstate", ""),
        "executed": outcome.fields.get("executed") if outcome is not None else None,
        "end": exchange.text("end") or "unknown",
        "reason": exchange.text("reason"),
        "duration_us": outcome.fields.get("duration_us", "") if outcome is not None else "",
        "rows": response.get("rows", ""),
        "bytes": response.get("bytes", response.get("size", "")),
        "masks": _names(intent.fields.get("masks", ()) if intent is not None else ()),
        "masked": _counts(response.get("masked")),
        "residual": _counts(response.get("residual")),
        "inspected": response.get("inspected", ""),
        "degraded": _names(exchange.line.fields.get("degraded", ())),
        "trace_id": exchange.part("trace").get("trace_id", ""),
        "record": f"{intent.writer}:{intent.seq}" if intent is not None else "",
        "hash": intent.hash if intent is not None else "",
        "outcome_record": f"{outcome.writer}:{outcome.seq}" if outcome is not None else "",
        "outcome_hash": outcome.hash if outcome is not None else "",
    }


def csv_cell(value: Any) -> str:
    """A value for a CSV cell. Text that a spreadsheet would run as a formula gets an apostrophe before it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n"):
        return "'" + text
    return text


def _list(part: Mapping[str, Any], name: str) -> list[str]:
    found = part.get(name)
    return [str(item) for item in found] if isinstance(found, list) else []


def _names(names: Iterable[Any]) -> str:
    return " ".join(dict.fromkeys(map(str, names)))


def _counts(counts: object) -> str:
    if not isinstance(counts, dict):
        return ""
    return " ".join(f"{name}={counts[name]}" for name in sorted(counts))
