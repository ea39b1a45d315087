"""Texts are cut as the server cuts them, or not read at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.sql.mysql.session import Session, reading_modes
from extproc.sql.mysql.tokens import MAX_TOKENS, UnreadableError, as_text, tokenize

UNKNOWN = Session()
MARIADB = Session().greeted("5.5.5-10.11.6-MariaDB-0+deb12u1")
MYSQL = Session().greeted("8.4.3")


def cut(text: str, session: Session = MARIADB) -> str:
    """The tokens as `k:value`, with the first letter of the kind; signs and words bare."""
    return " ".join(
        token.word or token.value if token.kind in ("word", "sign") else f"{token.kind[0]}:{token.value}"
        for token in tokenize(text, session)
    )


PLAIN = {
    "words": ("select A from t", "SELECT A FROM T"),
    "quoted-name": ("select `a``b`", "SELECT n:a`b"),
    "dotted-is-a-name": ("select.a, t.select, t . select", "n:select . n:a , n:t . n:select , T . SELECT"),
    "digits-after-a-dot": ("t.5, t.1a", "n:t . n:5 , n:t . n:1a"),
    "name-with-a-digit-first": ("1a, 1e, 2fa_x, 0x1G, 0X1F", "1A , 1E , 2FA_X , 0X1G , 0X1F"),
    "numbers": ("1 1.5 .5 1. 1e5 1.5e-3", "n:1 n:1.5 n:.5 n:1. n:1e5 n:1.5e-3"),
    "bits": ("0x1F 0b101 x'41' X'' b'01' B'1'", "b:0x1F b:0b101 b:x'41' b:X'' b:b'01' b:B'1'"),
    "strings": ("'a''b' \"c\"\"d\" n'e' N'f'", "s:a'b s:c\"d s:e s:f"),
    "escapes": (r"'a\'b' '\\' '\n\0\Z\%\_\q'", "s:a'b s:\\ s:\n\0\x1a\\%\\_q"),
    "introducers": ("_utf8mb4'a' _latin1 'b' _binary x'41' _utf8 0x41", "s:a s:b b:x'41' b:0x41"),
    "no-introducer": ("_foo'a'", "_FOO s:a"),
    "variables": ("@a @`b c` @'d' @\"e\" @f.g$h", "v:a v:b c v:d v:e v:f.g$h"),
    "system-variables": ("@@a @@global.b @@`c`", "@@ A @@ n:global . n:b @@ n:c"),
    "signs": ("a<=>b->>c:=d||e&&f!=g<>h", "A <=> B ->> C := D || E && F != G <> H"),
    "hash": ("1 # 2\n3", "n:1 n:3"),
    "dashes-with-a-space": ("1 -- 2\n3", "n:1 n:3"),
    "dashes-with-a-tab": ("1 --\t2\n3", "n:1 n:3"),
    "dashes-at-the-end": ("1 --", "n:1"),
    "dashes-without": ("1--2", "n:1 - - n:2"),
    "only-a-newline-ends-a-line": ("1 -- 2\r3\n4", "n:1 n:4"),
    "comment": ("1/* ' */2", "n:1 n:2"),
    "comments-do-not-nest": ("1 /* /* */ 2", "n:1 n:2"),
    "hint": ("select /*+ MAX_EXECUTION_TIME(5) */ 1", "SELECT n:1"),
    "parameter": ("a=?", "A = p:?"),
    "no-break-space-is-a-letter": ("a\u00a0b", "A\u00a0B"),
}


@pytest.mark.parametrize(("text", "tokens"), PLAIN.values(), ids=PLAIN)
def test_tokens(text: str, tokens: str) -> None:
    assert cut(text) == tokens


EXECUTABLE = {
    "always": ("1 /*! + 2 */", "n:1 + n:2", "n:1 + n:2", "n:1 + n:2"),
    "old": ("1 /*!40101 + 2 */", "n:1 + n:2", "n:1 + n:2", None),
    "the-border-of-mariadb": ("1 /*!50700 + 2 */", "n:1", "n:1 + n:2", None),
    "before-the-border": ("1 /*!50699 + 2 */", "n:1 + n:2", "n:1 + n:2", None),
    "newer-than-mysql": ("1 /*!90000 + 2 */", "n:1", "n:1", None),
    "of-mysql-8": ("1 /*!80000 + 2 */", "n:1", "n:1 + n:2", None),
    "six-digits": ("1 /*!100100 + 2 */", "n:1 + n:2", None, None),
    "six-digits-newer": ("1 /*!110000 + 2 */", "n:1", None, None),
    "of-mariadb": ("1 /*M! + 2 */", "n:1 + n:2", "n:1", None),
    "of-mariadb-with-version": ("1 /*M!100100 + 2 */", "n:1 + n:2", "n:1", None),
    "of-mariadb-within-the-gap": ("1 /*M!50701 + 2 */", "n:1 + n:2", "n:1", None),
    "of-a-newer-mariadb": ("1 /*M!999999 + 2 */", "n:1", "n:1", None),
    "four-digits-are-code": ("1 /*!5070 */", "n:1 n:5070", "n:1 n:5070", "n:1 n:5070"),
    "string-with-an-end-in-it": ("/*! '*/' */ 1", "s:*/ n:1", "s:*/ n:1", "s:*/ n:1"),
    "line-comment-hides-its-end": ("/*! 1 -- */ 2\n */ 3", "n:1 n:3", "n:1 n:3", "n:1 n:3"),
}


@pytest.mark.parametrize(("text", "mariadb", "mysql", "unknown"), EXECUTABLE.values(), ids=EXECUTABLE)
def test_executable_comments(text: str, mariadb: str | None, mysql: str | None, unknown: str | None) -> None:
    for session, tokens in ((MARIADB, mariadb), (MYSQL, mysql), (UNKNOWN, unknown)):
        if tokens is None:
            with pytest.raises(UnreadableError, match="executable comment"):
                tokenize(text, session)
        else:
            assert cut(text, session) == tokens


UNREADABLE = {
    "nul": "select 1\0",
    "open-string": "select 'a",
    "open-string-behind-a-backslash": "select 'a\\'",
    "backslash-at-the-end": "select 'a\\",
    "open-name": "select `a",
    "open-comment": "select 1 /* a",
    "open-executable-comment": "select 1 /*! + 2",
    "comment-within-an-executable-one": "/*! select /* 1 */ 2 */",
    "executable-within-an-executable": "/*! select /*! 1 */ */",
    "skipped-comment-holds-another": "select 1 /*!99999 /* */ */",
    "semicolon-within": "/*! select 1; drop table t */",
    "number-runs-into-a-word": "select 1.5from t",
    "exponent-runs-into-a-word": "select 1e5from t",
    "exponent-without-digits": "select 1.e(1)",
    "odd-hex": "select x'414'",
    "no-hex": "select x'zz'",
    "backslash": "select \\N",
    "brace": "select {d '2020-01-01'}",
    "control-character": "select \x01",
    "backspace": "select a\x08",
    "variable-without-name": "select @ a",
    "empty-name": "select ``",
    "name-with-a-space-behind": "select `a `",
    "hint-with-quotes": "select /*+ QB_NAME(`*/`) */ 1",
    "hint-sets-a-variable": "select /*+ SET_VAR(sql_mode='') */ 1",
    "kelvin-sign": "select to\u212aen",
    "dotless-i": "select `em\u0131il`",
    "emoji-as-a-name": "select \U0001f600",
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_not_certain_is_not_read(text: str) -> None:
    with pytest.raises(UnreadableError):
        tokenize(text, MARIADB)


MODES = {
    "ansi-quotes": ("ANSI_QUOTES", 'select "a""b" \'c\'', "SELECT n:a\"b s:c"),
    "ansi-quotes-do-not-escape": ("ANSI_QUOTES", 'select "a\\" from', "SELECT n:a\\ FROM"),
    "no-backslash": ("NO_BACKSLASH_ESCAPES", "select 'a\\' from", "SELECT s:a\\ FROM"),
    "combined": ("ANSI", 'select "a"', "SELECT n:a"),
    "usual": ("STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION", 'select "a\\""', 'SELECT s:a"'),
    "none": ("", 'select "a"', "SELECT s:a"),
}  # fmt: skip


@pytest.mark.parametrize(("mode", "text", "tokens"), MODES.values(), ids=MODES)
def test_modes_are_followed(mode: str, text: str, tokens: str) -> None:
    assert cut(text, MARIADB.with_mode(mode)) == tokens


@pytest.mark.parametrize("mode", ["ORACLE", "MSSQL", "ansi_quotes,oracle", "4", "NEW_MODE", None])
def test_modes_that_are_not_followed_stop_all_reading(mode: str | None) -> None:
    assert mode is None or reading_modes(mode) is None
    with pytest.raises(UnreadableError):
        tokenize("select 1", MARIADB.with_mode(mode))


@pytest.mark.parametrize(
    "charset", ["gbk", "big5", "sjis", "cp932", "gb18030", "swe7", "ucs2", "utf16", "", None]
)
def test_charsets_where_a_quote_may_be_half_a_letter_stop_all_reading(charset: str | None) -> None:
    with pytest.raises(UnreadableError):
        tokenize("select 1", MARIADB.with_charset(charset))


def test_letters_beyond_ascii_are_names_in_unicode_alone() -> None:
    latin = MARIADB.with_charset("latin1")
    assert cut("select größe") == "SELECT GRÖSSE"
    with pytest.raises(UnreadableError):
        tokenize("select größe", latin)
    with pytest.raises(UnreadableError):
        tokenize("select 1\u00a0+ 2", latin)  # a space in latin1
    assert cut("select 'größe'", latin) == "SELECT s:größe"
    assert as_text(b"'\xe4'", latin) == "'ä'"
    with pytest.raises(UnreadableError):
        as_text(b"'\xe4'", MARIADB)


@pytest.mark.parametrize(
    ("greeting", "flavor", "version"),
    [
        ("8.4.3", "mysql", 80403),
        ("9.7.4-log", "mysql", 90704),
        ("5.7.44-48-57-percona", "mysql", 50744),
        ("11.4.2-MariaDB", "mariadb", 110402),
        ("5.5.5-10.5.8-mariadb", "mariadb", 100508),
        ("somewhat", "", 0),
        ("8.4", "", 0),
        ("8.4.300", "", 0),
    ],
)
def test_the_greeting_tells_the_version(greeting: str, flavor: str, version: int) -> None:
    session = Session().greeted(greeting)
    assert (session.flavor, session.version) == (flavor, version)


def test_a_text_has_a_largest_number_of_tokens() -> None:
    assert len(tokenize("," * MAX_TOKENS, MARIADB)) == MAX_TOKENS
    with pytest.raises(UnreadableError):
        tokenize("," * (MAX_TOKENS + 1), MARIADB)


PIECES = st.sampled_from(
    [
        "'",
        '"',
        "`",
        "\\",
        "/*",
        "*/",
        "/*!",
        "/*!50000",
        "/*M!",
        "#",
        "--",
        " ",
        "\n",
        "a",
        "1",
        ".",
        "e",
        "x'",
        "@",
        ";",
    ]
)


@given(
    st.one_of(st.text(max_size=100), st.lists(PIECES, max_size=30).map("".join)),
    st.sampled_from([MARIADB, MYSQL]),
)
@settings(max_examples=500, deadline=None)
def test_any_text_gives_tokens_that_cover_it(text: str, session: Session) -> None:
    try:
        found = tokenize(text, session)
    except UnreadableError:
        return
    at = 0
    for token in found:
        assert at <= token.start < token.end <= len(text)
        between = text[at : token.start]
        assert token.is_apart is bool(between) or token.kind in ("string", "bits")
        at = token.end
