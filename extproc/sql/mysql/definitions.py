"""CREATE, ALTER, DROP, RENAME and TRUNCATE."""

from __future__ import annotations

from extproc.sql.mysql.expressions import starts_query
from extproc.sql.mysql.functions import FUNCTION_EFFECTS
from extproc.sql.mysql.queries import query
from extproc.sql.mysql.reader import Level, NotUnderstoodError, Reader, fold

_OBJECTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("DATABASE", "SCHEMA", "SEQUENCE", "PROCEDURE", "FUNCTION", "TRIGGER", "PACKAGE"), ("ddl",)
    ),
    "EVENT": ("admin", "ddl"),
    "LIBRARY": ("ddl",),
    **dict.fromkeys(("USER", "ROLE", "RESOURCE", "INSTANCE"), ("admin",)),
    "REFERENCE": ("admin",),
    "SERVER": ("admin", "network"),
    "TABLESPACE": ("admin", "file"),
    "LOGFILE": ("admin", "file"),
}
_ROUTINES = frozenset({"PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "PACKAGE"})
_LOCAL_ENGINES = frozenset({"innodb", "myisam", "memory", "heap", "aria", "archive", "rocksdb", "blackhole"})
"""Storage engines that keep rows in the server's own files, one table each."""


def create(r: Reader, scope: Level) -> None:
    """CREATE and ALTER."""
    verb = r.need_word("CREATE", "ALTER")
    r.verbs.append(verb)
    r.words("OR REPLACE")
    _options(r)
    kind = r.next().word
    if kind == "TABLE":
        _exists(r)
        _table(r, scope, r.table_name())
    elif kind == "VIEW":
        _view(r, scope)
    elif kind == "INDEX":
        _index(r, scope)
    elif kind in _OBJECTS:
        _object(r, kind)
    else:
        r.fail()


def _options(r: Reader) -> None:
    while True:
        if r.word("ALGORITHM"):
            r.need_sign("=")
            r.next()
        elif r.word("DEFINER"):
            r.need_sign("=")
            _account(r)
        elif r.words("SQL SECURITY"):
            r.next()
        elif not r.word(
            *(
                "TEMPORARY",
                "UNIQUE",
                "FULLTEXT",
                "SPATIAL",
                "AGGREGATE",
                "ONLINE",
                "OFFLINE",
                "IGNORE",
                "UNDO",
            )
        ):
            return


def _account(r: Reader) -> None:
    """`user`, `'user'@'host'`, `CURRENT_USER()`."""
    r.next()
    if r.sign("("):
        r.need_sign(")")
    elif r.peek().kind == "variable":
        r.next()


def _exists(r: Reader) -> None:
    if r.word("IF"):
        r.words("NOT EXISTS") or r.need_word("EXISTS")


def _object(r: Reader, kind: str) -> None:
    r.effects.update(_OBJECTS[kind])
    if kind in _ROUTINES:
        _exists(r)
        if kind == "FUNCTION" and _holds(r, "SONAME"):
            r.effects.update(("admin", "file", "unknown_function"))
        if kind == "TRIGGER":
            _trigger(r)
    r.skip_all()


def _holds(r: Reader, word: str) -> bool:
    ahead = 0
    while r.peek(ahead).value:
        if r.peek(ahead).is_word(word):
            return True
        ahead += 1
    return False


def _trigger(r: Reader) -> None:
    """The table it hangs on: `CREATE TRIGGER t BEFORE INSERT ON users FOR EACH ROW …`."""
    while not r.is_done and not r.word("ON"):
        r.next()
    if not r.is_done:
        r.tables_written.add(r.table_name())


def _view(r: Reader, scope: Level) -> None:
    _exists(r)
    r.effects.add("ddl")
    r.tables_written.add(r.table_name())
    if r.sign("("):
        while not r.sign(")"):
            r.name()
            r.sign(",")
    r.need_word("AS")
    query(r, scope, copied=True)
    if r.word("WITH"):
        r.word("CASCADED", "LOCAL")
        if not r.words("CHECK OPTION"):
            r.fail()


def _index(r: Reader, scope: Level) -> None:
    _exists(r)
    r.effects.add("ddl")
    r.name()
    while not r.word("ON"):
        r.need_word("USING", "TYPE")
        r.next()
    _table(r, scope, r.table_name())


# ---------------------------------------------------------------------- tables

_BEFORE_TABLE = frozenset({"REFERENCES", "RENAME", "LIKE"})
_FILES = frozenset({"DIRECTORY", "TABLESPACE"})
_EMPTIES = frozenset({"TRUNCATE", "EXCHANGE"})


def _table(r: Reader, scope: Level, table: str) -> None:
    """A table's definition or changes to it. Expressions in it run later and may call built-in functions alone, so
    only those with effects of their own are looked for."""
    r.effects.add("ddl")
    r.tables_written.add(table)
    depth = 0
    while not r.is_done:
        token = r.peek()
        if token.is_word("SELECT", "WITH", "VALUES") and starts_query(r) and not _is_option(r):
            depth -= _filled(r, scope, depth)
            continue
        if token.is_word("SELECT"):
            raise NotUnderstoodError("a query stands within a definition")
        r.next()
        depth += token.is_sign("(") - token.is_sign(")")
        if token.word:
            _part(r, token.word, depth)
        if r.peek().is_sign("(") and token.kind in ("word", "name"):
            _may_call(r, token.value, qualified=r.peek(-2).is_sign("."))


def _is_option(r: Reader) -> bool:
    """`VALUES` of a partition, `WITH PARSER`, `WITH SYSTEM VERSIONING`."""
    follows = r.peek(1)
    if r.peek().word == "VALUES":
        return True
    return r.peek().word == "WITH" and (
        follows.is_word("PARSER", "SYSTEM", "TABLE", "VALIDATION") or not r.peek(2).is_word("AS")
    )


def _filled(r: Reader, scope: Level, depth: int) -> int:
    """CREATE TABLE … AS SELECT: the table is filled at once. How many brackets the query has closed."""
    r.effects.add("write")
    query(r, scope, copied=True)
    closed = 0
    while closed < depth and r.sign(")"):
        closed += 1
    if not r.is_done:
        r.fail()
    return closed


def _part(r: Reader, word: str, depth: int) -> None:
    """One word of a definition. Within brackets an option has a sign or a literal behind it; else it is a column."""
    is_option = depth == 0 or r.peek().is_sign("=") or r.peek().kind == "string"
    if word in _FILES and is_option:
        r.effects.add("file")
    elif word == "CONNECTION" and is_option:
        r.effects.add("network")
    elif word in _EMPTIES or (word == "DROP" and r.peek().is_word("PARTITION")):
        r.effects.add("write")
    elif word in ("ENGINE", "TYPE") and is_option and (r.peek().is_sign("=") or word == "ENGINE"):
        _engine(r)
    elif word == "UNION" and (r.peek().is_sign("=", "(")):
        r.sign("=")
        r.need_sign("(")
        while not r.sign(")"):
            r.tables_read.add(r.table_name())
            r.effects.add("read")
            r.sign(",")
    elif word in _BEFORE_TABLE:
        _other_table(r, word)
    elif (
        word == "TABLE" and depth == 0
    ):  # EXCHANGE PARTITION p WITH TABLE t; CREATE TABLE t TABLE u is not read
        if not r.peek(-2).is_word("WITH"):
            r.fail()
        r.tables_written.add(r.table_name())


def _other_table(r: Reader, word: str) -> None:
    if word == "RENAME" and r.peek().is_word("COLUMN", "INDEX", "KEY"):
        return
    if word == "RENAME":
        r.word("TO", "AS")
        r.sign("=")
    if not r.is_name():
        return  # LIKE 'pattern' of a CHECK
    table = r.table_name()
    (r.tables_read if word == "LIKE" else r.tables_written).add(table)


def _engine(r: Reader) -> None:
    r.sign("=")
    if fold(r.next().value) not in _LOCAL_ENGINES:
        r.effects.update(("file", "network"))


def _may_call(r: Reader, name: str, *, qualified: bool) -> None:
    folded = fold(name)
    if folded in FUNCTION_EFFECTS or folded in ("sleep", "benchmark"):
        r.call(name)
    elif qualified and not _names_table(r):
        r.effects.add("unknown_function")


def _names_table(r: Reader) -> bool:
    """A qualified name before a bracket is a table behind REFERENCES, ON, TABLE and LIKE."""
    return r.peek(-4).is_word("REFERENCES", "ON", "TABLE", "EXISTS", "LIKE", "TO")


# ---------------------------------------------------------------------- DROP, RENAME, TRUNCATE


def drop(r: Reader, scope: Level) -> None:
    r.need_word("DROP")
    if r.word("PREPARE"):
        r.verbs.append("DEALLOCATE")
        r.refers_to = fold(r.name())
        return
    r.verbs.append("DROP")
    _options(r)
    kind = r.next().word
    if kind in ("TABLE", "TABLES", "VIEW"):
        _exists(r)
        r.effects.add("ddl")
        while True:
            r.tables_written.add(r.table_name())
            if not r.sign(","):
                break
        r.skip_all()
    elif kind == "INDEX":
        _exists(r)
        r.effects.add("ddl")
        r.name()
        r.need_word("ON")
        r.tables_written.add(r.table_name())
        r.skip_all()
    elif kind in _OBJECTS:
        r.effects.update(_OBJECTS[kind])
        r.skip_all()
    else:
        r.fail()


def rename(r: Reader, scope: Level) -> None:
    r.need_word("RENAME")
    r.verbs.append("RENAME")
    if r.word("USER"):
        r.effects.add("admin")
        r.skip_all()
        return
    r.need_word("TABLE", "TABLES")
    r.effects.add("ddl")
    _exists(r)
    while True:
        r.tables_written.add(r.table_name())
        if r.word("WAIT", "NOWAIT") == "WAIT":
            r.next()
        r.need_word("TO")
        r.tables_written.add(r.table_name())
        if not r.sign(","):
            return


def truncate(r: Reader, scope: Level) -> None:
    r.need_word("TRUNCATE")
    r.verbs.append("TRUNCATE")
    r.word("TABLE")
    r.effects.add("write")
    r.tables_written.add(r.table_name())
    if r.word("WAIT"):
        r.next()
    else:
        r.word("NOWAIT")
