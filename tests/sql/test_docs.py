"""docs/sql.md lists what the code lists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extproc.domain.statement import EFFECTS
from extproc.sql import analyze, limits
from extproc.sql.analysis import MAX_NODES, MAX_STATEMENTS
from extproc.sql.functions import FUNCTION_EFFECTS, RUNS_SQL, SAFE_FUNCTIONS
from extproc.sql.settings import _HARMLESS_SETTINGS

PAGE = (Path(__file__).parents[2] / "docs" / "sql.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"### {title}\n")[1].split("\n#")[0]


def words(text: str) -> list[str]:
    return re.findall(r"`([a-z_0-9]+)`", text)


def test_the_safe_functions_are_listed() -> None:
    listed = words(section("Known to have no effect"))
    assert sorted(listed) == sorted(SAFE_FUNCTIONS)


def test_functions_with_effects_are_listed() -> None:
    listed = {}
    for line in section("Known by their effects").strip().splitlines():
        effects, names = line.split(": ", 1)
        listed.update(dict.fromkeys(words(names), tuple(words(effects))))
    assert listed == FUNCTION_EFFECTS


def test_functions_that_run_sql_are_listed() -> None:
    assert set(words(section("Run SQL that a value holds, or read a table that a value names"))) == RUNS_SQL


def test_harmless_settings_are_listed() -> None:
    assert set(words(section("Settings that are harmless"))) - {"enable_"} == _HARMLESS_SETTINGS


def test_every_effect_is_explained() -> None:
    assert re.findall(r"^- \*\*([a-z_]+)\*\*:", PAGE, re.MULTILINE) == [
        "read", "write", "ddl", "admin", "file", "network", "unknown_function",
    ]  # fmt: skip
    assert len(EFFECTS) == 7


def test_the_limits_are_those_of_the_code() -> None:
    assert limits.MAX_BYTES == 1 << 20
    for number in (limits.MAX_TOKENS, MAX_NODES, MAX_STATEMENTS, limits.MAX_COMMENTS, limits.MAX_CHAIN):
        assert f"{number:,}" in PAGE


@pytest.mark.parametrize("condition", ["true", "1 = 1", "id = id", "id = 7 OR true", "random() < 2"])
def test_conditions_said_to_restrict_nothing_restrict_nothing(condition: str) -> None:
    assert f"`{condition}`" in PAGE
    assert not analyze(f"DELETE FROM t WHERE {condition}")[0].has_where


@pytest.mark.parametrize("condition", ["id > 0", "id IS NULL OR id IS NOT NULL"])
def test_conditions_said_to_be_missed_are_missed(condition: str) -> None:
    assert f"`{condition}`" in PAGE
    assert analyze(f"DELETE FROM t WHERE {condition}")[0].has_where


def test_examples_of_the_page_are_true() -> None:
    assert analyze("SELECT * FROM (SELECT email FROM users) x")[0].columns_used == ("users.email",)
    assert analyze("SELECT 1 FROM users WHERE email LIKE 'a%'")[0].columns_used == ("users.email",)
    assert analyze("select A from T where ID = 7")[0].normalised == "SELECT a FROM t WHERE id = $1"
    assert not analyze("SELECT 1" + "+1" * 50)[0].complete
    assert analyze("SELECT 1" + "+1" * 44)[0].complete
    assert not analyze("SELECT * FROM " + "(SELECT * FROM " * 30 + "t" + ") x" * 30)[0].complete
