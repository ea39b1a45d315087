"""What a run at a database reports follows from what it measured."""

from __future__ import annotations

import pytest

from bench import mysql_bench, postgres_bench
from bench.database_bench import BULKS, Bench, Measured, goals, markdown, ratios, rotated
from bench.postgres_bench import GOALS
from bench.report import form

ROUNDS = {
    "prepared-8": {
        "tcp_proxy": Measured([100.0, 200.0, 100.0], [0.0] * 3, [10.0, 20.0, 10.0]),
        "relay": Measured([60.0, 100.0, 70.0], [50.0] * 3, [20.0, 20.0, 20.0]),
    },
    "clean": {
        "tcp_proxy": Measured([400.0], [0.0], [1.0], [], [2.0]),
        "relay": Measured([100.0], [9.0], [1.0], [3.0], [1.0]),
    },
}


def test_a_ratio_is_taken_round_by_round_and_the_median_counts() -> None:
    found = ratios(ROUNDS)
    assert found["prepared-8.rate.relay/tcp_proxy"] == 0.6
    assert found["prepared-8.envoy_cpu.relay/tcp_proxy"] == 2.0
    assert "prepared-8.our_cpu.relay/tcp_proxy" not in found  # tcp_proxy has no process of ours


def test_goals_are_judged_where_they_were_measured() -> None:
    judged = {goal["ratio"]: goal["met"] for goal in goals(ratios(ROUNDS), GOALS)}
    assert judged == {"prepared-8.rate.relay/tcp_proxy": True, "clean.rate.relay/tcp_proxy": False}
    assert set(judged) <= set(GOALS)


def test_the_table_names_every_case_and_says_what_was_missed() -> None:
    found = ratios(ROUNDS)
    page = markdown(ROUNDS, found, goals(found, GOALS))
    assert page.startswith(form())
    assert "| prepared-8 | 1.00 (0/10) | 0.60 (50/20) |" in page
    assert "| clean | 0 / 2 | 3 / 1 |" in page
    assert "| clean.rate.relay/tcp_proxy | 0.5 | 0.25 | **no** |" in page


def test_another_setup_is_first_in_every_round() -> None:
    setups = ("a", "b", "c")
    assert [rotated(setups, number) for number in range(3)] == [
        ("a", "b", "c"),
        ("a", "c", "b"),
        ("c", "a", "b"),
    ]


@pytest.mark.parametrize("bench", [postgres_bench.BENCH, mysql_bench.BENCH], ids=["postgres", "mysql"])
def test_every_goal_is_one_of_a_case_that_is_measured(bench: Bench) -> None:
    assert {name.split(".")[0] for name in bench.goals} <= {*bench.loads, *BULKS}
