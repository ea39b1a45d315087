"""What a MySQL or MariaDB server knows beside the text and what changes how it reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

Flavor = Literal["", "mysql", "mariadb"]

READING_MODES = frozenset({"ANSI_QUOTES", "IGNORE_SPACE", "NO_BACKSLASH_ESCAPES", "PIPES_AS_CONCAT"})
"""Parts of `sql_mode` that change how a text is read, and which we follow."""
_COMBINED = {
    "ANSI": frozenset({"ANSI_QUOTES", "IGNORE_SPACE", "PIPES_AS_CONCAT"}),
    "DB2": frozenset({"ANSI_QUOTES", "IGNORE_SPACE", "PIPES_AS_CONCAT"}),
    "MAXDB": frozenset({"ANSI_QUOTES", "IGNORE_SPACE", "PIPES_AS_CONCAT"}),
    "POSTGRESQL": frozenset({"ANSI_QUOTES", "IGNORE_SPACE", "PIPES_AS_CONCAT"}),
}
_OTHERS_NAMES = """
ALLOW_INVALID_DATES EMPTY_STRING_IS_NULL ERROR_FOR_DIVISION_BY_ZERO HIGH_NOT_PRECEDENCE NO_AUTO_CREATE_USER
NO_AUTO_VALUE_ON_ZERO NO_DIR_IN_CREATE NO_ENGINE_SUBSTITUTION NO_FIELD_OPTIONS NO_KEY_OPTIONS NO_TABLE_OPTIONS
NO_UNSIGNED_SUBTRACTION NO_ZERO_DATE NO_ZERO_IN_DATE ONLY_FULL_GROUP_BY PAD_CHAR_TO_FULL_LENGTH REAL_AS_FLOAT
SIMULTANEOUS_ASSIGNMENT STRICT_ALL_TABLES STRICT_TRANS_TABLES TIME_ROUND_FRACTIONAL TIME_TRUNCATE_FRACTIONAL
TRADITIONAL MYSQL323 MYSQL40
"""
_OTHERS = frozenset(_OTHERS_NAMES.split())
"""Modes that leave the reading as it is. ORACLE and MSSQL are not here: under them the grammar is another."""

_UNICODE = frozenset({"utf8", "utf8mb3", "utf8mb4"})
_ONE_BYTE_NAMES = """
ascii binary cp1250 cp1251 cp1256 cp1257 cp850 cp852 cp866 greek hebrew koi8r koi8u latin1 latin2 latin5 latin7
"""
_ONE_BYTE = frozenset(_ONE_BYTE_NAMES.split())
"""Charsets of one byte in which every ASCII character stands for itself. Outside literals their texts have to be
ASCII, for what else is a letter or a space hangs on the charset."""
_VERSION = re.compile(r"(?:5\.5\.5-)?(\d{1,3})\.(\d{1,2})\.(\d{1,2})(?!\d)(.*)", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Session:
    """How the server reads the next text. The default is a server we know nothing about, in its usual modes."""

    flavor: Flavor = ""
    """Without it, and without `version`, executable comments cannot be followed."""
    version: int = 0
    """As in executable comments: 80403 is 8.4.3, 101106 is 10.11.6; 0 is not known."""
    database: str = ""
    """The default database, with which names without one are completed."""
    charset: str = "utf8mb4"
    """`character_set_client`."""
    modes: frozenset[str] = frozenset()
    """Those of `READING_MODES` that are on."""
    readable: bool = True
    """False once a mode or charset is in force under which we cannot read: every text is then incomplete."""
    folds_tables: bool = True
    """False where `lower_case_table_names` is 0, so that `Users` and `users` are two tables."""

    def greeted(self, version: str) -> Session:
        """This session with what the greeting's server version says: `8.4.3`, `5.5.5-10.11.6-MariaDB-0+deb12u1`."""
        found = _VERSION.match(version)
        if found is None:
            return replace(self, flavor="", version=0)
        flavor: Flavor = "mariadb" if "mariadb" in found[4].lower() else "mysql"
        number = int(found[1]) * 10_000 + int(found[2]) * 100 + int(found[3])
        return replace(self, flavor=flavor, version=number)

    def with_mode(self, sql_mode: str | None) -> Session:
        """This session with that `sql_mode`; None for one that is not known."""
        modes = reading_modes(sql_mode) if sql_mode is not None else None
        return replace(self, readable=False) if modes is None else replace(self, modes=modes)

    def with_charset(self, charset: str | None) -> Session:
        """This session with that `character_set_client`; None for one that is not known."""
        name = (charset or "").lower()
        return replace(self, charset=name) if is_readable(name) else replace(self, readable=False)

    @property
    def is_unicode(self) -> bool:
        return self.charset in _UNICODE


def reading_modes(sql_mode: str) -> frozenset[str] | None:
    """Which parts of a `sql_mode` change how texts are read; None where we cannot follow it."""
    found: set[str] = set()
    for part in sql_mode.upper().split(","):
        name = part.strip()
        if name in READING_MODES:
            found.add(name)
        elif name in _COMBINED:
            found |= _COMBINED[name]
        elif name and name not in _OTHERS:
            return None
    return frozenset(found)


def is_readable(charset: str) -> bool:
    """Whether texts in that charset can be read. In big5, gbk, sjis, cp932 and gb18030 a backslash or a quote may be
    half of a letter, in swe7 it is one; those and all others that are not listed are not read."""
    return charset in _UNICODE or charset in _ONE_BYTE
