"""A verdict that is remembered is the one that would be found, and counts like one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from extproc.domain.decision import Ruling
from extproc.pipeline import catalogue, verdicts
from extproc.pipeline.coverage import Coverage
from extproc.pipeline.database_steps import AcceptLogin, Inquire, Run, Stop
from extproc.sql import analyze
from tests.pipeline.test_statements import MASKED, POLICY, World, governance

NO_PARAMETERS = """
default: deny
rules:
  - name: read
    when: sql.effects.all(e, e == "read")
    then: {allow: {}}
  - name: read-in-transaction
    when: session.transaction != "" && sql.verb in ["UPDATE", "PREPARE"]
    then: {allow: {}}
  - name: seen
    when: sql.verb == "SELECT"
    then: {risk: 5}
  - name: later
    mode: shadow
    when: sql.verb == "SELECT"
    then: {deny: {}}
"""
BY_TIME = """
default: deny
rules:
  - name: read
    when: now < timestamp("2100-01-01T00:00:00Z") && sql.verb == "SELECT"
    then: {allow: {}}
"""


def logged_in(policy: str) -> World:
    world = World(governance(policy))
    assert isinstance(world.login(), AcceptLogin)
    return world


COUNTS_CALLS = pytest.mark.pure_only(
    "counts calls of RuleSet.judge, which a compiled object does not let replace"
)


def engine_calls(world: World, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows with every judgement that is really made."""
    rules = world.gov.targets["db"].rules
    made: list[object] = []
    judge = rules.judge

    def counted(*given: Any) -> Ruling:
        made.append(given)
        return judge(*given)

    monkeypatch.setattr(rules, "judge", counted)
    return made


@COUNTS_CALLS
def test_a_text_that_comes_again_is_judged_once_and_counted_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = logged_in(NO_PARAMETERS)
    made = engine_calls(world, monkeypatch)
    records = []
    for number in range(5):
        step = world.decide("SELECT a FROM t WHERE b = $1", str(number))
        assert isinstance(step, Run)
        records.append(step.records[0].fields)
    assert len(made) == 1
    assert [each["rules"] for each in records] == [records[0]["rules"]] * 5
    assert len({each["decision_id"] for each in records}) == 5
    counts = world.gov.targets["db"].rules.counts()
    assert {name: (each.judged, each.matched) for name, each in counts.items()} == {
        "t/later": (5, 5), "t/read": (5, 5), "t/read-in-transaction": (5, 0), "t/seen": (5, 5)
    }  # fmt: skip


@COUNTS_CALLS
@pytest.mark.parametrize("policy", [POLICY, BY_TIME])
def test_rules_over_parameters_or_time_are_always_asked(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = logged_in(policy)
    made = engine_calls(world, monkeypatch)
    assert isinstance(world.decide("SELECT a FROM t WHERE b = $1", "12"), Run)
    assert isinstance(world.decide("SELECT a FROM t WHERE b = $1", "13"), Stop if policy is POLICY else Run)
    assert len(made) == 2


def test_the_state_of_the_transaction_and_of_the_statement_are_part_of_it() -> None:
    world = logged_in(NO_PARAMETERS)
    assert isinstance(world.decide("UPDATE t SET a = 1"), Stop)
    assert isinstance(world.decide("UPDATE t SET a = 1", transaction="T"), Run)
    assert isinstance(world.decide("UPDATE t SET a = 1"), Stop)


def test_a_new_policy_judges_anew() -> None:
    world = logged_in(NO_PARAMETERS)
    assert isinstance(world.decide("SELECT a FROM t"), Run)
    world.gov = governance('default: deny\nrules:\n  - name: no\n    when: "true"\n    then: {deny: {}}\n')
    assert isinstance(world.decide("SELECT a FROM t"), Stop)


def test_a_name_that_stands_for_something_else_meanwhile_is_judged_anew() -> None:
    world = logged_in(NO_PARAMETERS)
    assert isinstance(world.decide("PREPARE p AS SELECT 1", transaction="T"), Run)
    assert isinstance(world.decide("EXECUTE p"), Run)
    assert isinstance(world.decide("PREPARE p AS UPDATE t SET a = 1", transaction="T"), Run)
    assert isinstance(world.decide("EXECUTE p"), Stop)


@COUNTS_CALLS
def test_a_rule_that_could_not_be_evaluated_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = logged_in(
        'default: deny\nrules:\n  - name: claim\n    when: principal.claims.missing == "x"\n    then: {deny: {}}\n'
    )
    made = engine_calls(world, monkeypatch)
    for _ in range(3):
        assert isinstance(world.decide("SELECT 1"), Stop)
    assert len(made) == 3


@COUNTS_CALLS
def test_only_so_many_texts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "MAX_REMEMBERED", 3)
    world = logged_in(NO_PARAMETERS)
    made = engine_calls(world, monkeypatch)
    for number in range(10):
        assert isinstance(world.decide(f"SELECT {number}"), Run)
    assert len(world.session.verdicts._known) <= 3
    long = "SELECT '" + "x" * verdicts.LONGEST + "'"
    before = len(made)
    for _ in range(2):
        assert isinstance(world.decide(long), Run)
    assert len(made) == before + 2


def test_what_was_concluded_of_a_statement_falls_with_what_is_learnt_of_its_tables() -> None:
    world = logged_in(MASKED)
    assert isinstance(world.decide("SELECT lower(email) FROM v"), Inquire)
    masks = world.session.all_masks()
    assert masks is not None
    known = catalogue.Catalogue()
    known.add((b"c", b"20000", b"public", b"users", b"r"))
    known.add((b"a", b"20000", b"1", b"email", b""))
    (facts,) = analyze("SELECT lower(email) FROM members", "postgres")
    coverage = Coverage(known, masks)
    assert not coverage.touches(facts)
    known.add((b"c", b"20001", b"public", b"members", b"r"))
    known.add((b"a", b"20001", b"1", b"email", b""))
    assert not coverage.touches(facts)  # a table of its own, which no mask names
    known.add((b"i", b"20001", b"20000"))
    assert coverage.touches(facts)  # rows of it show through the masked one


def test_names_are_whole_only_until_something_new_is_said() -> None:
    known = catalogue.Catalogue()
    known.add((b"c", b"20000", b"public", b"t", b"r"))
    known.add((b"a", b"20000", b"1", b"a", b""))
    assert known.is_whole(("t",))
    assert known.is_whole(("t",))
    known.add((b"c", b"20001", b"other", b"t", b"v"))
    assert not known.is_whole(("t",))  # a view of that name, whose rule is not known
    known.give_up(20001)
    assert known.is_whole(("t",))
    assert not known.is_whole(("t", "missing"))


def test_facts_are_the_same_only_by_identity() -> None:
    (facts,) = analyze("SELECT 1", "postgres")
    assert verdicts.same_facts((facts,), (facts,))
    assert not verdicts.same_facts((facts,), (replace(facts),))
    assert not verdicts.same_facts((facts,), ())
