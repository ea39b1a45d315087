"""Compiling one file's rules and refusing what could not work: unknown names, impossible demands, dead rules."""

from __future__ import annotations

import json

from extproc.domain.decision import HeaderChange, Phase
from extproc.policy.documents import Mark, Reader, place_within
from extproc.policy.engine import MAX_CONDITION, Condition, ConditionError, Engine, Unjudged
from extproc.policy.facts import FACTS, ROOTS, SQL_KINDS
from extproc.policy.literals import impossible_literals
from extproc.policy.model import FileSpec, RuleSpec
from extproc.policy.rules import Rule
from extproc.policy.syntax import Call, Const, Expr, Ident, Select, iteration_variables, reads, walk

_CONVERSIONS = frozenset({"timestamp", "duration", "int", "uint", "double", "bool"})


def compile_rules(reader: Reader, spec: FileSpec, engine: Engine, kind: str) -> list[Rule]:
    """Every rule that can work on targets of this kind; the others leave a problem in the reader."""
    rules: list[Rule] = []
    constant: dict[str, bool] = {}
    for rule_spec in spec.rules:
        condition = _condition(reader, rule_spec, engine)
        if condition is None:
            continue
        found = reads(condition.syntax, FACTS)
        phase = max((FACTS[name].phase for name in found), default=Phase.HEADERS)
        rule = Rule(spec.name, rule_spec, condition, phase, found)
        always = engine.batch([condition]).judge({})[0]
        if isinstance(always, bool):
            constant[rule.id] = always
        _check_condition(reader, rule, always, engine)
        _check_effects(reader, rule)
        rules.append(rule)
    _check_masks(reader, spec, kind)
    _check_reachable(reader, rules, constant)
    return rules


def _condition(reader: Reader, spec: RuleSpec, engine: Engine) -> Condition | None:
    text = spec.when.text
    if len(text) > MAX_CONDITION:
        _note(reader, spec, spec.when.mark, f"when has more than {MAX_CONDITION} characters")
        return None
    try:
        return engine.compile(text)
    except ConditionError as error:
        for mistake in error.mistakes:
            place = place_within(reader.source, spec.when, mistake.line, mistake.column)
            _note(reader, spec, place, mistake.message)
        return None


def _check_condition(reader: Reader, rule: Rule, always: bool | Unjudged, engine: Engine) -> None:
    mark = rule.spec.when.mark
    for name in sorted(_whole_facts_in_has(rule.condition.parsed)):
        _note(
            reader, rule.spec, mark, f"has({name}) asks about a whole fact; has() is for what lies inside one"
        )
    for name in sorted(iteration_variables(rule.condition.syntax) & ROOTS):
        _note(
            reader,
            rule.spec,
            mark,
            f'the macro variable "{name}" hides the facts of that name; call it otherwise',
        )
    if always is False:
        _note(reader, rule.spec, mark, "the condition is never true, so the rule can never match")
    elif isinstance(always, Unjudged) and not rule.reads:
        _note(reader, rule.spec, mark, f"the condition can never be evaluated: {always.reason}")
    for message in impossible_literals(rule.condition.syntax):
        _note(reader, rule.spec, mark, message)
    for text in sorted(_constant_calls(rule.condition.syntax)):
        if not _evaluates(engine, text):
            _note(reader, rule.spec, mark, f"{text} can never be evaluated")


def _check_effects(reader: Reader, rule: Rule) -> None:
    spec = rule.spec
    place = spec.place
    late = rule.phase is Phase.RESPONSE
    touches = bool(spec.masks) or spec.record_response != "none" or spec.response_headers != HeaderChange()
    if late and spec.hold:
        _note(
            reader, spec, place["hold"], "a rule over the response cannot hold: the request has run already"
        )
    if late and spec.allows and not (touches or spec.risk):
        _note(
            reader, spec, place["allow"], "a rule over the response cannot allow: the request has run already"
        )
    if late and spec.request_headers != HeaderChange():
        _note(reader, spec, place["headers"], "request headers cannot be changed by a rule over the response")
    if late and spec.record_request != "none":
        _note(reader, spec, place["record"], "record.request comes too late in a rule over the response")
    if spec.deny:
        for part in ("mask", "record", "headers"):
            if part in place:
                _note(reader, spec, place[part], f"{part} has nothing to act on: the rule denies")


def _check_masks(reader: Reader, spec: FileSpec, kind: str) -> None:
    """On HTTP there are no columns, and rows have no paths: such a mask alone would let everything through."""
    for rule in spec.rules:
        for name in rule.masks:
            mask = spec.masks.get(name)
            if mask is None or mask.entities:
                continue
            useless = "columns" if kind == "http" and not mask.paths else "paths"
            if useless == "paths" and (kind not in SQL_KINDS or mask.columns):
                continue
            _note(
                reader,
                rule,
                rule.place["mask"],
                f'the mask "{name}" has only {useless}, and {kind} has none',
            )
        if kind in SQL_KINDS and "headers" in rule.place:
            _note(reader, rule, rule.place["headers"], f"{kind} has no headers")


def _check_reachable(reader: Reader, rules: list[Rule], constant: dict[str, bool]) -> None:
    """A denial that always matches, or that has the same condition, leaves nothing to the rules beside it."""
    denials = [rule for rule in rules if rule.effect == "deny" and not rule.is_shadow]
    total = [rule for rule in denials if constant.get(rule.id) is True]
    same = {rule.spec.when.text.strip(): rule for rule in denials}
    for rule in rules:
        if rule.is_shadow or rule in total:
            continue
        for denial in total:
            if _leaves_nothing(denial, rule):
                _note(
                    reader,
                    rule.spec,
                    rule.spec.mark,
                    f'never has an effect: "{denial.spec.name}" denies everything',
                )
                break
        else:
            twin = same.get(rule.spec.when.text.strip())
            if twin is not None and rule.effect != "deny":
                message = f'never has an effect: "{twin.spec.name}" denies under the same condition'
                _note(reader, rule.spec, rule.spec.mark, message)


def _leaves_nothing(denial: Rule, rule: Rule) -> bool:
    if denial.phase is Phase.RESPONSE:
        return rule.phase is Phase.RESPONSE and rule.effect != "deny"
    return rule.effect != "deny" or rule.phase > denial.phase


def _whole_facts_in_has(node: Expr) -> set[str]:
    """As parsed, `has(request.json)` is a test for the field `json` of `request`."""
    found: set[str] = set()
    for part in walk(node):
        if isinstance(part, Select) and part.test:
            name = _dotted(part)
            if name in FACTS:
                found.add(name)
    return found


def _dotted(node: Expr) -> str:
    names: list[str] = []
    while isinstance(node, Select):
        names.append(node.field)
        node = node.operand
    if not isinstance(node, Ident):
        return ""
    names.append(node.name.removeprefix("."))
    return ".".join(reversed(names))


def _constant_calls(node: Expr) -> set[str]:
    """Conversions of literals and literal patterns, as conditions that evaluate when the call does."""
    found: set[str] = set()
    for part in walk(node):
        match part:
            case Call(function="matches", args=(*_, Const(value=str() as pattern))):
                found.add(f'"".matches({_literal(pattern)})')
            case Call(function=function, args=(Const(value=str() as text),), target=None) if (
                function in _CONVERSIONS
            ):
                found.add(f"{function}({_literal(text)})")
    return found


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _evaluates(engine: Engine, text: str) -> bool:
    condition = text if ".matches(" in text else f"{text} == {text}"
    try:
        return isinstance(engine.batch([engine.compile(condition)]).judge({})[0], bool)
    except ConditionError:
        return True  # told where the whole condition was compiled


def _note(reader: Reader, spec: RuleSpec, mark: Mark, message: str) -> None:
    reader.problem(mark, f'rule "{spec.name}": {message}')
