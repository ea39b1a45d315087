"""What SQL's own PREPARE and DECLARE named on one connection, so that EXECUTE and FETCH are no riddles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from extproc.domain.statement import RUNS_CURSOR, RUNS_PREPARED, StatementFacts

MAX_NAMES = 1_000
"""How many names one connection may have; later ones stay unknown."""


@dataclass(frozen=True, slots=True)
class _Named:
    text: str
    facts: StatementFacts


class NamedStatements:
    """Names and what they stand for. A name counts once the server has done what made it.

    `resolve` before a text is judged, `succeeded` for each of its statements that the server completed, `idle`
    whenever the server reports that no transaction is open. Cursors are forgotten at the end of a transaction,
    even those WITH HOLD: a FETCH from one is then incomplete, never wrong.
    """

    def __init__(self) -> None:
        self._prepared: dict[str, _Named] = {}
        self._cursors: dict[str, _Named] = {}

    def resolve(self, text: str, statements: Sequence[StatementFacts]) -> tuple[StatementFacts, ...]:
        """The facts of a text's statements with those of what they run. Names made earlier in the text count:
        a statement runs only when those before it have succeeded."""
        if not any(_names(facts) for facts in statements):
            return tuple(statements)
        ahead = NamedStatements()
        ahead._prepared, ahead._cursors = dict(self._prepared), dict(self._cursors)
        found: list[StatementFacts] = []
        for facts in statements:
            found.append(ahead._resolved(facts))
            ahead.succeeded(text, facts)
        return tuple(found)

    def succeeded(self, text: str, facts: StatementFacts) -> None:
        """The server completed this statement of `text`."""
        if facts.verb == "PREPARE" and facts.refers_to:
            _keep(self._prepared, facts, text)
        elif facts.verb == "DECLARE":
            _keep(self._cursors, facts, text)
        elif facts.verb == "DEALLOCATE":
            _drop(self._prepared, facts.refers_to)
        elif facts.verb == "CLOSE":
            _drop(self._cursors, facts.refers_to)
        elif facts.verb == "DISCARD":
            self._prepared.clear()
            self._cursors.clear()
        elif facts.transaction in ("commit", "rollback", "savepoint", "prepared"):
            self._cursors.clear()

    def idle(self) -> None:
        """No transaction is open: its cursors are gone."""
        self._cursors.clear()

    def _resolved(self, facts: StatementFacts) -> StatementFacts:
        known = {RUNS_PREPARED: self._prepared, RUNS_CURSOR: self._cursors}.get(facts.incomplete_reason)
        named = known.get(facts.refers_to) if known is not None else None
        return facts if named is None else facts.running(named.facts, named.text)


def _names(facts: StatementFacts) -> bool:
    return facts.incomplete_reason in (RUNS_PREPARED, RUNS_CURSOR)


def _keep(names: dict[str, _Named], facts: StatementFacts, text: str) -> None:
    if facts.refers_to in names or len(names) < MAX_NAMES:
        own = text.encode()[facts.start : facts.end].decode()
        names[facts.refers_to] = _Named(own, facts)


def _drop(names: dict[str, _Named], name: str) -> None:
    if name:
        names.pop(name, None)
    else:
        names.clear()
