"""One call for the texts of both dialects."""

from __future__ import annotations

import pytest

from extproc.sql.dialects import analyze


def test_a_text_is_read_in_its_dialect() -> None:
    sql = 'SELECT "a" FROM t'
    (postgres,), (mysql,) = analyze(sql, "postgres"), analyze(sql, "mysql", database="shop")
    assert (postgres.columns, postgres.tables_read) == (("t.a",), ("t",))
    assert (mysql.columns, mysql.tables_read) == ((), ("shop.t",))


def test_executable_comments_need_the_version_of_the_server() -> None:
    sql = "SELECT 1 /*!80000 , SLEEP(5) */"
    assert not analyze(sql, "mysql")[0].complete
    assert analyze(sql, "mysql", server="8.4.3")[0].functions == ("sleep",)
    assert analyze(sql, "mysql", server="10.11.6-MariaDB")[0].functions == ()


def test_other_dialects_are_not_known() -> None:
    with pytest.raises(ValueError, match="oracle"):
        analyze("SELECT 1", "oracle")
