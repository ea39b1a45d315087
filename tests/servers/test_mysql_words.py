"""What a MySQL client reads of a refusal."""

from __future__ import annotations

import pytest

from extproc.pipeline.database_words import OVER, WAIT_ENDS
from extproc.servers.mysql_words import refusal


@pytest.mark.parametrize(
    ("sqlstate", "code", "state"),
    [
        ("42501", 1142, "42000"),
        ("28000", 1045, "28000"),
        ("28P01", 1045, "28000"),
        ("57P01", 1045, "28000"),
        ("57014", 1317, "70100"),
        ("0A000", 1235, "42000"),
        ("53400", 1226, "42000"),
        ("57P03", 1053, "08S01"),
        ("58030", 1105, "HY000"),
        ("XX000", 1105, "HY000"),
    ],
)
def test_every_state_of_the_pipeline_has_a_code_of_the_servers(sqlstate, code, state):
    said = refusal(sqlstate, "extproc: no")
    assert (said.code, said.sqlstate, said.message) == (code, state, "extproc: no")


def test_what_an_administrator_may_is_refused_in_the_servers_words_for_that():
    assert refusal("42501", "extproc: no", is_admin=True).code == 1227
    assert refusal("57014", "extproc: canceled", is_admin=True).code == 1317


def test_detail_and_hint_are_in_the_text():
    said = refusal("42501", "extproc: Nothing is deleted here.", 'rule "a/b"; code rule-denied', "Ask.")
    assert said.message == 'extproc: Nothing is deleted here. (rule "a/b"; code rule-denied). Ask.'
    assert refusal("42501", "extproc: no", "", "Ask.").message == "extproc: no. Ask."


def test_locks_and_expired_tokens_end_with_access_denied():
    assert {refusal(sqlstate, message).code for sqlstate, message, _ in OVER.values()} == {1045}
    assert all(refusal(sqlstate, message).code for message, _, sqlstate in WAIT_ENDS.values())
