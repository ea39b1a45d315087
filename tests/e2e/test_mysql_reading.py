"""A real MariaDB reads texts as we do: what our lexer makes of them, put together plainly, gives the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymysql  # type: ignore[import-untyped]
import pytest

from extproc.sql.mysql import Session, analyze
from extproc.sql.mysql.tokens import UnreadableError, tokenize
from tests.support.mariadb import MISSING, MariaDB, is_here

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not is_here(), reason=MISSING)]

MULTI_STATEMENTS = pymysql.constants.CLIENT.MULTI_STATEMENTS

TEXTS = r"""
SELECT 1 /*! + 2 */
SELECT 1 /*!40101 + 2 */ + 3
SELECT 1 /*!50699 + 2 */ /*!50700 + 4 */ /*!99999 + 8 */ /*!100100 + 16 */ /*!999999 + 32 */
SELECT 1 /*M! + 2 */ /*M!50701 + 4 */ /*M!100100 + 8 */ /*M!999999 + 16 */
SELECT 1 /*!99999 '*/ + 1
SELECT 1 /*! -- */ + 5
SELECT '/*! x */', 1 /* '*/ + 2
SELECT 1 /*! '*/' */ FROM DUAL
SELECT 1--2
SELECT 1 -- 2
SELECT 1 --
SELECT 1 # + 2
SELECT 1#+2
SELECT 1 /**/ + /* /* */ 2
SELECT 'a''b', 'c\'d', "e""f", "g\"h", 'i"j', "k'l"
SELECT '\\', '\0', '\n\t\r\b\Z', '\%\_\q'
SELECT 'a' 'b' "c", 'a'/* x */'b', 'a' -- x
SELECT N'x', n'y', _utf8mb4'z', _latin1 'w'
SELECT x'41', X'4142', 0x41, b'01000001', B'1', 0b101, HEX(0x0F)
SELECT 1e5, 1.5e-3, .5, 1., 1.5, 1e0
SELECT `a`.`select`, a.select, a . `select` FROM (SELECT 1 AS `select`) a
SELECT `1a`, 1a, 2e, 0x1G FROM (SELECT 1 AS `1a`, 2 AS `2e`, 3 AS `0x1G`) q
SELECT t.1a FROM (SELECT 7 AS `1a`) t
SELECT `a``b` FROM (SELECT 1 AS `a``b`) q
SELECT @x := 5, @`y z` := 6, @'w' := 7, @"v" := 8
SELECT @@sql_mode, @@session.autocommit, @@global.autocommit, @@`autocommit`
SELECT 5<=>NULL, NULL<=>NULL, 1<<3, 16>>2, 1!=2, 1<>2, 5 DIV 2, 5%3, ~0, !1
SELECT 1||0, 0 || 0, 1&&1, 1 XOR 1
SELECT COUNT(*), COUNT( * ), LOWER ('A') FROM (SELECT 1) q
SELECT /*+ MAX_EXECUTION_TIME(1000) */ 1
SELECT 1 AS größe, 'größe'
SELECT 1 AS a b
SELECT	1
SELECT 1;
SELECT 1; SELECT 2 /* ; */; SELECT '3;4'
SELECT ';', "a;b", `c;d` FROM (SELECT 1 AS `c;d`) q; SELECT 2
"""
CASES = [line.replace("-- */ +", "-- */\n +") for line in TEXTS.strip("\n").splitlines()]
MODES = [
    "",
    "ANSI_QUOTES",
    "NO_BACKSLASH_ESCAPES",
    "PIPES_AS_CONCAT",
    "IGNORE_SPACE",
    "ANSI",
    "ANSI,NO_BACKSLASH_ESCAPES",
]


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    with MariaDB() as server:
        yield server


@pytest.fixture(scope="module")
def connection(mariadb: MariaDB) -> Iterator[Any]:
    opened = pymysql.connect(
        unix_socket=str(mariadb.socket), user="root", charset="utf8mb4", client_flag=MULTI_STATEMENTS
    )
    with opened:
        yield opened


def answers(connection: Any, text: str) -> list[Any]:
    """The rows of every result, and the number of an error that ends them."""
    found: list[Any] = []
    with connection.cursor() as cursor:
        try:
            cursor.execute(text)
            while True:
                found.append(cursor.fetchall())
                if not cursor.nextset():
                    return found
        except pymysql.err.MySQLError as error:
            return [*found, error.args[0]]


def plain(text: str, session: Session) -> list[str]:
    """Our tokens with single spaces between them, where anything stood between them."""
    parts: list[str] = [""]
    for token in tokenize(text, session):
        if token.is_sign(";"):
            parts.append("")
        else:
            parts[-1] += " " * token.is_apart + text[token.start : token.end]
    return [part for part in parts if part.strip()]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode or "none")
def test_the_server_reads_texts_as_we_do(connection: Any, mode: str) -> None:
    answers(connection, f"SET sql_mode = '{mode}'")
    session = Session().greeted(connection.server_version).with_mode(mode)
    read = 0
    for text in CASES:
        try:
            parts = plain(text, session)
        except UnreadableError:
            continue
        expected = [answer for part in parts for answer in answers(connection, part)]
        got = answers(connection, text)
        errors = [answer for answer in got if isinstance(answer, int)]
        if errors:
            assert errors[0] in expected, (mode, text, parts, got)
        else:
            assert expected == got, (mode, text, parts)
        read += 1
    assert read > len(CASES) - 8


DIFFERENT = [
    ("SELECT 1 FROM DUAL WHERE 'a\\' = 'a\\' -- ' OR 1", "NO_BACKSLASH_ESCAPES"),
    ('SELECT "a" FROM (SELECT 5 AS a) q', "ANSI_QUOTES"),
    ("SELECT 1 || 2", "PIPES_AS_CONCAT"),
]


@pytest.mark.parametrize(("text", "mode"), DIFFERENT)
def test_modes_change_what_a_text_means(connection: Any, text: str, mode: str) -> None:
    """Else the test above would show nothing."""
    found = []
    for each in ("", mode):
        answers(connection, f"SET sql_mode = '{each}'")
        found.append(answers(connection, text))
    assert found[0] != found[1]


def test_what_the_server_takes_for_one_statement_is_one_for_us(connection: Any) -> None:
    answers(connection, "SET sql_mode = ''")
    answers(connection, "CREATE DATABASE IF NOT EXISTS shop; USE shop; DROP TABLE IF EXISTS gone")
    session = Session(database="shop").greeted(connection.server_version)
    blocks = [
        "BEGIN NOT ATOMIC CREATE TABLE gone (a int); DROP TABLE gone; END",
        "IF 1 THEN CREATE TABLE gone (a int); DROP TABLE gone; END IF",
        "WHILE 0 DO CREATE TABLE gone (a int); DROP TABLE gone; END WHILE",
        "FOR i IN 1..2 DO CREATE TABLE gone (a int); DROP TABLE gone; END FOR",
        "CREATE OR REPLACE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END",
        "CREATE OR REPLACE DEFINER = 'root'@'localhost' FUNCTION f() RETURNS int BEGIN SET @a = 1; RETURN 1; END",
    ]
    for text in blocks:
        assert not [answer for answer in answers(connection, text) if isinstance(answer, int)], text
        (facts,) = analyze(text, session).facts
        assert not facts.complete


def test_a_procedure_may_leave_another_default_database(connection: Any) -> None:
    answers(connection, "CREATE DATABASE IF NOT EXISTS shop; USE shop")
    answers(connection, "CREATE OR REPLACE PROCEDURE moves() EXECUTE IMMEDIATE 'USE mysql'")
    answers(connection, "CALL moves()")
    assert answers(connection, "SELECT DATABASE()") == [(("mysql",),)]
    assert not analyze("CALL moves()", Session(database="shop")).after[0].readable


def test_warnings_after_explain_show_values_of_rows(connection: Any) -> None:
    """Why every column in EXPLAIN counts as used."""
    answers(connection, "CREATE DATABASE IF NOT EXISTS shop; USE shop")
    answers(
        connection,
        "CREATE OR REPLACE TABLE users (id int PRIMARY KEY, email text); INSERT INTO users VALUES (1, 'kumquat')",
    )
    answers(connection, "EXPLAIN EXTENDED SELECT email FROM users WHERE id = 1")
    assert "kumquat" in str(answers(connection, "SHOW WARNINGS"))
    (facts,) = analyze(
        "EXPLAIN EXTENDED SELECT email FROM users WHERE id = 1", Session(database="shop")
    ).facts
    assert "shop.users.email" in facts.columns_used
