"""Why a request is decided as it is: each rule's truth, and the values it read, safe to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from extproc.domain.decision import Effect, Phase
from extproc.domain.display import escape_for_display
from extproc.policy.engine import Judgement, Unjudged
from extproc.policy.model import HoldSpec
from extproc.policy.projection import Paths
from extproc.policy.rules import Rule, RuleSet

SHOWN = 64
"""Characters of a value that are shown."""
_HIDDEN = "principal.claims"


@dataclass(frozen=True, slots=True)
class Read:
    """A value that a rule read: its path and how it may be shown."""

    path: str
    shown: str


@dataclass(frozen=True, slots=True)
class Explained:
    """One rule's part in a decision. `truth` is `true`, `false` or `not evaluated`, `reason` says why not."""

    rule: str
    digest: str
    phase: Phase
    effect: Effect
    shadow: bool
    when: str
    truth: str
    reason: str
    risk: int
    reads: tuple[Read, ...]
    hold: HoldSpec | None = None


def explain(
    rules: RuleSet, facts: Mapping[str, object], *, mask: Callable[[str], str], response: bool = False
) -> list[Explained]:
    """Every rule of the request's phases, and of the response's if there is one, in the order of judging.

    `mask` is applied to every text that is shown. Claims are shown by type only.
    """
    phases = (Phase.HEADERS, Phase.BODY, Phase.RESPONSE) if response else (Phase.HEADERS, Phase.BODY)
    found: list[Explained] = []
    risk = 0
    for phase in phases:
        for stage in rules.stages(phase):
            added = 0
            for rule, judgement, data in stage.explain(facts, risk):
                found.append(_explained(rule, judgement, data, mask))
                if judgement is not False and not rule.is_shadow:
                    added += rule.risk
            risk += added
    return found


def _explained(
    rule: Rule, judgement: Judgement, data: Mapping[str, object], mask: Callable[[str], str]
) -> Explained:
    truth = "not evaluated" if isinstance(judgement, Unjudged) else str(judgement).lower()
    reads: list[Read] = []
    for name, paths in sorted(rule.reads.items()):
        if name not in data:
            reads.append(Read(name, "not available"))
            continue
        reads.extend(_reads(name, data[name], paths, mask))
    return Explained(
        rule=rule.id,
        digest=rule.digest,
        phase=rule.phase,
        effect=rule.effect,
        shadow=rule.is_shadow,
        when=rule.spec.when.text.strip(),
        truth=truth,
        reason=judgement.reason if isinstance(judgement, Unjudged) else "",
        risk=rule.risk,
        reads=tuple(reads),
        hold=rule.spec.hold,
    )


def _reads(path: str, value: object, paths: Paths, mask: Callable[[str], str]) -> Iterator[Read]:
    if paths.whole or not paths.steps:
        yield Read(path, _shown(path, value, mask, exists_only=not paths.whole))
        return
    for step, below in sorted(paths.steps.items(), key=lambda item: str(item[0])):
        name = f"{path}.{step}" if isinstance(step, str) and step.isidentifier() else f"{path}[{step!r}]"
        inner = _step(value, step)
        if inner is None:
            yield Read(name, "not there")
        else:
            yield from _reads(name, inner[0], below, mask)


def _step(value: object, step: str | int) -> tuple[object] | None:
    if isinstance(value, dict) and step in value:
        return (value[step],)
    if isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
        return (value[step],)
    return None


def _shown(path: str, value: object, mask: Callable[[str], str], *, exists_only: bool) -> str:
    if exists_only:
        return "there"
    if path == _HIDDEN or path.startswith((_HIDDEN + ".", _HIDDEN + "[")):
        return f"({_kind(value)})"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict):
        return f"(map of {len(value)})"
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        return f"(list of {len(value)})"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return _cut(mask(text))


def _cut(text: str) -> str:
    """What could deceive the eye is escaped, and what is cut is said."""
    safe = escape_for_display(text)
    return safe if len(safe) <= SHOWN else f"{safe[:SHOWN]}… ({len(safe)} characters)"


def _kind(value: object) -> str:
    names = {dict: "map", list: "list", str: "string", bool: "bool", int: "int", float: "double"}
    return names.get(type(value), "null")
