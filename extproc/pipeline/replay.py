"""Judging what was recorded by other rules: which decisions would change, and which nobody can tell.

A record does not hold everything a rule may read: bodies and headers are not kept as they were, and what was
masked is not what was sent. A rule that needs such a fact may have matched or not, so both are followed: when
every possibility ends in one decision it is certain, else it is said what was missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from extproc.domain.decision import Phase
from extproc.policy import PolicySet, RuleSet, TargetInfo
from extproc.policy.case_facts import build_database_facts, build_facts
from extproc.policy.cases import Analyze
from extproc.policy.engine import Unjudged
from extproc.policy.facts import RISK

POLICY_CODES = frozenset({"rule-denied", "no-rule-matched", "rule-error"})
"""Denials that come from rules; others were refused for another reason, whatever the rules say."""
_STRENGTH = ("allow", "hold", "deny")
_TRANSACTIONS = {"I": "", "T": "open", "E": "failed"}
_HTTP = {
    "request.method", "request.scheme", "source.address", "principal.issuer", "principal.subject", "principal.kind",
    "principal.person", "principal.client_id", "principal.groups", "target.name", "target.kind", "target.labels",
    "session.id", "now", RISK,
}  # fmt: skip
_PATH = ("request.path", "request.url_path", "request.query", "request.query_params")
_DATABASE = (_HTTP - {"request.method", "request.scheme"}) | {"connection.role"}
_OF_RECORD = ("effects", "tables_read", "tables_written")
"""Facts of a single statement that the record has as they were judged, whatever its text looks like now."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """`before` and the possible `after` are `allow`, `deny` or `hold`; `missing` are the facts that would tell.

    `skipped` says why there is nothing to compare; then the rest is empty. `rules` matched for certain.
    """

    before: str = ""
    after: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def is_certain(self) -> bool:
        """Is there only one way it can come out?"""
        return len(self.after) == 1

    @property
    def has_changed(self) -> bool:
        """Would it certainly be decided otherwise?"""
        return self.is_certain and self.after[0] != self.before


def replay(intent: Mapping[str, Any], at: float, policies: PolicySet, analyze: Analyze) -> Replayed:
    """Judge a recorded intent's `fields` by `policies`. `at` is when the request came, in Unix seconds."""
    skipped = _cannot_be_compared(intent, policies)
    if skipped:
        return Replayed(skipped=skipped)
    target = str(intent["target"])
    info, rules = policies.target_info(target), policies.for_target(target)
    when = datetime.fromtimestamp(at, UTC)
    try:
        if info.kind == "http":
            each = [_http_facts(intent, target, info, when)]
        else:
            each = _statement_facts(intent, target, info, when, analyze)
    except ValueError as trouble:
        return Replayed(skipped=f"the recorded request cannot be read again ({type(trouble).__name__})")
    if any(facts.get("sql.complete") is False for facts in each):
        return Replayed(skipped="the statement was not understood, which is refused before any rule")
    possible: set[str] = {"allow"}
    matched: dict[str, None] = {}
    missing: set[str] = set()
    for facts in each:  # a text's strictest statement decides
        ways, hit, unknown = _judge(rules, facts)
        possible = {max(one, other, key=_STRENGTH.index) for one in possible for other in ways}
        matched |= dict.fromkeys(hit)
        missing |= unknown
    after = tuple(sorted(possible))
    return Replayed(_before(intent), after, tuple(matched), tuple(sorted(missing)) if len(after) > 1 else ())


def unplayed_rules(rules: RuleSet) -> list[str]:
    """Rules over responses: a backtest judges requests only."""
    return [rule.id for rule in rules.rules if rule.phase > Phase.BODY and not rule.is_shadow]


def _cannot_be_compared(intent: Mapping[str, Any], policies: PolicySet) -> str:
    if not isinstance(intent.get("principal"), dict):
        return "refused before the caller was known"
    if intent.get("operation") == "login":
        return "a login, which rules do not judge"
    if intent.get("target") not in policies.targets:
        return "a target that the other policies do not know"
    verdict, code = intent.get("verdict"), intent.get("code")
    if verdict not in _STRENGTH:
        return f"verdict {verdict}"
    if verdict == "deny" and code not in POLICY_CODES and "hold" not in intent:
        return f"refused for another reason than a rule ({code})"
    return ""


def _before(intent: Mapping[str, Any]) -> str:
    """What the rules said, which a person may have answered since."""
    return "hold" if "hold" in intent else str(intent["verdict"])


def _judge(rules: RuleSet, facts: Mapping[str, object]) -> tuple[set[str], list[str], set[str]]:
    """(possible decisions, rules that match for certain, facts that would tell)."""
    certain = "allow" if rules.default_allows else ""
    doubtful: set[str] = set()
    matched: list[str] = []
    missing: set[str] = set()
    risk, risk_known = 0, True
    for phase in (Phase.HEADERS, Phase.BODY):
        for stage in rules.stages(phase):
            added = 0
            for rule, judgement, _ in stage.explain(facts, risk):
                if rule.is_shadow:
                    continue
                if RISK in rule.reads and not risk_known:
                    doubtful.add(rule.effect)
                    continue
                if judgement is False:
                    continue
                absent = {name for name in rule.reads if name != RISK and name not in facts}
                if isinstance(judgement, Unjudged) and absent:
                    missing |= absent
                    risk_known = risk_known and not rule.risk
                    doubtful.add(rule.effect)
                    continue
                if isinstance(judgement, Unjudged) and rule.effect not in ("deny", "hold"):
                    continue
                matched.append(rule.id)
                added += rule.risk
                certain = _stronger(certain, rule.effect)
            risk += added
    ways = {certain, *(_stronger(certain, effect) for effect in doubtful)}
    return {way or "deny" for way in ways}, matched, missing


def _stronger(one: str, other: str) -> str:
    """`none` changes nothing; the empty text is a default that denies, which any rule overrules."""
    if other == "none":
        return one
    return max(one, other, key=_STRENGTH.index) if one else other


def _http_facts(
    intent: Mapping[str, Any], target: str, info: TargetInfo, when: datetime
) -> dict[str, object]:
    request = _part(intent, "request")
    altered = request.get("altered", ())
    facts = build_facts(
        {name: request[name] for name in ("method", "scheme", "host", "path", "source") if name in request},
        _part(intent, "principal"),
        None,
        {"name": target, "kind": info.kind, "labels": dict(info.labels)},
        now=when,
        session=str(intent.get("session_id", "")),
    )
    known = set(_HTTP) - ({"source.address"} if "source" not in request else set())
    if "host" not in altered:
        known.add("request.host")
    if "path" not in altered:
        known.update(_PATH)
    return {name: value for name, value in facts.items() if name in known}


def _statement_facts(
    intent: Mapping[str, Any], target: str, info: TargetInfo, when: datetime, analyze: Analyze
) -> list[dict[str, object]]:
    statement, connection = _part(intent, "statement"), _part(intent, "connection")
    text = str(statement.get("text", ""))
    found = analyze(text, info.kind, database=str(connection.get("database", "")))
    parameters = statement.get("parameters", [])
    request = {
        "sql": text,
        "parameters": [None if one.get("null") else one.get("text", "") for one in parameters],
        "transaction": _TRANSACTIONS.get(str(statement.get("transaction")), ""),
        **{name: connection[name] for name in ("user", "role", "database", "source") if name in connection},
    }
    described = {"name": target, "kind": info.kind, "labels": dict(info.labels)}
    each = build_database_facts(
        request,
        _part(intent, "principal"),
        described,
        found,
        now=when,
        session=str(intent.get("session_id", "")),
    )
    known = _known_of_statement(statement, connection)
    whole = not statement.get("altered")
    kept = [
        {
            name: value
            for name, value in facts.items()
            if name in known or (whole and name.startswith("sql.") and name != "sql.parameters")
        }
        for facts in each
    ]
    if len(statement.get("verbs", ())) == 1:
        # a single statement's effects and tables were recorded as they were judged, views looked through
        facts = kept[0] if len(kept) == 1 else {name: each[0][name] for name in known if name in each[0]}
        facts |= {f"sql.{name}": list(statement.get(name, ())) for name in _OF_RECORD}
        facts |= {"sql.verb": statement["verbs"][0], "sql.statements": 1}
        facts["sql.complete"] = not statement.get("incomplete")
        return [facts]
    if not whole:
        raise ValueError("several statements in one text that was masked or cut")
    return kept


def _known_of_statement(statement: Mapping[str, Any], connection: Mapping[str, Any]) -> set[str]:
    known = set(_DATABASE) | {"session.transaction"}
    altered = connection.get("altered", ())
    known |= {f"connection.{name}" for name in ("user", "database") if name not in altered}
    if "source" not in connection:
        known.discard("source.address")
    parameters = statement.get("parameters", [])
    told = len(parameters) == statement.get("parameter_count", 0)
    if told and all(one.get("null") or ("text" in one and not one.get("altered")) for one in parameters):
        known.add("sql.parameters")
    return known


def _part(intent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = intent.get(name)
    return found if isinstance(found, dict) else {}
