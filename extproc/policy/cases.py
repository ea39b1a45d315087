"""`*.cases.yaml` beside a policy: a request and a principal in, the decision that must come out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from extproc.domain.decision import Allow, Deny, HeaderChange, Hold, Matched, Obligations, Phase, Ruling
from extproc.domain.statement import StatementFacts
from extproc.policy import documents, values
from extproc.policy.case_facts import as_mapping, build_database_facts, build_facts
from extproc.policy.documents import Mark, Node, PolicyLoadError, PolicySource, Reader, Scalar, read_document
from extproc.policy.facts import SQL_KINDS
from extproc.policy.load import PolicySet
from extproc.policy.model import qualified
from extproc.policy.statements import combine_rulings, not_understood

_CASE = ("name", "target", "principal", "request", "response", "now", "session", "expect")
_PRINCIPAL = ("issuer", "subject", "kind", "person", "client_id", "groups", "claims")
_REQUEST = ("method", "scheme", "host", "path", "headers", "json", "body", "source", "mtls", "peer_san")
_SQL_REQUEST = (
    *("sql", "parameters", "transaction", "user", "role", "database", "application", "server"),
    *("source", "mtls", "peer_san"),
)
_RESPONSE = ("code", "headers", "json", "body", "findings")
_EXPECT = ("decision", "rule", "code", "status", "obligations", "risk", "shadow")
_INT = re.compile(r"-?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Case:
    """One case as written; `policy` is the policy it stands beside, `mark` where it starts."""

    file: str
    name: str
    mark: Mark
    policy: str
    target: str
    facts: Mapping[str, object]
    has_response: bool
    expect: Mapping[str, object]
    statements: tuple[Mapping[str, object], ...] = ()
    """The facts of each statement of an SQL text; `facts` are those of the first."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came out; `differences` is empty when the case holds."""

    case: Case
    ruling: Ruling
    differences: tuple[str, ...] = ()
    matched: frozenset[str] = field(default_factory=frozenset)


class Analyze(Protocol):
    """The facts of each statement of an SQL text, which is in the dialect of that kind of target."""

    def __call__(
        self, text: str, dialect: str, /, *, database: str = "", server: str = ""
    ) -> tuple[StatementFacts, ...]: ...


def read_cases(
    source: PolicySource, policy: str, policies: PolicySet, *, analyze: Analyze | None = None
) -> list[Case]:
    """The cases of one file. Raises PolicyError with every problem. `policy` is the name of the policy beside it.

    `analyze` gives the facts of each statement of an SQL text; cases for databases need it.
    """
    reader = Reader(source)
    node = read_document(reader)
    cases: list[Case] = []
    top = values.mapping(reader, node, ("cases",), "a cases file") if node is not None else None
    names: set[str] = set()
    for part in values.items(reader, top.items.get("cases"), "cases") if top is not None else []:
        case = _case(reader, part, policy, policies, analyze)
        if case is None:
            continue
        if case.name in names:
            reader.problem(case.mark, f'the case "{case.name}" is here a second time')
        names.add(case.name)
        cases.append(case)
    if not cases and not reader.problems:
        reader.problem(documents.START, "the file holds no cases")
    if reader.problems:
        raise PolicyLoadError(reader.problems)
    return cases


def run_case(case: Case, policies: PolicySet) -> CaseResult:
    """Judge a case through all its phases. A case with a response stands for one whose hold was approved."""
    rules = policies.for_target(case.target)
    if case.statements:
        denial = not_understood(case.statements)
        ruling = (
            Ruling(Phase.HEADERS, denial, policy_digest=rules.digest)
            if denial is not None
            else combine_rulings([rules.judge(Phase.BODY, facts, None) for facts in case.statements])
        )
        matched = frozenset(found.rule for found in ruling.matched)
        return CaseResult(case, ruling, tuple(_differences(case, ruling)), matched)
    ruling = rules.judge(Phase.HEADERS, case.facts, None)
    if ruling.decision is None:
        ruling = rules.judge(Phase.BODY, case.facts, ruling)
    if case.has_response:
        ruling = rules.judge(Phase.RESPONSE, case.facts, ruling)
    matched = frozenset(found.rule for found in ruling.matched)
    return CaseResult(case, ruling, tuple(_differences(case, ruling)), matched)


def _case(
    reader: Reader, node: Node, policy: str, policies: PolicySet, analyze: Analyze | None
) -> Case | None:
    top = values.mapping(reader, node, _CASE, "a case")
    if top is None:
        return None
    for key in ("name", "request", "expect"):
        if key not in top.items:
            reader.problem(top.mark, f"a case needs {key}")
            return None
    name = values.text(reader, top.items["name"], "a case's name", most=200)
    target = _target(reader, top.items.get("target"), top.mark, policy, policies)
    if name is None or target is None:
        return None
    info = policies.target_info(target)
    is_sql = info.kind in SQL_KINDS
    parts = {
        key: _known(reader, top.items.get(key), known, key)
        for key, known in (
            ("request", _SQL_REQUEST if is_sql else _REQUEST),
            ("principal", _PRINCIPAL),
            ("response", _RESPONSE),
            ("expect", _EXPECT),
        )
    }
    now = plain(top.items["now"]) if "now" in top.items else None
    session = plain(top.items["session"]) if "session" in top.items else "case"
    described = {"name": target, "kind": info.kind, "labels": dict(info.labels)}
    has_response = "response" in top.items
    statements: tuple[Mapping[str, object], ...] = ()
    try:
        when = datetime.fromisoformat(str(now)) if now is not None else None
        if is_sql:
            if analyze is None or has_response:
                raise ValueError("a case for a database has a request with sql, and no response")
            found = analyze(
                str(parts["request"].get("sql", "")), info.kind,
                database=str(parts["request"].get("database", "app")), server=str(parts["request"].get("server", "")),
            )  # fmt: skip
            statements = build_database_facts(
                parts["request"], parts["principal"], described, found, now=when, session=str(session)
            )
            facts = dict(statements[0])
        else:
            response = parts["response"] if has_response else None
            facts = build_facts(
                parts["request"], parts["principal"], response, described, now=when, session=str(session)
            )
    except ValueError as error:
        reader.problem(top.mark, f'case "{name}": {type(error).__name__} while reading it: {error}')
        return None
    return Case(
        reader.source.name, name, top.mark, policy, target, facts, has_response, parts["expect"], statements
    )


def _known(reader: Reader, node: Node | None, known: tuple[str, ...], what: str) -> dict[str, object]:
    found = values.mapping(reader, node, known, what)
    return {} if found is None else {key: plain(value) for key, value in found.items.items()}


def _target(reader: Reader, node: Node | None, mark: Mark, policy: str, policies: PolicySet) -> str | None:
    """The case's target, or the one target that its policy governs."""
    if node is not None:
        name = values.text(reader, node, "target")
        if name is not None and name not in policies.targets:
            reader.problem(node.mark, f'unknown target "{name}"')
            return None
        return name
    governed = [file.targets for file in policies.files if file.name == policy]
    targets = governed[0] if governed else ()
    if not targets:
        reader.problem(mark, f'the policy "{policy}" governs no target here, so the case must name one')
        return None
    return targets[0]


def plain(node: Node) -> object:
    """A value as JSON would have it: quoted is text; unquoted may be null, true, false or a number."""
    if isinstance(node, documents.Mapping):
        return {key: plain(value) for key, value in node.items.items()}
    if isinstance(node, documents.Sequence):
        return [plain(item) for item in node.items]
    return _plain_scalar(node)


def _plain_scalar(node: Scalar) -> object:
    if not node.is_plain:
        return node.text
    if node.is_null:
        return None
    if node.text in ("true", "false"):
        return node.text == "true"
    if _INT.fullmatch(node.text):
        return int(node.text)
    return float(node.text) if _FLOAT.fullmatch(node.text) else node.text


def _differences(case: Case, ruling: Ruling) -> list[str]:
    """What came out otherwise than the case says."""
    decision = ruling.decision
    found: list[str] = []

    def compare(what: str, wanted: object, got: object) -> None:
        if wanted != got:
            found.append(f"{what}: expected {_shown(wanted)}, got {_shown(got)}")

    expect = case.expect
    if "decision" in expect:
        compare("decision", expect["decision"], _word(ruling))
    if "rule" in expect:
        deciding = deciding_rules(ruling)
        if qualified(case.policy, str(expect["rule"])) not in deciding and expect["rule"] not in deciding:
            compare("rule", expect["rule"], ", ".join(deciding) or "the default")
    if "code" in expect:
        compare("code", expect["code"], decision.code if isinstance(decision, Deny) else None)
    if "status" in expect:
        compare("status", expect["status"], decision.status if isinstance(decision, Deny) else None)
    if "risk" in expect:
        compare("risk", expect["risk"], ruling.risk)
    if "shadow" in expect:
        wanted = expect["shadow"] if isinstance(expect["shadow"], list) else [expect["shadow"]]
        shadows = [match.rule for match in ruling.matched if match.shadow]
        compare("shadow", sorted(qualified(case.policy, str(name)) for name in wanted), sorted(shadows))
    owed = decision.obligations if isinstance(decision, Allow | Hold) else Obligations()
    for key, wanted_part in as_mapping(expect.get("obligations")).items():
        compare(f"obligations.{key}", _wanted(key, wanted_part, case.policy), _owed(key, owed))
    return found


def deciding_rules(ruling: Ruling) -> tuple[str, ...]:
    """The rules that the decision rests on; empty when it is the default."""
    match ruling.decision:
        case Deny(rule=rule):
            return (rule,) if rule else ()
        case Hold(rules=rules):
            return rules
        case Allow():
            return tuple(found.rule for found in ruling.matched if _allows(found))
        case _:
            return ()


def _allows(found: Matched) -> bool:
    return found.effect == "allow" and not found.shadow


def _word(ruling: Ruling) -> str:
    return type(ruling.decision).__name__.lower()


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _wanted(key: str, value: object, policy: str) -> object:
    """A case names masks as its policy does."""
    if key == "masks":
        names = value if isinstance(value, list) else [value]
        return sorted(str(name) if "/" in str(name) else qualified(policy, str(name)) for name in names)
    return value


def _owed(key: str, owed: Obligations) -> object:
    """Obligations as a policy file would write them."""
    if key == "masks":
        return list(owed.masks)
    if key == "record":
        parts = {"request": owed.record_request, "response": owed.record_response}
        return {side: detail for side, detail in parts.items() if detail != "none"}
    if key == "headers":
        parts_changed = {"request": owed.request_headers, "response": owed.response_headers}
        return {side: _change(part) for side, part in parts_changed.items() if part != HeaderChange()}
    return f"unknown obligation {key}"


def _change(part: HeaderChange) -> dict[str, object]:
    written: dict[str, object] = {}
    if part.set:
        written["set"] = dict(part.set)
    if part.remove:
        written["remove"] = list(part.remove)
    return written
