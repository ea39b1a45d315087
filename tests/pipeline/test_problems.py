"""Refusals say what happened and what to do next."""

from __future__ import annotations

import json

import pytest

from extproc.pipeline.problems import NEXT_BY_STATUS, problem


@pytest.mark.parametrize("status", sorted(NEXT_BY_STATUS))
def test_every_refusal_says_what_to_do_next(status: int) -> None:
    body = json.loads(problem(status, "some-code", "Something happened."))
    assert body["next"] == NEXT_BY_STATUS[status]
    assert body["status"] == status
    assert body["executed"] is False
    assert body["type"] == "urn:extproc:problem:some-code"


def test_a_known_code_says_more_than_its_status() -> None:
    assert "person" in json.loads(problem(403, "held", "It waits."))["next"]


def test_facts_of_the_decision_win_over_what_is_said_in_general() -> None:
    assert json.loads(problem(502, "x", "y", extra={"executed": True}))["executed"] is True
