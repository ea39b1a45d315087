"""What was decided of a text that comes again on the same connection, where nothing a rule reads can differ.

A prepared statement runs a thousand times with other parameters. Where no rule reads these, nor the time, its facts
are those of the run before, and so is the verdict. Another policy, another state of the transaction or a name that
stands for something else meanwhile is judged anew.
"""

from __future__ import annotations

from extproc.domain.decision import Allow, Deny, Hold, Ruling
from extproc.domain.statement import Statement, StatementFacts
from extproc.pipeline.governance import TargetPlan

CHANGING = frozenset({"now", "sql.parameters"})
"""Facts that differ between two runs of one text on one connection."""
MAX_REMEMBERED = 128
"""Texts of one connection; more begin anew."""
LONGEST = 8192
"""Characters of a text that is remembered."""

Verdict = tuple[tuple[Ruling, ...], Allow | Deny | Hold]


class Verdicts:
    """Those of one connection."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, bool], tuple[TargetPlan, tuple[StatementFacts, ...], Verdict]] = {}

    def find(
        self, plan: TargetPlan, statement: Statement, transaction: str, is_bound: bool
    ) -> Verdict | None:
        """The verdict, counted by its rules as one more; None where it has to be judged."""
        known = self._known.get((statement.text, transaction, is_bound))
        if known is None or known[0] is not plan or not same_facts(known[1], statement.facts):
            return None
        for ruling in known[2][0]:
            plan.rules.repeat(ruling)
        return known[2]

    def keep(
        self, plan: TargetPlan, statement: Statement, transaction: str, is_bound: bool, verdict: Verdict
    ) -> None:
        """Remember it, unless a rule reads what changes or could not be evaluated."""
        if len(statement.text) > LONGEST or not CHANGING.isdisjoint(plan.rules.reads):
            return
        if any(ruling.errors for ruling in verdict[0]):
            return
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[statement.text, transaction, is_bound] = (plan, statement.facts, verdict)


def same_facts(some: tuple[StatementFacts, ...], others: tuple[StatementFacts, ...]) -> bool:
    """The same facts, not only equal ones: those of a text are made once and remembered."""
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))
