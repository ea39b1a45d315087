"""The rules that are judged together, in one go, over exactly the facts they read.

A phase has one stage, and a second one for rules that read `risk`, which is summed over the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from extproc.domain.decision import Matched
from extproc.domain.errors import ProtocolError
from extproc.policy.engine import Engine, Unjudged
from extproc.policy.facts import FACTS, RISK, Shape, shape_of
from extproc.policy.plain import PlainBatch
from extproc.policy.projection import Paths

if TYPE_CHECKING:
    from extproc.policy.rules import Rule


class Stage:
    """Rules with their batch and their counters."""

    __slots__ = ("_batch", "_errored", "_index", "_matched", "_reads", "_reads_risk", "judged", "rules")

    def __init__(self, engine: Engine, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._batch = PlainBatch(engine, [rule.condition for rule in rules])
        self._index = {rule.digest: index for index, rule in enumerate(rules)}
        self._reads = _facts_of(rules)
        self._reads_risk = any(RISK in rule.reads for rule in rules)
        self._matched = [0] * len(rules)
        self._errored = [0] * len(rules)
        self.judged = 0

    def judge(
        self, facts: Mapping[str, object], matched: tuple[Matched, ...], risk: int, errors: tuple[str, ...]
    ) -> tuple[tuple[Matched, ...], int, tuple[str, ...]]:
        """What matched before and now, the new sum of risk, and the rules that did not evaluate."""
        self.judged += 1
        judgements = self._batch.judge(self.data(facts, risk))
        found: list[Matched] = []
        failed: list[str] = []
        index = 0
        for judgement in judgements:
            if judgement is False:
                index += 1
                continue
            rule = self.rules[index]
            if judgement is True:
                self._matched[index] += 1
                found.append(rule.hit)
            else:
                self._errored[index] += 1
                found.append(rule.unjudged)
                failed.append(f"{rule.id}: {judgement.reason}")
            if rule.risk and not rule.is_shadow:
                risk += rule.risk
            index += 1
        if found:
            matched = (*matched, *found)
        if failed:
            errors = (*errors, *failed)
        return matched, risk, errors

    def count_again(self, matched: Iterable[Matched]) -> None:
        """Count what was judged before and holds again; `matched` may name rules of other stages."""
        self.judged += 1
        for found in matched:
            index = self._index.get(found.digest)
            if index is not None:
                (self._errored if found.errored else self._matched)[index] += 1

    def data(self, facts: Mapping[str, object], risk: int) -> dict[str, object]:
        """The facts these rules read, ready for the engine. One that cannot be had is left out.

        A ProtocolError goes through, unless only shadow rules read the fact: those never cause a refusal.
        """
        data: dict[str, object] = {}
        for name, shape, paths, enforced in self._reads:
            try:
                value = facts[name]
                if shape is not None and type(value) is not shape[0]:
                    value = shape[1](value)
                data[name] = value if paths is None else paths.keeps(value)
            except ProtocolError:
                if enforced:
                    raise
            except Exception:  # noqa: S112 - rules that read it count as not evaluated, which fails closed
                continue
        if self._reads_risk:
            data[RISK] = risk
        return data

    def explain(
        self, facts: Mapping[str, object], risk: int
    ) -> Iterator[tuple[Rule, bool | Unjudged, dict[str, object]]]:
        """Each rule with its truth and the facts it reads; counts nothing."""
        data = self.data(facts, risk)
        for rule, judgement in zip(self.rules, self._batch.judge(data), strict=True):
            yield rule, judgement, {name: data[name] for name in rule.reads if name in data}

    def counts(self) -> Iterator[tuple[Rule, int, int]]:
        return zip(self.rules, self._matched, self._errored, strict=True)


def build_stages(engine: Engine | None, rules: Sequence[Rule]) -> tuple[Stage, ...]:
    if engine is None or not rules:
        return ()
    plain = [rule for rule in rules if RISK not in rule.reads]
    risky = [rule for rule in rules if RISK in rule.reads]
    return tuple(Stage(engine, part) for part in (plain, risky) if part)


def _facts_of(rules: Sequence[Rule]) -> tuple[tuple[str, Shape | None, Paths | None, bool], ...]:
    """(name, shape, what is read below it or None for all, whether an enforced rule reads it)."""
    paths: dict[str, Paths] = {}
    enforced: set[str] = set()
    for rule in rules:
        for name, below in rule.reads.items():
            paths.setdefault(name, Paths()).merge(below)
            if not rule.is_shadow:
                enforced.add(name)
    return tuple(
        (name, shape_of(FACTS[name]), None if paths[name].whole else paths[name], name in enforced)
        for name in sorted(paths)
        if name != RISK
    )
