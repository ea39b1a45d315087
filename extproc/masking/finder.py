"""Find everything in a text: one `re2.Set` says what may occur, only that is searched, overlaps are settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import re2

from extproc.domain.errors import MaskingError, PolicyError
from extproc.masking.recognizers import Recognizer, before_candidate


class Finding(NamedTuple):
    """What stands at `start:end`: kind and place, never the value. `priority` settles ties, lower wins."""

    start: int
    end: int
    entity: str
    priority: int


class Tally:
    """Counts of one body and what may still be spent on it. Raises MaskingError("over-budget") at the end of it."""

    __slots__ = ("_left", "counts")

    def __init__(self, budget: int) -> None:
        self.counts: dict[str, int] = {}
        self._left = budget

    def spend(self, units: int = 1) -> None:
        """One unit is one candidate looked at more closely, or one value replaced."""
        self._left -= units
        if self._left < 0:
            raise MaskingError("over-budget", "the body holds more candidates than the masking budget allows")

    def foresee(self, units: int) -> None:
        """Fail now if so many units could never be spent."""
        if units > self._left:
            self.spend(units)

    def count(self, kind: str) -> None:
        """One more of `kind` was masked."""
        self.spend()
        self.counts[kind] = self.counts.get(kind, 0) + 1


class Search:
    """A recognizer with its compiled patterns, ready to find."""

    __slots__ = ("_pattern", "_row", "context")

    def __init__(self, row: Recognizer) -> None:
        self._row = row
        self._pattern: Any = _compile(row.pattern)
        self.context: Any = _compile(row.context) if row.context else None

    def places(self, data: bytes, tally: Tally) -> list[int]:
        """Where candidates begin, unconfirmed, in order. Raises MaskingError("over-budget") if they are too many."""
        places: list[int] = []
        pattern = self._pattern
        head = self._row.head
        match = pattern.search(data)
        while match is not None:
            start, end = match.span()
            places.append(start)
            if not len(places) & 0xFFF:
                tally.foresee(len(places))
            match = pattern.search(data, start + head if head else end)
        tally.foresee(len(places))
        return places

    def find(self, text: bytes, before: bytes, tally: Tally, into: list[Finding]) -> None:
        """Add confirmed findings to `into`; `before` are the bytes in front of `text`, for context words."""
        row = self._row
        pattern = self._pattern
        confirm = row.confirm
        match = pattern.search(text)
        while match is not None:
            start, end = match.span()
            tally.spend(1 + (end - start >> 5))
            resume = start + row.head if row.head else end
            if self._is_named(text, start, before):
                tally.spend(row.cost)
                spans = ((start, end),) if confirm is None else confirm(text, start, end, before)
                for first, last in spans:
                    into.append(Finding(first, last, row.entity, row.priority))
                    resume = last
            match = pattern.search(text, max(resume, start + 1))

    def _is_named(self, text: bytes, start: int, before: bytes) -> bool:
        """Whether context words stand before the candidate, if it needs them."""
        context = self.context
        return context is None or context.search(before_candidate(text, start, before)) is not None


class Finder:
    """All recognizers of a plan behind one first look."""

    __slots__ = ("_needs", "_sentinel", "_set", "looks_beyond_ascii", "searches")

    def __init__(self, rows: Sequence[Recognizer]) -> None:
        self.searches = tuple(Search(row) for row in rows)
        # the table spells such bytes out; only a literal holds them as they are
        self.looks_beyond_ascii = not all(row.look.isascii() for row in rows)
        self._set: Any = re2.Set.SearchSet(_options())
        needs: list[tuple[int, ...]] = []
        try:
            for row in rows:
                look = int(self._set.Add(row.look))
                needs.append((look, int(self._set.Add(row.context))) if row.context else (look,))
            # matches the end of any text: its absence says that the set gave up (RE2 reports that as "nothing matched")
            self._sentinel = int(self._set.Add(rb"\z"))
            self._set.Compile()
        except re2.error as problem:
            raise PolicyError(
                "the configured literals are too many or too long for one pattern set"
            ) from problem
        self._needs = tuple(needs)

    def __bool__(self) -> bool:
        return bool(self.searches)

    def look(self, data: bytes) -> tuple[Search, ...]:
        """The recognizers that may find something in `data`: one pass, whatever their number."""
        hits = self._set.Match(data)
        if hits is None or self._sentinel not in hits:
            return self.searches
        if len(hits) == 1:
            return ()
        seen = set(hits)
        return tuple(
            search
            for search, needed in zip(self.searches, self._needs, strict=True)
            if all(index in seen for index in needed)
        )

    def find(self, text: bytes, searches: Sequence[Search], before: bytes, tally: Tally) -> list[Finding]:
        """Every finding of `searches` in `text`, overlapping ones included, in order of their place."""
        found: list[Finding] = []
        if len(searches) > 3:  # another look costs less than so many searches
            seen = self.look(text)
            searches = [search for search in searches if search.context or search in seen]
        for search in searches:
            search.find(text, before, tally, found)
        if len(found) > 1:
            found.sort()
        return found


def clusters(found: list[Finding]) -> list[list[Finding]]:
    """Findings that overlap, directly or through others, belong together. `found` is in order of place."""
    together: list[list[Finding]] = []
    reach = -1
    for finding in found:
        if finding.start < reach:
            together[-1].append(finding)
        else:
            together.append([finding])
        reach = max(reach, finding.end)
    return together


def _options() -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = 64 << 20
    return options


def _compile(pattern: bytes) -> Any:
    try:
        return re2.compile(pattern, _options())
    except re2.error as problem:
        raise PolicyError("a recognizer's pattern could not be compiled") from problem
