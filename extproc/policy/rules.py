"""`RuleSet`: all rules for one target, judged phase by phase into one ruling.

Deny wins over hold, hold over allow, and nothing matched means the default. A rule that cannot be evaluated
counts as matched if it denies or holds, and its masks and records apply in any case. Shadow rules are written
into `Ruling.matched` and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from extproc.domain.decision import (
    ALLOW,
    Allow,
    Decision,
    Deny,
    Effect,
    Hold,
    Matched,
    Obligations,
    Phase,
    Ruling,
)
from extproc.policy.combine import NOTHING, add_obligations, merge_holds, protective
from extproc.policy.engine import Condition, Engine
from extproc.policy.facts import FACTS
from extproc.policy.model import Mode, RuleSpec, digest_of, qualified
from extproc.policy.projection import Paths
from extproc.policy.stage import Stage, build_stages

_ORDER: Final = (Phase.HEADERS, Phase.BODY, Phase.RESPONSE)
_MERGED: Final = 256
"""Merged holds and obligations that are remembered."""


class Rule:
    """One compiled rule with everything it can lead to, made ready at load."""

    __slots__ = (
        "condition",
        "deny",
        "deny_unjudged",
        "digest",
        "effect",
        "hit",
        "id",
        "mode",
        "obligations",
        "phase",
        "policy",
        "reads",
        "risk",
        "spec",
        "unjudged",
        "unjudged_obligations",
    )

    def __init__(
        self, policy: str, spec: RuleSpec, condition: Condition, phase: Phase, reads: Mapping[str, Paths]
    ) -> None:
        self.policy = policy
        self.spec = spec
        self.condition = condition
        self.phase = phase
        self.reads = reads
        self.id = qualified(policy, spec.name)
        self.mode: Mode = spec.mode
        self.risk = spec.risk
        self.digest = digest_of({"policy": policy, "rule": spec.canonical()})
        self.effect: Effect = (
            "deny" if spec.deny else "hold" if spec.hold else "allow" if spec.allows else "none"
        )
        found = spec.obligations(policy)
        self.obligations = NOTHING if found == NOTHING else found
        self.unjudged_obligations = (
            self.obligations if self.effect == "hold" else protective(self.obligations)
        )
        shadow = spec.mode == "shadow"
        counts = self.effect in ("deny", "hold")
        self.hit = Matched(self.id, self.digest, self.effect, self.risk, shadow)
        self.unjudged = Matched(
            self.id, self.digest, self.effect if counts else "none", self.risk, shadow, errored=True
        )
        self.deny: Deny | None = None
        self.deny_unjudged: Deny | None = None
        if spec.deny:
            message = spec.deny.message or f"denied by the rule {self.id}"
            self.deny = Deny(spec.deny.code or "rule-denied", message, self.id, spec.deny.status)
            self.deny_unjudged = Deny(
                "rule-error",
                f"the rule {self.id} could not be evaluated, and it denies",
                self.id,
                spec.deny.status,
            )

    @property
    def is_shadow(self) -> bool:
        return self.mode == "shadow"

    @property
    def gives_more_than_allow(self) -> bool:
        """Whether a match is worth knowing although the request is allowed already."""
        return self.is_shadow or self.effect != "allow" or bool(self.risk) or self.obligations is not NOTHING


@dataclass(frozen=True, slots=True)
class RuleCount:
    """How a rule has fared since the set was loaded. `judged` counts the times its phase was judged."""

    rule: str
    digest: str
    effect: Effect
    shadow: bool
    judged: int
    matched: int
    errored: int


_NO_RULE: Final = Deny("no-rule-matched", "no rule allows this request")


class RuleSet:
    """The rules of every file that names one target."""

    def __init__(
        self, target: str, rules: Sequence[Rule], *, default_allow: bool, digest: str, engine: Engine | None
    ) -> None:
        self.target = target
        self.digest = digest
        self.rules = tuple(sorted(rules, key=lambda rule: rule.id))
        self._default: Decision = Allow() if default_allow else _NO_RULE
        self._default_allow = default_allow
        self._by_digest = {rule.digest: rule for rule in self.rules}
        self._stages: dict[Phase, tuple[Stage, ...]] = {
            phase: build_stages(engine, [rule for rule in self.rules if rule.phase is phase])
            for phase in _ORDER
        }
        body = [rule for rule in self.rules if rule.phase is Phase.BODY]
        self._body_adds = any(rule.gives_more_than_allow for rule in body)
        self._body_allows = any(rule.effect == "allow" and not rule.is_shadow for rule in body)
        self._body_admits = any(rule.effect in ("allow", "hold") and not rule.is_shadow for rule in body)
        self._merged: dict[tuple[str, ...], Hold] = {}
        enforced = [rule for rule in self.rules if not rule.is_shadow]
        owed = add_obligations([rule.obligations for rule in enforced])
        self.all_obligations: Obligations = protective(owed)
        """Every mask, record and header removal that any rule could ask for."""
        self.max_wait: float = max((rule.spec.hold.wait for rule in enforced if rule.spec.hold), default=0.0)
        self.needs_request_body: bool = any(_reads_body(rule, "request.") for rule in self.rules) or any(
            rule.effect == "hold" or rule.obligations.record_request != "none" for rule in enforced
        )
        self.reads: frozenset[str] = frozenset(name for rule in self.rules for name in rule.reads)
        """Every fact that some rule reads, by name."""
        self.reads_response_body: bool = any(_reads_body(rule, "response.") for rule in self.rules)
        """Whether a rule over the response can only be judged once its body is here."""
        self.needs_response_body: bool = self.reads_response_body or any(
            rule.obligations.masks or rule.obligations.record_response != "none" for rule in enforced
        )

    @property
    def default_allows(self) -> bool:
        """Whether a request that no rule matches may pass."""
        return self._default_allow

    def has_phase(self, phase: Phase) -> bool:
        """Whether any rule, shadow rules included, is judged in this phase."""
        return bool(self._stages.get(phase))

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        """What is judged in this phase, in order."""
        return self._stages.get(phase, ())

    def judge(self, phase: Phase, facts: Mapping[str, object], before: Ruling | None) -> Ruling:
        """The ruling up to and including `phase`; phases that `before` has not seen are judged as well.

        `before` is the same request's ruling by this rule set; one by another set is judged anew. A denial is
        final. In the response phase a hold in `before` counts as released. Raises ProtocolError as the facts do.
        """
        if before is not None and before.policy_digest != self.digest:
            released = phase is Phase.RESPONSE and before.decision is not None
            before = before if released else None
        if before is None:
            before = self._judge_request(Phase.HEADERS, facts, (), 0, ())
        elif before.decision is not None and phase is not Phase.RESPONSE:
            return before
        if phase is Phase.HEADERS or isinstance(before.decision, Deny):
            return before
        if before.decision is None:
            before = self._judge_request(Phase.BODY, facts, before.matched, before.risk, before.errors)
            if phase is Phase.RESPONSE and not isinstance(before.decision, Allow):
                return before
        if phase is Phase.RESPONSE:
            return self._judge_response(facts, before)
        return before

    def repeat(self, ruling: Ruling) -> Ruling:
        """A ruling made before on facts that are all the same: counted as one more, not judged again."""
        for phase in _ORDER[: _ORDER.index(ruling.phase) + 1]:
            for stage in self._stages[phase]:
                stage.count_again(ruling.matched)
        return ruling

    def counts(self) -> Mapping[str, RuleCount]:
        """By rule id."""
        found: dict[str, RuleCount] = {}
        for stages in self._stages.values():
            for stage in stages:
                for rule, matched, errored in stage.counts():
                    found[rule.id] = RuleCount(
                        rule.id, rule.digest, rule.effect, rule.is_shadow, stage.judged, matched, errored
                    )
        return found

    def _judge_request(
        self,
        phase: Phase,
        facts: Mapping[str, object],
        matched: tuple[Matched, ...],
        risk: int,
        errors: tuple[str, ...],
    ) -> Ruling:
        for stage in self._stages[phase]:
            matched, risk, errors = stage.judge(facts, matched, risk, errors)
        decision = self._decide(phase, matched) if matched else self._nothing_matched(phase)
        return Ruling(phase, decision, matched, risk, self.digest, errors)

    def _nothing_matched(self, phase: Phase) -> Decision | None:
        if phase is Phase.HEADERS and (self._body_adds if self._default_allow else self._body_admits):
            return None
        return self._default

    def _decide(self, phase: Phase, matched: tuple[Matched, ...]) -> Decision | None:
        """The strongest of what matched; None while the body's rules may still change it."""
        allowed = False
        owed: list[Obligations] = []
        holding: list[Rule] = []
        denial: Matched | None = None
        for found in matched:
            if found.shadow:
                continue
            rule = self._by_digest[found.digest]
            effect = found.effect
            if effect == "deny":
                if denial is None or (found.errored, found.rule) < (denial.errored, denial.rule):
                    denial = found
            elif effect == "hold":
                holding.append(rule)
            elif effect == "allow":
                allowed = True
            part = rule.unjudged_obligations if found.errored else rule.obligations
            if part is not NOTHING:
                owed.append(part)
        if denial is not None:
            return self._denial(denial)
        if not (holding or allowed):
            undecided = self._nothing_matched(phase)
            return Allow(add_obligations(owed)) if isinstance(undecided, Allow) else undecided
        if phase is Phase.HEADERS and self._body_adds:
            return None
        if not owed:
            return self._hold(holding, NOTHING) if holding else ALLOW
        obligations = add_obligations(owed)
        return self._hold(holding, obligations) if holding else Allow(obligations)

    def _denial(self, matched: Matched) -> Deny:
        rule = self._by_digest[matched.digest]
        denial = rule.deny_unjudged if matched.errored else rule.deny
        assert denial is not None  # noqa: S101
        return denial

    def _hold(self, holding: list[Rule], obligations: Obligations) -> Hold:
        names = tuple(sorted(rule.id for rule in holding))
        known = self._merged.get(names)
        if known is None:
            demand = merge_holds((rule.digest, rule.spec.hold) for rule in holding if rule.spec.hold)
            known = Hold(demand, names)
            if len(self._merged) < _MERGED:
                self._merged[names] = known
        return known if obligations is NOTHING else Hold(known.demand, names, obligations)

    def _judge_response(self, facts: Mapping[str, object], before: Ruling) -> Ruling:
        """Rules over the response of a request that went through: they deny, mask and record."""
        matched, risk, errors = before.matched, before.risk, before.errors
        for stage in self._stages[Phase.RESPONSE]:
            matched, risk, errors = stage.judge(facts, matched, risk, errors)
        assert before.decision is not None  # noqa: S101
        decision: Decision = before.decision
        if isinstance(decision, Hold):
            decision = Allow(decision.obligations)
        if len(matched) > len(before.matched):
            decision = self._decide_response(matched[len(before.matched) :], decision)
        return Ruling(Phase.RESPONSE, decision, matched, risk, self.digest, errors)

    def _decide_response(self, matched: tuple[Matched, ...], before: Decision) -> Decision:
        if isinstance(before, Deny):
            return before
        owed = [before.obligations]
        denials: list[Matched] = []
        for found in matched:
            if found.shadow:
                continue
            if found.effect == "deny":
                denials.append(found)
                continue
            rule = self._by_digest[found.digest]
            owed.append(rule.unjudged_obligations if found.errored else rule.obligations)
        if denials:
            return self._denial(min(denials, key=lambda found: (found.errored, found.rule)))
        return Allow(add_obligations(owed))


def _reads_body(rule: Rule, prefix: str) -> bool:
    return any(FACTS[name].body and name.startswith(prefix) for name in rule.reads)
