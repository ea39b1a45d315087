"""Policies for databases: what loads, and one ruling for a text of several statements."""

from __future__ import annotations

import pytest

from extproc.domain.decision import Deny, Hold, Phase, Ruling
from extproc.domain.statement import StatementFacts
from extproc.policy import PolicyLoadError, PolicySource, RuleSet, TargetInfo, load_policies, named_targets
from extproc.policy.case_facts import build_database_facts
from extproc.policy.cases import read_cases
from extproc.policy.statements import combine_rulings, not_understood, statement_facts
from extproc.sql.dialects import analyze

TARGETS = {"db": TargetInfo("postgres", {})}
HEAD = "apiVersion: extproc/v1\nkind: Policy\nmetadata: {name: p}\ntarget: db\ndefault: deny\nrules:\n"
MASKS = "masks:\n  columns: {columns: [users.email]}\n  paths: {paths: [$.a]}\n  both: {paths: [$.a], columns: [a.b]}\n"
ALLOW_READS = ("reads", 'sql.effects == ["read"]', "{allow: {}, mask: columns}")


def text(*rules: tuple[str, str, str]) -> str:
    lines = [
        f"  - name: {name}\n    when: |-\n      {when}\n    then: {then}\n" for name, when, then in rules
    ]
    return HEAD + "".join(lines) + MASKS


def rule_set(*rules: tuple[str, str, str], engine: str | None = None) -> RuleSet:
    return load_policies([PolicySource("p.yaml", text(*rules))], TARGETS, engine=engine).for_target("db")


def problems(*rules: tuple[str, str, str]) -> str:
    with pytest.raises(PolicyLoadError) as caught:
        rule_set(*rules)
    return str(caught.value)


def judged(rules: RuleSet, sql: str) -> Ruling:
    each = build_database_facts(
        {"sql": sql}, {}, {"name": "db", "kind": "postgres", "labels": {}}, analyze(sql, "postgres")
    )
    return combine_rulings([rules.judge(Phase.BODY, facts, None) for facts in each])


def word(ruling: Ruling) -> str:
    return type(ruling.decision).__name__.lower()


HOLD = "{hold: {group: dba, wait: 60s, expires: 1h, use_within: 10m}, risk: 5}"


@pytest.mark.parametrize("engine", ["cel-expr", "cel-python"])
def test_the_strictest_statement_decides(engine: str) -> None:
    rules = rule_set(
        ALLOW_READS,
        ("writes", '"write" in sql.effects', HOLD),
        ("ddl", '"ddl" in sql.effects', "{deny: {code: no-ddl}}"),
        engine=engine,
    )
    assert word(judged(rules, "SELECT 1; SELECT 2")) == "allow"
    assert word(judged(rules, "SELECT 1; INSERT INTO t VALUES (1)")) == "hold"
    assert word(judged(rules, "INSERT INTO t VALUES (1); DROP TABLE t; SELECT 1")) == "deny"
    assert word(judged(rules, "SELECT 1; SET ROLE x")) == "deny"


def test_what_is_owed_and_the_risk_add_up() -> None:
    rules = rule_set(ALLOW_READS, ("writes", '"write" in sql.effects', HOLD))
    ruling = judged(rules, "SELECT 1; INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)")
    assert isinstance(ruling.decision, Hold)
    assert ruling.decision.obligations.masks == ("p/columns",)
    assert ruling.decision.rules == ("p/writes",)
    assert ruling.risk == 10
    assert [found.rule for found in ruling.matched] == ["p/reads", "p/writes"]


def test_statements_that_wait_for_different_people_do_not_wait_together() -> None:
    rules = rule_set(
        ("writes", 'sql.verb == "INSERT"', HOLD), ("ddl", 'sql.verb == "DROP"', HOLD.replace("dba", "owners"))
    )
    decision = judged(rules, "INSERT INTO t VALUES (1); DROP TABLE t").decision
    assert isinstance(decision, Deny)
    assert decision.code == "holds-differ"


def test_an_incomplete_statement_anywhere_refuses_the_text() -> None:
    each = [statement_facts(facts) for facts in analyze("SELECT 1; DO $$ $$", "postgres")]
    denial = not_understood(each)
    assert denial is not None
    assert denial.code == "sql-not-understood"
    assert not_understood(each[:1]) is None


def test_texts_that_make_no_statement_are_judged_too() -> None:
    rules = rule_set(("nothing", "sql.statements == 0", "{allow: {}}"))
    assert word(judged(rules, " -- nothing\n;")) == "allow"


def test_facts_of_the_text_are_lists_numbers_and_words() -> None:
    facts = statement_facts(StatementFacts(verb="SELECT", effects=("read",)))
    assert facts["sql.effects"] == ["read"]
    assert {type(value) for value in facts.values()} == {str, int, bool, list}


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ('sql.verb == "delete"', 'never "delete"'),
        ('sql.verb in ["SELECT", "DELET"]', 'did you mean "DELETE"'),
        ('"writes" in sql.effects', 'did you mean "write"'),
        ('"Delete" in sql.verbs', "sql.verbs is one of"),
        ('sql.effects == ["write", "read"]', "sql.effects is sorted"),
        ('sql.effects != ["reads"]', 'never "reads"'),
        ('session.transaction == "idle"', "never"),
        ('request.method == "GET"', "not known for targets of kind postgres"),
        ("response.code == 200", "not known for targets of kind postgres"),
        ("sql.tabels_read == []", "sql.tables_read"),
    ],
)
def test_mistakes_stop_the_load(when: str, message: str) -> None:
    assert message in problems(("r", when, "{allow: {}}"))


def test_masks_and_headers_that_a_database_has_no_use_for_stop_the_load() -> None:
    no_paths = problems(("r", "true", "{mask: paths, allow: {}}"))
    assert 'the mask "paths" has only paths, and postgres has none' in no_paths
    assert "postgres has no headers" in problems(
        ("r", "true", "{allow: {}, headers: {request: {remove: [a]}}}")
    )
    assert len(rule_set(("r", "true", "{mask: [columns, both], allow: {}}")).rules) == 1


def test_sql_is_not_known_for_http() -> None:
    with pytest.raises(PolicyLoadError, match="not known for targets of kind http"):
        load_policies([PolicySource("p.yaml", text(ALLOW_READS))], {"db": TargetInfo("http", {})})


def test_a_policy_that_speaks_of_sql_is_taken_for_a_database() -> None:
    sources = [
        PolicySource("p.yaml", text(ALLOW_READS)),
        PolicySource("q.yaml", HEAD.replace("p}", "q}") + "  []\n"),
    ]
    assert named_targets(sources)["db"].kind == "postgres"
    assert named_targets(reversed(sources))["db"].kind == "postgres"
    other = HEAD + "  - {name: r, when: 'request.query == \"sql.verb\"', then: {allow: {}}}\n"
    assert (
        named_targets([PolicySource("p.yaml", other.replace('"sql.verb"', '"mysql.verb"'))])["db"].kind
        == "http"
    )


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("request: {sql: SELECT 1}, response: {code: 200}", "no response"),
        ("request: {path: /x}", "unknown key"),
    ],
)
def test_cases_that_no_database_could_meet_are_refused(case: str, message: str) -> None:
    policies = load_policies([PolicySource("p.yaml", text(ALLOW_READS))], TARGETS)
    source = PolicySource("p.cases.yaml", f"cases:\n  - {{name: c, {case}, expect: {{}}}}\n")
    with pytest.raises(PolicyLoadError, match=message):
        read_cases(source, "p", policies, analyze=analyze)


def test_cases_for_databases_need_the_analysis() -> None:
    policies = load_policies([PolicySource("p.yaml", text(ALLOW_READS))], TARGETS)
    source = PolicySource("p.cases.yaml", "cases:\n  - {name: c, request: {sql: SELECT 1}, expect: {}}\n")
    with pytest.raises(PolicyLoadError, match="a case for a database"):
        read_cases(source, "p", policies)
