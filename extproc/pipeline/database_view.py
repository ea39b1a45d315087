"""What an approver sees of a held statement: our facts first, then its shape, then the text; all of it masked."""

from __future__ import annotations

from typing import Any

from extproc.domain.statement import Statement
from extproc.pipeline.database_records import SessionScribe
from extproc.pipeline.view import MAX_SHOWN

MAX_PARAMETERS = 256


def statement_view(
    scribe: SessionScribe,
    statement: Statement,
    transaction: str,
    risk: tuple[tuple[str, int], ...],
    reason: str,
) -> dict[str, Any]:
    """`truncated` is True when something is not shown; then it cannot be approved."""
    facts = statement.facts
    text = scribe.shown_text(statement.text, facts)
    shown = [_parameter(scribe, p.value, p.text) for p in statement.parameters[:MAX_PARAMETERS]]
    truncated = (
        len(text) > MAX_SHOWN
        or len(statement.parameters) > MAX_PARAMETERS
        or any(parameter is OPAQUE or len(parameter or "") > MAX_SHOWN for parameter in shown)
    )
    raw: dict[str, Any] = {"text": text[:MAX_SHOWN]}
    if statement.parameters:
        raw["parameters"] = [parameter and parameter[:MAX_SHOWN] for parameter in shown]
    underlying = sorted({fact.underlying for fact in facts if fact.underlying})
    if underlying:  # what EXECUTE or FETCH runs
        raw["underlying"] = [scribe.shown_text(text, ())[:MAX_SHOWN] for text in underlying]
        truncated = truncated or any(len(text) > MAX_SHOWN for text in underlying)
    return {
        "facts": {
            "protocol": scribe.protocol,
            "target": scribe.target,
            "database": scribe.database,
            "user": scribe.user,
            "role": scribe.role,
            "verbs": [fact.verb for fact in facts],
            "effects": sorted({effect for fact in facts for effect in fact.effects}),
            "tables_read": sorted({name for fact in facts for name in fact.tables_read}),
            "tables_written": sorted({name for fact in facts for name in fact.tables_written}),
            "has_where": all(fact.has_where for fact in facts) if facts else False,
            "data_not_bound": any(
                fact.copy is not None and fact.copy.direction == "in" and fact.copy.endpoint == "client"
                for fact in facts
            ),
            "in_transaction": transaction != "I",
            "risk": [{"rule": rule, "risk": points} for rule, points in risk],
            "reason": reason,
        },
        "normalised": {"statements": [fact.normalised for fact in facts]},
        "raw": raw,
        "truncated": truncated,
    }


OPAQUE = "[binary value]"
"""What stands for a parameter that cannot be shown."""


def _parameter(scribe: SessionScribe, value: bytes | None, text: str | None) -> str | None:
    if value is None:
        return None
    return OPAQUE if text is None else scribe.shown_text(text, ())
