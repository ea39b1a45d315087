"""What docs/policies.md shows is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extproc.domain.decision import Phase
from extproc.policy import PolicySource, load_policies, named_targets
from extproc.policy.cases import read_cases, run_case
from extproc.policy.facts import FACTS
from extproc.sql.dialects import analyze

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
POLICIES = [body for body in SNIPPETS if "kind: Policy" in body]
CASES = [body for body in SNIPPETS if body.startswith("cases:")]
PHASES = {Phase.HEADERS: "headers", Phase.BODY: "body", Phase.RESPONSE: "response"}


def test_every_snippet_is_one_that_a_test_runs() -> None:
    assert POLICIES
    assert CASES
    assert len(POLICIES) + len(CASES) == len(SNIPPETS)
    assert len(POLICIES) == len(CASES)


@pytest.mark.parametrize("engine", ["cel-expr", "cel-python"])
@pytest.mark.parametrize("index", range(len(POLICIES)))
def test_the_examples_load_and_their_cases_hold(engine: str, index: int) -> None:
    source = PolicySource("payments.yaml", POLICIES[index])
    policies = load_policies([source], named_targets([source]), engine=engine)
    beside = PolicySource("payments.cases.yaml", CASES[index])
    cases = read_cases(beside, policies.files[0].name, policies, analyze=analyze)
    results = [run_case(case, policies) for case in cases]
    assert [(result.case.name, result.differences) for result in results if result.differences] == []


def test_the_table_of_facts_is_the_table_in_the_code() -> None:
    rows = re.findall(r"^\| `([a-z._]+)` \| `([^`]+)` \| (\w+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [(fact.name, fact.type, PHASES[fact.phase], fact.about) for fact in FACTS.values()]


def test_every_name_of_the_format_is_explained() -> None:
    from extproc.policy import cases, format, holding

    names = [*format._FILE, *format._RULE, *format._THEN, *format._MASK, *holding._HOLD]
    names += [
        *cases._CASE,
        *cases._PRINCIPAL,
        *cases._REQUEST,
        *cases._SQL_REQUEST,
        *cases._RESPONSE,
        *cases._EXPECT,
    ]
    missing = [name for name in names if not re.search(rf"\b{re.escape(name)}\b", PAGE)]
    assert missing == []
