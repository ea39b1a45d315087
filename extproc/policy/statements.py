"""Policy for SQL: facts of a statement by name, and one ruling for a text of several statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from extproc.domain.decision import Allow, Deny, Hold, Matched, Ruling
from extproc.domain.statement import StatementFacts
from extproc.policy.combine import add_obligations

NOT_UNDERSTOOD = "sql-not-understood"
_NO_FACTS = frozenset(
    {"start", "end", "normalised", "effects_seen", "underlying", "copy", "keeps", "literals"}
)
_NAMES = tuple(field.name for field in fields(StatementFacts) if field.name not in _NO_FACTS)


def statement_facts(statement: StatementFacts) -> dict[str, object]:
    """The facts `sql.*` that the text alone gives."""
    found: dict[str, object] = {}
    for name in _NAMES:
        value = getattr(statement, name)
        found[f"sql.{name}"] = list(value) if isinstance(value, tuple) else value
    found["sql.normalized"] = statement.normalised
    found["sql.shape"] = statement.shape
    return found


def not_understood(each: Sequence[Mapping[str, object]]) -> Deny | None:
    """The denial before any rule where a statement is incomplete."""
    for facts in each:
        if facts["sql.complete"] is False:
            return Deny(NOT_UNDERSTOOD, f"this statement cannot be judged: {facts['sql.incomplete_reason']}")
    return None


def combine_rulings(rulings: Sequence[Ruling]) -> Ruling:
    """One ruling for a text whose statements were judged one by one: deny beats hold beats allow, and what is
    owed and the risk add up. Statements that wait for different people cannot wait together."""
    last = rulings[-1]
    matched: dict[tuple[str, bool], Matched] = {}
    for ruling in rulings:
        for found in ruling.matched:
            matched.setdefault((found.rule, found.errored), found)
    return Ruling(
        last.phase,
        _strictest(rulings),
        tuple(matched.values()),
        sum(ruling.risk for ruling in rulings),
        last.policy_digest,
        tuple(dict.fromkeys(error for ruling in rulings for error in ruling.errors)),
    )


def _strictest(rulings: Sequence[Ruling]) -> Allow | Deny | Hold | None:
    decisions = [ruling.decision for ruling in rulings]
    passing: list[Allow | Hold] = []
    for decision in decisions:
        if isinstance(decision, Deny):
            return decision
        if decision is not None:
            passing.append(decision)
    if len(passing) < len(decisions):
        return None
    obligations = add_obligations([decision.obligations for decision in passing])
    holds = [decision for decision in passing if isinstance(decision, Hold)]
    if not holds:
        return Allow(obligations)
    if any(hold.demand.digest != holds[0].demand.digest for hold in holds):
        return Deny("holds-differ", "Statements of one text wait for different people; send them one by one.")
    return Hold(holds[0].demand, holds[0].rules, obligations)
