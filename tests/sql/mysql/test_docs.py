"""docs/sql-mysql.md lists what the code lists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from extproc.sql.mysql import analysis, opinion, tokens
from extproc.sql.mysql.functions import FUNCTION_EFFECTS, RUNS_SQL, SAFE_FUNCTIONS
from extproc.sql.mysql.session import _ONE_BYTE, _UNICODE
from extproc.sql.mysql.settings import HARMLESS
from tests.sql.mysql.servers import one

PAGE = (Path(__file__).parents[3] / "docs" / "sql-mysql.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"### {title}\n")[1].split("\n#")[0]


def words(text: str) -> list[str]:
    return re.findall(r"`([a-z_0-9]+)`", text)


def test_functions_are_listed() -> None:
    assert sorted(words(section("Known to have no effect"))) == sorted(SAFE_FUNCTIONS)
    listed = {}
    for line in section("Known by their effects").strip().splitlines():
        effects, names = line.split(": ", 1)
        listed.update(dict.fromkeys(words(names), tuple(words(effects))))
    assert listed == FUNCTION_EFFECTS
    assert set(words(section("Run SQL that a value holds"))) == RUNS_SQL
    assert not SAFE_FUNCTIONS & (set(FUNCTION_EFFECTS) | RUNS_SQL)


def test_settings_and_charsets_are_listed() -> None:
    listed = set(words(section("Settings that are harmless").split(";")[0]))
    assert listed == HARMLESS
    line = next(line for line in PAGE.splitlines() if line.startswith("- **Charsets**"))
    assert set(words(line)) - {"gbk", "big5", "sjis", "cp932", "gb18030"} == _UNICODE | _ONE_BYTE


def test_the_limits_are_those_of_the_code() -> None:
    assert analysis.MAX_BYTES == 1 << 20
    for number in (tokens.MAX_TOKENS, analysis.MAX_STATEMENTS, opinion.MAX_CHARACTERS):
        assert f"{number:,}" in PAGE
    assert one("SELECT " + "(" * 20 + "1" + ")" * 20).complete


def test_what_the_page_calls_not_understood_is_not() -> None:
    for sql in (
        *("PREPARE p FROM @x", "EXECUTE IMMEDIATE @x", "EXECUTE p", "SET NAMES gbk", "SET sql_mode = @x"),
        *(
            "SET sql_mode = 4",
            "BINLOG 'x'",
            "SELECT 1e1from t",
            "SELECT \\N",
            "SELECT {fn now()}",
        ),
        *("SELECT * FROM f(1)", "SELECT * FROM a FULL OUTER JOIN b ON 1", "BEGIN NOT ATOMIC SELECT 1; END"),
    ):
        assert not one(sql).complete, sql


def test_the_example_of_the_page_runs() -> None:
    code = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for snippet in code:
        exec(snippet, names)
    assert code


def test_other_examples_of_the_page_are_true() -> None:
    assert one("SELECT count (*) FROM t").effects == ("read", "unknown_function")
    assert one("SELECT 1 FROM users WHERE email LIKE 'a%'").columns_used == ("shop.users.email",)
    assert one("EXPLAIN SELECT email FROM users").columns_used == ("shop.users.email",)
    assert one("LOCK TABLES t READ").effects == ("write",)
