"""What a plan does to one piece of plain text: find, settle overlaps, change. Every body format comes down to this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from extproc.masking.finder import Finder, Finding, Search, Tally, clusters
from extproc.masking.operators import Operator, strictest
from extproc.masking.paths import Node
from extproc.masking.views import Edit, apply_edits


@dataclass(frozen=True, slots=True)
class Rules:
    """A compiled plan: an operator for each entity, the path automaton, and the recognizers behind one set.

    `path_names` are, for each path rule, the member names it cannot do without.
    `own` are replacement texts that a residual check must not mistake for values.
    """

    finder: Finder
    operators: Mapping[str, Operator]
    root: Node | None = None
    path_names: tuple[tuple[bytes, ...], ...] = ()
    own: tuple[bytes, ...] = ()

    def paths_may_apply(self, data: bytes) -> bool:
        """False only when every path names a member that `data` cannot hold, however deep it is nested."""
        if self.root is None or b"\\u" in data:  # an escape can spell any name
            return self.root is not None
        return any(all(name in data for name in names) for names in self.path_names)

    def edits(
        self, text: bytes, searches: Sequence[Search], before: bytes, tally: Tally, above: int = 0
    ) -> tuple[list[Edit], bool]:
        """Changes to `text`, and whether the whole of it is to become null.

        Only operators stricter than rank `above` count: `keep` changes nothing, and a path rule has already taken
        care of what is no stricter than itself.
        """
        found = self._wanted(text, self.finder.find(text, searches, before, tally), above)
        edits: list[Edit] = []
        for together in clusters(found):
            start = together[0].start
            end = max(finding.end for finding in together)
            winner, operator = self._settle(together)
            tally.count(winner.entity)
            alone = (start, end) == (winner.start, winner.end)
            # where several values run into one another no part of them is safe to show
            kind = winner.entity if alone or operator.name != "partial" else "LITERAL"
            new = operator.apply(kind, plain(text[start:end]))
            if new is None:
                if start == 0 and end == len(text):
                    return [], True
                new = ""
            edits.append(Edit(start, end, new.encode("utf-8", "surrogatepass")))
        return edits, False

    def change(
        self,
        text: bytes,
        operator: Operator,
        searches: Sequence[Search],
        before: bytes,
        tally: Tally,
        label: str,
    ) -> bytes | None:
        """All of `text` under a path's operator; what an entity's operator treats more strictly goes first."""
        edits, is_null = self.edits(text, searches, before, tally, above=operator.rank)
        if is_null:
            return None
        if len(edits) == 1 and edits[0][:2] == (0, len(text)):
            return edits[0].text
        new = operator.apply(label, plain(apply_edits(text, edits) if edits else text))
        return None if new is None else new.encode("utf-8", "surrogatepass")

    def _wanted(self, text: bytes, found: list[Finding], above: int) -> list[Finding]:
        operators = self.operators
        wanted = [
            finding
            for finding in found
            if (operator := operators.get(finding.entity)) is not None and operator.rank > above
        ]
        if self.own:
            return [f for f in wanted if not any(text[f.start : f.end] in mine for mine in self.own)]
        return wanted

    def _settle(self, together: list[Finding]) -> tuple[Finding, Operator]:
        """Who names the spot and what happens to it: the strictest operator, then the longest, then priority."""
        if len(together) == 1:
            return together[0], self.operators[together[0].entity]
        operator: Operator | None = None
        for finding in together:
            operator = strictest(operator, self.operators[finding.entity])
        assert operator is not None  # noqa: S101 - a cluster is never empty
        winner = min(
            (f for f in together if self.operators[f.entity].order == operator.order),
            key=lambda f: (f.start - f.end, f.priority, f.start, f.entity),
        )
        return winner, operator


def plain(text: bytes) -> str:
    """Bytes of a view as text; what is not UTF-8 (a decoded `%ff`) is read byte by byte."""
    try:
        return text.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return text.decode("latin-1")
