"""The shipped policies hold what their cases say, under both engines, and every rule is covered."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.adapters.policy_files import cases_beside, find_policies
from extproc.policy import PolicySet, load_policies, named_targets
from extproc.policy.cases import CaseResult, read_cases, run_case
from extproc.sql.dialects import analyze

FOLDER = Path(__file__).parents[2] / "policies"
PACKS = sorted(path for path in FOLDER.rglob("*.yaml") if not path.name.endswith(".cases.yaml"))


def results(pack: Path, engine: str) -> tuple[PolicySet, list[CaseResult]]:
    found = find_policies([pack])
    policies = load_policies(found.policies, named_targets(found.policies), engine=engine)
    beside = {cases_beside(file.source): file.name for file in policies.files}
    cases = [
        case
        for source in found.cases
        for case in read_cases(source, beside[source.name], policies, analyze=analyze)
    ]
    return policies, [run_case(case, policies) for case in cases]


@pytest.mark.parametrize("engine", ["cel-expr", "cel-python"])
@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.stem)
def test_every_case_of_a_pack_holds(pack: Path, engine: str) -> None:
    _, found = results(pack, engine)
    assert found
    assert [(result.case.name, result.differences) for result in found if result.differences] == []


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.stem)
def test_every_rule_of_a_pack_is_covered(pack: Path) -> None:
    policies, found = results(pack, "cel-expr")
    covered = {match.rule for result in found for match in result.ruling.matched if not match.errored}
    assert covered == {f"{file.name}/{rule}" for file in policies.files for rule in file.rules}


def test_the_packs_are_shipped() -> None:
    assert {path.stem for path in PACKS} >= {
        "customers",
        "http-baseline",
        "mysql-baseline",
        "postgres-baseline",
    }
