"""How often each rule matched, from the ledger's own lines: what shadow rules would have done, before they do it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec


class _Rule(msgspec.Struct):
    rule: str
    effect: str = "none"
    shadow: bool = False
    errored: bool = False


class _Line(msgspec.Struct):
    kind: str
    target: str = ""
    rules: list[_Rule] = []


@dataclass(slots=True)
class RuleTally:
    """One rule in one mode at one target. `matched` counts the times it could not be evaluated as well."""

    target: str
    rule: str
    effect: str
    shadow: bool
    matched: int = 0
    errored: int = 0


@dataclass(slots=True)
class RuleCounts:
    """Decisions seen, by target, and what each rule did among them. `unread` lines were no records."""

    decisions: dict[str, int]
    rules: list[RuleTally]
    unread: int = 0


_decode = msgspec.json.Decoder(_Line).decode


def count_rules(lines: Iterable[bytes]) -> RuleCounts:
    """Tally intents, and outcomes for rules over responses. Constant memory but for one entry a rule."""
    counts = RuleCounts({}, [])
    found: dict[tuple[str, str, bool], RuleTally] = {}
    for line in lines:
        try:
            seen = _decode(line)
        except msgspec.MsgspecError:
            counts.unread += 1
            continue
        if seen.kind not in ("intent", "outcome"):
            continue
        if seen.kind == "intent":
            counts.decisions[seen.target] = counts.decisions.get(seen.target, 0) + 1
        for rule in seen.rules:
            tally = found.setdefault(
                (seen.target, rule.rule, rule.shadow),
                RuleTally(seen.target, rule.rule, rule.effect, rule.shadow),
            )
            tally.matched += 1
            tally.errored += rule.errored
    counts.rules = [found[key] for key in sorted(found)]
    return counts
