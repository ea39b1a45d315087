"""Every statement by its first words: the table of what is understood. What is not in it is not understood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from extproc.domain.statement import CHANGES_READING, RUNS_PREPARED
from extproc.sql.mysql import changes, definitions, queries, settings
from extproc.sql.mysql.expressions import arguments, condition, expression, expressions
from extproc.sql.mysql.reader import Level, NotUnderstoodError, Reader, fold
from extproc.sql.mysql.tokens import UnreadableError, tokenize

Handler = Callable[[Reader, Level], None]

_FIXED: dict[str, tuple[str, tuple[str, ...]]] = {
    "BACKUP": ("BACKUP", ("admin",)),
    "CACHE": ("CACHE", ("admin",)),
    "CHANGE": ("CHANGE", ("admin", "network")),
    "CHECK": ("CHECK", ("admin",)),
    "CHECKSUM": ("CHECKSUM", ("admin", "read")),
    "CLONE": ("CLONE", ("admin", "file", "network")),
    "FLUSH": ("FLUSH", ("admin",)),
    "GET": ("GET", ("read",)),
    "HELP": ("HELP", ("read",)),
    "IMPORT": ("IMPORT", ("ddl", "file")),
    "INSTALL": ("INSTALL", ("admin", "file", "unknown_function")),
    "KILL": ("KILL", ("admin",)),
    "OPTIMIZE": ("OPTIMIZE", ("admin",)),
    "REPAIR": ("REPAIR", ("admin",)),
    "RESET": ("RESET", ("admin",)),
    "RESTART": ("RESTART", ("admin",)),
    "SHUTDOWN": ("SHUTDOWN", ("admin",)),
    "STOP": ("STOP", ("admin",)),
    "UNINSTALL": ("UNINSTALL", ("admin",)),
    "XA": ("XA", ("admin", "write")),
}
"""Statements in which nothing can run that their first word does not say: word, verb, effects."""


def fixed(r: Reader, scope: Level) -> None:
    verb, effects = _FIXED[r.next().word]
    r.verbs.append(verb)
    r.effects.update(effects)
    if verb == "XA":
        r.transaction = "prepared"
    if verb in ("CHECK", "CHECKSUM", "OPTIMIZE", "REPAIR"):
        _maintained(r)
    r.plain_rest()


def _maintained(r: Reader) -> None:
    """`CHECK TABLE a, b EXTENDED`."""
    r.word("LOCAL", "NO_WRITE_TO_BINLOG")
    r.need_word("TABLE", "TABLES", "VIEW")
    while True:
        r.tables_read.add(r.table_name())
        if not r.sign(","):
            return


def grant(r: Reader, scope: Level) -> None:
    """GRANT and REVOKE evaluate nothing."""
    r.verbs.append(r.next().word)
    r.effects.add("admin")
    r.skip_all()


def select(r: Reader, scope: Level) -> None:
    if not changes.with_change(r, scope):
        queries.query(r, scope, outermost=True)


def use(r: Reader, scope: Level) -> None:
    r.next()
    r.verbs.append("USE")
    r.session_after = replace(r.session_after, database=r.name())


# ---------------------------------------------------------------------- transactions


def begin(r: Reader, scope: Level) -> None:
    r.next()
    r.word("WORK")
    r.verbs.append("BEGIN")
    r.transaction = "begin"


def start(r: Reader, scope: Level) -> None:
    r.next()
    if r.word("TRANSACTION"):
        r.verbs.append("BEGIN")
        r.transaction = "begin"
    else:  # replication
        r.verbs.append("START")
        r.effects.update(("admin", "network"))
    r.plain_rest()


def end(r: Reader, scope: Level) -> None:
    verb = r.next().word
    r.verbs.append(verb)
    r.transaction = "commit" if verb == "COMMIT" else "rollback"
    r.word("WORK")
    if verb == "ROLLBACK" and r.word("TO"):
        r.transaction = "savepoint"
        r.word("SAVEPOINT")
        r.name()
        return
    if r.word("AND"):
        r.word("NO")
        r.need_word("CHAIN")
    r.word("NO")
    r.word("RELEASE")


def savepoint(r: Reader, scope: Level) -> None:
    released = bool(r.word("RELEASE"))
    r.need_word("SAVEPOINT")
    r.verbs.append("RELEASE" if released else "SAVEPOINT")
    r.transaction = "release" if released else "savepoint"
    r.name()


def lock(r: Reader, scope: Level) -> None:
    """A lock makes others wait."""
    verb = r.next().word
    r.verbs.append(verb)
    if r.word("INSTANCE"):
        r.effects.add("admin")
        r.plain_rest()
        return
    r.need_word("TABLE", "TABLES")
    while verb == "LOCK":
        r.tables_written.add(r.table_name())
        r.effects.add("write")
        if r.word("AS") or r.is_name():
            r.name()
        r.word("LOW_PRIORITY")
        if r.need_word("READ", "WRITE") == "READ":
            r.word("LOCAL")
        if not r.sign(","):
            break
    if r.word("WAIT"):
        r.next()
    else:
        r.word("NOWAIT")


# ---------------------------------------------------------------------- what runs other statements


def prepare(r: Reader, scope: Level) -> None:
    """Its effects are those of what it prepares: whoever may not run it need not prepare it."""
    r.next()
    r.verbs.append("PREPARE")
    r.refers_to = fold(r.name())
    r.need_word("FROM")
    _text(r)


def _text(r: Reader) -> None:
    """A statement given as a literal. One that only the server knows, in a variable, is not understood."""
    token = r.peek()
    ends_there = r.peek(1).kind != "string" and not r.peek(1).is_sign("||", "+")
    if token.kind != "string" or token.is_introduced or not ends_there:
        raise NotUnderstoodError("it runs a text that only the server knows")
    r.next()
    try:
        tokens = tokenize(token.value, r.session)
    except UnreadableError as error:
        raise NotUnderstoodError(str(error)) from None
    while tokens and tokens[-1].is_sign(";"):
        tokens.pop()
    inner = Reader(tokens, r.session_after, r.queries)
    inner.explained = r.explained
    statement(inner, Level())
    if not inner.is_done:
        raise NotUnderstoodError("a text that is prepared holds something that is not understood")
    inner.resolve()
    if inner.session_after != inner.session:
        inner.incomplete(CHANGES_READING)
    r.take(inner)


def execute(r: Reader, scope: Level) -> None:
    r.next()
    r.verbs.append("EXECUTE")
    if r.word("IMMEDIATE"):
        _text(r)
    else:
        r.refers_to = fold(r.name())
        r.incomplete(RUNS_PREPARED)
    if r.word("USING"):
        expressions(r, scope)


def deallocate(r: Reader, scope: Level) -> None:
    r.next()
    r.need_word("PREPARE")
    r.verbs.append("DEALLOCATE")
    r.refers_to = fold(r.name())


def call(r: Reader, scope: Level) -> None:
    r.next()
    r.verbs.append("CALL")
    r.stored(r.dotted(3))
    if r.peek().is_sign("("):
        arguments(r, scope, "")


def do(r: Reader, scope: Level) -> None:
    r.next()
    r.verbs.append("DO")
    r.effects.add("read")
    expressions(r, scope)


_STATEMENTS = ("SELECT", "WITH", "INSERT", "REPLACE", "UPDATE", "DELETE", "TABLE", "VALUES")


def explain(r: Reader, scope: Level) -> None:
    """Without ANALYZE nothing is written; but functions may run, and warnings may show values of rows."""
    first = r.next().word
    if first == "ANALYZE" and _analyzes_tables(r):
        return
    r.verbs.append("EXPLAIN")
    r.effects.add("read")
    runs = first == "ANALYZE"
    while True:
        if r.word("ANALYZE"):
            runs = True
        elif r.word("FORMAT"):
            r.need_sign("=")
            r.next()
        elif not r.word("EXTENDED", "PARTITIONS"):
            break
    r.explained = True
    if r.words("FOR CONNECTION"):
        r.effects.add("admin")
        r.next()
    elif r.peek().is_word(*_STATEMENTS) or r.peek().is_sign("("):
        _explained(r, scope, runs=runs)
    elif runs:
        r.fail()
    else:
        r.tables_read.add(r.table_name())
        if not r.is_done:
            r.next()


def _analyzes_tables(r: Reader) -> bool:
    if not (r.peek().is_word("TABLE", "TABLES") or r.peek(1).is_word("TABLE", "TABLES")):
        return False
    r.word("LOCAL", "NO_WRITE_TO_BINLOG")
    r.need_word("TABLE", "TABLES")
    r.verbs.append("ANALYZE")
    r.effects.add("admin")
    while True:
        r.tables_read.add(r.table_name())
        if not r.sign(","):
            break
    r.skip_all()
    return True


def _explained(r: Reader, scope: Level, *, runs: bool) -> None:
    statement(r, scope)
    if runs:
        return
    r.tables_read |= r.tables_written
    r.tables_written.clear()
    r.effects -= {"write", "ddl"}
    r.wheres.clear()
    r.verbs = [verb for verb in r.verbs if verb in ("EXPLAIN", "SELECT")]


# ---------------------------------------------------------------------- files, cursors, what is shown


def load(r: Reader, scope: Level) -> None:
    """LOAD DATA and LOAD XML; LOAD INDEX INTO CACHE."""
    r.next()
    r.verbs.append("LOAD")
    if r.word("INDEX"):
        r.effects.add("admin")
        r.skip_all()
        return
    r.need_word("DATA", "XML")
    r.effects.update(("file", "write"))
    r.word("LOW_PRIORITY", "CONCURRENT")
    r.word("LOCAL")
    r.need_word("INFILE")
    r.string()
    r.word("REPLACE", "IGNORE")
    if not r.words("INTO TABLE"):
        r.fail()
    level = Level(scope)
    parts = r.dotted()
    table = r.table(parts)
    level.add(fold(parts[-1]), table)
    r.tables_written.add(table)
    queries.partition(r)
    queries.lines_and_fields(r)
    if r.words("ROWS IDENTIFIED BY"):
        r.string()
    if r.word("IGNORE"):
        r.next()
        r.need_word("LINES", "ROWS")
    if r.sign("("):
        while not r.sign(")"):
            if r.peek().kind == "variable":
                r.next()
            else:
                r.column(fold(r.name()), table, used=False)
            r.sign(",")
    if r.word("SET"):
        changes.assignments(r, level, {table})


def handler(r: Reader, scope: Level) -> None:
    """A cursor over a whole table, whose rows are read without a SELECT."""
    r.next()
    r.verbs.append("HANDLER")
    table = r.table_name()
    r.effects.add("read")
    r.tables_read.add(table)
    r.whole_row(table)
    if r.word("OPEN"):
        if r.word("AS") or r.is_name():
            r.name()
        return
    if r.word("CLOSE"):
        return
    r.need_word("READ")
    while not r.is_done and not r.peek().is_word("WHERE", "LIMIT"):
        if r.peek().is_sign("("):
            arguments(r, scope, "")
        else:
            r.next()
    if r.word("WHERE"):
        condition(r, scope)
    if r.peek().is_word("LIMIT"):
        queries.limit(r, scope, outermost=True)


_TELLS_OTHERS = frozenset({"BINLOG", "RELAYLOG", "ENGINE", "PROFILE", "PROFILES"})
"""What shows statements of others, with the values in them."""


def show(r: Reader, scope: Level) -> None:
    r.next()
    r.verbs.append("SHOW")
    r.effects.add("read")
    while r.word("FULL", "EXTENDED", "GLOBAL", "SESSION", "LOCAL", "ALL", "COUNT"):
        pass
    subject = r.peek()
    if subject.word in _TELLS_OTHERS:
        r.effects.add("admin")
    elif subject.word in ("PROCESSLIST", "GRANTS"):
        r.tables_read.add(f"information_schema.{subject.word.lower()}")
    elif r.word("CREATE") and r.word("TABLE", "VIEW", "SEQUENCE"):
        r.words("IF NOT EXISTS")
        r.tables_read.add(r.table_name())
    elif r.word("COLUMNS", "FIELDS", "INDEX", "INDEXES", "KEYS"):
        r.need_word("FROM", "IN")
        parts = r.dotted()
        if r.word("FROM", "IN"):
            parts = [r.name(), parts[-1]]
        r.tables_read.add(r.table(parts))
    while not r.is_done and not r.peek().is_word("WHERE"):
        if r.peek().is_sign("(") and not (r.peek(1).is_sign("*") and r.peek(2).is_sign(")")):
            r.fail()
        r.next()
    if r.word("WHERE"):
        condition(r, scope)


def purge(r: Reader, scope: Level) -> None:
    r.next()
    r.verbs.append("PURGE")
    r.effects.add("admin")
    while not r.is_done and not r.word("BEFORE"):
        r.next()
    if not r.is_done:
        expression(r, scope)


def signal(r: Reader, scope: Level) -> None:
    r.verbs.append(r.next().word)
    r.plain_rest()


COMMANDS: dict[str, Handler] = {
    **dict.fromkeys(_FIXED, fixed),
    **dict.fromkeys(("SELECT", "WITH", "TABLE", "VALUES", "("), select),
    **dict.fromkeys(("INSERT", "REPLACE"), changes.insert),
    "UPDATE": changes.update,
    "DELETE": changes.delete,
    **dict.fromkeys(("CREATE", "ALTER"), definitions.create),
    "DROP": definitions.drop,
    "RENAME": definitions.rename,
    "TRUNCATE": definitions.truncate,
    "SET": settings.set_,
    **dict.fromkeys(("GRANT", "REVOKE"), grant),
    "USE": use,
    "BEGIN": begin,
    "START": start,
    **dict.fromkeys(("COMMIT", "ROLLBACK"), end),
    **dict.fromkeys(("SAVEPOINT", "RELEASE"), savepoint),
    **dict.fromkeys(("LOCK", "UNLOCK"), lock),
    "PREPARE": prepare,
    "EXECUTE": execute,
    "DEALLOCATE": deallocate,
    "CALL": call,
    "DO": do,
    **dict.fromkeys(("EXPLAIN", "DESCRIBE", "DESC", "ANALYZE"), explain),
    "LOAD": load,
    "HANDLER": handler,
    "SHOW": show,
    "PURGE": purge,
    **dict.fromkeys(("SIGNAL", "RESIGNAL"), signal),
}
VERBS = frozenset({*COMMANDS, "BEGIN"}) - {"(", "WITH", "TABLE", "VALUES", "DESC", "DESCRIBE"}


def statement(r: Reader, scope: Level) -> None:
    """Read one whole statement. Raises NotUnderstoodError."""
    token = r.peek()
    found = COMMANDS.get(token.word or token.value if token.kind in ("word", "sign") else "")
    if found is None:
        raise NotUnderstoodError("the statement is of a kind that is not understood")
    r.enter()
    found(r, scope)
    r.leave()
